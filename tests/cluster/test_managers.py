"""Several managers: promoted, led by one of them, lost and found again, demoted. On a lab of three hosts, with the docker command.

Each test begins and ends with node1 as the only manager, which is what the other tests expect.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

NO_LEADER = "The swarm does not have a leader"
OTHERS = ("node2", "node3")


def managers(cluster: Any, asked: str = "node1") -> dict[str, str]:
    """Hostname to `Leader`, `Reachable`, `Unreachable`, as one manager sees it."""
    out = cluster.docker(asked, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
    return {words[0]: words[1] for line in out.splitlines() if len(words := line.split()) == 2}


def all_there(cluster: Any, asked: str = "node1") -> bool:
    return sorted(managers(cluster, asked).values()) == ["Leader", "Reachable", "Reachable"]


def leader(cluster: Any, asked: str) -> str:
    return next((name for name, status in managers(cluster, asked).items() if status == "Leader"), "")


def promote(cluster: Any) -> None:
    cluster.docker("node1", "node", "promote", *OTHERS)
    for node in ("node1", *OTHERS):
        cluster.eventually(lambda node=node: all_there(cluster, node), 60, f"three managers, seen by {node}")


@pytest.fixture
def three_managers(cluster: Any, healthy: Any) -> Iterator[Any]:
    promote(cluster)
    yield cluster
    cluster.lab("up")
    for node in ("node1", *OTHERS):
        cluster.eventually(lambda node=node: all_there(cluster, node), 60, f"three managers, seen by {node}")
    for node in OTHERS:
        cluster.docker("node1", "node", "demote", node)
        cluster.eventually(lambda node=node: node not in managers(cluster), 60, f"{node} is a worker")
        cluster.eventually(lambda node=node: cluster.docker(node, "info", "-f", "{{.Swarm.ControlAvailable}}") == "false\n", 30)
    assert managers(cluster) == {"node1": "Leader"}


def services(cluster: Any, node: str) -> set[str]:
    return set(cluster.docker(node, "service", "ls", "--format", "{{.Name}}").split())


def test_nothing_is_lost_when_managers_come_and_go(cluster: Any, names: Any, healthy: Any) -> None:
    """What the one manager had, three have, and the last one again; containers run through it all."""
    web, net = names("moved"), names("movednet")
    cluster.docker("node1", "network", "create", "-d", "overlay", "--label", "a=b", net)
    cluster.create(web, "--network", net, "-p", "8091:80", "--env", "X=y")
    before = cluster.container_ids(web)
    shown = json.loads(cluster.docker("node1", "service", "inspect", web))[0]["Spec"]
    promote(cluster)
    try:
        for node in ("node1", *OTHERS):
            assert json.loads(cluster.docker(node, "service", "inspect", web))[0]["Spec"] == shown
            assert json.loads(cluster.docker(node, "network", "inspect", net))[0]["Labels"] == {"a": "b"}
        cluster.docker("node3", "service", "scale", "-d", f"{web}=4")
        cluster.eventually(lambda: len(cluster.running(web)) == 4)
        assert set(before) < set(cluster.container_ids(web))
        assert cluster.whoami("10.59.72.12", 4, 8091)
    finally:
        for node in OTHERS:
            cluster.docker("node1", "node", "demote", node)
            cluster.eventually(lambda node=node: node not in managers(cluster), 60, f"{node} is a worker")
    assert services(cluster, "node1") >= {web}
    assert set(before) < set(cluster.container_ids(web))
    refused = cluster.docker_fails("node1", "node", "demote", "node1")
    assert "attempting to demote the last manager of the swarm" in refused


def test_another_manager_leads_when_the_leader_dies(three_managers: Any, names: Any) -> None:
    cluster = three_managers
    first, second = names("before"), names("after")
    cluster.create(first, "-p", "8092:80")
    old = leader(cluster, "node1")
    asked = next(node for node in ("node1", *OTHERS) if node != old)
    cluster.lab("kill", old)
    cluster.eventually(lambda: leader(cluster, asked) not in ("", old), 15, "another leader")
    cluster.docker(asked, "service", "create", "-d", "--name", second, "--replicas", "2", cluster.image)
    cluster.eventually(
        lambda: cluster.docker(asked, "service", "ls", "--format", "{{.Name}} {{.Replicas}}").find(f"{second} 2/2") >= 0, 20
    )
    assert managers(cluster, asked)[old] == "Unreachable"
    assert cluster.answers(cluster.nodes[old], 8092), "the mesh of the host whose daemon is dead"
    cluster.lab("restart", old)
    cluster.eventually(lambda: all_there(cluster, asked), 30, "three managers again")
    assert services(cluster, old) >= {first, second}


def test_without_a_majority_what_runs_runs_and_reads_work(three_managers: Any, names: Any) -> None:
    cluster = three_managers
    web = names("alone")
    cluster.create(web, "-p", "8093:80")
    before = cluster.container_ids(web)
    for node in OTHERS:
        cluster.lab("pause", node)
    try:
        cluster.eventually(lambda: NO_LEADER in refused_write(cluster, web), 30, "writes are refused")
        assert web in services(cluster, "node1")
        assert all(cluster.answers(address, 8093) for address in cluster.nodes.values())
    finally:
        for node in OTHERS:
            cluster.lab("resume", node)
    cluster.eventually(lambda: cluster.docker("node1", "service", "scale", "-d", f"{web}=4"), 30, "writes work again")
    cluster.eventually(lambda: len(cluster.running(web)) == 4, 30)
    assert set(before) < set(cluster.container_ids(web))


def refused_write(cluster: Any, service: str) -> str:
    done = cluster.run("docker", "-H", "unix:///run/weft/lab/node1/docker.sock", "service", "update", "-d", "--label-add",
                       "x=y", service, ok=False, timeout=60)  # fmt: skip
    return str(done.stderr)
