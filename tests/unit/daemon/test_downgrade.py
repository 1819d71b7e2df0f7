"""A manager's files that a newer version of Weft has written: found before anything else is done, and left as they are."""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from weft.daemon.downgrade import newer_files
from weft.store.kept import KeptState
from weft.store.schema import CURRENT, Schema
from weft.store.sqlite import SqliteStore


def embedded(swarm: Path, schema: int) -> Path:
    path = swarm / "store.db"
    asyncio.run(SqliteStore.open(path, time.time_ns).close())
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (schema,))
        database.commit()
    return path


def kept(swarm: Path, schema: int) -> Path:
    path = swarm / "last-state"
    KeptState(path, Schema(schema, {})).write(1, ())
    return path


def digests(swarm: Path) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in swarm.iterdir()}


@pytest.mark.parametrize("make", [embedded, kept])
def test_only_a_newer_file_stands_in_the_way(
    make: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    assert newer_files(tmp_path) == []
    for schema in (CURRENT.version - 1, CURRENT.version):
        make(tmp_path, schema)
        assert newer_files(tmp_path) == []
    path = make(tmp_path, CURRENT.version + 1)
    before = digests(tmp_path)
    (sentence,) = newer_files(tmp_path)
    assert f"newer version of Weft has written {path}" in sentence
    assert f"its schema is {CURRENT.version + 1}" in sentence
    assert digests(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"\0" * 5000, b"x" * 5000])
def test_a_file_that_says_nothing_is_left_to_who_opens_it(content: bytes, tmp_path: Path) -> None:
    for name in ("store.db", "last-state"):
        (tmp_path / name).write_bytes(content)
    assert newer_files(tmp_path) == []
    assert {each.name for each in tmp_path.iterdir()} == {"store.db", "last-state"}
