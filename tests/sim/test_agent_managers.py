"""How an agent keeps in touch with managers, on virtual time: retries, a manager that falls silent,
statuses that are repeated, routes that come later."""

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.support.agent_rig import MANAGER, Rig, rig, simulated
from weft.agent.uplink import ROUTES_PERIOD
from weft.linux.fake_echo import FakeEcho
from weft.model.task import TaskState


@simulated
async def test_managers_are_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    made.manager.reachable = False
    made.start()
    await asyncio.sleep(60)
    pauses = [b - a for a, b in itertools.pairwise(made.manager.attempts)]
    assert pauses[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
    assert max(pauses) == pytest.approx(8.0)
    assert made.kernel is not None
    assert made.runtime.history == []
    await made.stop()


@simulated
async def test_a_manager_that_says_nothing_is_left_for_another_one_before_it_would_find_the_node_down(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await asyncio.sleep(100)
        assert len(r.manager.attempts) == 1
        r.manager.stopped, stopped_at = True, asyncio.get_running_loop().time()
        await r.until(lambda: len(r.manager.attempts) == 2)
        assert r.manager.attempts[1] - stopped_at < 15, "the manager's patience"
        r.manager.stopped = False
        await asyncio.sleep(100)
        assert len(r.manager.attempts) == 2


@simulated
async def test_a_manager_whose_host_is_gone_is_left_within_a_second_also_if_that_takes_no_goodbye(
    tmp_path: Path,
) -> None:
    r, there = Rig(tmp_path), True
    r.open_echo = lambda: FakeEcho(lambda address: there and address == MANAGER)
    r.start()
    await r.until_all(TaskState.RUNNING)
    await asyncio.sleep(100)
    assert len(r.manager.attempts) == 1
    r.manager.slow_to_close = 2.0
    there, gone_at = False, asyncio.get_running_loop().time()
    await r.until(lambda: len(r.manager.attempts) == 2)
    assert r.manager.attempts[1] - gone_at < 1.0
    there = True
    await asyncio.sleep(100)
    assert len(r.manager.attempts) == 2
    await r.stop()


@simulated
async def test_statuses_are_repeated_until_they_are_accepted_and_all_of_them_in_a_new_session(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.manager.accepting = False
        await r.until(lambda: len(r.manager.log) > 0)
        await asyncio.sleep(20)
        assert len(r.manager.log) >= 4 * len(r.tasks)
        assert set(r.states().values()) <= {
            TaskState.ACCEPTED,
            TaskState.PREPARING,
        }, "one update on its way at a time"
        r.manager.accepting = True
        await r.until_all(TaskState.RUNNING)
        r.manager.log.clear()
        await r.manager.drop()
        await r.until(lambda: {task for task, _ in r.manager.log} == set(r.tasks))


@simulated
async def test_managers_are_told_of_routes_that_come_later(tmp_path: Path) -> None:
    """As when a VPN is switched on: the next network is to keep away from it."""
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await asyncio.sleep(4 * ROUTES_PERIOD)
        assert len(r.manager.hellos) == 1
        r.routes = ("10.200.0.0/16", "192.0.2.0/24")
        await r.until(lambda: len(r.manager.hellos) == 2, 2 * ROUTES_PERIOD)
        assert r.manager.hellos[1].routes == ("172.18.0.0/16", *r.routes)
        await asyncio.sleep(4 * ROUTES_PERIOD)
        assert len(r.manager.hellos) == 2
        assert len(r.runtime.running()) == len(r.tasks)
