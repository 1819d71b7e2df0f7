"""What a manager knew last of a store that is not its own: the state, kept in a file of its own.

etcd answers nobody without a majority once it was started again, not even with what it has on its
disk (etcd-io/etcd#13524), and an etcd that somebody else runs may be out of reach. A manager that
begins then shows this, and changes nothing until it has read the store itself.

    SHA-256 of the rest | MessagePack of `_Content`

The file has all that the store has, the key of the swarm's CA among it: only its owner can read it,
and it goes when the node is no manager any more. It is no backup: it may be seconds old, and
nothing restores a store from it.

To keep it costs a bounded part of one processor. It is written whole, in a thread, when the state
has changed and a time has passed that is many times what the last writing took.
"""

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
"""One part in so many of the time goes into writing, at most."""
LONGEST = 20.0
"""Seconds between two writings, at most: a busy disk may take seconds for one."""
InThread = Callable[
    [Callable[[int, Sequence[Object]], None], int, Sequence[Object]], Coroutine[Any, Any, None]
]
_DIGEST = hashlib.sha256().digest_size


class Kept(msgspec.Struct, frozen=True):
    revision: int
    """Of the state. What the store itself calls its revisions is not kept."""
    objects: tuple[Object, ...]
    """Of each kind in order of creation."""


class _Content(msgspec.Struct, frozen=True):
    schema: int
    revision: int
    objects: tuple[tuple[Kind, bytes], ...]


class KeptState:
    """The file."""

    def __init__(self, path: Path, schema: Schema = CURRENT) -> None:
        self._path = path
        self._schema = schema

    def read(self, cluster: ClusterId) -> Kept | None:
        """None if there is none of this swarm that can be used: what is in it is elsewhere as
        well."""
        try:
            data = self._path.read_bytes()
            digest, body = data[:_DIGEST], data[_DIGEST:]
            if digest != hashlib.sha256(body).digest():
                raise ValueError("wrong checksum")
            content: _Content = decode(body, _Content)
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

    def write(self, revision: int, objects: Sequence[Object]) -> None:
        """Raises `OSError`. Not on the event loop: it takes as long as the state is large."""
        rows = tuple((kind_of(each), encode(each)) for each in objects)
        body = encode(_Content(self._schema.version, revision, rows))
        replace_file(self._path, hashlib.sha256(body).digest() + body)

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def erase(self) -> None:
        self._path.unlink(missing_ok=True)


class Keeper:
    """Keeps the state of one store until it is closed. Made inside the running event loop."""

    def __init__(
        self, file: KeptState, store: Store, in_thread: InThread = asyncio.to_thread
    ) -> None:
        self._file = file
        self._store = store
        self._in_thread = in_thread
        self._written = -1
        """Revision."""
        self._took = 0.0
        self._writing = asyncio.Lock()
        self._running = asyncio.create_task(self._run(), name="keeper")

    async def close(self) -> None:
        """What has changed since the last writing is written."""
        self._running.cancel()
        await asyncio.wait([self._running])
        await self._write()

    async def _run(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(min(max(PERIOD, SHARE * self._took), LONGEST))

    async def _write(self) -> None:
        """One at a time; a thread that is writing cannot be stopped, so it is waited for also when
        this is cancelled."""
        async with self._writing:
            state = self._store.state
            revision = state.revision
            if revision == self._written:
                return
            objects = list(
                state.objects()
            )  # frozen values: the thread may read them while the state goes on
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
