"""The API as the stock docker command and docker-py see it: a real server on a UNIX socket, behind
it a whole node. What belongs to the node itself: containers, images, events."""

import json
import re
import shutil
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.api_daemon import DEADLINE
from tests.support.fake_images import IMAGE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


# --- the node


def test_version_and_info(daemon: Daemon) -> None:
    version = json.loads(daemon.ok("version", "--format", "json"))["Server"]
    assert version["ApiVersion"] == "1.51"
    assert version["MinAPIVersion"] == "1.24"
    assert version["Arch"] == "amd64"
    info = json.loads(daemon.ok("info", "--format", "json"))
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["Name"] == "node1"


def test_a_node_outside_a_swarm_says_so(daemon: Daemon) -> None:
    assert "This node is not a swarm manager." in daemon.refused("service", "ls")
    assert "This node is not a swarm manager." in daemon.refused(
        "network", "create", "-d", "overlay", "n"
    )
    assert "This node is not part of a swarm" in daemon.refused("swarm", "leave")
    names = daemon.ok("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").split("\n")
    assert names[:3] == ["bridge bridge local", "host host local", "none null local"]


def test_a_node_outside_a_swarm_has_containers_images_and_networks_of_its_own(
    daemon: Daemon, tmp_path: Path
) -> None:
    with subprocess.Popen(
        daemon.command(
            "events",
            "--since",
            "2020-01-01T00:00:00Z",
            "--format",
            "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}",
        ),
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        daemon.ok("pull", "busybox")
        daemon.ok("tag", "busybox", "mine:1")
        archive = tmp_path / "image.tar"
        archive.write_bytes(bytes(1024))
        daemon.ok("load", "-i", str(archive))
        daemon.ok("rmi", "loaded")
        assert watching.stdout is not None
        told = [watching.stdout.readline().split()[:2] for _ in range(5)]
        watching.terminate()
    assert told == [["image", action] for action in ("pull", "tag", "load", "untag", "delete")]
    assert sorted(daemon.ok("images", "--format", "{{.Repository}}").split()) == [
        "busybox",
        "mine",
        IMAGE.partition(":")[0],
    ]
    assert daemon.ok("ps", "-aq") == ""
    assert (
        daemon.ok("info", "--format", "{{.Images}} {{.Containers}} {{.Swarm.LocalNodeState}}")
        == "2 0 inactive\n"
    )
    own = daemon.ok("network", "ls", "--no-trunc", "--format", "{{.Name}} {{.ID}}").splitlines()
    assert [line.partition(" ")[0] for line in own] == ["bridge", "host", "none"]
    assert (
        json.loads(daemon.ok("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"]
        == "172.17.0.0/16"
    )
    assert "pre-defined network" in daemon.refused("network", "rm", "bridge")
    daemon.ok("network", "prune", "-f")
    daemon.ok("swarm", "init")
    within = daemon.ok("network", "ls", "--no-trunc", "--format", "{{.Name}} {{.ID}}").splitlines()
    assert set(own) <= set(within), "they are the same networks"


def test_events_of_a_container_that_is_killed_and_removed(manager: Daemon) -> None:
    container = manager.container()
    manager.ok("kill", "-s", "WINCH", container)
    manager.ok("rm", "-f", container)
    wanted = ("--since", "2020-01-01T00:00:00Z", "--filter", f"container={container}")
    with subprocess.Popen(
        manager.command("events", *wanted, "--format", "{{.Action}} {{.Actor.Attributes.signal}}"),
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        told = [watching.stdout.readline().split() for _ in range(6)]
        watching.terminate()
    assert [action for action, *_ in told] == [
        *("create", "start", "kill", "kill", "die", "destroy")
    ]
    assert told[2:4] == [["kill", "28"], ["kill", "9"]]


# --- containers


def test_ps_and_inspect(manager: Daemon) -> None:
    id = manager.container("-p", "8080:80", "--container-label", "mine=yes")
    row = json.loads(manager.ok("ps", "--format", "json", "--no-trunc"))
    assert (row["ID"], row["Image"], row["Ports"], row["State"]) == (id, IMAGE, "80/tcp", "running")
    assert row["Names"].startswith("web.1.")
    assert row["Status"].startswith("Up ")
    for good in (
        "name=web",
        f"id={id[:5]}",
        "label=mine=yes",
        "status=running",
        f"ancestor={IMAGE}",
        "network=ingress",
        "is-task=true",
    ):
        assert manager.ok("ps", "-q", "--no-trunc", "--filter", good).strip() == id, good
    for bad in (
        "name=other",
        "label=mine=no",
        "status=exited",
        "ancestor=none",
        "network=none",
        "is-task=false",
    ):
        assert manager.ok("ps", "-q", "--filter", bad) == "", bad
    assert "invalid filter" in manager.refused("ps", "--filter", "colour=blue")
    seen = json.loads(manager.ok("inspect", id[:12]))[0]
    assert seen["State"]["Running"] is True
    own = seen["NetworkSettings"]["Networks"]["ingress"]
    assert own["MacAddress"] == f"02:42:{IPv4Address(own['IPAddress']).packed.hex(':')}"
    assert re.fullmatch(r"/run/docker/netns/[0-9a-f]{12}", seen["NetworkSettings"]["SandboxKey"])
    assert "sleep" in manager.ok("top", id)
    assert "No such object: nothing" in manager.refused("inspect", "nothing")


def test_stop_kill_wait_and_remove(manager: Daemon) -> None:
    id = manager.container("--restart-condition", "none")
    assert "is running: stop the container before removing" in manager.refused("rm", id)
    assert "cannot restart" in manager.refused("restart", id)
    with subprocess.Popen(manager.command("wait", id), stdout=subprocess.PIPE) as waiting:
        manager.ok("kill", "-s", "TERM", id)
        assert waiting.communicate(timeout=DEADLINE)[0] == b"143\n"
    assert "is not running" in manager.refused("exec", id, "true")
    manager.ok("stop", id)
    assert manager.ok("ps", "-a", "--format", "{{.Status}}").startswith("Exited (143)")
    manager.ok("rm", id)
    assert "No such container" in manager.refused("logs", id)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 4), (["--signal", "USR1"], 7), (["-s", "SIGUSR1", "-t", "30"], 7), (["-s", "10", "--time=-1"], 7),
        (["-s", "USR2", "-t", "0"], 137), (["-s", "KILL"], 137),
    ],
)  # fmt: skip
def test_a_stop_may_bring_its_own_signal_and_patience(
    manager: Daemon, arguments: list[str], code: int
) -> None:
    script = "trap 'exit 7' USR1; trap 'exit 4' TERM; trap : USR2; while :; do sleep 0.05; done"
    made = ["service", "create", "-d", "--restart-condition", "none", IMAGE, "sh", "-c", script]
    manager.ok(*made)
    eventually(lambda: manager.ok("ps", "-q"))
    id = manager.ok("ps", "-q", "--no-trunc").strip()
    eventually(lambda: "sleep" in manager.ok("top", id))
    assert "invalid signal: NOSUCH" in manager.refused("stop", "-s", "NOSUCH", id)
    manager.ok("stop", *arguments, id)
    assert manager.ok("inspect", "-f", "{{.State.ExitCode}}", id).strip() == str(code)


def test_logs(manager: Daemon) -> None:
    id = manager.container(
        script="for i in 1 2 3; do echo out$i; echo err$i >&2; sleep 0.05; done; exec sleep 600"
    )
    deadline = time.monotonic() + DEADLINE
    while (done := manager.run("logs", id)).stdout.count(b"\n") < 3 or done.stderr.count(b"\n") < 3:
        assert time.monotonic() < deadline, done
    assert done.stdout == b"out1\nout2\nout3\n"
    assert done.stderr == b"err1\nerr2\nerr3\n"
    assert manager.run("logs", "--tail", "1", id).stderr == b"err3\n"
    assert re.fullmatch(
        rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z out1\n.*",
        manager.run("logs", "-t", id).stdout,
        re.DOTALL,
    )
    assert manager.ok("logs", "--since", "2100-01-01T00:00:00Z", id) == ""
    assert manager.ok("logs", "--until", "2000-01-01T00:00:00Z", id) == ""


def test_logs_follow_until_the_container_ends(manager: Daemon) -> None:
    id = manager.container(script="echo begin; sleep 0.3; echo end")
    assert manager.ok("logs", "-f", id) == "begin\nend\n"


def test_logs_of_a_terminal_are_raw(manager: Daemon) -> None:
    id = manager.container("-t", script="echo seen; sleep 0.2")
    assert manager.ok("logs", "-f", id) == "seen\r\n"


# --- images, events, the rest


def test_images(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.ok("images", "--format", "{{.Repository}}:{{.Tag}}").split() == [IMAGE]
    assert json.loads(daemon.ok("image", "inspect", IMAGE))[0]["Config"]["ExposedPorts"] == {
        "80/tcp": {}
    }
    assert "Downloaded newer image for busybox:latest" in daemon.ok("pull", "busybox")
    assert "pull access denied" in daemon.refused("pull", "missing")
    daemon.ok("tag", "busybox", "mine:1")
    assert daemon.ok("images", "-q", "--filter", "reference=mine") != ""
    assert daemon.ok("rmi", "mine:1") == "Untagged: mine:1\n"
    archive = tmp_path / "image.tar"
    archive.write_bytes(bytes(6 * 2**20))
    assert daemon.ok("load", "-i", str(archive)) == "Loaded image: loaded:latest\n"
    assert "No such image" in daemon.refused("image", "inspect", "nothing")
    assert "is not supported by Weft" in daemon.refused("search", "busybox")


def test_events(manager: Daemon) -> None:
    manager.container()
    with subprocess.Popen(
        manager.command(
            "events",
            "--since",
            "2020-01-01T00:00:00Z",
            "--filter",
            "type=container",
            "--format",
            "json",
        ),
        stdout=subprocess.PIPE,
    ) as watching:
        assert watching.stdout is not None
        before = [json.loads(watching.stdout.readline()) for _ in range(2)]
        manager.ok("service", "rm", "web")
        after = [json.loads(watching.stdout.readline()) for _ in range(4)]
        watching.terminate()
    told = [*before, *after]
    assert [event["Action"] for event in told] == [
        *("create", "start", "kill", "die", "stop", "destroy")
    ]
    assert all(event["Actor"]["Attributes"]["image"] == IMAGE for event in told)
    times = [event["timeNano"] for event in told]
    assert times == sorted(times)


def test_images_that_nobody_uses_are_pruned(manager: Daemon) -> None:
    manager.container()
    for name in ("mine:1", "mine:2", "other:1"):
        manager.ok("pull", name)
    manager.ok("tag", "other:1", "another:1")
    assert "Total reclaimed space: 0B" in manager.ok("image", "prune", "-f")
    assert manager.ok("image", "prune", "-af", "--filter", "label=a") == (
        "Total reclaimed space: 0B\n"
    )
    assert len(manager.ok("images", "-q").split()) == 5
    said = manager.ok("image", "prune", "-af").split("\n")
    assert {line for line in said if line.startswith("untagged: ")} == {
        f"untagged: {name}" for name in ("mine:1", "mine:2", "other:1", "another:1")
    }
    assert sum(line.startswith("deleted: ") for line in said) == 3
    assert manager.ok("images", "--format", "{{.Repository}}:{{.Tag}}").split() == [IMAGE]


def test_what_weft_does_not_have(manager: Daemon) -> None:
    for command in (
        ["secret", "ls", "-q"],
        ["config", "ls", "-q"],
        ["plugin", "ls", "-q"],
    ):
        assert manager.ok(*command) == ""
    container = manager.container()
    for command in (
        ["pause", container],
        ["rename", container, "x"],
    ):
        assert "not supported by Weft" in manager.refused(*command)
    assert "it is a task's" in manager.refused("network", "connect", "bridge", container)


def test_docker_py(manager: Daemon) -> None:
    client = docker.DockerClient(base_url=f"unix://{manager.path}", version="auto")
    try:
        assert client.ping()
        network = client.networks.create("n", driver="overlay", attachable=True)
        service = client.services.create(
            IMAGE, name="web", networks=["n"], mode={"Replicated": {"Replicas": 2}}
        )
        manager.settled("web")
        assert {task["Status"]["State"] for task in service.tasks()} == {"running"}
        container = client.containers.list(filters={"label": "com.docker.swarm.service.name=web"})[
            0
        ]
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 5"], demux=True)
        assert result.exit_code == 5
        assert result.output == (b"out\n", b"err\n")
        while not container.logs(stderr=False):
            assert container.status == "running"
        assert container.logs(stderr=False) == b"listening\n"
        stale = service.version
        assert service.scale(1)
        with pytest.raises(docker.errors.APIError) as raised:
            client.api.update_service(
                service.id, stale, name="web", task_template=service.attrs["Spec"]["TaskTemplate"]
            )
        assert raised.value.explanation.endswith("update out of sequence")
        service.remove()
        network.remove()
        with pytest.raises(docker.errors.NotFound):
            client.services.get("web")
    finally:
        client.close()
