"""State that somebody deleted comes back, and daemons that die take nothing with them."""

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Cluster, Names

PORT = 8091


@pytest.fixture
def web(healthy: Cluster, names: Names) -> dict[str, list[str]]:
    """A service on an overlay with a published port; gives its containers by node."""
    names("repair"), names("repair-net")
    healthy.docker(
        "node1",
        "network",
        "create",
        "--driver",
        "overlay",
        "--subnet",
        "10.31.1.0/24",
        "repair-net",
    )
    healthy.create("repair", "--network", "repair-net", "-p", f"{PORT}:80")
    return healthy.all_containers("repair")


def address(cluster: Cluster, node: str, container: str) -> str:
    (link,) = json.loads(
        cluster.inside(node, container, "ip", "-j", "-4", "address", "show", "eth1")
    )
    return str(link["addr_info"][0]["local"])


def reaches(cluster: Cluster, web: dict[str, list[str]]) -> bool:
    target = address(cluster, "node1", web["node1"][0])
    return "1 received" in cluster.inside(
        "node2", web["node2"][0], "ping", "-c", "1", "-W", "1", target
    )


@contextlib.contextmanager
def steady_requests(cluster: Cluster, node_address: str) -> Iterator[list[str]]:
    """New connections from outside, ten a second, while the block runs; afterwards the list has
    those that failed."""
    request = f"curl -sS -o /dev/null --max-time 2 http://{node_address}:{PORT}/whoami"
    script = f"while :; do {request} || echo failed; echo sent; sleep 0.1; done"
    failed: list[str] = []
    argv = [*cluster.weft, "lab", "exec", "client", "--", "sh", "-c", script]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as load:
        assert load.stdout is not None
        assert load.stdout.readline().strip() == "sent"
        try:
            yield failed
        finally:
            load.terminate()
            output = load.communicate(timeout=10)[0]
            assert output.count("sent") > 3, output
            failed += [line for line in output.splitlines() if line != "sent"]


def test_a_deleted_vxlan_device_comes_back(cluster: Cluster, web: dict[str, list[str]]) -> None:
    before = cluster.all_containers("repair")
    cluster.on("node1", *cluster.overlay("repair-net"), "ip", "link", "delete", "vxlan0")
    cluster.eventually(
        lambda: cluster.on("node1", *cluster.overlay("repair-net"), "ip", "link", "show", "vxlan0"),
        10,
    )
    cluster.eventually(lambda: reaches(cluster, web), 10, "ping over the overlay")
    assert cluster.all_containers("repair") == before


def test_flushed_rules_of_the_host_come_back(cluster: Cluster, web: dict[str, list[str]]) -> None:
    cluster.on("node2", "nft", "flush", "ruleset")
    cluster.eventually(
        lambda: cluster.answers(cluster.nodes["node2"], PORT), 10, "the published port"
    )
    assert {a["remote_addr"] for a in cluster.whoami(cluster.nodes["node2"], 6, PORT)} == {
        cluster.client
    }


def test_flushed_rules_of_a_container_come_back(
    cluster: Cluster, web: dict[str, list[str]]
) -> None:
    cluster.inside("node3", web["node3"][0], "nft", "flush", "ruleset")

    def all_three() -> bool:
        return len({a["hostname"] for a in cluster.whoami(cluster.nodes["node1"], 12, PORT)}) == 3

    cluster.eventually(all_three, 15, "answers of all three tasks through node1")


def test_a_deleted_peer_entry_comes_back(cluster: Cluster, web: dict[str, list[str]]) -> None:
    enter = cluster.overlay("repair-net")
    cluster.on(
        "node2", *enter, "ip", "neigh", "flush", "dev", "vxlan0", "nud", "permanent", ok=False
    )
    cluster.eventually(lambda: reaches(cluster, web), 10, "ping over the overlay")


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_traffic_does_not_notice_a_killed_daemon(
    cluster: Cluster, web: dict[str, list[str]], node: str
) -> None:
    before = cluster.all_containers("repair")
    with steady_requests(cluster, cluster.nodes[node]) as failed:
        cluster.lab("kill", node)
        assert cluster.answers(cluster.nodes[node], PORT)
        cluster.lab("restart", node)
        cluster.eventually(
            lambda: cluster.all_containers("repair") == before, 20, "the same containers"
        )
    assert failed == []


def test_all_daemons_killed_together(cluster: Cluster, web: dict[str, list[str]]) -> None:
    before = cluster.all_containers("repair")
    ids = sorted(task["ID"] for task in cluster.tasks("repair"))
    for node in cluster.nodes:
        cluster.lab("kill", node)
    assert cluster.answers(cluster.nodes["node3"], PORT)
    cluster.lab("up")
    cluster.eventually(
        lambda: cluster.all_containers("repair") == before, 30, "the same containers"
    )
    cluster.eventually(lambda: len(cluster.running("repair")) == 3, 30, "three running tasks")
    assert sorted(task["ID"] for task in cluster.tasks("repair")) == ids
    assert reaches(cluster, web)


def test_a_killed_worker_catches_up(cluster: Cluster, web: dict[str, list[str]]) -> None:
    """What was decided while its daemon was dead is done when it is back."""
    cluster.lab("kill", "node3")
    cluster.docker("node1", "service", "scale", "--detach", "repair=0")
    cluster.lab("restart", "node3")
    cluster.eventually(
        lambda: not any(cluster.all_containers("repair").values()), 30, "no containers left"
    )
