"""The stock docker command and docker-py against the lab: containers, exec, logs, inspection."""

import re
import subprocess
from pathlib import Path

import docker
import pytest

from tests.cluster.conftest import Cluster, Names


@pytest.fixture
def one(cluster: Cluster, names: Names) -> tuple[str, str]:
    """(node, container) of a service of one task."""
    cluster.create(
        names("solo"), replicas=1, command=("sh", "-c", "echo out; echo err >&2; exec sleep 1000")
    )
    node = cluster.running("solo")[0]["Node"]
    return node, cluster.containers(node, "solo")[0]


def test_exec(cluster: Cluster, one: tuple[str, str]) -> None:
    node, container = one
    host = ["docker", "-H", f"unix:///run/weft/lab/{node}/docker.sock", "exec"]
    assert cluster.docker(node, "exec", container, "echo", "hi") == "hi\n"
    failing = subprocess.run(
        [*host, container, "sh", "-c", "echo out; echo err >&2; exit 7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (failing.returncode, failing.stdout, failing.stderr) == (7, "out\n", "err\n")
    data = "x" * 1_000_000
    fed = subprocess.run(
        [*host, "-i", container, "cat"], input=data, capture_output=True, text=True, check=True
    )
    assert fed.stdout == data
    missing = subprocess.run(
        [*host, container, "no-such-program"], capture_output=True, text=True, check=False
    )
    assert missing.returncode in (126, 127)


def test_logs(cluster: Cluster, one: tuple[str, str]) -> None:
    node, container = one
    cluster.eventually(lambda: cluster.docker(node, "logs", container) == "out\n", 10)


def test_logs_of_a_service_from_all_hosts(cluster: Cluster, names: Names) -> None:
    name = names("talking")
    script = "echo out; echo err >&2; while sleep 0.2; do echo more; done"
    cluster.create(name, command=("sh", "-c", script))
    tasks = cluster.running(name)
    assert {task["Node"] for task in tasks} == set(cluster.nodes)
    prefixes = {f"{task['Name']}.{task['ID'][:12]}@{task['Node']}    | " for task in tasks}

    def shown(*argv: str) -> set[str]:
        return set(cluster.docker("node1", "service", "logs", *argv).splitlines())

    cluster.eventually(
        lambda: shown(name) == {prefix + text for prefix in prefixes for text in ("out", "more")},
        20,
    )
    done = cluster.run(
        "docker", "-H", "unix:///run/weft/lab/node1/docker.sock", "service", "logs", name
    )
    assert set(done.stderr.splitlines()) == {prefix + "err" for prefix in prefixes}
    assert shown("--tail", "1", name) == {prefix + "more" for prefix in prefixes}
    one = tasks[0]
    assert shown(one["ID"]) == {
        f"{one['Name']}.{one['ID'][:12]}@{one['Node']}    | {text}" for text in ("out", "more")
    }


def test_logs_of_a_task_that_has_failed(cluster: Cluster, names: Names) -> None:
    """What a task said that is no more: for that people look at logs."""
    name = names("failing")
    cluster.create(
        name,
        "--restart-condition",
        "none",
        "-d",
        replicas=1,
        command=("sh", "-c", "echo last words; exit 3"),
    )
    cluster.eventually(
        lambda: [task["CurrentState"][:6] for task in cluster.tasks(name)] == ["Failed"], 20
    )
    (task,) = cluster.tasks(name)
    said = f"{name}.1.{task['ID'][:12]}@{task['Node']}    | last words\n"
    for reference in (name, task["ID"]):
        cluster.eventually(
            lambda reference=reference: (
                cluster.docker("node1", "service", "logs", reference) == said
            ),
            10,
        )


def test_inspect_and_ps(cluster: Cluster, one: tuple[str, str]) -> None:
    node, container = one
    seen = cluster.inspect(node, "inspect", container)
    assert seen["State"]["Running"] is True
    assert seen["Config"]["Labels"]["com.docker.swarm.service.name"] == "solo"
    assert cluster.docker(
        node, "ps", "--filter", f"id={container}", "--format", "{{.Names}}"
    ).startswith("solo.1.")


def test_stop_and_start_by_the_service_not_by_hand(cluster: Cluster, one: tuple[str, str]) -> None:
    """A task's container that is stopped by hand is replaced."""
    node, container = one
    cluster.docker(node, "stop", "-t", "1", container)
    cluster.eventually(
        lambda: cluster.running("solo") and container not in cluster.container_ids("solo"), 30
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_docker_py(cluster: Cluster, names: Names) -> None:
    client = docker.DockerClient(base_url="unix:///run/weft/lab/node1/docker.sock")
    try:
        assert client.ping()
        assert {node.attrs["Description"]["Hostname"] for node in client.nodes.list()} == set(
            cluster.nodes
        )
        network = client.networks.create(names("py-net"), driver="overlay")
        service = client.services.create(cluster.image, name=names("py"), networks=[network.id])
        cluster.eventually(
            lambda: [t for t in service.tasks() if t["Status"]["State"] == "running"], 20
        )
        assert client.services.get("py").name == "py"
        service.reload()  # the allocator has written to it since
        service.scale(2)
        cluster.eventually(
            lambda: len([t for t in service.tasks() if t["Status"]["State"] == "running"]) == 2, 20
        )
        with pytest.raises(docker.errors.NotFound):
            client.services.get("no-such-service")
    finally:
        client.close()


def test_a_request_can_be_followed_through_the_logs_of_managers_and_nodes(
    cluster: Cluster, names: Names
) -> None:
    """By the ids that the docker command shows, at the level that is the default."""
    service = cluster.docker(
        "node1",
        "service",
        "create",
        "-q",
        "-p",
        "8093:80",
        "--name",
        names("followed"),
        cluster.image,
    ).strip()
    (task,) = cluster.running("followed")
    (container,) = cluster.containers(task["Node"], "followed")
    manager = Path("/run/weft/lab/node1.log").read_text()
    node = Path(f"/run/weft/lab/{task['Node']}.log").read_text()
    for event in (
        "service.created",
        "service.allocated",
        "task.created",
        "task.allocated",
        "task.placed",
        "task.state",
    ):
        assert re.search(rf"{re.escape(event)} .*service={service}", manager), event
    assert re.search(
        rf"task.state task={task['ID']} service={service} state=running container={container[:12]}",
        node,
    )
    assert re.search(rf"container.started container={container[:12]}", node)
