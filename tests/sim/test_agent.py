"""An agent with a kernel, a runtime and a manager in memory, on virtual time: lives of tasks."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.agent_rig import Rig, rig, simulated
from weft.model.container import ContainerState, ImageConfig
from weft.model.service import Mount
from weft.model.task import TaskState
from weft.network.kernel_state import HOST


@simulated
async def test_tasks_run_and_the_manager_sees_every_one(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING, 2)
        await r.check_running()
        status = r.manager.statuses[r.tasks[0]]
        assert status.container is not None
        assert (status.message, status.err, status.container.pid > 0) == ("started", "", True)
        assert len(r.opened) == 3


@simulated
async def test_a_task_has_its_images_volumes_and_only_named_ones_outlive_it(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        r.images.add("demo", ImageConfig(volumes=("/data/", "/tmp/x")))
        (task,) = r.swarm.service("db", r.net, on=[1])
        mounts = (
            Mount(type="tmpfs", target="/tmp/x"),
            Mount(type="volume", source="kept-{{.Task.Slot}}", target="/kept"),
        )
        container = msgspec.structs.replace(r.swarm.tasks[task].spec.container, mounts=mounts)
        spec = msgspec.structs.replace(r.swarm.tasks[task].spec, container=container)
        r.swarm.tasks[task] = msgspec.structs.replace(r.swarm.tasks[task], spec=spec)
        await r.manager.tell()
        await r.until(lambda: r.runtime.running())
        (made,) = r.runtime.running()
        points = made.config.mount_points
        assert [(p.type, p.destination) for p in points] == [
            ("tmpfs", "/tmp/x"),
            ("volume", "/kept"),
            ("volume", "/data"),
        ]
        assert [(v.name, v.is_anonymous) for v in r.volumes.all()] == [
            ("kept-1", False),
            (points[2].name, True),
        ]
        del r.swarm.tasks[task]
        await r.manager.tell()
        await r.until(lambda: not r.runtime.containers())
        await r.until(lambda: [volume.name for volume in r.volumes.all()] == ["kept-1"])


@simulated
async def test_a_task_meant_to_be_ready_waits_until_it_is_raised(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=1) as r:
        await r.manager.want_all(TaskState.READY)
        await r.until_all(TaskState.READY)
        await asyncio.sleep(60)
        assert r.happened("start") == {}
        await r.manager.want_all(TaskState.RUNNING)
        await r.until_all(TaskState.RUNNING)


@simulated
async def test_shutdown_keeps_the_container_and_gives_back_everything_else(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.manager.want_all(TaskState.SHUTDOWN)
        await r.until_all(TaskState.SHUTDOWN)
        await r.check_gone()
        assert {c.state for c in r.runtime.containers()} == {ContainerState.EXITED}
        assert r.manager.statuses[r.tasks[0]].message == "shutdown"
        for task in r.tasks:
            r.swarm.remove(task)
        await r.manager.tell()
        await r.until(lambda: r.runtime.containers() == [])
        assert r.agent.records.all == {}


@simulated
async def test_removal_takes_the_container_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.manager.want_all(TaskState.REMOVE)
        await r.until_all(TaskState.SHUTDOWN)
        await r.check_gone()
        assert r.runtime.containers() == []


@simulated
async def test_the_end_is_told_only_when_nothing_is_held_any_longer(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=1) as r:
        await r.until_all(TaskState.RUNNING)
        r.runtime.stop_latency = 3.0
        key = r.agent.connections.sandboxes[0].key
        began = asyncio.get_running_loop().time()
        await r.manager.want_all(TaskState.SHUTDOWN)
        await r.until_all(TaskState.SHUTDOWN)
        assert asyncio.get_running_loop().time() - began > 3.3
        assert key not in await r.namespaces()


@simulated
async def test_a_task_that_the_manager_no_longer_speaks_of_is_stopped_and_removed(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        gone = r.tasks.pop()
        r.swarm.remove(gone)
        await r.manager.tell()
        await r.until(lambda: len(r.runtime.containers()) == 2 and len(r.agent.records.all) == 2)
        assert len(r.agent.connections.sandboxes) == 2


@pytest.mark.parametrize(
    ("code", "state", "err"),
    [(0, TaskState.COMPLETE, ""), (7, TaskState.FAILED, "task: non-zero exit (7)")],
)
def test_a_container_that_ends_by_itself(
    tmp_path: Path, code: int, state: TaskState, err: str
) -> None:
    async def main() -> None:
        async with rig(tmp_path, tasks=1) as r:
            await r.until_all(TaskState.RUNNING)
            r.runtime.die(r.runtime.running()[0].id, code)
            await r.until_all(state, 2)
            status = r.manager.statuses[r.tasks[0]]
            assert status.container is not None
            assert (status.err, status.container.exit_code) == (err, code)
            await r.check_gone()

    virtual_time.run(main())


@pytest.mark.parametrize(
    ("break_it", "state", "err"),
    [
        (lambda r: r.images._images.clear(), TaskState.REJECTED, "No such image: demo"),
        (lambda r: r.runtime.fail("create", "cannot create: no runc"), TaskState.REJECTED, "cannot create: no runc"),
        (lambda r: r.runtime.fail("start", "cannot start container: bad"), TaskState.FAILED, "cannot start container: bad"),
    ],
)  # fmt: skip
def test_what_keeps_a_task_from_running_is_in_its_status(
    tmp_path: Path, break_it: Callable[[Rig], object], state: TaskState, err: str
) -> None:
    async def main() -> None:
        made = Rig(tmp_path / "data", tasks=1)
        break_it(made)
        made.start()
        await made.until_all(state)
        assert made.manager.statuses[made.tasks[0]].err == err
        await made.check_gone()
        assert made.runtime.containers() == []
        await made.stop()

    virtual_time.run(main())


@simulated
async def test_an_image_is_pulled_once_for_all_that_wait_for_it(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    made.images._images.clear()
    made.images.registry.add("demo:latest")
    made.images.latency = 5.0
    made.start()
    await made.until_all(TaskState.RUNNING)
    assert made.images.pulls == ["demo"]
    await made.stop()


@simulated
async def test_a_task_may_be_stopped_while_its_image_is_pulled(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data", tasks=1)
    made.images._images.clear()
    made.images.latency = 3600.0
    made.start()
    await made.until_all(TaskState.PREPARING)
    await made.manager.want_all(TaskState.SHUTDOWN)
    await made.until_all(TaskState.SHUTDOWN, 5)
    await made.stop()


@simulated
async def test_a_stranger_of_the_swarm_is_removed_and_other_peoples_containers_are_not(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, tasks=1) as r:
        await r.until_all(TaskState.RUNNING)
        await r.stop()
        config = r.runtime.running()[0].config
        lost = msgspec.structs.replace(
            config, id="a" * 64, labels={**config.labels, "com.docker.swarm.task.id": "unknown"}
        )
        other = msgspec.structs.replace(config, id="b" * 64, labels={})
        await r.runtime.create(lost)
        await r.runtime.create(other)
        r.start()
        await r.until(lambda: lost.id not in {c.id for c in r.runtime.containers()})
        assert other.id in {c.id for c in r.runtime.containers()}
        await r.until_all(TaskState.RUNNING)
        assert [c.id for c in r.runtime.running()] == [config.id]


@simulated
async def test_leaving_removes_what_is_ours(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.agent.close()
        await r.agent.leave()
        assert r.runtime.containers() == []
        state = await r.kernel.read(r.planned())
        assert set(state.namespaces) <= {HOST}
        assert not state[HOST].links
        assert not list(r.data.iterdir())
