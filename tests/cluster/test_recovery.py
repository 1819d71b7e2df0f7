"""The majority of the managers is lost, and the one that is left goes on alone; and the lost ones
come back. On a lab of three hosts.

Each test begins and ends with node1 as the only manager, which is what the other tests expect.
"""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Cluster, Names

LOST = ("node2", "node3")
KEPT = "/var/lib/weft/swarm/last-state"
"""What a manager knew last, for when etcd answers nobody; it is written every 20 s at least."""
NO_LEADER = "The swarm does not have a leader"


def managers(cluster: Cluster, asked: str = "node1") -> dict[str, str]:
    """Hostname to `Leader`, `Reachable`, `Unreachable`, as one manager sees it."""
    out = cluster.docker(asked, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
    return {words[0]: words[1] for line in out.splitlines() if len(words := line.split()) == 2}


def is_worker(cluster: Cluster, node: str) -> bool:
    return bool(cluster.docker(node, "info", "-f", "{{.Swarm.ControlAvailable}}") == "false\n")


@pytest.fixture
def three_managers(cluster: Cluster, healthy: Cluster) -> Iterator[Cluster]:
    promote(cluster)
    for node in ("node1", *LOST):
        cluster.eventually(
            lambda node=node: (
                sorted(managers(cluster, node).values()) == ["Leader", "Reachable", "Reachable"]
            ),
            60,
            f"three managers, seen by {node}",
        )
    yield cluster
    cluster.lab("heal", "node1")
    cluster.lab("up")
    # Until it can write, node1 may show who was a manager before.
    cluster.eventually(
        lambda: cluster.docker("node1", "node", "update", "--availability", "active", "node1"),
        60,
        "node1 can write",
    )
    for node in LOST:  # the member of the first may lead the store's, and then there is an election before the second
        cluster.eventually(
            lambda node=node: cluster.docker("node1", "node", "demote", node),
            30,
            f"{node} is demoted",
        )
    for node in LOST:
        cluster.eventually(lambda node=node: is_worker(cluster, node), 60, f"{node} is a worker")
    cluster.eventually(lambda: managers(cluster) == {"node1": "Leader"}, 30, "node1 alone")


def promote(cluster: Cluster) -> None:
    """The store's members may elect another one meanwhile."""
    cluster.eventually(
        lambda: cluster.docker("node1", "node", "promote", *LOST), 30, "two promotions"
    )


def begin_anew(cluster: Cluster) -> None:
    cluster.docker("node1", "swarm", "init", "--force-new-cluster")
    cluster.eventually(
        lambda: managers(cluster) == {"node1": "Leader"}, 10, "node1 is the only manager"
    )


def test_the_manager_that_is_left_goes_on_alone(three_managers: Cluster, names: Names) -> None:
    cluster = three_managers
    web = names("survivor")
    cluster.create(web, "-p", "8094:80")
    before = cluster.containers("node1", web)
    for node in LOST:
        cluster.lab("halt", node)
    cluster.eventually(
        lambda: NO_LEADER in cluster.docker_fails("node1", "service", "scale", "-d", f"{web}=4"),
        30,
        "no majority",
    )
    begin_anew(cluster)
    cluster.docker("node1", "service", "scale", "-d", f"{web}=4")
    cluster.eventually(
        lambda: len(cluster.containers("node1", web)) == 4,
        60,
        "the tasks of the lost hosts run here",
    )
    assert set(before) < set(cluster.containers("node1", web))
    assert cluster.answers(cluster.nodes["node1"], 8094)

    cluster.lab("up")
    for node in LOST:
        cluster.eventually(lambda node=node: is_worker(cluster, node), 60, f"{node} is a worker")
        cluster.eventually(
            lambda node=node: not cluster.on(node, "pgrep", "-x", "etcd", ok=False),
            60,
            f"no etcd on {node}",
        )
    ready = ("node", "ls", "--format", "{{.Status}}")
    cluster.eventually(
        lambda: cluster.docker("node1", *ready).split() == ["Ready"] * 3, 40, "three nodes ready"
    )
    assert managers(cluster) == {"node1": "Leader"}
    assert set(before) < set(cluster.containers("node1", web))
    promote(cluster)
    cluster.eventually(
        lambda: sorted(managers(cluster).values()) == ["Leader", "Reachable", "Reachable"], 60
    )


def test_a_manager_that_boots_without_a_majority_shows_what_it_knows(
    three_managers: Cluster, names: Names
) -> None:
    cluster = three_managers
    web = names("dark")
    cluster.create(web, "-p", "8096:80")
    tasks = cluster.docker("node1", "service", "ps", "-q", "--no-trunc", web).split()
    for task in tasks:
        cluster.eventually(
            lambda task=task: cluster.on("node1", "grep", "-c", task, KEPT),
            60,
            "node1 has kept it",
        )
    for node in LOST:
        cluster.lab("halt", node)
    cluster.lab("reboot", "node1")
    cluster.eventually(
        lambda: set(managers(cluster)) == {"node1", *LOST}, 20, "node1 answers reads"
    )
    assert set(managers(cluster).values()) <= {"Reachable", "Unreachable"}
    assert web in cluster.docker("node1", "service", "ls", "--format", "{{.Name}}").split()
    assert len(cluster.docker("node1", "service", "ps", "-q", web).split()) >= 3
    assert cluster.docker("node1", "service", "inspect", "-f", "{{.Spec.Name}}", web).strip() == web
    assert (
        cluster.docker("node1", "network", "inspect", "-f", "{{.Scope}}", "ingress").strip()
        == "swarm"
    )
    assert (
        cluster.docker(
            "node1", "info", "-f", "{{.Swarm.ControlAvailable}} {{.Swarm.LocalNodeState}}"
        )
        == "true active\n"
    )
    for change in (
        ("service", "scale", "-d", f"{web}=4"),
        ("node", "update", "--label-add", "a=b", "node1"),
    ):
        assert NO_LEADER in cluster.docker_fails("node1", *change)
    cluster.lab("up")
    cluster.eventually(
        lambda: sorted(managers(cluster).values()) == ["Leader", "Reachable", "Reachable"], 60
    )
    cluster.docker("node1", "service", "scale", "-d", f"{web}=4")
    cluster.eventually(lambda: len(cluster.running(web)) == 4, 60)


def test_managers_that_were_only_cut_off_give_up_theirs(
    three_managers: Cluster, names: Names
) -> None:
    """They have had a majority, and a swarm of their own; when they hear of the other they take
    part in that."""
    cluster = three_managers
    web = names("split")
    cluster.create(web, "-p", "8095:80")
    before = cluster.container_ids(web)
    for node in LOST:
        cluster.lab("cut", "node1", "--from", node)
    cluster.eventually(
        lambda: (
            "Leader"
            in (
                managers(cluster, "node2").get("node2"),
                managers(cluster, "node2").get("node3"),
            )
        ),
        20,
    )
    cluster.eventually(
        lambda: (
            NO_LEADER
            in cluster.docker_fails("node1", "node", "update", "--label-add", "a=b", "node1")
        ),
        30,
    )
    begin_anew(cluster)
    cluster.docker("node2", "network", "create", "-d", "overlay", "theirs")
    cluster.lab("heal", "node1")
    for node in LOST:
        cluster.eventually(lambda node=node: is_worker(cluster, node), 60, f"{node} is a worker")
    ready = ("node", "ls", "--format", "{{.Status}}")
    cluster.eventually(
        lambda: cluster.docker("node1", *ready).split() == ["Ready"] * 3, 40, "three nodes ready"
    )
    assert managers(cluster) == {"node1": "Leader"}
    assert "theirs" not in cluster.docker("node1", "network", "ls", "--format", "{{.Name}}").split()
    assert sorted(before) == sorted(cluster.container_ids(web))
    cluster.docker("node1", "service", "scale", "-d", f"{web}=4")
    cluster.eventually(lambda: len(cluster.running(web)) == 4, 30)
