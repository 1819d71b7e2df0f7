"""Real etcd: three members on loopback, with certificates of our own authority; the tests kill
them."""

import asyncio
import logging
import os
import random
import shutil
import signal
import time
from pathlib import Path

import msgspec
import pytest

from tests.kernel.etcd_members import Cluster, network, put, put_once, run, until
from tests.support.etcd_cluster import eventually
from tests.support.slot_writers import SlotWriters
from weft.errors import FailedPrecondition, NotFound, OperationFailed, OutOfSequence, Unavailable
from weft.model.cluster import Cluster as ClusterObject
from weft.model.cluster import JoinTokens, RootCa
from weft.model.ids import ClusterId, NetworkId, NodeId
from weft.model.network import NetworkSpec
from weft.model.state import Put, Remove
from weft.store.etcd.base import NO_MAJORITY, Write
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.leadership import EtcdLeadership
from weft.store.etcd.process import MemberRemoved
from weft.store.etcd.space import keep_free
from weft.store.kept import Keeper, KeptState

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]


def test_a_commit_through_one_is_seen_in_the_others(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        stores = [await cluster.store(name) for name in cluster.members]
        assert all(store.is_healthy for store in stores)
        for number, store in enumerate(stores * 5):
            revision = await eventually(lambda store=store, number=number: put(store, f"n{number}"))
            assert store.state.revision >= revision
        await until(lambda: all(store.state.revision == revision for store in stores))
        assert all(store.state.networks == stores[0].state.networks for store in stores)
        assert list(stores[0].state.networks) == [f"id-n{number}" for number in range(15)]
        again = await cluster.store("m2")
        assert list(again.state.networks.items()) == list(stores[0].state.networks.items())
        assert again.state.revision == revision

    run(tmp_path, main)


def test_the_leaders_member_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        stores = {name: await cluster.store(name) for name in cluster.members}
        killed = await cluster.leader()
        survivor = next(store for name, store in stores.items() if name != killed)
        acknowledged = []
        for number in range(200):
            if number == 100:
                cluster.kill(killed)
            try:
                await eventually(lambda number=number: put_once(survivor, f"n{number}"))
            finally:
                acknowledged.append(f"id-n{number}")
        assert list(survivor.state.networks) == acknowledged
        await until(
            lambda: all(list(store.state.networks) == acknowledged for store in stores.values())
        )
        await until(lambda: all(store.is_healthy for store in stores.values()))
        assert cluster.members[killed].is_running  # it was started again

    run(tmp_path, main)


def test_without_a_majority_reads_work_and_writes_are_refused(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        store = await cluster.store("m1")
        await put(store, "before")
        for name in ("m2", "m3"):
            await cluster.members[name].stop()
        await until(lambda: not store.is_healthy)
        with pytest.raises(Unavailable) as refused:
            await put(store, "refused")
        assert str(refused.value) == NO_MAJORITY
        assert list(store.state.networks) == ["id-before"]
        late = await cluster.store("m1")
        assert list(late.state.networks) == ["id-before"]
        assert not late.is_healthy
        await cluster.members["m2"].start()
        await until(lambda: store.is_healthy)
        await put_once(store, "after")
        await until(lambda: late.state.revision == store.state.revision)
        assert "id-after" in late.state.networks

    run(tmp_path, main)


def test_one_that_is_started_without_a_majority_shows_what_was_kept(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        store = await cluster.store("m1")
        swarm = ClusterId("swarm")
        await store.commit(
            [
                Put(
                    ClusterObject(
                        id=swarm,
                        root_ca=RootCa("", ""),
                        join_tokens=JoinTokens(worker="", manager=""),
                    )
                )
            ]
        )
        file = KeptState(tmp_path / "last-state")
        keeper = Keeper(file, store)
        for number in range(0, 300, 100):
            names = [f"n{each}" for each in range(number, number + 100)]
            await store.commit([Put(network(name)) for name in names])
        version = store.state.networks[NetworkId("id-n7")].meta.version
        await store.commit([Remove("network", "id-n7", version), Put(network("last"))])
        before = {kind: dict(table) for kind, table in store.state.tables.items()}
        await keeper.close()
        for member in cluster.members.values():
            await member.stop()
        m1 = cluster.members["m1"]
        await m1.start()
        with pytest.raises(Unavailable):
            await m1.ready(2)
        kept = file.read(swarm)
        assert kept is not None
        client = m1.client()
        hearing = asyncio.create_task(client.first_answer())
        late = EtcdStore.show(client, time.time_ns, kept, swarm)
        cluster.stack.push_async_callback(late.close)
        assert late.state.tables == before
        assert list(late.state.networks) == list(before["network"])
        assert not late.is_healthy
        with pytest.raises(Unavailable) as refused:
            await late.sync()
        assert str(refused.value) == NO_MAJORITY
        with pytest.raises(Unavailable):
            await late.commit([Put(network("refused"))])
        await cluster.members["m2"].start()
        await until(lambda: late.is_healthy)
        await hearing
        await eventually(lambda: put_once(late, "after"))
        assert list(late.state.networks) == [*before["network"], NetworkId("id-after")]
        await until(lambda: store.state.tables == late.state.tables)

    run(tmp_path, main)


def test_a_store_whose_quota_is_reached_is_made_room_in_and_takes_writes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(cluster: Cluster) -> None:
        store = await cluster.store("m1")
        await put(store, "a")
        acknowledged = 0

        async def fill(times: int) -> None:
            """One object again and again: all but the last is history."""
            nonlocal acknowledged
            for _ in range(times):
                one = store.state.networks[NetworkId("id-a")]
                spec = NetworkSpec(
                    name="a", labels={"x": str(acknowledged + 1), "y": "y" * 400_000}
                )
                await store.commit([Put(msgspec.structs.replace(one, spec=spec))])
                acknowledged += 1

        with pytest.raises(OperationFailed, match="reached its quota .alarm NOSPACE"):
            await fill(200)
        assert acknowledged > 10
        for _ in range(20):
            await asyncio.sleep(0.1)
            with pytest.raises(OperationFailed, match="NOSPACE"):
                await put(store, "refused")
        assert store.is_healthy
        for name, member in cluster.members.items():
            client = member.client()
            cluster.stack.push_async_callback(client.close)
            task = asyncio.create_task(keep_free(client), name=name)
            cluster.stack.callback(task.cancel)
        await eventually(lambda: fill(1), 60)
        assert 1 <= caplog.text.count("etcd.relieved") <= 3
        assert store.state.networks[NetworkId("id-a")].spec.labels["x"] == str(acknowledged)
        for _ in range(3):
            await eventually(lambda: fill(20), 60)
        others = [await cluster.store(name) for name in ("m2", "m3")]
        await until(lambda: all(other.state.tables == store.state.tables for other in others))

    caplog.set_level(logging.INFO)
    run(tmp_path, main, quota=16 << 20)


def test_a_watch_goes_on_where_it_was_when_its_member_comes_back(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        here, there = await cluster.store("m1"), await cluster.store("m2")
        events = here.subscribe(["network"])
        await put(there, "a")
        await cluster.members["m1"].stop()
        for name in "bcd":
            await eventually(lambda name=name: put_once(there, name))
        assert not here.is_healthy
        await cluster.members["m1"].start()
        await until(lambda: here.is_healthy and "id-d" in here.state.networks)
        assert [event.object.id for event in events.take()] == ["id-a", "id-b", "id-c", "id-d"]

    run(tmp_path, main)


def test_the_rest_is_saved_when_the_majority_is_lost_for_good(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        store = await cluster.store("m1")
        revision = await put(store, "a")
        for name in ("m2", "m3"):
            await cluster.members[name].wipe()
        await cluster.members["m1"].stop()
        await cluster.members["m1"].start_alone()
        await cluster.members["m1"].ready()
        await until(lambda: store.is_healthy)
        assert await put(store, "b") > revision
        assert list((await cluster.store("m1")).state.networks) == ["id-a", "id-b"]

    run(tmp_path, main)


def test_a_learner_has_no_vote_until_it_gets_one_and_a_removed_member_none_any_more(
    tmp_path: Path,
) -> None:
    async def main(cluster: Cluster) -> None:
        client = cluster.members["m1"].client()
        cluster.stack.push_async_callback(client.close)
        learner = await client.add_learner("https://127.0.0.2:23800")
        with pytest.raises(FailedPrecondition):
            await client.add_learner("https://127.0.0.3:23800")
        with pytest.raises(FailedPrecondition):
            await client.promote(learner.id)
        member = cluster.make("m2", 2)
        await member.start(
            [("m1", cluster.members["m1"].settings.peer_url), ("m2", member.settings.peer_url)]
        )
        await member.ready()
        assert {each.name: each.is_learner for each in await client.members()} == {
            "m1": False,
            "m2": True,
        }
        await eventually(lambda: client.promote(learner.id))
        with pytest.raises(FailedPrecondition):
            await client.promote(learner.id)
        store = await cluster.store("m2")
        assert store.is_healthy
        await eventually(lambda: client.remove_member(learner.id))
        with pytest.raises(NotFound):
            await client.remove_member(learner.id)
        await until(lambda: not store.is_healthy)
        await until(member.removed.is_set)
        with pytest.raises(MemberRemoved):
            await member.ready()
        (left,) = await eventually(client.members)
        assert left.name == "m1"

    run(tmp_path, main, members=1)


def test_leadership_moves_when_the_leaders_host_is_gone(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        host = await cluster.leader()
        managers = {}
        for name in [host, *(cluster.members.keys() - {host})]:
            client = cluster.members[name].client()
            cluster.stack.push_async_callback(client.close)
            managers[name] = EtcdLeadership(client, NodeId(name))
            await until(lambda name=name: managers[name].leadership_status.leader == host)
        others = [manager for name, manager in managers.items() if name != host]
        for task in managers[host]._tasks:
            task.cancel()
        await cluster.members[host].close()
        process = cluster.members[host]._find()
        assert process is not None
        process.kill(signal.SIGKILL)
        process.close()
        await until(lambda: len({m.leadership_status.leader for m in others} - {None, host}) == 1)
        await asyncio.gather(*(manager.close() for manager in others))

    run(tmp_path, main)


def test_a_transaction_as_large_as_it_may_be_and_what_is_larger_is_refused(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        store = await cluster.store("m1")
        many = [Put(network(f"n{number}")) for number in range(5000)]
        await store.commit(many)
        assert len(store.state.networks) == 5000
        client = cluster.members["m1"].client()
        await client.txn([], [Write("x", b"x" * (40 << 20))])
        with pytest.raises(OperationFailed, match="cannot write 67108945 bytes"):
            await client.txn([], [Write("x", b"x" * (48 << 20))])
        with pytest.raises(OutOfSequence):
            await store.commit(many)
        await client.close()
        await put(store, "after")

    run(tmp_path, main, members=1)


def test_many_writers_give_no_slot_twice_while_members_are_killed(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        randomness = random.Random(4)
        stores = [await cluster.store(name) for name in cluster.members]
        slots = SlotWriters(stores, randomness, 0.05)

        async def kill() -> None:
            for name in ("m1", "m2", "m3"):
                await eventually(cluster.leader)
                pid = cluster.kill(name)
                await until(lambda name=name, pid=pid: cluster.is_another(name, pid))
                await cluster.members[name].ready()

        async with asyncio.timeout(120):
            await asyncio.gather(
                *(slots.write(writer, 40) for writer in range(6)),
                slots.touch(200),
                slots.touch(200),
                kill(),
            )
        await until(lambda: all(store.is_healthy for store in stores))
        await until(lambda: len({store.state.revision for store in stores}) == 1)
        slots.check(stores[0].state)
        assert len(stores[0].state.tasks) == 240
        fresh = await cluster.store("m2")
        assert all(
            list(store.state.tasks.items()) == list(fresh.state.tasks.items()) for store in stores
        )

    run(tmp_path, main)
