"""Both engines: commits are all or nothing, in order, and seen by those who subscribed; SQLite also
remembers."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.errors import Conflict, OperationFailed, OutOfSequence, Unavailable
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import Meta
from weft.model.network import Network, NetworkSpec
from weft.model.service import ContainerSpec, Service, ServiceSpec, TaskSpec
from weft.model.state import KINDS, Change, Check, ClusterState, Object, Put, Remove
from weft.model.task import Task, TaskState, TaskStatus
from weft.store.engine import Engine
from weft.store.memory import MemoryStore
from weft.store.schema import CURRENT, Schema
from weft.store.sqlite import SqliteStore

SPEC = TaskSpec(container=ContainerSpec(image="demo"))


class Ticks:
    """A clock that moves by one at each look."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def network(name: str) -> Network:
    return Network(id=NetworkId(f"id-{name}"), spec=NetworkSpec(name=name))


def service(name: str) -> Service:
    return Service(id=ServiceId(f"id-{name}"), spec=ServiceSpec(name=name, task=SPEC))


def task(id: str, service_id: str = "s", state: TaskState = TaskState.NEW) -> Task:
    return Task(
        id=TaskId(id),
        service=ServiceId(service_id),
        service_name="web",
        spec=SPEC,
        status=TaskStatus(state),
    )


def contents(state: ClusterState) -> tuple[int, list[Object]]:
    return state.revision, list(state.objects())


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine: Engine = (
        MemoryStore(Ticks())
        if request.param == "memory"
        else SqliteStore.open(tmp_path / "db", Ticks())
    )
    yield engine
    asyncio.run(engine.close())


def test_an_object_gets_version_and_times(store: Engine) -> None:
    async def main() -> None:
        assert await store.commit([Put(network("a"))]) == 1
        first = store.state.networks[NetworkId("id-a")]
        assert first.meta == Meta(1, 1, 1)
        await store.commit([Put(msgspec.structs.replace(first, cursor=7))])
        assert store.state.networks[NetworkId("id-a")].meta == Meta(2, 1, 2)

    asyncio.run(main())


def test_a_stale_version_is_refused_and_nothing_of_the_commit_happens(store: Engine) -> None:
    async def main() -> None:
        await store.commit([Put(network("a"))])
        before = contents(store.state)
        with pytest.raises(OutOfSequence):
            await store.commit([Put(network("b")), Put(network("a"))])
        with pytest.raises(OutOfSequence):
            await store.commit([Put(network("b")), Check("network", "id-a", 9)])
        with pytest.raises(Conflict):
            await store.commit(
                [
                    Put(network("b")),
                    Put(msgspec.structs.replace(network("a"), id=NetworkId("other"))),
                ]
            )
        assert contents(store.state) == before

    asyncio.run(main())


def test_a_commit_that_only_checks_changes_nothing(store: Engine) -> None:
    async def main() -> None:
        await store.commit([Put(network("a"))])
        assert await store.commit([Check("network", "id-a", 1)]) == 1
        assert await store.commit([]) == 1

    asyncio.run(main())


def test_a_subscriber_gets_all_events_of_its_kinds_in_order(store: Engine) -> None:
    async def main() -> None:
        tasks, all_kinds = store.subscribe(["task"]), store.subscribe(KINDS)
        await store.commit([Put(network("a")), Put(task("t1"))])
        await store.commit([Put(task("t2")), Remove("network", "id-a", 1)])
        assert [event.object.id for event in await tasks.next()] == ["t1", "t2"]
        events = await all_kinds.next()
        assert [(e.object.id, e.before is None, e.after is None) for e in events] == [
            ("id-a", True, False), ("t1", True, False), ("t2", True, False), ("id-a", False, True),
        ]  # fmt: skip
        assert all_kinds.take() == []
        assert tasks.take() == []

    asyncio.run(main())


def test_a_reader_waits_and_loses_nothing_when_it_is_cancelled(store: Engine) -> None:
    async def main() -> None:
        subscription = store.subscribe(["task"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await subscription.next()
        reader = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        await store.commit([Put(task("t1"))])
        reader.cancel()
        await asyncio.wait([reader])
        await store.commit([Put(task("t2"))])
        assert [event.object.id for event in await subscription.next()] == ["t1", "t2"]

    asyncio.run(main())


def test_a_closed_subscription_says_so_to_its_reader(store: Engine) -> None:
    async def main() -> None:
        subscription = store.subscribe(KINDS)
        reader = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        subscription.close()
        with pytest.raises(Unavailable):
            await reader
        await store.commit([Put(task("t1"))])
        assert subscription.take() == []

    asyncio.run(main())


# --- SQLite: what is committed stays

names = st.sampled_from("abcde")
steps = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["network", "service", "task", "remove"]), names, st.integers(0, 3)
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=12,
)


def change_for(state: ClusterState, verb: str, name: str, number: int) -> Change | None:
    """An update of the named object, or its creation; `remove` takes whichever kind the number
    says."""
    kind = verb if verb != "remove" else ("network", "service", "task", "task")[number]
    id = name if kind == "task" else f"id-{name}"
    current = state.tables[kind].get(id)  # type: ignore[index]
    if verb == "remove":
        return Remove(kind, id, current.meta.version) if current else None  # type: ignore[arg-type]
    makers: dict[str, Callable[[str], Network | Service | Task]] = {
        "network": network,
        "service": service,
        "task": task,
    }
    fresh = makers[kind](name)
    obj = current if current is not None else fresh
    if isinstance(obj, Network):
        return Put(msgspec.structs.replace(obj, cursor=number))
    if isinstance(obj, Task):
        return Put(msgspec.structs.replace(obj, slot=number, node=NodeId("n") if number else None))
    return Put(msgspec.structs.replace(obj, spec_version=0, error=str(number)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_reopening_gives_the_same_state_in_the_same_order(
    steps: list[list[tuple[str, str, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "db"

    async def main() -> None:
        sqlite, memory = SqliteStore.open(path, Ticks()), MemoryStore(Ticks())
        for step in steps:
            wanted = [change_for(sqlite.state, *each) for each in step]
            unique = {
                (c.object.id if isinstance(c, Put) else c.id): c for c in wanted if c is not None
            }
            await sqlite.commit(list(unique.values()))
            await memory.commit(list(unique.values()))
        before = contents(sqlite.state)
        assert before == contents(memory.state)
        await sqlite.close()
        again = SqliteStore.open(path, Ticks())
        assert contents(again.state) == before
        await again.close()

    asyncio.run(main())


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    asyncio.run(SqliteStore.open(path, Ticks()).close())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    database.close()
    with pytest.raises(
        OperationFailed,
        match=rf"cannot open store .*: its schema 99 is newer than {CURRENT.version}",
    ):
        SqliteStore.open(path, Ticks())


def rename(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A step from a version that had another name for a network's `cursor`."""
    return {
        "cursor" if (kind, key) == ("network", "pointer") else key: value
        for key, value in fields.items()
    }


def test_an_older_store_is_upgraded_once_and_for_good(tmp_path: Path) -> None:
    path, now = tmp_path / "db", CURRENT.version
    one_more = lambda kind, fields: {**fields, "cursor": fields.get("cursor", 0) + 1}  # noqa: E731
    newer = Schema(now + 2, {now: rename, now + 1: one_more})

    async def main() -> None:
        store = SqliteStore.open(path, Ticks())
        await store.commit(
            [Put(msgspec.structs.replace(network("a"), cursor=7)), Put(network("b"))]
        )
        await store.close()
        with sqlite3.connect(path) as database:
            value = msgspec.msgpack.decode(
                database.execute("SELECT value FROM object WHERE id = 'id-a'").fetchone()[0]
            )
            value["pointer"] = value.pop("cursor")
            database.execute(
                "UPDATE object SET value = ? WHERE id = 'id-a'", (msgspec.msgpack.encode(value),)
            )
        database.close()
        for _ in range(2):
            upgraded = SqliteStore.open(path, Ticks(), newer)
            assert [(each.id, each.cursor, each.meta) for each in upgraded.state.networks.values()] == [
                ("id-a", 8, Meta(1, 1, 1)), ("id-b", 1, Meta(1, 1, 1)),
            ]  # fmt: skip
            assert upgraded.state.revision == 1
            await upgraded.close()

    asyncio.run(main())
    with pytest.raises(OperationFailed, match=f"its schema {now + 2} is newer than {now}"):
        SqliteStore.open(path, Ticks())
    with pytest.raises(
        OperationFailed,
        match=f"its schema {now + 2} is too old: nothing here upgrades schema {now + 3}",
    ):
        SqliteStore.open(path, Ticks(), Schema(now + 4, {now + 2: rename}))


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    def fails(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        if fields["id"] == "t1":
            raise msgspec.DecodeError("no such thing")
        return {**fields, "slot": 9}

    async def main() -> None:
        store = SqliteStore.open(tmp_path / "db", Ticks())
        await store.commit([Put(task("t0")), Put(task("t1"))])
        before = contents(store.state)
        await store.close()
        with pytest.raises(OperationFailed, match="cannot open store .*: no such thing"):
            SqliteStore.open(
                tmp_path / "db", Ticks(), Schema(CURRENT.version + 1, {CURRENT.version: fails})
            )
        again = SqliteStore.open(tmp_path / "db", Ticks())
        assert contents(again.state) == before
        await again.close()

    asyncio.run(main())


def test_a_damaged_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db"

    async def main() -> None:
        store = SqliteStore.open(path, Ticks())
        await store.commit([Put(task("t1"))])
        await store.close()

    asyncio.run(main())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE object SET value = x'c1'")
    database.close()
    with pytest.raises(OperationFailed, match="task t1 is damaged"):
        SqliteStore.open(path, Ticks())


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"x" * 8192)
    with pytest.raises(OperationFailed, match="cannot open store"):
        SqliteStore.open(tmp_path / "db", Ticks())
    with pytest.raises(OperationFailed, match="cannot open store"):
        SqliteStore.open(tmp_path / "missing" / "db", Ticks())


def test_the_file_belongs_to_one_process_and_its_owner(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", Ticks())
    with pytest.raises(OperationFailed, match="locked"):
        SqliteStore.open(tmp_path / "db", Ticks())
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}["db"] == 0o600
    asyncio.run(store.close())


def test_a_full_disk_changes_nothing_and_passes(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore.open(tmp_path / "db", Ticks())
        await store.commit([Put(task("t1"))])
        before = contents(store.state)
        events = store.subscribe(KINDS)
        database: sqlite3.Connection = store._database
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        large = msgspec.structs.replace(
            network("big"), spec=NetworkSpec(name="big", labels={"x": "y" * 100_000})
        )
        with pytest.raises(OperationFailed, match="cannot commit: database or disk is full"):
            await store.commit([Put(task("t2")), Put(large)])
        assert contents(store.state) == before
        assert events.take() == []
        database.execute("PRAGMA max_page_count = 1000000")
        await store.commit([Put(task("t2")), Put(large)])
        after = contents(store.state)
        await store.close()
        again = SqliteStore.open(tmp_path / "db", Ticks())
        assert contents(again.state) == after
        await again.close()

    asyncio.run(main())


def test_an_error_in_the_middle_of_a_transaction_takes_all_of_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore.open(tmp_path / "db", Ticks())
        await store.commit([Put(task("t1"))])
        before = contents(store.state)
        store._database.set_authorizer(
            lambda action, table, *_: (
                sqlite3.SQLITE_DENY
                if (action, table) == (sqlite3.SQLITE_UPDATE, "meta")
                else sqlite3.SQLITE_OK
            )
        )
        with pytest.raises(OperationFailed, match="cannot commit: not authorized"):
            await store.commit([Put(task("t2")), Remove("task", "t1", 1)])
        assert contents(store.state) == before
        await store.close()
        again = SqliteStore.open(tmp_path / "db", Ticks())
        assert contents(again.state) == before
        await again.close()

    asyncio.run(main())


WRITER = """
import asyncio, sys
from itertools import count
sys.path.insert(0, sys.argv[2])
from test_store_engines import Ticks, task, network
from weft.model.state import Put
from weft.store.sqlite import SqliteStore

async def main():
    store = SqliteStore.open(sys.argv[1], Ticks())
    for number in count(1):
        await store.commit([Put(task(f"t{number}")), Put(network(f"n{number}"))])
        print(number, flush=True)

asyncio.run(main())
"""


def test_a_killed_process_loses_no_acknowledged_commit_and_halves_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "db"), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = 0
        while acknowledged < 50:
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max(
            [acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))]
        )
    store = SqliteStore.open(tmp_path / "db", Ticks())
    written = len(store.state.tasks)
    assert written in (acknowledged, acknowledged + 1)
    assert list(store.state.tasks) == [f"t{number}" for number in range(1, written + 1)]
    assert len(store.state.networks) == written == store.state.revision
    asyncio.run(store.close())
