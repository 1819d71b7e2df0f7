"""Who leads, on an etcd in memory, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from tests.support import virtual_time
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.store.etcd.base import USUAL, Pace
from weft.store.etcd.fake import ELECTION, FakeEtcd
from weft.store.etcd.leadership import LEASE, STAY_OUT, EtcdLeadership

NAMES = ("m1", "m2", "m3")
Managers = dict[str, EtcdLeadership]


def run(
    main: Callable[[FakeEtcd, Managers], Awaitable[None]],
    names: Sequence[str] = NAMES,
    pace: Pace = USUAL,
) -> None:
    async def body() -> None:
        etcd = FakeEtcd(names)
        async with AsyncExitStack() as stack:
            managers: Managers = {}
            for name in names:
                client = etcd.client(name)
                client.pace = pace
                managers[name] = EtcdLeadership(client, NodeId(name))
                stack.push_async_callback(managers[name].close)
                await until(managers, lambda: managers["m1"].leadership_status.leader == "m1")
            await until(
                managers,
                lambda: all(m.leadership_status.present == set(names) for m in managers.values()),
            )
            await main(etcd, managers)

    virtual_time.run(body())


async def until(managers: Managers, condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Virtual seconds that it took."""
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


def leaders(managers: Managers) -> set[str | None]:
    return {manager.leadership_status.leader for manager in managers.values()}


def test_one_leads_and_all_know_it() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        for manager in managers.values():
            assert manager.leadership_status == LeadershipStatus(
                NodeId("m1"), frozenset(map(NodeId, NAMES))
            )

    run(main)


def test_who_resigns_stays_out_and_may_come_back() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        await managers["m1"].resign()
        await until(managers, lambda: leaders(managers) <= {"m2", "m3"}, 1.0)
        second = managers["m1"].leadership_status.leader
        assert second is not None
        third = ({"m2", "m3"} - {second}).pop()
        await managers[second].resign()
        await until(managers, lambda: leaders(managers) == {third}, 1.0)
        await asyncio.sleep(STAY_OUT)
        await managers[third].resign()
        await until(
            managers,
            lambda: len(leaders(managers)) == 1 and not leaders(managers) & {None, third},
            1.0,
        )

    run(main)


def test_a_leader_that_closes_is_replaced_at_once_and_one_that_dies_within_its_lease() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        await managers.pop("m1").close()
        assert await until(managers, lambda: leaders(managers) <= {"m2", "m3"}) < 0.1
        dead = managers[str(managers["m2"].leadership_status.leader)]
        for task in dead._tasks:
            task.cancel()
        alive = {name: manager for name, manager in managers.items() if manager is not dead}
        took = await until(alive, lambda: leaders(alive) == set(alive))
        assert took <= LEASE + 0.1
        assert all(m.leadership_status.present == set(alive) for m in alive.values())

    run(main)


@pytest.mark.parametrize(("pace", "changes"), [(USUAL, True), (Pace(5.0), False)])
def test_members_that_answer_slowly_keep_their_leader_at_a_pace_that_is_slow_enough(
    pace: Pace, changes: bool
) -> None:
    """No election cascades: all of a manager's deadlines grow with etcd's."""

    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        for name in NAMES:
            etcd.slow(name, 1.5)
        seen = set[str | None]()
        for _ in range(3000):
            await asyncio.sleep(0.1)
            seen |= leaders(managers)
        assert (seen != {"m1"}) == changes
        for name in NAMES:
            etcd.slow(name)
        await until(managers, lambda: len(leaders(managers)) == 1 and None not in leaders(managers))

    run(main, pace=pace)


def test_a_leader_that_dies_at_a_slow_pace_is_replaced_within_its_longer_lease() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        dead = managers.pop("m1")
        for task in dead._tasks:
            task.cancel()
        took = await until(managers, lambda: leaders(managers) <= {"m2", "m3"}, 5 * LEASE + 1)
        assert LEASE < took <= 5 * LEASE + 0.1

    run(main, pace=Pace(5.0))


def test_when_the_leaders_member_goes_another_leads_soon_after_etcds_own_election() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        assert etcd.leader is not None
        assert etcd.leader.name == "m1"
        etcd.stop("m1")
        others = {name: managers[name] for name in ("m2", "m3")}
        took = await until(others, lambda: leaders(others) <= {"m2", "m3"})
        assert took < ELECTION + 1.0
        assert managers["m1"].leadership_status.leader in (None, "m1")
        await until(
            managers,
            lambda: (
                managers["m1"].leadership_status
                == LeadershipStatus(None, frozenset({NodeId("m1")}))
            ),
            LEASE,
        )
        etcd.start("m1")
        await until(
            managers, lambda: leaders(managers) == leaders(others) and None not in leaders(managers)
        )
        await until(managers, lambda: managers["m1"].leadership_status.present == set(NAMES))

    run(main)


def test_without_a_majority_nobody_leads_and_with_it_somebody_does_again() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        etcd.cut("m2")
        etcd.cut("m3")
        await until(managers, lambda: leaders(managers) == {None}, LEASE + 0.1)
        await asyncio.sleep(60)
        assert leaders(managers) == {None}
        etcd.heal("m2")
        etcd.heal("m3")
        await until(managers, lambda: len(leaders(managers)) == 1 and None not in leaders(managers))
        await until(
            managers,
            lambda: all(m.leadership_status.present == set(NAMES) for m in managers.values()),
        )

    run(main)


def test_a_leader_that_is_cut_off_stops_before_another_begins_unless_its_member_led_etcd() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        await managers["m1"].resign()
        await until(managers, lambda: leaders(managers) <= {"m2", "m3"}, 1.0)
        cut = str(managers["m1"].leadership_status.leader)
        etcd.cut(cut)
        others = {name: manager for name, manager in managers.items() if name != cut}
        seen: list[LeadershipStatus] = []

        async def observe() -> None:
            while managers[cut].leadership_status.leader == cut:
                seen.extend(manager.leadership_status for manager in others.values())
                await asyncio.sleep(0.001)

        await observe()
        assert {leadership_status.leader for leadership_status in seen} == {cut}
        await until(others, lambda: len(leaders(others)) == 1 and not leaders(others) & {None, cut})

    run(main)


def test_a_manager_that_came_back_before_its_lease_ended_takes_its_own_key_over() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        former = managers.pop("m1")
        for task in former._tasks:
            task.cancel()
        managers["m1"] = EtcdLeadership(etcd.client("m1"), NodeId("m1"))
        await until(managers, lambda: managers["m1"].leadership_status.leader == "m1", 0.5)
        await asyncio.sleep(2 * LEASE)
        assert leaders(managers) == {"m1"}
        await managers["m1"].close()

    run(main)


def test_next_waits_for_a_change() -> None:
    async def main(etcd: FakeEtcd, managers: Managers) -> None:
        waiting = asyncio.create_task(managers["m2"].next(managers["m2"].leadership_status))
        await asyncio.sleep(30)
        assert not waiting.done()
        await managers["m3"].close()
        async with asyncio.timeout(1.0):
            assert (await waiting).present == {"m1", "m2"}

    run(main)
