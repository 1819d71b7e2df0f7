"""Containers by the real conmon and runc: their life, what confines them, and that nothing is left
behind."""

import asyncio
import contextlib
import os
import subprocess
import time
from pathlib import Path
from signal import SIGKILL

import msgspec
import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, finished, started, with_runtime
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed
from weft.model.container import ContainerState
from weft.model.meta import SECOND
from weft.model.service import ContainerSpec, Mount, Resources, Ulimit
from weft.runtime.confinement import Confiner
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.limits import swap_is_accounted
from weft.runtime.release import release

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
async def test_a_container_is_released_once_unless_its_first_process_has_ended(
    runtime: ConmonRuntime, host: Host
) -> None:
    """With what runc itself says of the container."""
    for is_killed in (False, True):
        config = configure("sleep", "1000")
        await runtime.create(config)
        init, directory = runtime.box(config.id).init, runtime._oci._state / config.id
        assert init is not None
        assert not await runtime._oci.has_started(config.id)
        if not is_killed:
            assert await release(directory, init)
            assert await runtime._oci.has_started(config.id)
            assert not await release(directory, init)
            continue
        init.kill(SIGKILL)
        await runtime.wait(config.id)
        assert not await release(directory, init)
        with pytest.raises(OperationFailed, match="cannot start container"):
            await runtime._oci.start(config.id, init)


@with_runtime
async def test_its_files_limits_user_and_identity_are_as_configured(
    runtime: ConmonRuntime, host: Host
) -> None:
    script = (
        "hostname; cat /etc/hosts /etc/resolv.conf; id -u; id -g; pwd; echo $GREETING; ulimit -n;"
        " cat /tmp/note;touch /x 2>/dev/null || echo read-only; grep CapBnd /proc/self/status; ls"
        " -d /work; df -k /scratch | tail -1 | cut -c1-5; grep -c ' /scratch ' /etc/mtab;"
        " ls /.dockerenv"
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
        "CapBnd:\t0000000000002000", "/work", "tmpfs", "1", "/.dockerenv", "",
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
    group = Path("/sys/fs/cgroup/memory/weft") / id
    if swap_is_accounted() and group.exists():
        assert (group / "memory.memsw.limit_in_bytes").read_text() == f"{64 << 20}\n"
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
