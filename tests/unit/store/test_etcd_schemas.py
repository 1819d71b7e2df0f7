"""Schemas of the store on an etcd in memory, and the move from a store of one's own: older and
newer managers, and what was interrupted in the middle."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.etcd_world import NEXT, Deaf, World, grow_old, network, run, service, task
from weft.errors import Conflict, FailedPrecondition, NotFound, OperationFailed, Unavailable
from weft.model.ids import ConfigId, NodeId, ServiceId, TaskId
from weft.model.secret import Config, DataSpec
from weft.model.state import ClusterState, Put
from weft.store.etcd import load, rows
from weft.store.etcd.base import Answer, Compare, Operation, Range, Write
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.fake import FakeClient, FakeEtcd
from weft.store.etcd.migrate import copy
from weft.store.memory import MemoryStore
from weft.store.schema import CURRENT

# --- schemas


def test_an_older_store_is_upgraded_and_an_older_manager_is_stopped() -> None:
    async def main(world: World) -> None:
        old = await grow_old(world)
        spec_version = old.state.services[ServiceId("id-s")].spec_version
        new = await world.store(schema=NEXT)
        assert [each.cursor for each in new.state.networks.values()] == [each.cursor for each in sorted(
            new.state.networks.values(), key=lambda each: each.id)]  # fmt: skip
        assert {each.id: each.cursor for each in new.state.networks.values()} == {
            f"id-n{n}": n for n in range(250)
        }
        assert new.state.services[ServiceId("id-s")].spec_version == spec_version
        await new.commit([Put(network("new"))])
        with pytest.raises(OperationFailed):
            await old.commit([Put(network("old"))])
        assert not old.is_healthy
        assert (await world.store("m3", schema=NEXT)).state.tables == new.state.tables
        with pytest.raises(
            OperationFailed,
            match=rf"cannot open store /weft/: its schema {NEXT.version} is newer than "
            rf"{CURRENT.version}, the newest",
        ):
            await world.store("m3")

    run(main)


class Dying(FakeClient):
    """Of a process that is killed before one of its transactions."""

    def __init__(self, etcd: FakeEtcd, left: int) -> None:
        super().__init__(etcd, etcd.member("m1"))
        self.left = left

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Any:
        if not self.left:
            raise Unavailable("killed")
        self.left -= 1
        return await super().txn(compares, then, otherwise)


def test_an_older_manager_commits_nothing_even_before_it_has_heard_of_the_upgrade() -> None:
    async def main(world: World) -> None:
        old = await EtcdStore.open(Deaf(world.etcd, deaf=99), virtual_time.clock)
        new = await world.store("m2", schema=NEXT)
        revision = world.etcd.keyspace.revision
        with pytest.raises((OperationFailed, Unavailable)):
            await old.commit([Put(network("old"))], independent=True)
        assert world.etcd.keyspace.revision == revision
        assert not new.state.networks
        await old.close()

    run(main)


@pytest.mark.parametrize("left", range(5))
def test_an_upgrade_that_was_interrupted_is_finished_by_the_next(left: int) -> None:
    async def main(world: World) -> None:
        await grow_old(world)
        try:
            await (
                await EtcdStore.open(Dying(world.etcd, left), virtual_time.clock, schema=NEXT)
            ).close()
        except Unavailable:
            assert left < 5
        if left:
            with pytest.raises(OperationFailed, match=f"newer than {CURRENT.version}"):
                await world.store()
        new = await world.store(schema=NEXT)
        assert {each.id: each.cursor for each in new.state.networks.values()} == {
            f"id-n{n}": n for n in range(250)
        }

    run(main)


# --- the move from SQLite


async def embedded() -> ClusterState:
    store = MemoryStore(virtual_time.clock)
    for n in range(90):
        await store.commit([Put(network(f"n{n}")), Put(service(f"s{n}")), Put(task(f"t{n}", n))])
        await asyncio.sleep(1)
    await store.commit(
        [Put(msgspec.structs.replace(store.state.tasks[TaskId("t7")], node=NodeId("n")))]
    )
    return store.state


def without_version(state: ClusterState) -> dict[str, list[Any]]:
    def plain(obj: Any) -> Any:
        return msgspec.structs.replace(obj, meta=msgspec.structs.replace(obj.meta, version=0))

    return {kind: [plain(obj) for obj in table.values()] for kind, table in state.tables.items()}


def test_nothing_is_lost_on_the_way_and_revisions_go_on() -> None:
    async def body() -> None:
        state, world = await embedded(), World()
        with pytest.raises(NotFound, match="no store at /weft/"):
            await world.store()
        await copy(state, world.etcd.client("m1"))
        async with world.stack:
            store = await world.store()
            assert without_version(store.state) == without_version(state)
            assert store.state.revision > state.revision
            assert all(obj.meta.version > state.revision for obj in store.state.objects())
            with pytest.raises(Conflict):
                await store.commit([Put(network("n5", "other"))])
            assert await store.commit([Put(network("more"))]) == store.state.revision
            with pytest.raises(FailedPrecondition):
                await copy(state, world.etcd.client("m1"))

    virtual_time.run(body())


class Measuring(FakeClient):
    """Notes how many bytes of large values are written and read at once."""

    def __init__(self, etcd: FakeEtcd) -> None:
        super().__init__(etcd, etcd.member("m1"))
        self.most = 0

    def note(self, values: Iterable[bytes]) -> None:
        self.most = max(self.most, sum(len(each) for each in values if len(each) > 900))

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        self.note(write.value for write in then if isinstance(write, Write))
        return await super().txn(compares, then, otherwise)

    async def range(self, *where: Any, **how: Any) -> Range:
        found = await super().range(*where, **how)
        self.note(pair.value for pair in found.pairs)
        return found


def test_many_large_configs_are_moved_and_loaded_in_bounded_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "MOST_BYTES", 5000)
    monkeypatch.setattr(load, "LARGE_PAGE", 4)

    async def body() -> None:
        state, world = await embedded(), World()
        configs = [
            Config(id=ConfigId(f"c{n}"), spec=DataSpec(name=f"c{n}"), data=b"x" * 1000)
            for n in range(50)
        ]
        state = ClusterState([*state.objects(), *configs], state.revision)
        client = Measuring(world.etcd)
        await copy(state, client)
        assert client.most < 5000 + 1200
        client.most = 0
        found = await load.load(client, rows.Keys(), CURRENT)
        assert without_version(ClusterState(found.objects)) == without_version(state)
        assert 0 < client.most < 4 * 1200
        await client.close()

    virtual_time.run(body())


@pytest.mark.parametrize("left", range(6))
def test_a_copy_that_was_interrupted_is_no_store_and_is_wiped_by_the_next(left: int) -> None:
    async def body() -> None:
        state, world = await embedded(), World()
        more = ClusterState([*state.objects(), network("only-in-the-first")], state.revision)
        with pytest.raises(Unavailable):
            await copy(more, Dying(world.etcd, left))
        with pytest.raises(NotFound):
            await world.store()
        await copy(state, world.etcd.client("m1"))
        async with world.stack:
            assert without_version((await world.store()).state) == without_version(state)

    virtual_time.run(body())
