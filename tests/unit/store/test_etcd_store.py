"""`EtcdStore` on an etcd in memory, in virtual time: what a store promises, and what is left of
that when etcd fails."""

import asyncio
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import virtual_time
from tests.support.etcd_world import (
    NAMES,
    NEXT,
    Deaf,
    World,
    contents,
    grow_old,
    network,
    run,
    service,
    task,
    until,
)
from tests.support.slot_writers import SlotWriters
from weft.errors import Conflict, Damaged, OperationFailed, OutOfSequence, Unavailable
from weft.manager.transaction import transact
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NetworkId, ServiceId
from weft.model.meta import Meta
from weft.model.network import NetworkSpec
from weft.model.state import KINDS, Check, Put, Remove
from weft.store.etcd.base import NO_MAJORITY
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.fake import ELECTION, FakeEtcd
from weft.store.etcd.space import PATIENCE, keep_free
from weft.store.kept import Kept

# --- commits


def test_of_many_that_write_at_once_none_is_refused() -> None:
    """As hosts that join together, through several managers; each commit is of what nobody else
    writes."""

    async def main(world: World) -> None:
        stores = [await world.store(name) for name in NAMES]
        names = [f"n{number}" for number in range(60)]
        await asyncio.gather(
            *(
                transact(
                    stores[number % len(stores)], lambda state, name=name: [Put(network(name))]
                )
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


# --- following


def test_a_subscriber_gets_what_others_commit_in_order_and_once() -> None:
    async def main(world: World) -> None:
        here, there = await world.store("m1"), await world.store("m2")
        tasks, everything = there.subscribe(["task"]), there.subscribe(KINDS)
        await here.commit([Put(network("a")), Put(task("t1"))])
        version = here.state.networks[NetworkId("id-a")].meta.version
        await here.commit([Put(task("t2")), Remove("network", "id-a", version)])
        await until(lambda: there.state.revision == here.state.revision)
        assert [event.object.id for event in await tasks.next()] == ["t1", "t2"]
        seen = [(e.object.id, e.before is None, e.after is None) for e in everything.take()]
        assert seen == [
            ("id-a", True, False),
            ("t1", True, False),
            ("id-a", False, True),
            ("t2", True, False),
        ]

    run(main)


def test_after_a_break_the_watch_goes_on_and_after_a_compaction_the_difference_comes() -> None:
    async def main(world: World) -> None:
        here, there = await world.store("m1"), await world.store("m2")
        await here.commit([Put(network(name)) for name in "abc"])
        await until(lambda: len(there.state.networks) == 3)
        events = there.subscribe(KINDS)
        world.etcd.break_watches("m2")
        await here.commit([Put(network("d"))])
        await until(lambda: len(there.state.networks) == 4)
        assert [event.object.id for event in events.take()] == ["id-d"]
        world.etcd.stop("m2")
        a, b = (here.state.networks[NetworkId(f"id-{name}")] for name in "ab")
        await here.commit(
            [Put(msgspec.structs.replace(a, cursor=1)), Remove("network", "id-b", b.meta.version)]
        )
        await here.commit([Put(network("e"))])
        assert not there.is_healthy
        world.etcd.compact()
        world.etcd.start("m2")
        await until(lambda: there.is_healthy)
        assert {(e.object.id, e.before is None, e.after is None) for e in events.take()} == {
            ("id-b", False, True), ("id-a", False, False), ("id-e", True, False),
        }  # fmt: skip
        assert there.state.tables == here.state.tables

    run(main)


def test_without_a_majority_reads_work_and_writes_are_refused_in_the_originals_words() -> None:
    async def main(world: World) -> None:
        store = await world.store("m1")
        await store.commit([Put(network("a"))])
        world.etcd.cut("m2")
        world.etcd.cut("m3")
        await until(lambda: not store.is_healthy, 4.0)
        with pytest.raises(Unavailable) as refused:
            await store.commit([Put(network("b"))])
        assert str(refused.value) == NO_MAJORITY
        assert list(store.state.networks) == ["id-a"]
        late = await world.store("m1")
        assert list(late.state.networks) == ["id-a"]
        assert not late.is_healthy
        world.etcd.heal("m2")
        await until(lambda: store.is_healthy and late.is_healthy)
        await store.commit([Put(network("b"))])

    run(main)


def test_what_was_kept_is_shown_until_the_store_answers() -> None:
    async def main(world: World) -> None:
        store = await world.store("m1")
        await store.commit([Put(network("a"))])
        for name in NAMES:
            world.etcd.stop(name)
        world.etcd.start("m1")
        with pytest.raises(Unavailable):
            await world.store("m1")
        late = world.show("m1", world.etcd.kept("m1"))
        assert list(late.state.networks) == ["id-a"]
        assert not late.is_healthy
        for attempt in (late.sync(), late.commit([Put(network("b"))])):
            with pytest.raises(Unavailable) as refused:
                await attempt
            assert str(refused.value) == NO_MAJORITY
        assert late.state.revision == store.state.revision
        events = late.subscribe(KINDS)
        world.etcd.start("m2")
        await until(lambda: late.is_healthy)
        await late.commit([Put(network("b"))])
        assert [event.object.id for event in events.take()] == ["id-b"]

    run(main)


def test_what_was_kept_may_be_of_long_ago_or_of_a_history_that_was_given_up() -> None:
    async def main(world: World) -> None:
        store = await world.store("m1")
        for name in "abc":
            await store.commit([Put(network(name))])
        kept = world.etcd.kept("m1")
        first, *others = kept.objects
        another = msgspec.structs.replace(first, cursor=99)
        never = msgspec.structs.replace(network("never"), meta=Meta(3, 1, 1))
        kept = Kept(kept.revision + 1000, (another, *others, never))
        removed = store.state.networks[NetworkId("id-b")]
        await store.commit([Remove("network", "id-b", removed.meta.version), Put(network("d"))])
        for name in NAMES:
            world.etcd.stop(name)
        world.etcd.compact()
        world.etcd.start("m1")
        late = world.show("m1", kept)
        assert list(late.state.networks) == ["id-a", "id-b", "id-c", "id-never"]
        events = late.subscribe(KINDS)
        world.etcd.start("m2")
        await until(lambda: late.is_healthy)
        assert late.state.revision == store.state.revision
        assert late.state.tables == store.state.tables
        assert {(event.before is not None, event.object.id, event.after is not None) for event in events.take()} == {
            (True, "id-a", False), (False, "id-a", True), (True, "id-b", False), (True, "id-never", False), (False, "id-d", True),
        }  # fmt: skip
        await late.commit([Put(network("e"))])

    run(main)


def test_a_store_that_answers_with_another_swarm_than_was_kept_is_not_taken_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(world: World) -> None:
        store = await world.store("m1")
        await store.commit(
            [
                Put(
                    Cluster(
                        id=ClusterId("other"),
                        root_ca=RootCa("", ""),
                        join_tokens=JoinTokens(worker="", manager=""),
                    )
                )
            ]
        )
        own = Cluster(
            id=ClusterId("own"),
            root_ca=RootCa("", ""),
            join_tokens=JoinTokens(worker="", manager=""),
        )
        late = world.show("m1", Kept(1, (own,)), cluster=own.id)
        await until(lambda: "store.failed" in caplog.text)
        assert "it has the state of swarm other" in caplog.text
        assert late.state.cluster == own
        assert not late.is_healthy
        for attempt in (late.sync(), late.commit([Put(network("b"))])):
            with pytest.raises(OperationFailed, match="cannot follow the store"):
                await attempt
        with pytest.raises(Damaged, match="it has the state of swarm other"):
            await world.store("m1", cluster=own.id)

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


def test_an_upgrade_waits_for_a_majority_and_is_then_made() -> None:

    async def main(world: World) -> None:
        await (await grow_old(world)).close()
        for name in NAMES:
            world.etcd.stop(name)
        world.etcd.start("m1")
        with pytest.raises(Unavailable):
            await world.store("m1", schema=NEXT)
        world.etcd.start("m2")
        await asyncio.sleep(2 * ELECTION)
        new = await world.store("m1", schema=NEXT)
        assert {each.id: each.cursor for each in new.state.networks.values()} == {
            f"id-n{n}": n for n in range(250)
        }

    run(main)


def test_a_slow_member_has_a_majority_as_long_as_there_is_a_sign_of_it() -> None:
    async def main(world: World) -> None:
        slow, other = await world.store("m1"), await world.store("m2")
        world.etcd.slow("m1", 3.0)
        for number in range(60):
            await other.commit([Put(network(f"n{number}"))])
            await asyncio.sleep(0.5)
            assert slow.is_healthy
        await until(lambda: not slow.is_healthy)
        world.etcd.slow("m1")
        await until(lambda: slow.is_healthy)
        assert len(slow.state.networks) == 60

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


def test_a_watch_that_brings_nothing_is_begun_anew() -> None:
    async def main(world: World) -> None:
        here = await world.store("m2")
        client = Deaf(world.etcd, deaf=2)
        there = await EtcdStore.open(client, virtual_time.clock)
        await here.commit([Put(network("a"))])
        await until(lambda: not there.is_healthy)
        await until(lambda: there.is_healthy, 20)
        assert list(there.state.networks) == ["id-a"]
        assert client.deaf < 0
        await there.close()

    run(main)


def test_a_closed_store_wakes_its_readers() -> None:
    async def main(world: World) -> None:
        store = await world.store()
        reader = asyncio.create_task(store.subscribe(KINDS).next())
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(Unavailable):
            await reader
        assert not store.is_healthy

    run(main)
