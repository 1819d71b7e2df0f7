"""Moves a swarm from the embedded store of its one manager to etcd.

The copy becomes a store with its last transaction, which writes the schema key. An interrupted copy
is no store: the next attempt wipes what it left. The revisions continue above those of the old
store."""

from collections.abc import Iterable, Iterator

import msgspec

from weft.errors import FailedPrecondition
from weft.model.codec import encode
from weft.model.meta import Meta
from weft.model.state import UNIQUE_NAMES, ClusterState, Object, kind_of
from weft.store.etcd.base import Compare, Delete, Kv, Write, after
from weft.store.etcd.rows import PREFIX, Keys, batches
from weft.store.schema import CURRENT, Schema


async def copy(state: ClusterState, kv: Kv, prefix: str = PREFIX, schema: Schema = CURRENT) -> None:
    """Copies all objects, with their times. An empty state makes an empty store. Raises
    `FailedPrecondition` if there is a store already, `Unavailable`, after which the copy must be
    repeated."""
    keys = Keys(prefix)
    unfinished = Compare(keys.schema, 0)
    leftovers = [
        Delete(keys.objects, after(keys.objects)),
        Delete(keys.names, after(keys.names)),
        Delete(keys.guard),
    ]
    await _write(kv, unfinished, [*leftovers, Write(keys.base, b"%d" % state.revision)])
    objects = sorted(state.objects(), key=lambda obj: obj.meta.created_at)
    for batch in batches(_writes(keys, objects)):
        await _write(kv, unfinished, [*batch])
    await _write(kv, unfinished, [Write(keys.last), Write(keys.schema, b"%d" % schema.version)])


def _writes(keys: Keys, objects: Iterable[Object]) -> Iterator[Write]:
    for obj in objects:
        kind = kind_of(obj)
        meta = Meta(0, obj.meta.created_at, obj.meta.updated_at)
        yield Write(keys.object(kind, obj.id), encode(msgspec.structs.replace(obj, meta=meta)))
        if kind in UNIQUE_NAMES:
            yield Write(keys.name(kind, obj.name), obj.id.encode())


async def _write(kv: Kv, unfinished: Compare, operations: list[Write | Delete]) -> None:
    answer = await kv.txn([unfinished], operations)
    if not answer.succeeded:
        raise FailedPrecondition("cannot copy the store into etcd: there is one already")
