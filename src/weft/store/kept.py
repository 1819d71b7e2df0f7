"""The last known state of a store outside the daemon, kept in a file beside it.

After a restart without quorum, etcd answers nothing, not even from its own disk
(etcd-io/etcd#13524), and an external etcd may be out of reach. A manager that starts then shows the
kept state, and changes nothing until it has read the store.

    SHA-256 of the rest | MessagePack of `_Content`

The file has all that the store has, the key of the swarm's CA included: only its owner can read the
file, and it is removed when the node stops being a manager. The file is no backup: it may be
seconds old, and nothing restores a store from it.

Keeping the state costs a bounded share of one processor: a thread writes the whole file when the
state has changed, after a pause many times as long as the last writing took."""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from weft.errors import cause_of
from weft.model.cluster import Cluster
from weft.model.codec import decode, encode
from weft.model.ids import ClusterId
from weft.model.state import TYPES, Kind, Object, kind_of
from weft.store.base import Store
from weft.store.schema import CURRENT, Schema
from weft.system.files import replace_file

log = logging.getLogger(__name__)

PERIOD = 10.0
"""Seconds between two writings, at least."""
SHARE = 50
"""The inverse of the largest share of time that goes into writing."""
LONGEST = 20.0
"""Seconds between two writings, at most: on a busy disk one writing may take seconds."""
InThread = Callable[
    [Callable[[int, Sequence[Object]], None], int, Sequence[Object]], Coroutine[Any, Any, None]
]
_DIGEST = hashlib.sha256().digest_size


class Kept(msgspec.Struct, frozen=True):
    revision: int
    """The revision of the state, not etcd's own revision."""
    objects: tuple[Object, ...]
    """The objects of each kind in order of creation."""


class _Content(msgspec.Struct, frozen=True):
    schema: int
    revision: int
    objects: tuple[tuple[Kind, bytes], ...]


class KeptState:
    """The file with the kept state."""

    def __init__(self, path: Path, schema: Schema = CURRENT) -> None:
        self._path = path
        self._schema = schema

    def read(self, cluster: ClusterId) -> Kept | None:
        """None if the file does not exist, is damaged, or is of another swarm or schema: the store
        has all that is in it as well."""
        try:
            content = self._content()
            if content.schema != self._schema.version:
                raise ValueError(f"it is of schema {content.schema}, not {self._schema.version}")
            found = tuple(decode(value, TYPES[kind]) for kind, value in content.objects)
            if not any(isinstance(each, Cluster) and each.id == cluster for each in found):
                raise ValueError(f"it is not of swarm {cluster}")
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("kept.unreadable path=%s cause=%s", self._path, cause_of(error))
            return None
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("kept.unreadable path=%s cause=%s", self._path, error)
            return None
        return Kept(content.revision, found)

    @property
    def written_schema(self) -> int | None:
        """None if there is no file that can be read."""
        try:
            return self._content().schema
        except (OSError, msgspec.DecodeError, ValueError):
            return None

    def _content(self) -> _Content:
        """Raises `OSError`, `msgspec.DecodeError`, `ValueError`."""
        data = self._path.read_bytes()
        digest, body = data[:_DIGEST], data[_DIGEST:]
        if digest != hashlib.sha256(body).digest():
            raise ValueError("wrong checksum")
        content: _Content = decode(body, _Content)
        return content

    def write(self, revision: int, objects: Sequence[Object]) -> None:
        """Raises `OSError`. Never call this on the event loop: the time grows with the state."""
        rows = tuple((kind_of(each), encode(each)) for each in objects)
        body = encode(_Content(self._schema.version, revision, rows))
        replace_file(self._path, hashlib.sha256(body).digest() + body)

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def erase(self) -> None:
        self._path.unlink(missing_ok=True)


class Keeper:
    """Keeps the state of one store until closed. Create it inside the running event loop."""

    def __init__(
        self, file: KeptState, store: Store, in_thread: InThread = asyncio.to_thread
    ) -> None:
        self._file = file
        self._store = store
        self._in_thread = in_thread
        self._written = -1
        """The revision in the file."""
        self._took = 0.0
        self._writing = asyncio.Lock()
        self._running = asyncio.create_task(self._run(), name="keeper")

    async def close(self) -> None:
        """Writes what has changed since the last writing."""
        self._running.cancel()
        await asyncio.wait([self._running])
        await self._write()

    async def _run(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(min(max(PERIOD, SHARE * self._took), LONGEST))

    async def _write(self) -> None:
        """Writes the state, one writing at a time. A thread that is writing cannot be stopped, so
        this waits for the thread also when cancelled."""
        async with self._writing:
            state = self._store.state
            revision = state.revision
            if revision == self._written:
                return
            # Frozen values: the thread may read them while the state goes on.
            objects = list(state.objects())
            clock = asyncio.get_running_loop().time
            begun = clock()
            work = asyncio.create_task(self._in_thread(self._file.write, revision, objects))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise
            except OSError as error:
                log.warning("kept.not_written cause=%s", cause_of(error))
            else:
                self._written = revision
            finally:
                self._took = clock() - begun
