"""Loads a whole store at one revision, in pages, and upgrades a store that an older version of this
program wrote.

Loading asks only the local member, so its knowledge can be read without quorum as well. The watch
brings what the member did not know yet."""

from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from weft.errors import NotFound, OperationFailed, Unavailable
from weft.model.state import Kind, Object
from weft.store.etcd.base import Compacted, Compare, KeyValue, Kv, Range, Write, after
from weft.store.etcd.rows import Keys, batches, from_value, settled
from weft.store.schema import Schema

PAGE = 2000
"""Objects in one answer."""
LARGE_PAGE = 20
"""Secrets or configs in one answer: each has up to a megabyte."""
_LARGE: tuple[Kind, ...] = ("config", "secret")


class Loaded(msgspec.Struct, frozen=True):
    revision: int
    """The etcd revision. Watch from the next one on."""
    base: int
    last: int
    guard: int
    schema: int
    """The etcd revisions at which these keys were written last; 0: never."""
    objects: tuple[Object, ...]
    """In order of creation."""


async def load(kv: Kv, keys: Keys, schema: Schema) -> Loaded:
    """Raises `NotFound` if there is no store, `OperationFailed` for a store of a newer version or
    with a damaged object, `Unavailable`."""
    while True:
        found = await kv.range(keys.schema, serializable=True)
        if not found.pairs:  # a new member may not have it yet
            found = await kv.range(keys.schema)
        if not found.pairs:
            raise NotFound(f"no store at {keys.prefix}")
        if found.pairs[0].value != b"%d" % schema.version:
            await _upgrade(kv, keys, schema, found.pairs[0])
            continue
        try:
            return await _read(kv, keys, found.revision)
        except Compacted:  # between two pages
            continue


async def _read(kv: Kv, keys: Keys, revision: int) -> Loaded:
    async def one(key: str) -> KeyValue | None:
        return next(iter((await kv.range(key, revision=revision, serializable=True)).pairs), None)

    base, last, guard, schema = [
        await one(key) for key in (keys.base, keys.last, keys.guard, keys.schema)
    ]
    offset = int(base.value) if base else 0
    ordered = []
    async for pair in _pairs(kv, keys, revision):
        obj = from_value(*keys.parse(pair.key), pair.value, offset + pair.mod_revision)
        ordered.append((pair.create_revision, obj.meta.created_at, pair.key, obj))
    ordered.sort(key=lambda each: each[:3])
    written = {
        key: pair.mod_revision if pair else 0
        for key, pair in (("last", last), ("guard", guard), ("schema", schema))
    }
    return Loaded(revision, offset, **written, objects=tuple(each[3] for each in ordered))


async def _pairs(kv: Kv, keys: Keys, revision: int) -> AsyncIterator[KeyValue]:
    """Yields all objects, in order of keys. `revision` 0: the newest for each page."""
    for start, end, page in _ranges(keys):
        more = True
        while more:
            found: Range = await kv.range(
                start, end, limit=page, revision=revision, serializable=revision > 0
            )
            for pair in found.pairs:
                yield pair
                start = pair.key + "\0"
            more = found.more


def _ranges(keys: Keys) -> Iterator[tuple[str, str, int]]:
    """All objects as ranges without a gap: where each begins and ends, and its page."""
    start = keys.objects
    for kind in sorted(_LARGE):
        large = keys.object(kind, "")
        yield start, large, PAGE
        yield large, after(large), LARGE_PAGE
        start = after(large)
    yield start, after(keys.objects), PAGE


async def _upgrade(kv: Kv, keys: Keys, schema: Schema, found: KeyValue) -> None:
    """Upgrades the store in three steps. First a mark in the schema key announces the upgrade;
    every commit compares that key, so the mark stops commits of the older version. Then the objects
    are written, and then the key again. A manager that finds an unfinished upgrade begins it
    anew."""
    version = _parse(found.value, schema)
    mark = b"%d>%d" % (version, schema.version)
    marked = Compare(
        keys.schema,
        await _write(kv, Compare(keys.schema, found.mod_revision), [Write(keys.schema, mark)]),
    )
    base = next((int(pair.value) for pair in (await kv.range(keys.base)).pairs), 0)
    writes = list[Write]()
    async for pair in _pairs(kv, keys, 0):
        kind, id = keys.parse(pair.key)
        try:
            writes.append(Write(pair.key, schema.upgrade(kind, settled(kind, pair, base), version)))
        except msgspec.MsgspecError as error:
            raise OperationFailed(f"{kind} {id} is damaged: {error}") from error
    for batch in batches(writes):
        await _write(kv, marked, batch)
    await _write(kv, marked, [Write(keys.schema, b"%d" % schema.version), Write(keys.last)])


async def _write(kv: Kv, compare: Compare, writes: Sequence[Write]) -> int:
    answer = await kv.txn([compare], writes)
    if not answer.succeeded:
        raise Unavailable("cannot upgrade the store: another manager does")
    return answer.revision


def _parse(value: bytes, schema: Schema) -> int:
    """The version of the objects, or of some of them."""
    try:
        versions = [int(part) for part in value.split(b">")]
    except ValueError:
        raise OperationFailed(f"its schema {value!r} is damaged") from None
    schema.check(max(versions))
    schema.check(versions[0])
    return versions[0]
