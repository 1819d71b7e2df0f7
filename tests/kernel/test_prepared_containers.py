"""Containers that are prepared first and made when they are started, by the real conmon and runc."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import PATIENCE, Host, configure, read_all, with_runtime
from weft.errors import Conflict, InvalidArgument, OperationFailed
from weft.model.container import ContainerConfig, ContainerState
from weft.model.limits import DeviceLimits, FurtherLimits, Throttle
from weft.model.meta import SECOND
from weft.model.plain_container import NamespaceModes, PlainContainer
from weft.model.service import Mount, Resources
from weft.model.start_failure import NOT_FOUND
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.mounts import mount_points_below

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive


def plain(*command: str, **options: object) -> ContainerConfig:
    fields = {name: options.pop(name) for name in ("stdin_once", "shared") if name in options}
    config = configure(*command, namespace="", **options)  # type: ignore[arg-type]  # they differ in type
    return msgspec.structs.replace(config, plain=PlainContainer(), **fields)


async def said(runtime: ConmonRuntime, config: ContainerConfig, *command: str) -> str:
    """By a further command in the container."""
    streams = await (await runtime.exec(config.id, command)).start()
    try:
        return (await read_all(streams)).get(1, b"").decode()
    finally:
        streams.close()


@with_runtime
async def test_nothing_is_missed_of_a_container_that_is_attached_to_before_its_start(
    runtime: ConmonRuntime, host: Host
) -> None:
    config = plain("sh", "-c", "cat; echo end; exit 3", open_stdin=True, stdin_once=True)
    assert (await runtime.prepare(config)).state is ContainerState.CREATED
    assert mount_points_below(host.data) == []
    streams = await runtime.attach(config.id)
    await runtime.start(config.id)
    await streams.write(b"in\n")
    await streams.close_stdin()
    assert await read_all(streams) == {1: b"in\nend\n"}
    streams.close()
    assert (await runtime.wait(config.id)).exit_code == 3


@with_runtime
async def test_each_start_makes_the_container_of_its_present_configuration(
    runtime: ConmonRuntime, host: Host
) -> None:
    config = plain(
        "sh", "-c", "echo run >> /kept; wc -l < /kept; cat /etc/hosts; ls /sys/class/net"
    )
    await runtime.prepare(config)
    for run in (1, 2):
        hosts = f"127.0.0.{run} host{run}\n"
        await runtime.configure(msgspec.structs.replace(config, hosts=hosts))
        streams = await runtime.attach(config.id)
        await runtime.start(config.id)
        said = (await read_all(streams))[1].decode()
        streams.close()
        assert said == f"{run}\n{hosts}lo\n", "a file system that stays, a network of its own"
        await runtime.wait(config.id)


@with_runtime
async def test_one_that_cannot_be_made_stays_prepared_and_says_why(
    runtime: ConmonRuntime, host: Host
) -> None:
    config = plain("nope")
    await runtime.prepare(config)
    with pytest.raises(OperationFailed, match="executable file not found"):
        await runtime.start(config.id)
    found = runtime.get(config.id)
    assert (found.state, "not found" in found.error) == (ContainerState.CREATED, True)
    assert found.exit_code == NOT_FOUND
    assert mount_points_below(host.data) == []
    assert (await runtime.stop(config.id, 0)).state is ContainerState.CREATED


@with_runtime
async def test_a_paused_container_does_nothing_and_can_be_stopped(
    runtime: ConmonRuntime, host: Host
) -> None:
    script = "trap 'exit 5' TERM; while :; do echo x >> /beats; sleep 0.01; done"
    config = plain("sh", "-c", script, stop_signal="TERM")
    await runtime.prepare(config)
    await runtime.start(config.id)
    beats = host.data / "containers" / config.id / "upper" / "beats"
    await runtime_host.appears(beats)
    assert (await runtime.pause(config.id)).paused
    size = beats.stat().st_size
    with pytest.raises(Conflict, match="unpause the container before exec"):
        await runtime.exec(config.id, ("true",))
    await asyncio.sleep(0.1)
    assert beats.stat().st_size == size
    begun = time.monotonic()
    ended = await runtime.stop(config.id, 20 * SECOND)
    assert (ended.exit_code, ended.paused) == (5, False)
    assert time.monotonic() - begun < PATIENCE


def test_a_prepared_container_is_found_by_the_next_daemon(host: Host) -> None:
    async def first(config: ContainerConfig) -> None:
        runtime = await host.runtime()
        await runtime.prepare(config)
        await runtime.close()

    async def second(config: ContainerConfig) -> None:
        runtime = await host.runtime()
        assert runtime.get(config.id).state is ContainerState.CREATED
        await runtime.start(config.id)
        assert (await runtime.wait(config.id)).exit_code == 6
        await runtime.remove(config.id)
        await runtime.close()

    config = plain("sh", "-c", "exit 6", mounts=(Mount(type="tmpfs", target="/t"),))
    asyncio.run(first(config))
    assert mount_points_below(host.data) == []
    asyncio.run(second(config))


@with_runtime
async def test_limits_and_namespaces_are_as_asked_for(runtime: ConmonRuntime, host: Host) -> None:
    limits = Resources(memory=64 << 20)
    config = plain("sh", "-c", "readlink /proc/self/ns/uts", limits=limits, shared={"uts": ""})
    further = FurtherLimits(cpu_shares=512, cpuset_cpus="0", memory_reservation=32 << 20)
    config = msgspec.structs.replace(config, further=further)
    await runtime.prepare(config)
    streams = await runtime.attach(config.id)
    await runtime.start(config.id)
    document = json.loads((host.data / "containers" / config.id / "config.json").read_text())
    assert document["linux"]["resources"]["cpu"] == {"shares": 512, "cpus": "0"}
    assert document["linux"]["resources"]["memory"]["reservation"] == 32 << 20

    assert (await read_all(streams))[1].decode().strip() == os.readlink("/proc/self/ns/uts")
    streams.close()


@with_runtime
async def test_limits_of_a_running_container_can_be_changed(
    runtime: ConmonRuntime, host: Host
) -> None:
    config = plain("sleep", "1000", limits=Resources(pids=20))
    await runtime.prepare(config)
    await runtime.start(config.id)
    await runtime.configure(msgspec.structs.replace(config, limits=Resources(pids=30)))
    groups = Path("/sys/fs/cgroup").glob(f"**/weft/{config.id}/pids.max")
    assert {file.read_text() for file in groups} == {"30\n"}


@with_runtime
async def test_memory_is_shared_with_who_joins_the_ipc_namespace_and_with_nobody_else(
    runtime: ConmonRuntime, host: Host
) -> None:
    owner = plain("sleep", "1000")
    owner = msgspec.structs.replace(
        owner,
        shm_owner=owner.id,
        shm_size=1 << 20,
        plain=PlainContainer(modes=NamespaceModes(ipc="shareable", cgroup="private")),
    )
    await runtime.prepare(owner)
    await runtime.start(owner.id)
    made = "dd if=/dev/zero of=/dev/shm/file bs=1k count=2000; readlink /proc/self/ns/ipc"
    path = f"/proc/{runtime.get(owner.id).pid}/ns/ipc"
    joined = plain("sh", "-c", made, shared={"ipc": path})
    joined = msgspec.structs.replace(joined, shm_owner=owner.id)
    await runtime.prepare(joined)
    streams = await runtime.attach(joined.id)
    await runtime.start(joined.id)
    assert (await read_all(streams))[1].decode().strip() == os.readlink(path)
    streams.close()

    script = "stat -c %s /dev/shm/file; cat /proc/1/cgroup"
    size, *groups = (await said(runtime, owner, "sh", "-c", script)).split()
    assert size == str(1 << 20), "of the owner's size"
    assert {group.rpartition(":")[2] for group in groups} == {"/"}, "its own control groups only"

    await runtime.stop(owner.id, 0)
    await runtime.start(owner.id)
    assert await said(runtime, owner, "ls", "/dev/shm") == "", "new with each start"
    await runtime.stop(owner.id, 0)
    with pytest.raises(OperationFailed):
        await runtime.start(joined.id)


@with_runtime
async def test_paths_of_devices_are_looked_at_beside_the_event_loop(
    runtime: ConmonRuntime, host: Host
) -> None:
    """They may be on a file server that does not answer."""
    looked: set[int] = set()
    stat = os.stat

    def noted(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if path == "/dev/nix":
            looked.add(threading.get_ident())
        return stat(path, *arguments, **options)

    limits = FurtherLimits(devices=DeviceLimits(read_bytes=(Throttle("/dev/nix", 1),)))
    config = msgspec.structs.replace(plain("sleep", "1000"), further=limits)
    await runtime.prepare(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", noted)
        with pytest.raises(InvalidArgument, match="cannot limit device /dev/nix"):
            await runtime.start(config.id)
        await runtime.configure(msgspec.structs.replace(config, further=FurtherLimits()))
        await runtime.start(config.id)
        with pytest.raises(InvalidArgument, match="cannot limit device /dev/nix"):
            await runtime.configure(config)
    assert looked
    assert threading.get_ident() not in looked
