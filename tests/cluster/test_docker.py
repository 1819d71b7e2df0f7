"""The stock docker command and docker-py against the lab: containers, exec, logs, inspection."""

import subprocess

import docker
import pytest


@pytest.fixture
def one(cluster, names):
    """(node, container) of a service of one task."""
    cluster.create(names("solo"), replicas=1, command=("sh", "-c", "echo out; echo err >&2; exec sleep 1000"))
    node = cluster.running("solo")[0]["Node"]
    return node, cluster.containers(node, "solo")[0]


def test_exec(cluster, one):
    node, container = one
    host = ["docker", "-H", f"unix:///run/weft/lab/{node}/docker.sock", "exec"]
    assert cluster.docker(node, "exec", container, "echo", "hi") == "hi\n"
    failing = subprocess.run(
        [*host, container, "sh", "-c", "echo out; echo err >&2; exit 7"], capture_output=True, text=True, check=False
    )
    assert (failing.returncode, failing.stdout, failing.stderr) == (7, "out\n", "err\n")
    data = "x" * 1_000_000
    fed = subprocess.run([*host, "-i", container, "cat"], input=data, capture_output=True, text=True, check=True)
    assert fed.stdout == data
    missing = subprocess.run([*host, container, "no-such-program"], capture_output=True, text=True, check=False)
    assert missing.returncode in (126, 127)


def test_logs(cluster, one):
    node, container = one
    cluster.eventually(lambda: cluster.docker(node, "logs", container) == "out\n", 10)
    assert "cannot show the logs of service solo: not supported by Weft" in cluster.docker_fails(
        "node1", "service", "logs", "solo"
    )


def test_inspect_and_ps(cluster, one):
    node, container = one
    seen = cluster.inspect(node, "inspect", container)
    assert seen["State"]["Running"] is True
    assert seen["Config"]["Labels"]["com.docker.swarm.service.name"] == "solo"
    assert cluster.docker(node, "ps", "--filter", f"id={container}", "--format", "{{.Names}}").startswith("solo.1.")


def test_stop_and_start_by_the_service_not_by_hand(cluster, one):
    """A task's container that is stopped by hand is replaced."""
    node, container = one
    cluster.docker(node, "stop", "-t", "1", container)
    cluster.eventually(lambda: cluster.running("solo") and container not in cluster.container_ids("solo"), 30)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_docker_py(cluster, names):
    client = docker.DockerClient(base_url="unix:///run/weft/lab/node1/docker.sock")
    try:
        assert client.ping()
        assert {node.attrs["Description"]["Hostname"] for node in client.nodes.list()} == set(cluster.nodes)
        network = client.networks.create(names("py-net"), driver="overlay")
        service = client.services.create(cluster.image, name=names("py"), networks=[network.id])
        cluster.eventually(lambda: [t for t in service.tasks() if t["Status"]["State"] == "running"], 20)
        assert client.services.get("py").name == "py"
        service.reload()  # the allocator has written to it since
        service.scale(2)
        cluster.eventually(lambda: len([t for t in service.tasks() if t["Status"]["State"] == "running"]) == 2, 20)
        with pytest.raises(docker.errors.NotFound):
            client.services.get("no-such-service")
    finally:
        client.close()
