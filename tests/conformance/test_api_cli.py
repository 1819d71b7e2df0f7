"""The API as the stock docker command and docker-py see it: a real server on a UNIX socket, behind
it a node in memory.

Both event loops that the daemon may run on are tried where it matters: for streams.
"""

import hashlib
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.conformance.client import Daemon
from tests.support.api_daemon import DEADLINE
from tests.support.fake_node import IMAGE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


# --- the node and the swarm


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
    manager.ok("kill", "-s", "USR1", container)
    manager.ok("rm", "-f", container)
    wanted = ("--since", "2020-01-01T00:00:00Z", "--filter", f"container={container}")
    with subprocess.Popen(
        manager.command("events", *wanted, "--format", "{{.Action}} {{.Actor.Attributes.signal}}"),
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        told = [watching.stdout.readline().split() for _ in range(3)]
        watching.terminate()
    assert told == [["start", "<no", "value>"], ["kill", "10"], ["destroy", "<no", "value>"]]


def test_swarm_init_join_token_update_and_leave(daemon: Daemon) -> None:
    out = daemon.ok("swarm", "init", "--availability", "drain")
    assert daemon.ok("node", "inspect", "self", "-f", "{{.Spec.Availability}}") == "drain\n"
    assert re.search(r"Swarm initialized: current node \([0-9a-z]{25}\) is now a manager", out)
    assert "docker swarm join --token SWMTKN-1-worker 10.59.72.11:2377" in out
    assert "already part of a swarm" in daemon.refused("swarm", "init")
    assert daemon.ok("swarm", "join-token", "-q", "manager").strip() == "SWMTKN-1-manager"
    assert (
        daemon.ok("swarm", "join-token", "-q", "--rotate", "worker").strip()
        == "SWMTKN-1-worker-new"
    )
    daemon.ok("swarm", "update", "--task-history-limit", "3")
    assert json.loads(daemon.ok("info", "--format", "json"))["Swarm"]["Cluster"]["Spec"][
        "Orchestration"
    ] == {"TaskHistoryRetentionLimit": 3}
    assert "AutoLockManagers is not supported" in daemon.refused("swarm", "update", "--autolock")
    assert "participating as a manager" in daemon.refused("swarm", "leave")
    daemon.ok("swarm", "leave", "--force")
    assert "inactive" in daemon.ok("info", "--format", "{{.Swarm.LocalNodeState}}")


def test_the_root_of_the_swarm(manager: Daemon, tmp_path: Path) -> None:
    """It is shown, and replaced: by a new one, by one that is brought. The command ends when every
    node has it."""
    first = manager.ok("swarm", "ca")
    assert "BEGIN CERTIFICATE" in first
    worker = manager.ok("swarm", "join-token", "-q", "worker")
    manager.ok("swarm", "update", "--cert-expiry", "720h")
    assert manager.ok("swarm", "ca") == first
    shown = manager.ok("swarm", "ca", "--rotate", "--cert-expiry", "48h")
    assert "rotated TLS certificates" in shown
    second = manager.ok("swarm", "ca")
    assert second not in ("", first)
    assert second.strip() in shown
    assert manager.ok("swarm", "join-token", "-q", "worker") != worker
    info = json.loads(manager.ok("info", "--format", "json"))["Swarm"]["Cluster"]
    assert info["Spec"]["CAConfig"] == {"NodeCertExpiry": 48 * 3600 * 10**9, "ForceRotate": 1}
    assert (
        json.loads(manager.ok("node", "inspect", "self"))[0]["Description"]["TLSInfo"]
        == info["TLSInfo"]
    )
    certificate, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1000",
            "-subj",
            "/CN=ours",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        capture_output=True,
        check=True,
    )
    manager.ok("swarm", "ca", "--rotate", "--ca-cert", str(certificate), "--ca-key", str(key))
    assert manager.ok("swarm", "ca").strip() == certificate.read_text().strip()


def test_a_root_that_is_none(manager: Daemon, tmp_path: Path) -> None:
    certificate, key, other = tmp_path / "ca.crt", tmp_path / "ca.key", tmp_path / "other.key"
    for days, where in (("1000", other), ("300", key)):
        request = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            days,
            "-subj",
            "/CN=ours",
        ]
        subprocess.run(
            [*request, "-keyout", where, "-out", certificate], capture_output=True, check=True
        )
    before = manager.ok("swarm", "ca")
    bring = ("swarm", "ca", "--rotate", "--ca-cert", str(certificate), "--ca-key")
    assert "expires too soon" in manager.refused(*bring, str(key))
    assert "do not belong together" in manager.refused(*bring, str(other))
    external = ("--external-ca", "protocol=cfssl,url=https://ca.example.org")
    assert "ExternalCAs is not supported" in manager.refused("swarm", "update", *external)
    assert manager.ok("swarm", "ca") == before


def test_swarm_join(daemon: Daemon) -> None:
    assert "invalid join token" in daemon.refused(
        "swarm", "join", "--token", "nonsense", "10.59.72.11:2377"
    )
    assert "joined a swarm as a worker" in daemon.ok(
        "swarm", "join", "--token", "SWMTKN-1-worker", "10.59.72.11:2377"
    )
    assert "not a swarm manager" in daemon.refused("node", "ls")


def test_nodes(manager: Daemon) -> None:
    row = json.loads(manager.ok("node", "ls", "--format", "json"))
    assert (row["Hostname"], row["Status"], row["Availability"], row["ManagerStatus"]) == (
        "node1",
        "Ready",
        "Active",
        "Leader",
    )
    manager.ok("node", "update", "--label-add", "zone=a", "--availability", "pause", "node1")
    assert (
        manager.ok("node", "inspect", "self", "-f", "{{.Spec.Labels.zone}} {{.Spec.Availability}}")
        == "a pause\n"
    )
    assert manager.ok("node", "ls", "-q", "--filter", "node.label=zone=b") == ""
    assert "node nobody not found" in manager.refused("node", "inspect", "nobody")
    assert "is a cluster manager" in manager.refused("node", "rm", "node1")


# --- networks


def test_networks_from_creation_to_removal(manager: Daemon) -> None:
    id = manager.ok(
        "network",
        "create",
        "-d",
        "overlay",
        "--subnet",
        "10.10.10.0/24",
        "--attachable",
        "--label",
        "a=b",
        "n",
    ).strip()
    assert re.fullmatch(r"[0-9a-z]{25}", id)
    seen = json.loads(manager.ok("network", "inspect", "n"))[0]
    assert seen["Id"] == id
    assert seen["Options"] == {"com.docker.network.driver.overlay.vxlanid_list": "4097"}
    assert seen["IPAM"]["Config"] == [{"Subnet": "10.10.10.0/24", "Gateway": "10.10.10.1"}]
    assert (seen["Scope"], seen["Attachable"], seen["Labels"]) == ("swarm", True, {"a": "b"})
    rows = {
        tuple(line.split())
        for line in manager.ok("network", "ls", "--format", "{{.Name}} {{.Scope}}").splitlines()
    }
    assert rows >= {
        ("n", "swarm"),
        ("ingress", "swarm"),
        ("docker_gwbridge", "local"),
        ("host", "local"),
    }
    assert (
        manager.ok(
            "network", "ls", "-q", "--no-trunc", "--filter", "name=n$", "--filter", "scope=swarm"
        ).strip()
        == id
    )
    assert "network with name n already exists" in manager.refused(
        "network", "create", "-d", "overlay", "n"
    )
    assert "10.10.10.0/24 overlaps" in manager.refused(
        "network", "create", "-d", "overlay", "--subnet", "10.10.10.0/24", "m"
    )
    manager.container("--network", "n")
    assert f"network {id} is in use by service" in manager.refused("network", "rm", "n")
    manager.ok("service", "rm", "web")
    assert manager.ok("network", "rm", id[:6]) == f"{id[:6]}\n"
    assert "network n not found" in manager.refused("network", "inspect", "n")
    manager.ok("network", "create", "-d", "overlay", "idle")
    assert "Deleted Networks:\nidle" in manager.ok("network", "prune", "-f")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["n"], "driver bridge is not supported by Weft: use --driver overlay"),
        (["-d", "macvlan", "n"], "driver macvlan is not supported"),
        (
            ["-d", "overlay", "--opt", "encrypted=no", "n"],
            "cannot create network n: option encrypted: 'no' would encrypt it",
        ),
        (
            ["-d", "overlay", "--opt", "com.weft.network.esp.icv=64", "n"],
            "esp.icv needs option encrypted",
        ),
        (
            ["-d", "overlay", "--opt", "encrypted", "--opt", "com.weft.network.esp.icv=96", "n"],
            "is neither 64 nor 128",
        ),
        (
            ["-d", "overlay", "--opt", "com.docker.network.driver.mtu=fast", "n"],
            "failed to parse 'fast' as MTU",
        ),
        (["-d", "overlay", "--ipv6", "n"], "IPv6"),
        (
            ["-d", "overlay", "--scope", "local", "n"],
            "cannot downgrade network scope for overlay networks",
        ),
        (["-d", "overlay", "--ipam-driver", "mine", "n"], "IPAM driver mine is not supported"),
        (["-d", "overlay", "--subnet", "10.10.10.0/30", "n"], "the prefix must be 1 to 29"),
        (["-d", "overlay", "--subnet", "10.1.0.0/24", "--gateway", "10.1.1.1", "n"], "10.1.1.1"),
        (
            ["-d", "overlay", "--subnet", "10.1.0.0/24", "--ip-range", "10.2.0.0/25", "n"],
            "10.2.0.0/25",
        ),
        (["-d", "overlay", "host"], "host is a pre-defined network and cannot be created"),
    ],
)
def test_networks_that_are_refused(manager: Daemon, arguments: list[str], text: str) -> None:
    before = manager.ok("network", "ls", "-q")
    assert text in manager.refused("network", "create", *arguments)
    assert manager.ok("network", "ls", "-q") == before


# --- services and tasks


def test_a_service_from_creation_to_removal(manager: Daemon) -> None:
    manager.ok("network", "create", "-d", "overlay", "n")
    created = manager.ok("service", "create", "--name", "web", "--replicas", "2", "--network", "n", "-p", "8080:80",
                         "--update-monitor", "10ms", "--env", "A=b", IMAGE)  # fmt: skip
    assert "converged" in created
    row = json.loads(manager.ok("service", "ls", "--format", "json"))
    assert (row["Name"], row["Replicas"], row["Ports"]) == ("web", "2/2", "*:8080->80/tcp")
    rows = [
        json.loads(line)
        for line in manager.ok("service", "ps", "web", "--format", "json").splitlines()
    ]
    assert sorted(row["Name"] for row in rows) == ["web.1", "web.2"]
    assert all(row["CurrentState"].startswith("Running") and row["Node"] == "node1" for row in rows)
    pretty = manager.ok("service", "inspect", "--pretty", "web")
    assert "Networks: n" in pretty
    assert "PublishedPort = 8080" in pretty
    task = json.loads(manager.ok("inspect", rows[0]["ID"]))[0]
    assert [a["Network"]["Spec"]["Name"] for a in task["NetworksAttachments"]] == ["ingress", "n"]
    assert "service web scaled" in "service " + manager.ok("service", "scale", "-d", "web=1")
    manager.ok(
        "service",
        "update",
        "-d",
        "--env-add",
        "C=d",
        "--label-add",
        "x=y",
        "--network-rm",
        "n",
        "--force",
        "web",
    )
    spec = json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"]
    # The docker command gathers the variables in a Go map: their order is its own, and differs from
    # run to run.
    assert sorted(spec["TaskTemplate"]["ContainerSpec"]["Env"]) == ["A=b", "C=d"]
    assert (spec["Labels"], spec["TaskTemplate"]["ForceUpdate"]) == ({"x": "y"}, 1)
    manager.ok("service", "rollback", "-d", "web")
    assert json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"]["TaskTemplate"][
        "ContainerSpec"
    ]["Env"] == ["A=b"]
    assert manager.ok("service", "rm", "web") == "web\n"
    assert manager.ok("ps", "-aq") == ""
    assert "no such service: web" in manager.refused("service", "inspect", "web")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--name", "in valid"], "name must be valid as a DNS name component"),
        (["--network", "nowhere"], "network nowhere not found"),
        (
            ["--network", "bridge"],
            "the network bridge of each host is not supported by Weft for services",
        ),
        (["--network", "ingress"], "Service cannot be explicitly attached to the ingress network"),
        (["--mode", "replicated-job"], "jobs"),
        (["--init"], "TaskTemplate.ContainerSpec.Init"),
        (
            ["--health-cmd", "true"],
            "TaskTemplate.ContainerSpec.Healthcheck is not supported by Weft",
        ),
        (["--mount", "type=volume,source=v,target=/v"], "mounts of type volume are not supported"),
        (
            ["--endpoint-mode", "dnsrr", "-p", "80:80"],
            "port published with ingress mode can't be used with dnsrr mode",
        ),
        (["-p", "2377:80"], "cannot publish port 2377/tcp: managers listen there for nodes"),
        (
            ["-p", "4789:80/udp"],
            "cannot publish port 4789/udp: hosts listen there for each other's packets",
        ),
        (["--constraint", "node.role"], "constraint expected one operator from ==, !="),
        (["--reserve-cpu", "0.0001"], "Must be at least 0.001"),
        (["--log-driver", "syslog"], "syslog"),
    ],
)
def test_services_that_are_refused(manager: Daemon, arguments: list[str], text: str) -> None:
    assert text in manager.refused(
        "service", "create", "-d", "--no-resolve-image", *arguments, IMAGE
    )
    assert manager.ok("service", "ls", "-q") == ""


def test_services_get_names_and_ports_are_not_shared(manager: Daemon) -> None:
    id = manager.ok(
        "service", "create", "-d", "-q", "--no-resolve-image", "-p", "8080:80", IMAGE
    ).strip()
    assert re.fullmatch(
        r"[a-z]+_[a-z]+\d*", manager.ok("service", "inspect", "-f", "{{.Spec.Name}}", id).strip()
    )
    assert "port '8080' is already in use" in manager.refused(
        "service", "create", "-d", "--no-resolve-image", "-p", "8080:80", IMAGE
    )


def test_a_service_may_use_the_network_of_the_host(manager: Daemon) -> None:
    id = manager.container("--network", "host")
    assert manager.ok("inspect", "-f", "{{.HostConfig.NetworkMode}}", id) == "host\n"
    manager.ok("service", "update", "-d", "--env-add", "A=b", "web")
    assert "Networks: host" in manager.ok("service", "inspect", "--pretty", "web")


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
    assert seen["NetworkSettings"]["Networks"]["ingress"]["MacAddress"] == "02:42:0a:00:00:03"
    assert re.fullmatch(r"/run/docker/netns/[0-9a-f]{12}", seen["NetworkSettings"]["SandboxKey"])
    assert "sleep" in manager.ok("top", id)
    assert "No such object: nothing" in manager.refused("inspect", "nothing")


def test_stop_kill_wait_and_remove(manager: Daemon) -> None:
    id = manager.container()
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


# --- streams, on both event loops


def test_exec_separates_streams_and_gives_the_exit_code(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    id = any_daemon.container()
    done = any_daemon.run(
        "exec", "-e", "A=b", "-w", "/tmp", id, "sh", "-c", "echo $A $PWD; echo err >&2; exit 7"
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"b /tmp\n", b"err\n", 7)
    done = any_daemon.run("exec", id, "no-such-command")
    assert done.returncode == 127
    assert b"executable file not found" in done.stdout
    any_daemon.ok("exec", "-d", id, "true")


@pytest.mark.parametrize("privileged", [False, True])
def test_an_inspected_exec_says_whether_it_is_privileged(
    any_daemon: Daemon, privileged: bool
) -> None:
    any_daemon.ok("swarm", "init")
    client = docker.APIClient(base_url=f"unix://{any_daemon.path}", version="auto")
    exec = client.exec_create(any_daemon.container(), ["true"], privileged=privileged)
    assert client.exec_inspect(exec["Id"])["ProcessConfig"]["privileged"] is privileged
    client.close()


def test_exec_carries_20_megabytes_and_the_end_of_input(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    id = any_daemon.container()
    data = os.urandom(20_000_000)
    assert (
        any_daemon.ok("exec", "-i", id, "sha256sum", stdin=data).split()[0]
        == hashlib.sha256(data).hexdigest()
    )
    done = any_daemon.run("exec", "-i", id, "sh", "-c", "cat; exit 3", stdin=data)
    assert done.returncode == 3
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_exec_on_a_terminal(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    id = any_daemon.container()
    script = (
        "while [ \"$(stty size)\" != '33 111' ]; do sleep 0.05; done; stty size; read line; echo"
        " got $line; exit 9"
    )
    output, code = on_terminal(
        any_daemon.command("exec", "-it", id, "sh", "-c", script),
        rows=33,
        columns=111,
        answer=b"word\n",
    )
    assert b"33 111" in output
    assert b"got word" in output
    assert code == 9


def test_attach_carries_both_directions(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    create = {
        "image": IMAGE,
        "command": ["sh", "-c", "read line; echo got $line; exit 4"],
        "open_stdin": True,
        "name": "web",
    }
    client = docker.DockerClient(base_url=f"unix://{any_daemon.path}", version="auto")
    try:
        client.services.create(**create, restart_policy={"Condition": "none"})
    finally:
        client.close()
    id = any_daemon.ok("ps", "-q").strip()
    done = any_daemon.run("attach", id, stdin=b"word\n")
    assert done.stdout == b"got word\n"
    assert done.returncode == 4


def on_terminal(command: list[str], rows: int, columns: int, answer: bytes) -> tuple[bytes, int]:
    """Runs a command on a terminal of that size; says `answer` once the size was printed. Gives its
    output and exit code."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        output, asked = b"", False
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:
                    break
                output += data
            elif process.poll() is not None:
                break
            if not asked and b"%d %d" % (rows, columns) in output:
                asked = True
                os.write(ours, answer)
        os.close(ours)
        return output, process.wait(DEADLINE)


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
    for command in (
        ["history", IMAGE],
        ["push", "busybox"],
        ["image", "prune", "-f"],
        ["save", IMAGE],
    ):
        assert "is not supported by Weft" in daemon.refused(*command)


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
        first = json.loads(watching.stdout.readline())
        manager.ok("service", "rm", "web")
        second = json.loads(watching.stdout.readline())
        watching.terminate()
    assert (first["Action"], second["Action"]) == ("start", "die")
    assert first["Actor"]["Attributes"]["image"] == IMAGE
    assert first["timeNano"] < second["timeNano"]


def test_what_weft_does_not_have(manager: Daemon) -> None:
    assert "Weft, which runs services" in manager.refused("run", IMAGE)
    for command in (
        ["volume", "ls", "-q"],
        ["secret", "ls", "-q"],
        ["config", "ls", "-q"],
        ["plugin", "ls", "-q"],
    ):
        assert manager.ok(*command) == ""
    for command in (
        ["volume", "create", "v"],
        ["system", "df"],
        ["network", "create", "n"],
        ["login", "-u", "a", "-p", "b", "x"],
    ):
        assert "not supported by Weft" in manager.refused(*command)
    container = manager.container()
    for command in (
        ["cp", f"{container}:/x", "/tmp/x"],
        ["pause", container],
        ["rename", container, "x"],
        ["diff", container],
    ):
        assert "not supported by Weft" in manager.refused(*command)
    assert "not supported by Weft" in manager.refused("network", "connect", "bridge", container)


def test_docker_py(manager: Daemon) -> None:
    client = docker.DockerClient(base_url=f"unix://{manager.path}", version="auto")
    try:
        assert client.ping()
        network = client.networks.create("n", driver="overlay", attachable=True)
        service = client.services.create(
            IMAGE, name="web", networks=["n"], mode={"Replicated": {"Replicas": 2}}
        )
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
