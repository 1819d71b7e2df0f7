"""Plain containers as the stock docker command and docker-py make them: a real server on a UNIX
socket, behind it a whole node outside a swarm, whose containers are processes."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import docker
import docker.errors
import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.api_daemon import DEADLINE
from tests.support.fake_images import IMAGE
from weft.api.streams import STDOUT, frame
from weft.model.ids import ContainerId
from weft.model.plain_container import LAST_PAUSE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

ALONE = ("--network", "none")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=f"unix://{daemon.path}", version="auto")
    yield made
    made.close()


def state_of(daemon: Daemon, name: str) -> str:
    return daemon.ok("inspect", name, "--format", "{{.State.Status}}").strip()


# --- run, attach, wait


@pytest.mark.parametrize("network", ["none", "host"])
def test_run_shows_all_output_and_gives_the_exit_code(any_daemon: Daemon, network: str) -> None:
    script = "echo out; echo err >&2; exit 3"
    done = any_daemon.run("run", "--rm", "--network", network, IMAGE, "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert any_daemon.ok("ps", "-aq") == ""


def attached(daemon: Daemon, id: str, query: str) -> bytes:
    """All that an attachment shows."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(daemon.path))
        connection.sendall(
            f"POST /containers/{id}/attach?{query} HTTP/1.1\r\nHost: d\r\n\r\n".encode()
        )
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return answer.partition(b"\r\n\r\n")[2]


def test_past_output_is_shown_of_a_container_that_has_ended(
    daemon: Daemon, client: docker.DockerClient
) -> None:
    id = daemon.ok("create", *ALONE, IMAGE, "echo", "past").strip()
    assert attached(daemon, id, "logs=1&stdout=1") == b"", "it has not been started"
    daemon.ok("start", id)
    eventually(lambda: daemon.ok("logs", id))
    daemon.ok("wait", id)
    assert attached(daemon, id, "logs=1&stdout=1") == frame(STDOUT, b"past\n")
    assert attached(daemon, id, "stdout=1") == b""
    made = client.containers.get(id)
    for _ in range(5):
        assert made.attach(logs=True, stream=False) == b"past\n", "also by a hasty client"
    mute = daemon.ok("run", "-d", "--log-driver", "none", *ALONE, IMAGE, "true").strip()
    daemon.ok("wait", mute)
    said = b"Error attaching: configured logging driver does not support reading\n"
    assert attached(daemon, mute, "logs=1&stdout=1") == frame(STDOUT, said)


def test_input_ends_with_the_client(any_daemon: Daemon) -> None:
    script = "cat; echo end"
    said = any_daemon.ok("run", "-i", "--rm", *ALONE, IMAGE, "sh", "-c", script, stdin=b"in\n")
    assert said == "in\nend\n"


def test_what_cannot_be_run_has_the_exit_code_of_a_shell(daemon: Daemon) -> None:
    done = daemon.run("run", "--name", "absent", *ALONE, IMAGE, "no-such-program")
    assert (done.returncode, b"executable file not found" in done.stderr) == (127, True)
    assert state_of(daemon, "absent") == "created"
    shown = "{{.State.ExitCode}} {{.State.Error}}"
    error = daemon.ok("inspect", "absent", "--format", shown)
    assert (error[:4], "not found" in error) == ("127 ", True)
    assert daemon.run("run", "--rm", *ALONE, IMAGE, "no-such-program").returncode == 127
    assert daemon.ok("ps", "-a", "--format", "{{.Names}}").split() == ["absent"]
    assert daemon.run("run", *ALONE, "missing", "true").returncode == 125


def test_an_image_that_is_not_here_is_pulled(daemon: Daemon) -> None:
    done = daemon.run("run", "--rm", *ALONE, "busybox", "true")
    assert (done.returncode, b"Unable to find image" in done.stderr) == (0, True)
    assert "No such image: other:latest" in daemon.refused("create", "--pull", "never", "other")


def test_detached_it_runs_on_and_is_logged(daemon: Daemon) -> None:
    id = daemon.ok("run", "-d", *ALONE, IMAGE, "sh", "-c", "echo one; exec sleep 600").strip()
    assert eventually(lambda: daemon.ok("logs", id)) == "one\n"
    assert daemon.ok("ps", "-q", "--no-trunc").strip() == id
    assert daemon.run("exec", id, "sh", "-c", "exit 4").returncode == 4
    daemon.ok("stop", id)
    assert daemon.ok("wait", id) == "143\n", "of a container that has ended: at once"
    assert "is not running" in daemon.refused("exec", id, "true")
    assert "is not running" in daemon.refused("kill", id)


def test_wait_is_for_the_next_end(daemon: Daemon, client: docker.DockerClient) -> None:
    made = client.containers.create(IMAGE, ["sh", "-c", "exit 7"], network_mode="none")
    assert made.wait()["StatusCode"] == 0, "it has not been started"
    with subprocess.Popen(
        daemon.command("start", "-a", made.id), stdout=subprocess.PIPE
    ) as starting:
        assert starting.wait(DEADLINE) == 7
    assert made.wait()["StatusCode"] == 7
    made.remove()
    with pytest.raises(docker.errors.NotFound, match="No such container"):
        made.wait()


# --- their life


def test_start_stop_restart_kill_and_remove(daemon: Daemon) -> None:
    daemon.ok("create", "--name", "web", *ALONE, IMAGE)
    assert state_of(daemon, "web") == "created"
    daemon.ok("start", "web")
    daemon.ok("start", "web")
    assert state_of(daemon, "web") == "running"
    daemon.ok("restart", "-t", "0", "web")
    assert state_of(daemon, "web") == "running"
    assert "container is running: stop the container before" in daemon.refused("rm", "web")
    daemon.ok("kill", "-s", "KILL", "web")
    assert state_of(daemon, "web") == "exited"
    daemon.ok("restart", "web")
    daemon.ok("stop", "-s", "INT", "web")
    daemon.ok("rm", "web")
    assert "No such container" in daemon.refused("start", "web")


def test_pause_and_unpause(daemon: Daemon) -> None:
    daemon.ok("run", "-d", "--name", "web", *ALONE, IMAGE)
    assert "is not paused" in daemon.refused("unpause", "web")
    daemon.ok("pause", "web")
    assert "is already paused" in daemon.refused("pause", "web")
    assert daemon.ok("ps", "--format", "{{.State}} {{.Status}}").endswith("(Paused)\n")
    assert daemon.ok("ps", "-q", "--filter", "status=paused") != ""
    seen = json.loads(daemon.ok("inspect", "web"))[0]["State"]
    assert (seen["Status"], seen["Running"], seen["Paused"]) == ("paused", True, True)
    counts = "{{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}}"
    assert daemon.ok("info", "--format", counts) == "0 1 0\n"
    assert "unpause it first" in daemon.refused("attach", "web")
    assert (
        'cannot remove container "web": container is paused and must be unpaused first'
        in daemon.refused("rm", "web")
    )
    daemon.ok("unpause", "web")
    assert state_of(daemon, "web") == "running"
    daemon.ok("stop", "web")
    assert "is not running" in daemon.refused("pause", "web")
    assert "is not paused" in daemon.refused("unpause", "web")


def test_names_are_given_once_and_can_be_changed(daemon: Daemon) -> None:
    first = daemon.ok("create", "--name", "web", *ALONE, IMAGE).strip()
    conflict = (
        f'Conflict. The container name "/web" is already in use by container "{first}". You have to'
        " remove (or rename) that container to be able to reuse that name."
    )
    assert conflict in daemon.refused("create", "--name", "web", *ALONE, IMAGE)
    daemon.ok("rename", "web", "old")
    second = daemon.ok("create", "--name", "web", *ALONE, IMAGE).strip()
    assert conflict.replace(first, second) in daemon.refused("rename", "old", "web")
    assert "Invalid container name (-)" in daemon.refused("rename", "web", "-")
    assert "Invalid container name (a b)" in daemon.refused("create", "--name", "a b", IMAGE)
    own = daemon.ok("create", *ALONE, IMAGE).strip()
    name = daemon.ok("inspect", own, "--format", "{{.Name}}").strip()
    assert name.startswith("/")
    assert "_" in name
    assert sorted(daemon.ok("ps", "-a", "--format", "{{.Names}}").split()) == sorted(
        ["web", "old", name[1:]]
    )


def test_prune_removes_those_that_do_not_run(daemon: Daemon) -> None:
    kept = daemon.ok("run", "-d", *ALONE, IMAGE).strip()
    labelled = daemon.ok("create", "--label", "keep=yes", *ALONE, IMAGE).strip()
    gone = daemon.ok("create", *ALONE, IMAGE).strip()
    assert gone in daemon.ok("container", "prune", "-f", "--filter", "label!=keep")
    assert set(daemon.ok("ps", "-aq", "--no-trunc").split()) == {kept, labelled}
    assert "10.0" not in daemon.ok("container", "prune", "-f", "--filter", "until=240h")
    assert labelled in daemon.ok("container", "prune", "-f")
    assert "invalid filter" in daemon.refused("container", "prune", "-f", "--filter", "a=b")


def test_a_failing_container_is_restarted_as_often_as_its_policy_says(daemon: Daemon) -> None:
    daemon.ok(
        *("run", "-d", "--name", "web", "--restart", "on-failure:2", *ALONE, IMAGE),
        *("sh", "-c", "exit 5"),
    )
    count = ("inspect", "web", "--format", "{{.RestartCount}} {{.State.Status}}")
    assert eventually(lambda: daemon.ok(*count) == "2 exited\n")
    assert len(daemon.ok("ps", "-aq").split()) == 1


def test_a_stopped_container_stays_stopped_and_one_that_waits_is_called_off(daemon: Daemon) -> None:
    daemon.ok("run", "-d", "--name", "web", "--restart", "always", *ALONE, IMAGE, "sleep", "600")
    daemon.ok("stop", "-t", "0", "web")
    assert state_of(daemon, "web") == "exited"
    daemon.ok(
        *("run", "-d", "--name", "loop", "--restart", "always", *ALONE, IMAGE),
        *("sh", "-c", "exit 1"),
    )
    eventually(lambda: daemon.ok("ps", "-q", "--filter", "status=restarting"))
    daemon.ok("stop", "loop")
    assert state_of(daemon, "loop") == "exited"
    daemon.ok("rm", "loop", "web")


async def begin_with_the_longest_pause(daemon: Daemon, id: ContainerId) -> None:
    """Starts a container that fails: its restart then comes after the end of the test."""
    plain = daemon.node.plain
    await plain.start(id)
    plain._life(id).pause = LAST_PAUSE


def test_a_container_that_waits_for_its_restart_counts_as_running(daemon: Daemon) -> None:
    """But there is no process in it: Docker's texts."""
    made = daemon.ok("create", "--name", "loop", "--restart", "always", *ALONE, IMAGE, "false")
    id = ContainerId(made.strip())
    daemon.call(begin_with_the_longest_pause(daemon, id))
    eventually(lambda: state_of(daemon, "loop") == "restarting")
    assert daemon.ok("ps", "-q", "--no-trunc").strip() == id
    for command in (["pause"], ["exec", "true"], ["top"], ["kill", "-s", "HUP"]):
        verb, *rest = command
        asked = (verb, *rest, "loop") if verb != "exec" else (verb, "loop", *rest)
        assert f"ontainer {id} is restarting, wait until" in daemon.refused(*asked), verb
    assert "is not paused" in daemon.refused("unpause", "loop")
    assert (
        'cannot remove container "loop": container is restarting: stop the container before'
        " removing or force remove" in daemon.refused("rm", "loop")
    )
    daemon.ok("start", "loop")
    daemon.ok("rename", "loop", "again")
    assert state_of(daemon, "again") == "restarting", "a start changes nothing"
    assert daemon.ok("container", "prune", "-f") == "Total reclaimed space: 0B\n"
    with subprocess.Popen(daemon.command("wait", "again"), stdout=subprocess.PIPE) as waiting:
        daemon.ok("kill", "again")
        assert waiting.wait(DEADLINE) == 0
    assert state_of(daemon, "again") == "exited"
    assert "is not running" in daemon.refused("kill", "again")
    daemon.ok("rm", "again")


def test_what_is_removed_at_its_end_takes_its_anonymous_volumes_along(daemon: Daemon) -> None:
    mounts = ("-v", "/data", "-v", "named:/more")
    assert daemon.run("run", "--rm", *mounts, *ALONE, IMAGE, "true").returncode == 0
    eventually(lambda: daemon.ok("ps", "-aq") == "")
    assert daemon.ok("volume", "ls", "-q").split() == ["named"]
    assert "can't create 'AutoRemove' container with restart policy" in daemon.refused(
        "create", "--rm", "--restart", "always", IMAGE
    ) or "conflicting options" in daemon.refused("create", "--rm", "--restart", "always", IMAGE)


def test_events_tell_of_all_of_it(daemon: Daemon) -> None:
    daemon.ok("run", "-d", "--name", "web", *ALONE, IMAGE)
    for command in (["pause"], ["unpause"], ["stop", "-t", "0"], ["restart"]):
        daemon.ok(*command, "web")
    daemon.ok("rename", "web", "old")
    daemon.ok("rm", "-f", "old")
    past = (
        "--since",
        "2020-01-01T00:00:00Z",
        "--until",
        str(int(time.time()) + 1),
        "--filter",
        "type=container",
    )
    told = daemon.ok("events", *past, "--format", "{{.Action}}").split()
    assert [action for action in told if action != "kill"] == [
        *("create", "start", "pause", "unpause", "die", "stop", "start", "restart", "rename"),
        *("die", "destroy"),
    ]


def test_update_changes_limits_and_policy_and_keeps_the_rest(daemon: Daemon) -> None:
    daemon.ok("run", "-d", "--name", "web", "-m", "64m", "--cpus", "1", *ALONE, IMAGE)
    daemon.ok("update", "--cpus", "0.5", "--restart", "always", "web")
    host = json.loads(daemon.ok("inspect", "web"))[0]["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (500_000_000, 64 << 20)
    assert host["RestartPolicy"]["Name"] == "always"
    assert "Range of blkio weight" in daemon.refused("update", "--blkio-weight", "5", "web")
    daemon.ok("create", "--rm", "--name", "gone", *ALONE, IMAGE)
    assert "AutoRemove is enabled" in daemon.refused("update", "--restart", "always", "gone")


# --- what inspect shows


def test_inspect_shows_what_was_asked_for(client: docker.DockerClient) -> None:
    made = client.containers.create(
        IMAGE,
        ["echo", "hi"],
        entrypoint=["env"],
        name="web",
        hostname="box",
        domainname="example",
        user="1:2",
        working_dir="/w",
        environment={"A": "b"},
        labels={"mine": "yes"},
        network_mode="host",
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        volumes=["/src:/dst:ro", "data:/data"],
        tmpfs={"/t": "size=1m"},
        cap_add=["NET_ADMIN"],
        cap_drop=["CHOWN"],
        security_opt=["no-new-privileges", "apparmor=unconfined"],
        mem_limit="64m",
        memswap_limit="128m",
        mem_reservation="32m",
        nano_cpus=500_000_000,
        cpuset_cpus="0",
        cpu_shares=512,
        pids_limit=50,
        shm_size="8m",
        ulimits=[docker.types.Ulimit(name="nofile", soft=10, hard=20)],
        sysctls={"kernel.msgmax": "65536"},
        extra_hosts={"db": "10.0.0.1"},
        dns=["10.0.0.2"],
        pid_mode="host",
        ipc_mode="host",
        read_only=True,
        init=True,
        stop_signal="SIGINT",
        tty=True,
        stdin_open=True,
        oom_score_adj=5,
        devices=["/dev/null:/dev/mine:r"],
        cgroup_parent="/docker/buildx",
        device_cgroup_rules=["c 42:* rmw", "a *:* r"],
        volume_driver="local",
        device_requests=[docker.types.DeviceRequest(driver="cdi", device_ids=["a.com/b=c"])],
        healthcheck={"test": ["CMD", "true"], "interval": 10**9},
    )
    config, host = made.attrs["Config"], made.attrs["HostConfig"]
    assert {key: config[key] for key in (
        "Hostname", "Domainname", "User", "WorkingDir", "Entrypoint", "Cmd", "Tty", "OpenStdin",
        "StopSignal",
    )} == {
        "Hostname": "box", "Domainname": "example", "User": "1:2", "WorkingDir": "/w",
        "Entrypoint": ["env"], "Cmd": ["echo", "hi"], "Tty": True, "OpenStdin": True,
        "StopSignal": "SIGINT",
    }  # fmt: skip
    assert config["Labels"] == {"mine": "yes"}
    assert config["Healthcheck"] == {"Test": ["CMD", "true"], "Interval": 10**9}
    assert {key: host[key] for key in (
        "NetworkMode", "RestartPolicy", "Binds", "Tmpfs", "CapAdd", "CapDrop", "SecurityOpt",
        "Memory", "MemoryReservation", "NanoCpus", "CpusetCpus", "CpuShares", "PidsLimit",
        "ShmSize", "Ulimits", "Sysctls", "ExtraHosts", "Dns", "PidMode", "IpcMode", "UTSMode",
        "ReadonlyRootfs", "Init", "OomScoreAdj", "Devices", "CgroupParent",
        "DeviceRequests", "DeviceCgroupRules", "VolumeDriver",
    )} == {
        "NetworkMode": "host",
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "Binds": ["/src:/dst:ro", "data:/data"], "Tmpfs": {"/t": "size=1m"},
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["CHOWN"],
        "SecurityOpt": ["no-new-privileges", "apparmor=unconfined"], "Memory": 64 << 20,
        "MemoryReservation": 32 << 20, "NanoCpus": 500_000_000, "CpusetCpus": "0",
        "CpuShares": 512, "PidsLimit": 50, "ShmSize": 8 << 20,
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        "Sysctls": {"kernel.msgmax": "65536"}, "ExtraHosts": ["db:10.0.0.1"],
        "Dns": ["10.0.0.2"], "PidMode": "host", "IpcMode": "host", "UTSMode": "",
        "ReadonlyRootfs": True, "Init": True, "OomScoreAdj": 5, "CgroupParent": "/docker/buildx",
        "DeviceRequests": [{
            "Driver": "cdi", "Count": 0, "DeviceIDs": ["a.com/b=c"], "Capabilities": None,
            "Options": None,
        }],
        "DeviceCgroupRules": ["c 42:* rmw", "a *:* r"], "VolumeDriver": "local",
        "Devices": [
            {"PathOnHost": "/dev/null", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}
        ],
    }  # fmt: skip
    assert [(m["Type"], m["Destination"], m["RW"]) for m in made.attrs["Mounts"]] == [
        ("bind", "/dst", False), ("volume", "/data", True), ("tmpfs", "/t", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (("--link", "other"), "HostConfig.Links is not supported by Weft; containers on a network"),
        (
            ("--network", "own", "--link", "other"),
            "HostConfig.Links is not supported by Weft; containers on a network",
        ),
        (("--runtime", "kata"), "unknown or invalid runtime name: kata"),
        (("--ipc", "container:gone"), "No such container: gone"),
        (("--pid", "container:gone"), "No such container: gone"),
        (("--network", "container:gone"), "No such container: gone"),
        (("--volumes-from", "gone"), "No such container: gone"),
        (("--volume-driver", "nfs"), "HostConfig.VolumeDriver: the driver nfs is not supported"),
        (("--storage-opt", "size=1g"), "HostConfig.StorageOpt is not supported by Weft"),
        (("--cgroup-parent", "../x"), "invalid cgroup parent '../x': '..' would lead out"),
        (("--log-driver", "fluentd"), "HostConfig.LogConfig.Type: the log driver fluentd"),
        (("--security-opt", "label=user:x"), "SELinux labels are not supported by Weft"),
        (("--security-opt", "apparmor=mine"), "profiles other than docker-default"),
        (("--uts", "host", "-h", "box"), "conflicting options: hostname and the UTS mode"),
        (
            ("--uts", "host", "--domainname", "x"),
            "conflicting options: domainname and the UTS mode",
        ),
        (("--domainname", "a b"), "invalid Domainname: 'a b' is not a name"),
        (("--domainname", "x" * 65), "has more than 64 characters"),
        (
            ("--oom-score-adj", "1001"),
            "Invalid value 1001, range for oom score adj is [-1000, 1000]",
        ),
        (("--memory-swap", "1g"), "You should always set the Memory limit"),
        (("--cpus", "1", "--cpu-quota", "5000"), "Nano CPUs and CPU Quota cannot both be set"),
        (("--cpuset-cpus", "a"), "Invalid value a for cpuset cpus"),
        (("--blkio-weight", "5"), "Range of blkio weight is from 10 to 1000"),
        (("-v", "vol:/b:bad"), "invalid mode: bad"),
        (("-v", "one:/b", "-v", "two:/b"), "Duplicate mount point: /b"),
        (("-v", "vol:b"), "mount path must be absolute"),
        (("--tmpfs", "/t:colour=1"), "invalid tmpfs option"),
        (("--volumes-from", "absent"), "No such container: absent"),
        (("--pid", "container:absent"), "No such container: absent"),
        (("--ip", "10.0.0.1"), "supported on user defined networks only"),
        (("--platform", "windows/amd64"), "choosing another platform (platform=windows/amd64)"),
        (("-w", "relative"), "it needs to be an absolute path"),
        (("--health-interval", "1us", "--health-cmd", "true"), "cannot be less than 1ms"),
        (("--restart", "sometimes"), "sometimes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    daemon: Daemon, option: tuple[str, ...], text: str
) -> None:
    assert text in daemon.refused("create", *option, IMAGE)
    assert daemon.ok("ps", "-aq") == ""
    assert daemon.ok("volume", "ls", "-q") == ""


def test_volumes_of_another_container(daemon: Daemon) -> None:
    daemon.ok("create", "--name", "data", "-v", "/own", "-v", "named:/named:ro", *ALONE, IMAGE)
    daemon.ok("create", "--name", "user", "--volumes-from", "data", *ALONE, IMAGE)
    data, user = json.loads(daemon.ok("inspect", "data", "user"))
    places = [{(m["Name"], m["Destination"], m["RW"]) for m in c["Mounts"]} for c in (data, user)]
    assert places[0] == places[1]
    assert user["HostConfig"]["VolumesFrom"] == ["data"]
    daemon.ok("rm", "-v", "data")
    assert len(daemon.ok("volume", "ls", "-q").split()) == 2, "the other one has them"


# --- beside a swarm


def test_containers_of_tasks_stay_the_swarms(manager: Daemon) -> None:
    own = manager.ok("run", "-d", "--name", "own", *ALONE, IMAGE).strip()
    task = manager.container()
    for command in (
        ["restart", task],
        ["pause", task],
        ["rename", task, "other"],
        ["update", "-m", "64m", task],
    ):
        assert "not supported by Weft" in manager.refused(*command)
    assert set(manager.ok("ps", "-q", "--no-trunc").split()) == {own, task}
    manager.ok("stop", "-t", "0", "own")
    manager.ok("container", "prune", "-f")
    assert manager.ok("ps", "-aq", "--no-trunc").split() == [task]
    manager.ok("run", "-d", "--name", "own", *ALONE, IMAGE)
    manager.ok("swarm", "leave", "--force")
    assert manager.ok("ps", "-a", "--format", "{{.Names}}") == "own\n"


def test_a_network_that_nobody_has_is_missed_at_the_start(daemon: Daemon) -> None:
    """As by Docker."""
    daemon.ok("create", "--name", "lost", "--network", "absent", IMAGE)
    assert "network absent not found" in daemon.refused("start", "lost")
