"""Containers by the real conmon and runc: their life, what outlives a daemon, and that nothing is
left behind."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import (
    PATIENCE,
    Host,
    appears,
    configure,
    finished,
    read_all,
    started,
    with_runtime,
)
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed
from weft.model.container import ContainerState
from weft.model.ids import ContainerId
from weft.model.meta import SECOND
from weft.model.service import ContainerSpec, Mount, Resources, Ulimit
from weft.runtime.confinement import Confiner
from weft.runtime.conmon import LOST, ConmonRuntime
from weft.runtime.mounts import mount_points_below
from weft.runtime.oci import processes_with_argument

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive


@with_runtime
async def test_a_container_is_created_started_and_seen_to_end(
    runtime: ConmonRuntime, host: Host
) -> None:
    config = configure("sh", "-c", "echo out; echo err >&2; exit 3")
    created = await runtime.create(config)
    assert (created.state, created.pid, created.args) == (
        ContainerState.CREATED,
        0,
        config.spec.args,
    )
    running = await runtime.start(config.id)
    assert running.started_at >= created.created_at
    ended = await runtime.wait(config.id)
    assert (ended.state, ended.exit_code, ended.pid) == (ContainerState.EXITED, 3, 0)
    lines = [line async for line in runtime.logs(config.id)]
    assert sorted((line.stream, line.data) for line in lines) == [(1, b"out\n"), (2, b"err\n")]
    assert all(created.created_at <= line.timestamp <= time.time_ns() for line in lines)


@with_runtime
async def test_its_files_limits_user_and_identity_are_as_configured(
    runtime: ConmonRuntime, host: Host
) -> None:
    script = (
        "hostname; cat /etc/hosts /etc/resolv.conf; id -u; id -g; pwd; echo $GREETING; ulimit -n;"
        " cat /tmp/note;touch /x 2>/dev/null || echo read-only; grep CapBnd /proc/self/status; ls"
        " -d /work; df -k /scratch | tail -1 | cut -c1-5"
    )
    note = host.data / "note"
    note.write_text("hello\n")
    code, output = await finished(
        runtime,
        "sh",
        "-c",
        script,
        host_name="box",
        user="1000:7",
        dir="/work/here",
        env=("GREETING=hi",),
        read_only=True,
        ulimits=(Ulimit("nofile", 512, 1024),),
        cap_drop=("ALL",),
        cap_add=("NET_RAW",),
        mounts=(
            Mount(type="bind", source=str(note), target="/tmp/note", read_only=True),
            Mount(type="tmpfs", target="/scratch"),
        ),
    )
    assert output.decode().split("\n") == [
        "box", "127.0.0.1 localhost", "nameserver 127.0.0.11", "1000", "7", "/work/here", "hi", "512", "hello", "read-only",
        "CapBnd:\t0000000000002000", "/work", "tmpfs", "",
    ]  # fmt: skip
    assert code == 0


@with_runtime
async def test_memory_is_limited_and_running_out_of_it_is_noticed(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(
        runtime,
        "sh",
        "-c",
        "x=a; while :; do x=$x$x; done",
        limits=Resources(memory=32 << 20, pids=20),
    )
    container = await runtime.wait(id)
    assert (container.exit_code, container.oom_killed) == (137, True)


@with_runtime
async def test_what_cannot_run_is_refused_and_leaves_nothing(
    runtime: ConmonRuntime, host: Host
) -> None:
    with pytest.raises(OperationFailed, match=r'exec: "nope": executable file not found in \$PATH'):
        await runtime.create(configure("nope"))
    with pytest.raises(InvalidArgument, match="unable to find user nobody-here"):
        await runtime.create(configure("true", user="nobody-here"))
    with pytest.raises(InvalidArgument, match="ulimit"):
        await runtime.create(configure("true", ulimits=(Ulimit("nofile", 5, 4),)))
    with pytest.raises(NotFound, match="No such image: absent:latest"):
        await runtime.create(
            msgspec.structs.replace(configure(), spec=ContainerSpec(image="absent"))
        )
    assert runtime.containers() == []
    assert host.leftovers() == []


@with_runtime
async def test_a_creation_that_is_given_up_leaves_nothing(
    runtime: ConmonRuntime, host: Host
) -> None:
    for delay in (0.0, 0.005, 0.015, 0.025):
        creation = asyncio.create_task(runtime.create(configure("true")))
        await asyncio.wait((creation,), timeout=delay)
        creation.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await runtime.remove((await creation).id)
        assert host.leftovers() == []


@with_runtime
async def test_a_name_is_given_once(runtime: ConmonRuntime, host: Host) -> None:
    first = configure("true")
    await runtime.create(first)
    with pytest.raises(Conflict, match="already in use by container"):
        await runtime.create(msgspec.structs.replace(configure("true"), name=first.name))


@with_runtime
async def test_stop_asks_first_and_kills_after_the_grace_period(
    runtime: ConmonRuntime, host: Host
) -> None:
    polite = await started(
        runtime,
        "sh",
        "-c",
        "trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done",
        stop_signal="USR1",
    )
    deaf = await started(runtime, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    for id in (polite, deaf):
        async for _ in runtime.logs(id, follow=True):
            break  # the trap is set
    assert (await runtime.stop(polite, 10 * SECOND)).exit_code == 5
    assert (await runtime.stop(deaf, SECOND // 10)).exit_code == 137
    assert (await runtime.stop(deaf, SECOND)).state is ContainerState.EXITED


@with_runtime
async def test_one_that_has_ended_can_be_started_again_on_its_own_files(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sh", "-c", "echo $(cat /count 2>/dev/null)x > /count; cat /count")
    await runtime.wait(id)
    await runtime.start(id)
    await runtime.wait(id)
    assert [line.data async for line in runtime.logs(id)] == [b"x\n", b"xx\n"]


@with_runtime
async def test_logs_are_followed_to_the_end_and_cut_by_tail(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(
        runtime,
        "sh",
        "-c",
        "for i in 1 2 3 4 5; do echo line $i; sleep 0.02; done; printf unfinished",
    )
    followed = [line async for line in runtime.logs(id, follow=True)]
    assert (
        b"".join(line.data for line in followed)
        == b"line 1\nline 2\nline 3\nline 4\nline 5\nunfinished"
    )
    assert [line.data async for line in runtime.logs(id, tail=2)] == [b"line 5\n", b"unfinished"]
    assert [line.data async for line in runtime.logs(id, since=followed[3].timestamp, until=followed[4].timestamp)] == [
        b"line 4\n", b"line 5\n",
    ]  # fmt: skip


@with_runtime
async def test_a_command_has_streams_of_its_own_and_an_exit_code(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sleep", "1000", env=("A=container",))
    command = await runtime.exec(
        id, ("sh", "-c", "echo $A $B; echo bad >&2; cat; exit 7"), stdin=True, env=("B=own",)
    )
    streams = await command.start()
    await streams.write(b"typed")
    await streams.close_stdin()
    assert await read_all(streams) == {1: b"container own\ntyped", 2: b"bad\n"}
    assert (await command.wait(), command.exit_code, command.running) == (7, 7, False)
    streams.close()


@with_runtime
async def test_a_command_has_the_limits_of_its_container(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(
        runtime, "sleep", "1000", ulimits=(Ulimit("nofile", 77, 88),), cap_add=("ALL",)
    )
    streams = await (await runtime.exec(id, ("sh", "-c", "ulimit -n; ulimit -H -n"))).start()
    assert await read_all(streams) == {1: b"77\n88\n"}
    streams.close()


@with_runtime
async def test_a_command_passes_much_data_both_ways(runtime: ConmonRuntime, host: Host) -> None:
    id = await started(runtime, "sleep", "1000")
    command = await runtime.exec(id, ("cat",), stdin=True)
    streams = await command.start()
    data = os.urandom(1 << 20) * 8

    async def feed() -> None:
        await streams.write(data)
        await streams.close_stdin()

    _, output = await asyncio.gather(feed(), read_all(streams))
    assert output == {1: data}
    assert await command.wait() == 0
    streams.close()


@with_runtime
async def test_a_command_on_a_terminal_knows_its_size(runtime: ConmonRuntime, host: Host) -> None:
    id = await started(runtime, "sleep", "1000")
    command = await runtime.exec(
        id, ("sh", "-c", "read x; stty size; tty; exit 9"), tty=True, stdin=True
    )
    streams = await command.start()
    await command.resize(33, 111)
    await streams.write(b"go\n")
    output = (await read_all(streams))[1]
    assert b"33 111\r\n" in output
    assert b"/dev/pts/0\r\n" in output
    assert await command.wait() == 9
    streams.close()


@with_runtime
async def test_a_command_does_not_wait_for_children_it_left_behind(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sleep", "1000")
    command = await runtime.exec(id, ("sh", "-c", "sleep 900 & echo done"))
    streams = await command.start()
    assert await read_all(streams) == {1: b"done\n"}
    streams.close()


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("/absent", 127, 'exec: "/absent": stat /absent: no such file or directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_command_that_cannot_run_says_so(host: Host, program: str, code: int, words: str) -> None:
    @with_runtime
    async def body(runtime: ConmonRuntime, host: Host) -> None:
        command = await runtime.exec(await started(runtime, "sleep", "1000"), (program,))
        with pytest.raises(InvalidArgument) as caught:
            await command.start()
        prefix = "OCI runtime exec failed: exec failed: unable to start container process: "
        assert str(caught.value) == prefix + words
        assert command.exit_code == code

    body(host)


@with_runtime
async def test_attach_reads_writes_and_resizes_a_container(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sh", "-c", "read x; stty size; exit 4", tty=True, open_stdin=True)
    streams = await runtime.attach(id)
    await streams.resize(20, 70)
    await streams.write(b"go\n")
    output = (await read_all(streams))[1]
    streams.close()
    assert b"20 70\r\n" in output
    assert (await runtime.wait(id)).exit_code == 4
    with pytest.raises(Conflict):
        await runtime.attach(id)


@with_runtime
async def test_top_lists_the_processes(runtime: ConmonRuntime, host: Host) -> None:
    id = await started(runtime, "sh", "-c", "sleep 1000 & echo up; wait")
    async for _ in runtime.logs(id, follow=True):
        break
    pids = await runtime.top(id)
    assert runtime.get(id).pid in pids
    assert len(pids) == 2


@with_runtime
async def test_it_runs_in_the_network_namespace_it_was_given(
    runtime: ConmonRuntime, host: Host
) -> None:
    name = f"rt-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        script = "readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
        code, output = await finished(runtime, "sh", "-c", script, namespace=f"/run/netns/{name}")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    link, port = output.decode().split()
    assert (code, port) == (0, "0")
    assert link != os.readlink("/proc/self/ns/net")


def test_containers_outlive_the_daemon_and_are_found_again(host: Host) -> None:
    async def first() -> list[ContainerId]:
        runtime = await host.runtime()
        runs = await started(
            runtime, "sh", "-c", "while [ ! -e /stop ]; do sleep 0.02; done; exit 6"
        )
        waits = configure("sh", "-c", "exit 8")
        await runtime.create(waits)
        ended = await started(runtime, "sh", "-c", "exit 2")
        await runtime.wait(ended)
        await runtime.close()
        return [runs, waits.id, ended]

    async def second(runs: ContainerId, waits: ContainerId, ended: ContainerId) -> None:
        runtime = await host.runtime()
        found = {container.id: container for container in runtime.containers()}
        assert found[runs].state is ContainerState.RUNNING
        assert found[waits].state is ContainerState.CREATED
        assert (found[ended].state, found[ended].exit_code) == (ContainerState.EXITED, 2)
        await runtime.start(waits)
        assert (await runtime.wait(waits)).exit_code == 8
        streams = await (await runtime.exec(runs, ("touch", "/stop"))).start()
        await read_all(streams)
        streams.close()
        assert (await runtime.wait(runs)).exit_code == 6
        for id in found:
            await runtime.remove(id)
        await runtime.close()

    asyncio.run(second(*asyncio.run(first())))


def test_an_end_that_came_while_no_daemon_ran_is_found(host: Host) -> None:
    async def first() -> tuple[ContainerId, ContainerId]:
        runtime = await host.runtime()
        id = await started(runtime, "sh", "-c", "while [ ! -e /stop ]; do sleep 0.02; done; exit 6")
        orphan = await started(runtime, "sleep", "1000")
        await runtime.close()
        directory = host.data / "containers" / id
        (directory / "merged" / "stop").touch()
        record = json.loads((host.data / "containers" / orphan / "weft.json").read_text())
        os.kill(record["conmon"]["pid"], signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            while not (directory / id).exists():
                await asyncio.sleep(0.02)
        return id, orphan

    async def second(id: ContainerId, orphan: ContainerId) -> None:
        runtime = await host.runtime()
        assert (runtime.get(id).state, runtime.get(id).exit_code) == (ContainerState.EXITED, 6)
        assert (runtime.get(orphan).state, runtime.get(orphan).exit_code) == (
            ContainerState.EXITED,
            LOST,
        )
        assert mount_points_below(host.data) == []
        for container in runtime.containers():
            await runtime.remove(container.id)
        await runtime.close()

    asyncio.run(second(*asyncio.run(first())))


def test_a_container_outlives_a_damaged_record_and_leaves_its_files_when_both_are(
    host: Host,
) -> None:
    async def first() -> tuple[ContainerId, ContainerId]:
        runtime = await host.runtime()
        one, both = [
            await started(runtime, "sh", "-c", "touch /kept; sleep 1000") for _ in range(2)
        ]
        for id in (one, both):
            await appears(host.data / "containers" / id / "upper" / "kept")
        await runtime.close()
        (host.data / "containers" / one / "weft.json").write_bytes(bytes(500))
        for name in ("weft.json", "weft.json.copy"):
            (host.data / "containers" / both / name).write_bytes(b"")
        return one, both

    async def second(one: ContainerId, both: ContainerId) -> None:
        runtime = await host.runtime()
        assert [each.id for each in runtime.containers()] == [one]
        assert runtime.get(one).state is ContainerState.RUNNING
        assert (host.data / "containers" / both / "upper" / "kept").exists(), (
            "what it wrote is somebody's"
        )
        assert processes_with_argument(str(host.data / "containers" / both)) == []
        await runtime.kill(one, "KILL")
        await runtime.wait(one)
        await runtime.remove(one)
        await runtime.close()
        assert mount_points_below(host.data) == []
        shutil.rmtree(host.data / "containers" / both)

    asyncio.run(second(*asyncio.run(first())))


def test_what_ends_while_the_host_is_shut_down_has_not_finished(host: Host) -> None:
    """In good order: the program with status 0 when it is told to, seen by conmon, and before the
    daemon has gone."""

    async def first() -> tuple[ContainerId, ContainerId]:
        runtime = await host.runtime()
        ended = await started(runtime, "sh", "-c", "exit 0")
        await runtime.wait(ended)
        runs = await started(
            runtime, "sh", "-c", "trap 'exit 0' TERM; touch /ready; while :; do sleep 0.02; done"
        )
        directory = host.data / "containers" / runs
        await appears(directory / "upper" / "ready")
        runtime.look_away()
        await runtime.kill(runs, "TERM")
        async with asyncio.timeout(PATIENCE):
            while not (directory / runs).exists() or processes_with_argument(str(host.run / "oci")):
                await asyncio.sleep(0.02)
        assert (directory / runs).read_text().strip() == "0"
        assert runtime.get(runs).state is ContainerState.RUNNING, "nobody is told"
        await runtime.close()
        shutil.rmtree(host.run)
        return ended, runs

    async def second(ended: ContainerId, runs: ContainerId) -> None:
        runtime = await host.runtime()
        assert (runtime.get(ended).exit_code, runtime.get(ended).was_lost) == (0, False)
        assert runtime.get(runs).was_lost
        ready = host.data / "containers" / runs / "upper" / "ready"
        ready.unlink()
        assert (await runtime.start(runs)).state is ContainerState.RUNNING
        await appears(ready)
        await runtime.kill(runs, "TERM")
        await runtime.wait(runs)
        assert (runtime.get(runs).exit_code, runtime.get(runs).was_lost) == (
            0,
            False,
        ), "an end like any other"
        for container in runtime.containers():
            await runtime.remove(container.id)
        await runtime.close()

    asyncio.run(second(*asyncio.run(first())))


_DAEMON = """
import asyncio, os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import runtime_host as t
async def main():
    host = t.Host(Path(sys.argv[1]))
    runtime = await host.runtime()
    print("ready", flush=True)
    async def one():
        id = await t.started(runtime, "sleep", "1000")
        await runtime.remove(id)
    while True:
        await asyncio.gather(*(one() for _ in range(3)))
asyncio.run(main())
"""


@pytest.mark.parametrize("milliseconds", [3, 20, 40, 55, 70, 90, 120, 180])
def test_a_daemon_killed_at_any_instant_leaves_what_the_next_one_clears(
    host: Host, milliseconds: int
) -> None:
    program = _DAEMON.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(host.data.parent)], stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        time.sleep(milliseconds / 1000)  # the instant of the kill, not a wait for anything
        daemon.kill()

    async def next_daemon() -> None:
        runtime = await host.runtime()
        known = {container.id for container in runtime.containers()}
        assert {path.name for path in (host.data / "containers").iterdir()} == known
        assert {path.parent.name for path in mount_points_below(host.data)} <= known
        assert {path.name for path in (host.run / "oci").iterdir()} <= known
        for container in runtime.containers():
            await runtime.remove(container.id)
        await runtime.close()

    asyncio.run(next_daemon())


def apparmor_host(root: Path, parser: str) -> Path:
    """A host's file system with AppArmor on and no profile loaded. `parser`: a shell script."""
    kernel = root / "sys/kernel/security/apparmor"
    parameter = root / "sys/module/apparmor/parameters/enabled"
    for path, text in (
        (kernel / "profiles", ""),
        (parameter, "Y\n"),
        (root / "sbin/apparmor_parser", parser),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (root / "sbin/apparmor_parser").chmod(0o755)
    return root


@with_runtime
async def test_where_the_apparmor_profile_cannot_be_loaded_no_container_is_made(
    runtime: ConmonRuntime, host: Host
) -> None:
    root = apparmor_host(host.run / "root", "#!/bin/sh\necho no such feature; exit 1\n")
    runtime.confiner = Confiner(host.run, cgroup_namespaces=False, root=root)
    with pytest.raises(
        OperationFailed, match="docker-default profile could not be loaded: .*no such feature"
    ):
        await runtime.create(configure("true"))
    assert host.leftovers() == []


@with_runtime
async def test_a_container_runs_in_the_apparmor_profile(runtime: ConmonRuntime, host: Host) -> None:
    """Where the kernel has AppArmor. Where it has none the runtime refuses what it is told: so it
    is told."""
    if runtime.confiner.apparmor.in_use:
        said = await finished(runtime, "cat", "/proc/self/attr/current")
        assert said == (0, b"docker-default (enforce)\n")
        return
    root = apparmor_host(host.run / "root", "#!/bin/sh\nexit 0\n")
    runtime.confiner = Confiner(host.run, cgroup_namespaces=False, root=root)
    with pytest.raises(OperationFailed, match="(?i)apparmor"):
        await runtime.create(configure("true"))


def test_what_confines_a_container_is_known_to_the_next_daemon(host: Host) -> None:
    async def first() -> ContainerId:
        runtime = await host.runtime()
        id = await started(runtime, "sleep", "1000")
        await runtime.close()
        return id

    async def second(id: ContainerId) -> None:
        runtime = await host.runtime()
        found = runtime.get(id).confinement
        assert "/proc/keys" in found.masked_paths
        assert "/proc/sys" in found.read_only_paths
        await runtime.remove(id)
        await runtime.close()

    asyncio.run(second(asyncio.run(first())))
