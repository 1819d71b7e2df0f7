"""Plain containers on attachable networks, one of them encrypted: from a worker to tasks and other
containers on other hosts and back, over the death of the daemon, until nothing is left."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import IMAGE, Cluster, Names

PLAIN, SEALED, SERVICE = "attach", "attach-sealed", "attach-web"
OWN, OTHER = "own", "other"
NETNS = "/run/docker/netns"


@pytest.fixture
def service(healthy: Cluster, names: Names) -> Iterator[Cluster]:
    """A service with a task on each host, on both networks."""
    cluster = healthy
    names(SERVICE)
    for network, options in ((names(PLAIN), ()), (names(SEALED), ("--opt", "encrypted"))):
        create = ("network", "create", "-d", "overlay", "--attachable", *options, network)
        cluster.docker("node1", *create)
    cluster.create(SERVICE, "--network", PLAIN, "--network", SEALED)
    yield cluster
    for node in cluster.nodes:
        cluster.run("docker", *host(node), "rm", "-f", OWN, OTHER, ok=False)


def host(node: str) -> tuple[str, str]:
    return ("-H", f"unix:///run/weft/lab/{node}/docker.sock")


def asks(cluster: Cluster, node: str, container: str, name: str) -> bool:
    """Whether the application of that name answers the container."""
    url = f"http://{finds(cluster, node, container, name)}/whoami"
    return "hostname" in cluster.inside(node, container, "curl", "-sS", "--max-time", "3", url)


def finds(cluster: Cluster, node: str, container: str, name: str) -> str:
    look = f"getent hosts {name} || true"
    return cluster.docker(node, "exec", container, "sh", "-c", look).split(" ")[0].strip()


def test_a_container_of_a_worker_is_one_of_the_swarm(service: Cluster) -> None:
    cluster = service
    run = ("run", "-d", "--network", PLAIN, "--network-alias", "db", "-p", "8099:80")
    own = cluster.docker("node2", *run, "--name", OWN, IMAGE).strip()
    cluster.docker("node2", "network", "connect", SEALED, OWN)
    cluster.docker("node3", "run", "-d", "--network", SEALED, "--name", OTHER, IMAGE)
    [task] = cluster.containers("node1", SERVICE)

    # By the service's virtual address, by names of containers, and from a task; on both networks.
    assert asks(cluster, "node2", OWN, SERVICE)
    assert asks(cluster, "node2", OWN, OTHER)
    assert asks(cluster, "node3", OTHER, OWN)
    assert asks(cluster, "node1", task, "db")
    assert asks(cluster, "node1", task, own[:12])
    assert len(cluster.whoami("10.59.72.12", 1, 8099)) == 1

    # The daemon dies: the container keeps its place, and the next one answers its questions again.
    address = finds(cluster, "node1", task, OWN)
    cluster.lab("kill", "node2")
    assert asks(cluster, "node1", task, OWN)
    cluster.lab("up")
    cluster.eventually(lambda: asks(cluster, "node2", OWN, OTHER), 30)
    assert finds(cluster, "node1", task, OWN) == address
    assert asks(cluster, "node1", task, OWN)

    # It leaves one network, and is known on the other one still.
    cluster.docker("node2", "network", "disconnect", SEALED, OWN)
    cluster.eventually(lambda: not finds(cluster, "node3", OTHER, OWN))
    assert asks(cluster, "node1", task, "db")
    refused = cluster.docker_fails("node1", "network", "rm", PLAIN)
    assert "is in use by" in refused
    key = cluster.docker("node2", "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", OWN).strip()
    assert key.startswith(f"{NETNS}/")
    cluster.docker("node2", "rm", "-f", OWN)
    cluster.eventually(lambda: not finds(cluster, "node1", task, "db"))
    assert key.rpartition("/")[2] not in cluster.on("node2", "ls", NETNS).split()
