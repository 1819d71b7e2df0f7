"""What older versions stored, and what happens where an older one meets a newer store."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store.stored_fields import stored_fields
from weft.errors import OperationFailed
from weft.model.ids import ConfigId
from weft.model.meta import Meta
from weft.model.secret import Config, DataSpec
from weft.model.state import Put
from weft.store.schema import CURRENT, Schema
from weft.store.sqlite import SqliteStore

RELEASED: dict[str, Any] = json.loads(
    Path(__file__).with_name("stored_fields.json").read_text("utf-8")
)


def test_whoever_stores_more_raises_the_number() -> None:
    newest = max(map(int, RELEASED))
    if stored_fields() != RELEASED[str(newest)]:
        assert CURRENT.version > newest, "raise the number in store/schema.py"
    assert set(CURRENT.steps) == set(range(1, CURRENT.version))


def test_a_daemon_without_configs_refuses_a_store_that_may_have_some(tmp_path: Path) -> None:
    """It must not run the tasks without them, nor lose them."""
    path = tmp_path / "db"
    spec = DataSpec(name="key")

    async def main() -> None:
        store = SqliteStore.open(path, lambda: 1)
        await store.commit([Put(Config(id=ConfigId("c"), spec=spec, data=b"data", meta=Meta()))])
        await store.close()

    asyncio.run(main())
    content = path.read_bytes()
    with pytest.raises(OperationFailed, match=f"its schema {CURRENT.version} is newer than 1"):
        SqliteStore.open(path, lambda: 1, Schema(1, {}))
    assert path.read_bytes() == content


def test_what_the_first_version_stored_is_read(tmp_path: Path) -> None:
    path = tmp_path / "db"

    async def main() -> None:
        await SqliteStore.open(path, lambda: 1).close()
        database = sqlite3.connect(path)
        database.execute("UPDATE meta SET value = 1 WHERE key = 'schema'")
        database.commit()
        database.close()
        await SqliteStore.open(path, lambda: 1).close()
        database = sqlite3.connect(path)
        [found] = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        database.close()
        assert found == CURRENT.version

    asyncio.run(main())
