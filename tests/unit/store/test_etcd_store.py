"""Commits of `EtcdStore` on an etcd in memory, in virtual time: what a store promises, and what is
left of that when etcd fails or is full."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.etcd_world import NAMES, World, contents, network, run, service, task, until
from tests.support.slot_writers import SlotWriters
from weft.errors import Conflict, OperationFailed, OutOfSequence, Unavailable
from weft.manager.transaction import transact
from weft.model.ids import NetworkId, ServiceId
from weft.model.meta import Meta
from weft.model.network import NetworkSpec
from weft.model.state import Change, Check, ClusterState, Put, Remove
from weft.store.etcd.fake import FakeEtcd
from weft.store.etcd.space import PATIENCE, keep_free


def with_network(name: str, state: ClusterState) -> list[Change]:
    return [Put(network(name))]


def test_of_many_that_write_at_once_none_is_refused() -> None:
    """As hosts that join together, through several managers; each commit is of what nobody else
    writes."""

    async def main(world: World) -> None:
        stores = [await world.store(name) for name in NAMES]
        names = [f"n{number}" for number in range(60)]
        await asyncio.gather(
            *(
                transact(stores[number % len(stores)], partial(with_network, name))
                for number, name in enumerate(names)
            )
        )
        await until(lambda: all(len(store.state.networks) == len(names) for store in stores))

    run(main)


def test_an_object_gets_version_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(world: World) -> None:
        store = await world.store()
        first = await store.commit([Put(network("a")), Put(service("s"))])
        created = store.state.networks[NetworkId("id-a")]
        assert created.meta == Meta(first, created.meta.created_at, created.meta.created_at)
        assert store.state.services[ServiceId("id-s")].spec_version == first
        await asyncio.sleep(1)
        second = await store.commit([Put(msgspec.structs.replace(created, cursor=7))])
        updated = store.state.networks[NetworkId("id-a")].meta
        assert (updated.version, updated.created_at) == (second, created.meta.created_at)
        assert updated.updated_at > created.meta.created_at
        assert store.state.revision == second > first
        assert (await world.store("m2")).state.services == store.state.services

    run(main)


def test_what_is_stale_or_taken_is_refused_and_nothing_of_the_commit_happens() -> None:
    async def main(world: World) -> None:
        store = await world.store()
        await store.commit([Put(network("a"))])
        before = contents(store)
        with pytest.raises(OutOfSequence):
            await store.commit([Put(network("b")), Put(network("a"))])
        with pytest.raises(OutOfSequence):
            await store.commit([Put(network("b")), Check("network", "id-a", 9)])
        with pytest.raises(Conflict):
            await store.commit([Put(network("b")), Put(network("a", "other"))])
        assert contents(store) == before
        revision = store.state.revision
        assert (
            await store.commit(
                [Check("network", "id-a", store.state.networks[NetworkId("id-a")].meta.version)]
            )
            == revision
        )
        assert await store.commit([]) == revision

    run(main)


def test_who_lost_the_race_has_seen_what_beat_it() -> None:
    async def main(world: World) -> None:
        here, there = await world.store("m1"), await world.store("m2")
        await here.commit([Put(network("a"))])
        await until(lambda: bool(there.state.networks))
        old = there.state.networks[NetworkId("id-a")]
        world.etcd.break_watches("m2")
        await here.commit([Put(msgspec.structs.replace(old, cursor=1))])
        with pytest.raises(OutOfSequence):
            await there.commit([Put(msgspec.structs.replace(old, cursor=2))])
        assert there.state.networks[NetworkId("id-a")].cursor == 1
        world.etcd.break_watches("m2")
        await here.commit([Put(network("b"))])
        with pytest.raises(Conflict, match="network with name b already exists"):
            await there.commit([Put(network("b", "other"))])

    run(main)


def test_names_move_with_their_objects() -> None:
    async def main(world: World) -> None:
        store = await world.store()
        await store.commit([Put(network("a")), Put(service("a"))])
        a = store.state.networks[NetworkId("id-a")]
        await store.commit([Put(msgspec.structs.replace(a, spec=NetworkSpec(name="b")))])
        await store.commit([Put(network("a", "second"))])
        b = store.state.networks[NetworkId("id-a")]
        await store.commit([Remove("network", "id-a", b.meta.version), Put(network("b", "third"))])
        with pytest.raises(Conflict):
            await store.commit([Put(network("b", "fourth"))])
        keys = [pair.key for pair in world.etcd.keyspace.range("/weft/name/", "/weft/name0")]
        assert keys == ["/weft/name/network/a", "/weft/name/network/b", "/weft/name/service/a"]
        assert contents(await world.store("m3")) == contents(store)

    run(main)


def test_two_managers_cannot_give_one_name_twice_even_if_neither_looks_at_more() -> None:
    async def main(world: World) -> None:
        here, there = await world.store("m1"), await world.store("m2")
        results = await asyncio.gather(
            here.commit([Put(network("a", "x"))], independent=True),
            there.commit([Put(network("a", "y"))], independent=True),
            return_exceptions=True,
        )
        assert [isinstance(result, int) for result in results].count(True) == 1
        assert any(isinstance(result, Conflict) for result in results)

    run(main)


def test_commits_of_one_process_exclude_each_other_unless_they_are_independent() -> None:
    async def main(world: World) -> None:
        store = await world.store()
        results = await asyncio.gather(
            *(store.commit([Put(task(f"t{n}"))]) for n in range(4)), return_exceptions=True
        )
        assert [type(result) for result in results if not isinstance(result, int)] == [
            OutOfSequence
        ] * 3
        assert len(store.state.tasks) == 1
        await asyncio.gather(
            *(store.commit([Put(task(f"i{n}"))], independent=True) for n in range(4))
        )
        assert len(store.state.tasks) == 5

    run(main)


async def trouble(etcd: FakeEtcd, randomness: random.Random) -> None:
    for _ in range(randomness.randrange(8)):
        await asyncio.sleep(randomness.random())
        name = randomness.choice(NAMES)
        match randomness.randrange(7):
            case 0:
                etcd.stop(name)
                await asyncio.sleep(randomness.random() * 4)
                etcd.start(name)
            case 1:
                etcd.cut(name)
                await asyncio.sleep(randomness.random() * 4)
                etcd.heal(name)
            case 2:
                etcd.slow(name, randomness.random())
            case 3:
                etcd.lose_answers(name, 2)
            case 4:
                etcd.lose_answers(name, 2, late=randomness.random())
            case 5:
                etcd.break_watches(name)
            case 6:
                etcd.compact()
    for name in NAMES:
        etcd.slow(name)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
@example(seed=9648)
def test_whatever_fails_no_slot_is_given_twice_and_nothing_acknowledged_is_lost(seed: int) -> None:
    async def main(world: World) -> None:
        randomness = random.Random(seed)
        stores = [await world.store(name) for name in NAMES]
        slots = SlotWriters(stores, randomness, 0.1)
        async with asyncio.timeout(600):
            await asyncio.gather(
                *(slots.write(writer, 4) for writer in range(5)),
                slots.touch(20),
                slots.touch(20),
                trouble(world.etcd, randomness),
            )
        await until(lambda: all(store.is_healthy for store in stores))
        await until(lambda: len({store.state.revision for store in stores}) == 1)
        slots.check(stores[0].state)
        fresh = await world.store("m2")
        # A commit whose answer was lost may arrive as late as this.
        await until(lambda: len({store.state.revision for store in (*stores, fresh)}) == 1)
        slots.check(fresh.state)
        assert all(store.state.tables == fresh.state.tables for store in stores)
        assert all(list(store.state.tasks) == list(fresh.state.tasks) for store in stores)

    run(main)


async def keepers(world: World, *names: str) -> None:
    for name in names:
        task = asyncio.create_task(keep_free(world.etcd.client(name)))
        world.stack.callback(task.cancel)


@pytest.mark.parametrize("full", [("m1",), ("m3",), NAMES])
def test_a_full_etcd_refuses_writes_until_the_managers_have_made_room(full: Sequence[str]) -> None:
    async def main(world: World) -> None:
        store = await world.store("m1")
        await store.commit([Put(network("a"))])
        for name in full:
            world.etcd.fill(name)
        for _ in range(100):
            with pytest.raises(OperationFailed, match="NOSPACE"):
                await store.commit([Put(network("b"))])
            await asyncio.sleep(1)
        assert store.is_healthy
        await keepers(world, *NAMES)
        await asyncio.sleep(PATIENCE)
        await store.commit([Put(network("b"))])
        assert world.etcd.keyspace.compacted > 0

    run(main)


@pytest.mark.parametrize("is_dead", [True, False])
def test_an_alarm_that_nobody_sees_to_is_disarmed_by_the_others(is_dead: bool) -> None:
    """Of a member that is down. One that is up, and only its manager is not, raises it again."""

    async def main(world: World) -> None:
        store = await world.store("m2")
        world.etcd.fill("m1")
        with pytest.raises(OperationFailed, match="NOSPACE"):
            await store.commit([Put(network("a"))])
        await keepers(world, "m2", "m3")
        if is_dead:
            world.etcd.stop("m1")
        await asyncio.sleep(PATIENCE - 5)
        assert world.etcd.alarms
        await asyncio.sleep(20)
        assert not world.etcd.alarms
        if is_dead:
            await store.commit([Put(network("a"))])
        else:
            with pytest.raises(OperationFailed, match="NOSPACE"):
                await store.commit([Put(network("a"))])

    run(main)


@pytest.mark.parametrize("late", [None, 3.0])
def test_an_answer_that_was_lost_is_not_asked_for_again(late: float | None) -> None:
    async def main(world: World) -> None:
        store = await world.store()
        world.etcd.lose_answers("m1", late=late)
        with pytest.raises(Unavailable):
            await store.commit([Put(network("a"))])
        if late is not None:
            assert not store.state.networks
        await asyncio.sleep(5)
        assert list(store.state.networks) == ["id-a"]
        assert len(world.etcd.keyspace.since(0)) == 3  # two of the copy, one commit

    run(main)


def test_a_commit_goes_on_when_its_caller_is_cancelled() -> None:
    async def main(world: World) -> None:
        store = await world.store()
        caller = asyncio.create_task(store.commit([Put(network("a"))]))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        await until(lambda: bool(store.state.networks))

    run(main)
