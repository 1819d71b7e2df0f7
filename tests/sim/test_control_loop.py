"""The loop around a control function, in virtual time."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from tests.support import virtual_time
from weft.manager.loops import ControlLoop, whole
from weft.model.ids import NetworkId
from weft.model.meta import SECOND
from weft.model.network import Network, NetworkSpec
from weft.model.state import Change, ClusterState, Decision, Event, Put
from weft.store.memory import MemoryStore

Reconcile = Callable[[ClusterState, int], Decision]


def network(name: str) -> Network:
    return Network(id=NetworkId(name), spec=NetworkSpec(name=name))


def during(reconcile: Reconcile, scene: Callable[[MemoryStore], Coroutine[Any, Any, None]]) -> None:
    """Plays a scene while the loop runs."""

    async def main() -> None:
        store = MemoryStore(virtual_time.clock)
        loop = ControlLoop("test", store, virtual_time.clock, ["network"], whole(reconcile))
        task = asyncio.create_task(loop.run())
        await scene(store)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        loop.close()

    virtual_time.run(main())


def count_to(limit: int, state: ClusterState) -> tuple[Change, ...]:
    low = [n for n in state.networks.values() if n.cursor < limit]
    return tuple(Put(msgspec.structs.replace(n, cursor=n.cursor + 1)) for n in low)


def test_it_runs_until_nothing_is_left_to_do_and_again_on_a_change() -> None:
    async def scene(store: MemoryStore) -> None:
        await store.commit([Put(network("a"))])
        await asyncio.sleep(0.05)
        assert [n.cursor for n in store.state.networks.values()] == [3]
        await store.commit([Put(network("b"))])
        await asyncio.sleep(0.05)
        assert [n.cursor for n in store.state.networks.values()] == [3, 3]

    during(lambda state, now: Decision(count_to(3, state)), scene)


def test_what_comes_together_is_one_run() -> None:
    runs: list[float] = []

    async def scene(store: MemoryStore) -> None:
        await asyncio.sleep(1)
        runs.clear()
        for number in range(10):
            await store.commit([Put(network(str(number)))])
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        assert runs == [10]

    def reconcile(state: ClusterState, now: int) -> Decision:
        runs.append(len(state.networks))
        return Decision()

    during(reconcile, scene)


def test_it_wakes_when_it_asked_to() -> None:
    runs: list[float] = []

    async def scene(store: MemoryStore) -> None:
        start = virtual_time.clock()
        await asyncio.sleep(100)
        assert [round((now - start) / SECOND) for now in runs] == [0, 30, 60, 90]

    def reconcile(state: ClusterState, now: int) -> Decision:
        runs.append(now)
        return Decision(wake_at=now + 30 * SECOND)

    during(reconcile, scene)


def test_an_exception_is_survived_with_a_growing_pause() -> None:
    runs: list[float] = []

    async def scene(store: MemoryStore) -> None:
        await store.commit([Put(network("a"))])
        await asyncio.sleep(20)
        gaps = [round(b - a, 1) for a, b in itertools.pairwise(runs)]
        assert gaps == [0.1, 0.2, 0.4, 0.8]
        assert store.state.networks[NetworkId("a")].cursor == 1

    def reconcile(state: ClusterState, now: int) -> Decision:
        if len(runs) < 4:
            runs.append(now / SECOND)
            raise ZeroDivisionError
        if len(runs) == 4:
            runs.append(now / SECOND)
        return Decision(count_to(1, state))

    during(reconcile, scene)


def test_a_function_that_never_agrees_with_itself_does_not_take_the_processor() -> None:
    runs: list[float] = []

    async def scene(store: MemoryStore) -> None:
        await store.commit([Put(network("a"))])
        await asyncio.sleep(1)
        assert len(runs) < 500

    def reconcile(state: ClusterState, now: int) -> Decision:
        runs.append(now)
        return Decision(count_to(10**9, state))

    during(reconcile, scene)


def test_a_lost_race_is_run_again() -> None:
    seen: list[int] = []

    async def scene(store: MemoryStore) -> None:
        await store.commit([Put(network("a"))])
        await asyncio.sleep(1)
        assert store.state.networks[NetworkId("a")].cursor == 1
        assert len(seen) > 1

    def reconcile(state: ClusterState, now: int) -> Decision:
        """The first time, as if it had read an older state."""
        changes = count_to(1, state)
        if not seen and changes:
            changes = (
                Put(
                    msgspec.structs.replace(
                        network("a"), meta=msgspec.structs.replace(network("a").meta, version=99)
                    )
                ),
            )
        seen.append(now)
        return Decision(changes)

    during(reconcile, scene)


def test_it_says_what_happened_and_nothing_is_lost_when_something_goes_wrong() -> None:
    told: list[list[str] | None] = []

    async def main() -> None:
        store = MemoryStore(virtual_time.clock)

        def reconcile(state: ClusterState, now: int, events: Sequence[Event] | None) -> Decision:
            told.append(None if events is None else [event.object.name for event in events])
            if len(told) == 3:
                raise ZeroDivisionError
            return Decision()

        loop = ControlLoop("test", store, virtual_time.clock, ["network"], reconcile)
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(1)
        for name in "abc":
            await store.commit([Put(network(name))])
            await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        loop.close()

    virtual_time.run(main())
    assert told == [None, ["a"], ["b"], None, ["c"]]


def test_a_clock_that_is_set_during_a_run_does_not_hold_the_loop_up() -> None:
    """By an hour, forward and back, again and again."""

    async def main() -> None:
        offsets = itertools.cycle((0, 3600 * SECOND, -3600 * SECOND))
        store = MemoryStore(virtual_time.clock)
        await store.commit([Put(network("a"))])
        loop = ControlLoop(
            "test",
            store,
            lambda: virtual_time.clock() + next(offsets),
            ["network"],
            whole(lambda state, now: Decision(count_to(3, state))),
        )
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(5)
        assert [n.cursor for n in store.state.networks.values()] == [3]
        task.cancel()
        await asyncio.wait([task])
        loop.close()

    virtual_time.run(main())
