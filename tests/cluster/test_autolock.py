"""A manager whose files are locked: it restarts locked, its containers and their networks go on, and
it continues with the key. On a lab of three hosts.

The test begins and ends with node1 as the only manager, and autolock off."""

import subprocess
from typing import Any


def state(cluster: Any, node: str) -> str:
    return str(cluster.docker(node, "info", "-f", "{{.Swarm.LocalNodeState}}").strip())


def test_a_locked_manager_waits_for_the_key_and_its_containers_do_not(
    cluster: Any, healthy: Any, names: Any
) -> None:
    web = names("locked")
    cluster.create(web, "-p", "8095:80")
    cluster.docker("node1", "node", "promote", "node2")
    key = ""
    try:
        cluster.docker("node1", "swarm", "update", "--autolock")
        key = cluster.docker("node1", "swarm", "unlock-key", "-q").strip()
        file = "/var/lib/weft/swarm/credentials/node.key"
        cluster.eventually(
            lambda: "weft-locked" in cluster.lab("exec", "node2", "--", "cat", file),
            30,
            "node2 is a manager and has locked its files",
        )
        before = cluster.containers("node2", web)
        cluster.lab("restart", "node2")
        cluster.eventually(lambda: state(cluster, "node2") == "locked", 10, "node2 is locked")
        assert cluster.containers("node2", web) == before
        assert cluster.lab(
            "exec", "node2", "--", "curl", "-sf", "-m", "3", "http://127.0.0.1:8095/"
        )
        unlock(key)
        cluster.eventually(lambda: state(cluster, "node2") == "active", 10, "node2 is unlocked")
        cluster.eventually(
            lambda: "Leader" in cluster.docker("node2", "node", "ls"), 10, "it serves"
        )
        assert cluster.containers("node2", web) == before
    finally:
        if state(cluster, "node2") == "locked":
            unlock(key)
        cluster.docker("node1", "swarm", "update", "--autolock=false")
        cluster.eventually(
            lambda: cluster.docker("node1", "node", "demote", "node2"), 30, "node2 is demoted"
        )
        cluster.eventually(
            lambda: (
                cluster.docker("node2", "info", "-f", "{{.Swarm.ControlAvailable}}") == "false\n"
            ),
            60,
            "node2 is a worker",
        )


def unlock(key: str) -> None:
    command = ["docker", "-H", "unix:///run/weft/lab/node2/docker.sock", "swarm", "unlock"]
    subprocess.run(command, input=key, text=True, capture_output=True, check=True, timeout=30)
