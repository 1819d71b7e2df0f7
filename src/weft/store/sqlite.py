"""The store of a swarm with one manager: a SQLite file, and all of its content in memory.

The file is the truth at start, and is only written afterwards; all readers use the state in memory.
One table holds all objects, because the file is only ever asked for "everything, in order of
creation":

    object (seq, kind, id, version, value)   value: MessagePack of `model/codec.py`; seq: the order
                                             of creation
    meta   (key, value)                      schema: version of this layout; revision: of the last
                                             commit

A commit is one SQLite transaction in WAL mode with `synchronous=FULL`: after its return it survives
a loss of power. The commit runs on the event loop itself. It takes about 0.15 ms, less than a
switch to a thread and back costs the other tasks. And check, write and apply stay in one piece: a
commit that waits for a thread would need a lock around all three.

The file is locked for this process alone (`locking_mode=EXCLUSIVE`), so two daemons on one data
root cannot both write. The file holds the swarm's root key: only its owner can read it."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from weft.errors import Damaged, OperationFailed, cause_of
from weft.model.codec import decode, encode
from weft.model.ids import ClusterId
from weft.model.state import TYPES, ClusterState, Object, Remove, kind_of
from weft.store.engine import Clock, Engine
from weft.store.schema import CURRENT, Schema

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE object (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL,
    UNIQUE (kind, id)
) STRICT;
"""
_PUT = """
INSERT INTO object (kind, id, version, value) VALUES (?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, value = excluded.value
"""
_MAGIC = b"SQLite format 3\0"
_REMOVE = "DELETE FROM object WHERE kind = ? AND id = ?"


class SqliteStore(Engine):
    def __init__(self, clock: Clock, state: ClusterState, database: sqlite3.Connection) -> None:
        super().__init__(clock, state)
        self._database = database

    @classmethod
    def open(
        cls,
        path: str | Path,
        clock: Clock,
        schema: Schema = CURRENT,
        cluster: ClusterId | None = None,
    ) -> "SqliteStore":
        """Opens the file, creates a missing one, and upgrades an older one. Raises
        `OperationFailed` if the file cannot be read, is damaged, is open in another process, or was
        written by a newer version of this program.

        `cluster`: the swarm whose state must be in the file. If it is not, nothing is created,
        upgraded or otherwise touched, and `Damaged` is raised, without advice: the caller knows
        what may be done."""
        if cluster is not None:
            _examine(Path(path), schema, cluster)
        try:
            database = _connect(path, schema)
        except (OSError, sqlite3.Error) as error:
            raise OperationFailed(f"cannot open store {path}: {error}") from error
        try:
            return cls(clock, _load(database, schema), database)
        except (sqlite3.Error, msgspec.MsgspecError, OperationFailed) as error:
            database.close()
            if cluster is not None:
                raise Damaged(str(error)) from error
            raise OperationFailed(f"cannot open store {path}: {error}") from error

    async def close(self) -> None:
        await super().close()
        self._database.close()

    def _write(self, revision: int, put: Sequence[Object], removed: Sequence[Remove]) -> None:
        rows = [(kind_of(obj), obj.id, obj.meta.version, encode(obj)) for obj in put]
        try:
            with _transaction(self._database):
                self._database.executemany(_PUT, rows)
                self._database.executemany(
                    _REMOVE, [(change.kind, change.id) for change in removed]
                )
                self._database.execute(
                    "UPDATE meta SET value = ? WHERE key = 'revision'", (revision,)
                )
        except sqlite3.Error as error:
            raise OperationFailed(f"cannot commit: {error}") from error


def written_schema(path: Path) -> int | None:
    """The schema of the file, which is neither touched nor locked. None if that cannot be told: there
    is no such file, or it is damaged. What is only in the log beside it, as after a loss of power,
    is not seen."""
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, timeout=0, uri=True)) as database:
            row = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row is not None and isinstance(row[0], int) else None


def _examine(path: Path, schema: Schema, cluster: ClusterId) -> None:
    """Checks the file over a read-only connection. A connection that can write may, when closed,
    copy a WAL file beside the database into it, even a foreign one. SQLite takes a file that is
    empty, or begins with zeros, for a new database."""
    beside = [path.with_name(f"{path.name}{suffix}") for suffix in ("-shm", "-wal")]
    made = [each for each in beside if not each.exists()]  # SQLite will make these, empty
    try:
        with open(path, "rb") as file:
            if (begin := file.read(len(_MAGIC))) != _MAGIC:
                raise Damaged("it is empty" if not begin else "it is no database")
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=0, uri=True)
        ) as database:
            _check(database, schema, cluster)
    except FileNotFoundError:
        raise Damaged("it is missing") from None
    except OSError as error:
        raise OperationFailed(f"cannot open store {path}: {cause_of(error)}") from error
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise Damaged(str(error)) from error
        raise OperationFailed(f"cannot open store {path}: {error}") from error
    finally:
        for each in made:
            each.unlink(missing_ok=True)


def _check(database: sqlite3.Connection, schema: Schema, cluster: ClusterId) -> None:
    """Raises `Damaged`, `sqlite3.DatabaseError`."""
    if (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise Damaged(found.removeprefix("*** in database main ***\n"))
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if not names >= {"meta", "object"}:
        raise Damaged("it has the state of no swarm")
    versions = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if versions is None:
        raise Damaged("it does not say its schema")
    try:
        schema.check(versions[0])
    except OperationFailed as error:
        raise Damaged(str(error)) from error
    ids = [id for (id,) in database.execute("SELECT id FROM object WHERE kind = 'cluster'")]
    if ids != [cluster]:
        raise Damaged(f"it has the state of {f'swarm {ids[0]}' if ids else 'no swarm'}")


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Also rolls back after a COMMIT that fails (a full disk shows only then), because that leaves
    the transaction open."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _connect(path: str | Path, schema: Schema) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with _transaction(database):
            _prepare(database, schema)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, schema: Schema) -> None:
    """Creates the tables if the file is new."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return
    for statement in _TABLES.split(";"):
        database.execute(statement)
    database.execute("INSERT INTO meta VALUES ('schema', ?), ('revision', 0)", (schema.version,))


def _load(database: sqlite3.Connection, schema: Schema) -> ClusterState:
    meta = dict(database.execute("SELECT key, value FROM meta"))
    schema.check(meta["schema"])
    if meta["schema"] < schema.version:
        with _transaction(database):
            _upgrade(database, schema, meta["schema"])
    return ClusterState(_objects(database), meta["revision"])


def _upgrade(database: sqlite3.Connection, schema: Schema, found: int) -> None:
    rows = database.execute("SELECT kind, seq, value FROM object").fetchall()
    upgraded = [(schema.upgrade(kind, value, found), seq) for kind, seq, value in rows]
    database.executemany("UPDATE object SET value = ? WHERE seq = ?", upgraded)
    database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (schema.version,))


def _objects(database: sqlite3.Connection) -> Iterator[Object]:
    for kind, id, value in database.execute("SELECT kind, id, value FROM object ORDER BY seq"):
        try:
            yield decode(value, TYPES[kind])
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            raise OperationFailed(f"{kind} {id} is damaged: {error}") from error
