"""Containers by the real conmon and runc outlive the daemon: what the next one finds, and what it
clears away."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import PATIENCE, Host, appears, configure, read_all, started
from weft.model.container import ContainerState
from weft.model.ids import ContainerId
from weft.runtime.box import LOST
from weft.runtime.mounts import mount_points_below
from weft.runtime.oci import processes_with_argument

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive


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
