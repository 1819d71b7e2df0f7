"""The embedded store's file when something has happened to it: a manager takes nothing else for its
swarm's state, and changes nothing then."""

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from weft.errors import Damaged, OperationFailed
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, ServiceId, TaskId
from weft.model.service import ContainerSpec, TaskSpec
from weft.model.state import Object, Put
from weft.model.task import Task, TaskState, TaskStatus
from weft.store.sqlite import SqliteStore

clock = time.time_ns


def task(id: str) -> Task:
    spec = TaskSpec(container=ContainerSpec(image="demo"))
    status = TaskStatus(TaskState.NEW)
    return Task(id=TaskId(id), service=ServiceId("s"), service_name="web", spec=spec, status=status)


SWARM = ClusterId("swarm")


def swarm(id: str = SWARM) -> Cluster:
    return Cluster(
        id=ClusterId(id), root_ca=RootCa("", ""), join_tokens=JoinTokens(worker="", manager="")
    )


async def make(path: Path, *objects: Object) -> None:
    store = SqliteStore.open(path, clock)
    if objects:
        await store.commit([Put(obj) for obj in objects])
    await store.close()


def killed(path: Path, id: str = SWARM) -> None:
    """As `make`, by a process that was killed: what it wrote is in the log beside the file."""
    program = """if True:
        import asyncio, os, sys
        from weft.model.state import Put
        from weft.store.sqlite import SqliteStore
        sys.path.insert(0, sys.argv[2])
        from test_sqlite_damage import clock, swarm, task
        store = SqliteStore.open(sys.argv[1], clock)
        asyncio.run(store.commit([Put(swarm(sys.argv[3])), Put(task("t1"))]))
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", program, path, Path(__file__).parent, id], check=True)


def damage(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


def other_swarm(path: Path) -> None:
    path.unlink()
    asyncio.run(make(path, swarm("other")))


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_swarm(path: Path) -> None:
    path.unlink()
    asyncio.run(make(path))


def no_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: path.unlink(), "it is missing"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "it is no database"),
    "garbage": (
        lambda path: path.write_bytes(random.Random(1).randbytes(8192)),
        "it is no database",
    ),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "malformed"),
    "one page": (lambda path: path.write_bytes(path.read_bytes()[:4096]), "malformed"),
    "a page of zeros": (no_page, "."),
    "another program's": (
        lambda path: damage(path, "DROP TABLE meta"),
        "it has the state of no swarm",
    ),
    "no schema": (lambda path: damage(path, "DELETE FROM meta"), "it does not say its schema"),
    "newer": (
        lambda path: damage(path, "UPDATE meta SET value = 9 WHERE key = 'schema'"),
        "its schema 9 is newer than",
    ),
    "older": (
        lambda path: damage(path, "UPDATE meta SET value = 0 WHERE key = 'schema'"),
        "too old",
    ),
    "no swarm": (no_swarm, "it has the state of no swarm"),
    "another swarm": (other_swarm, "it has the state of swarm other"),
    "a directory": (a_directory, "Is a directory"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize(
    "leftover", [b"", bytes(4152), b"x" * 4152], ids=["alone", "log of zeros", "log of garbage"]
)
def test_a_file_that_has_not_the_swarms_state_is_left_as_it_is(
    tmp_path: Path, name: str, leftover: bytes
) -> None:
    do, cause = DAMAGES[name]
    path = tmp_path / "db"
    asyncio.run(make(path, swarm(), *(task(f"t{number}") for number in range(50))))
    do(path)
    if leftover:
        (tmp_path / "db-wal").write_bytes(leftover)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    with pytest.raises(OperationFailed, match=cause) as refused:
        SqliteStore.open(path, clock, cluster=SWARM)
    assert isinstance(refused.value, Damaged) or name == "a directory"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before


def test_a_damaged_object_of_the_swarms_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db"
    asyncio.run(make(path, swarm(), task("t1")))
    damage(path, "UPDATE object SET value = x'c1' WHERE id = 't1'")
    before = path.read_bytes()
    with pytest.raises(Damaged, match="task t1 is damaged"):
        SqliteStore.open(path, clock, cluster=SWARM)
    assert path.read_bytes() == before


def test_the_swarms_state_is_found_also_where_it_is_in_the_log(tmp_path: Path) -> None:
    """And with the leftovers of a shared memory file; nobody may have the file open then."""
    path = tmp_path / "db"
    killed(path)
    assert (tmp_path / "db-wal").stat().st_size
    (tmp_path / "db-shm").write_bytes(b"x" * 32768)
    store = SqliteStore.open(path, clock, cluster=SWARM)
    assert [each.id for each in store.state.tasks.values()] == ["t1"]
    with pytest.raises(OperationFailed, match="locked") as refused:
        SqliteStore.open(path, clock, cluster=SWARM)
    assert not isinstance(refused.value, Damaged), "it is whole, and in use"
    asyncio.run(store.close())


def test_a_log_of_another_swarms_file_is_not_written_into_this_one(tmp_path: Path) -> None:
    """Somebody has put the file back from a copy, and not removed what was beside it."""
    path = tmp_path / "db"
    asyncio.run(make(path, swarm(), *(task(f"t{number}") for number in range(50))))
    killed(tmp_path / "other", "other")
    (tmp_path / "other-wal").rename(tmp_path / "db-wal")
    before = path.read_bytes()
    with pytest.raises(Damaged, match="it has the state of swarm other"):
        SqliteStore.open(path, clock, cluster=SWARM)
    assert path.read_bytes() == before
    assert (tmp_path / "db-wal").exists()
