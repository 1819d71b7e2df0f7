"""An agent that starts again, on virtual time: from its disk, without its disk, after a reboot of
its host, and after a kill at any instant."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.support import virtual_time
from tests.support.agent_rig import Rig, rig, simulated
from weft.linux.fake import FakeKernel
from weft.model.task import TaskState


@simulated
async def test_without_a_manager_the_node_comes_back_from_its_disk(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        before = {c.id: c.pid for c in r.runtime.running()}
        sandboxes = r.agent.connections.sandboxes
        await r.kill()
        r.manager.reachable = False
        r.kernel = FakeKernel()
        r.start()
        await asyncio.sleep(2)
        assert {c.id: c.pid for c in r.runtime.running()} == before
        assert r.agent.connections.sandboxes == sandboxes
        assert {s.key for s in sandboxes} <= await r.namespaces()
        assert len(r.opened) == 6
        r.manager.reachable = True
        r.manager.statuses.clear()
        await r.until_all(TaskState.RUNNING)


@simulated
async def test_a_node_that_lost_its_disk_adopts_the_containers_of_its_tasks(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.stop()
        shutil.rmtree(r.data)
        r.manager.statuses.clear()
        r.start()
        await r.until_all(TaskState.RUNNING)
        await r.check_running()


CRASHES = [ms / 1000 for ms in range(0, 250, 7)]


@pytest.mark.parametrize("moment", CRASHES)
def test_killed_at_any_instant_on_the_way_up_nothing_is_done_twice_or_lost(
    tmp_path: Path, moment: float
) -> None:
    async def main() -> None:
        made = Rig(tmp_path / "data")
        made.runtime.latency = 0.02
        made.kernel.latency = 0.0003
        made.start()
        await asyncio.sleep(moment)
        await made.kill()
        made.start()
        await asyncio.sleep(moment / 3)
        await made.kill()
        made.start()
        await made.until_all(TaskState.RUNNING)
        await made.check_running()
        await made.stop()

    virtual_time.run(main())


@pytest.mark.parametrize("moment", [m * 3 for m in CRASHES])
@pytest.mark.parametrize("desired", [TaskState.SHUTDOWN, TaskState.REMOVE])
def test_killed_at_any_instant_on_the_way_down_everything_is_given_back(
    tmp_path: Path, moment: float, desired: TaskState
) -> None:
    async def main() -> None:
        made = Rig(tmp_path / "data")
        made.runtime.latency = 0.02
        made.runtime.stop_latency = 0.1
        made.kernel.latency = 0.0003
        made.start()
        await made.until_all(TaskState.RUNNING)
        await made.manager.want_all(desired)
        await asyncio.sleep(moment)
        await made.kill()
        made.start()
        await made.until_all(TaskState.SHUTDOWN)
        await made.check_gone()
        assert set(made.happened("start").values()) == {1}
        assert (made.runtime.containers() == []) == (desired == TaskState.REMOVE)
        await made.stop()

    virtual_time.run(main())


@simulated
async def test_a_host_that_has_rebooted_says_what_it_lost_with_its_first_word(
    tmp_path: Path,
) -> None:
    """Nobody is to be sent there between the moment in which it is ready and that in which its
    tasks have failed."""
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.stop()
        r.runtime.lose()
        r.kernel = FakeKernel()
        r.start()
        await r.until(lambda: len(r.manager.hellos) == 2)
        assert {task: status.state for task, status in r.manager.hellos[1].ended} == dict.fromkeys(
            r.tasks, TaskState.FAILED
        )
        await r.until_all(TaskState.FAILED)
        await r.check_gone()


@simulated
async def test_a_host_that_has_rebooted_with_no_manager_in_reach_starts_what_it_had(
    tmp_path: Path,
) -> None:
    """As the same tasks: a manager that comes later finds them running."""
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        before = {c.id for c in r.runtime.running()}
        r.manager.reachable = False
        await r.stop()
        ended = r.runtime.running()[0].id
        r.runtime.die(ended, 7)
        r.runtime.lose()
        r.kernel = FakeKernel()
        r.start()
        await r.until(lambda: {c.id for c in r.runtime.running()} == before - {ended})
        assert {s.key for s in r.agent.connections.sandboxes} <= await r.namespaces()
        r.manager.reachable = True
        await r.until(lambda: len(r.manager.hellos) == 2)
        await r.until(
            lambda: (
                sorted(r.states().values())
                == [TaskState.RUNNING, TaskState.RUNNING, TaskState.FAILED]
            )
        )
        assert {c.id for c in r.runtime.running()} == before - {ended}
