"""Containers that are removed when they end: nothing of them waits for the disk, and nothing of them
is left after a loss of power."""

import asyncio
import os
from pathlib import Path

import msgspec

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, with_runtime
from weft.model.container import ContainerConfig, ContainerState
from weft.model.plain_container import PlainContainer
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.control_groups import groups_of

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive


def config_of(*command: str, auto_remove: bool) -> ContainerConfig:
    config = configure(*command, namespace="")
    return msgspec.structs.replace(config, plain=PlainContainer(auto_remove=auto_remove))


def is_volatile(host: Host, config: ContainerConfig) -> bool:
    """Whether the mount that is the container's file system is."""
    merged = str(host.data / "containers" / config.id / "merged")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (found,) = [line for line in lines if line.split()[4] == merged]
    return {"volatile", "fsync=volatile"} & set(found.split()[-1].split(",")) != set()


@with_runtime
async def test_the_file_system_of_one_that_is_removed_is_not_written_out(
    runtime: ConmonRuntime, host: Host
) -> None:
    short = config_of("sh", "-c", "echo run >> /kept; exec sleep 1000", auto_remove=True)
    lasting = config_of("sleep", "1000", auto_remove=False)
    for config in (short, lasting):
        await runtime.prepare(config)
        await runtime.start(config.id)
    assert is_volatile(host, short)
    assert not is_volatile(host, lasting)

    # `docker restart` keeps it, with its files.
    kept = host.data / "containers" / short.id / "upper" / "kept"
    await runtime_host.appears(kept)
    await runtime.stop(short.id, 0)
    await runtime.start(short.id)
    while kept.read_text() != "run\nrun\n":
        await asyncio.sleep(0.01)


@with_runtime
async def test_nothing_of_one_that_has_ended_is_left_to_the_oci_runtime(
    runtime: ConmonRuntime, host: Host
) -> None:
    """Neither of one that has other processes in its PID namespace, nor of one that has made control
    groups of its own, nor the parent that its user gave it."""
    alone = config_of("sleep", "1000", auto_remove=False)
    shared = config_of("sleep", "1000", auto_remove=False)
    shared = msgspec.structs.replace(shared, shared={"pid": ""})
    nested = config_of("sleep", "1000", auto_remove=False)
    below = config_of("sleep", "1000", auto_remove=False)
    below = msgspec.structs.replace(below, plain=PlainContainer(cgroup_parent="/foo*/bar"))
    for config in (alone, shared, nested, below):
        await runtime.prepare(config)
        await runtime.start(config.id)
        if config is nested:
            for group in groups_of(config.id):
                (group / "own").mkdir()
        if config is below:
            assert groups_of(config.group)
            assert groups_of(config.id) == []
            assert await runtime.top(config.id) == [runtime.get(config.id).pid]
        assert (await runtime.stop(config.id, 0)).state is ContainerState.EXITED
        while (host.run / "oci" / config.id).exists():
            await asyncio.sleep(0.01)
        assert groups_of(config.group) == []
        assert groups_of("foo*") == []


def test_one_whose_record_was_lost_with_the_power_is_removed(host: Host) -> None:
    config = config_of("sleep", "1000", auto_remove=True)
    directory = host.data / "containers" / config.id

    async def first() -> None:
        runtime = await host.runtime()
        await runtime.prepare(config)
        await runtime.start(config.id)
        assert {path.name for path in directory.glob("weft.json*")} == {"weft.json"}
        os.truncate(directory / "weft.json", 0)
        await runtime.close()

    async def second() -> None:
        runtime = await host.runtime()
        assert runtime.containers() == []
        assert host.leftovers() == []
        await runtime.close()

    asyncio.run(first())
    asyncio.run(second())
