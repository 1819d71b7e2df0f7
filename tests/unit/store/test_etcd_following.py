"""How `EtcdStore` follows an etcd in memory, in virtual time: watches, a lost majority, and what
was kept of an earlier time."""

import asyncio

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.etcd_world import NAMES, NEXT, Deaf, World, grow_old, network, run, task, until
from weft.errors import Damaged, OperationFailed, Unavailable
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NetworkId
from weft.model.meta import Meta
from weft.model.state import KINDS, Put, Remove
from weft.store.etcd.base import NO_MAJORITY
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.fake import ELECTION
from weft.store.kept import Kept


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
