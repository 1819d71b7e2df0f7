"""The keys of the objects in etcd, and the compares and writes of a commit, made from the state
without an await.

    object/<kind>/<id>   MessagePack of `model/codec.py`. The object's version is `base` + the
                         revision that wrote the key, so the version in the value is 0. If the
                         `spec_version` of a service is 0 there, it is this revision as well
    name/<kind>/<name>   the id of the network or service of that name: two objects cannot both
                         create it
    last                 written by every commit: how new a state must be to be the newest
    guard                compared and written by every commit that is not independent
    base                 the last revision of the store that this one was copied from
    schema               the version of the values; `<old>><new>` during an upgrade. Without this
                         key there is no store

All keys are under one prefix. `leader` and `managers/` beside them are those of `leadership.py`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from weft.errors import OperationFailed
from weft.model.codec import decode, encode
from weft.model.meta import Meta, Nanoseconds
from weft.model.service import Service
from weft.model.state import (
    KINDS,
    TYPES,
    UNIQUE_NAMES,
    Change,
    Check,
    ClusterState,
    Kind,
    Object,
    Put,
    Remove,
    compared,
)  # fmt: skip
from weft.store.etcd.base import Compare, Delete, KeyValue, Operation, Write

PREFIX = "/weft/"


class Keys(msgspec.Struct, frozen=True):
    prefix: str = PREFIX

    @property
    def objects(self) -> str:
        return f"{self.prefix}object/"

    @property
    def names(self) -> str:
        return f"{self.prefix}name/"

    @property
    def last(self) -> str:
        return f"{self.prefix}last"

    @property
    def guard(self) -> str:
        return f"{self.prefix}guard"

    @property
    def base(self) -> str:
        return f"{self.prefix}base"

    @property
    def schema(self) -> str:
        return f"{self.prefix}schema"

    @property
    def leader(self) -> str:
        return f"{self.prefix}leader"

    @property
    def managers(self) -> str:
        return f"{self.prefix}managers/"

    def object(self, kind: Kind, id: str) -> str:
        return f"{self.objects}{kind}/{id}"

    def name(self, kind: Kind, name: str) -> str:
        return f"{self.names}{kind}/{name}"

    def parse(self, key: str) -> tuple[Kind, str]:
        """(kind, id) of an object's key. Raises `OperationFailed`."""
        name, _, id = key.removeprefix(self.objects).partition("/")
        kind = next((each for each in KINDS if each == name), None)
        if kind is None:
            raise OperationFailed(f"{key} is damaged: no kind of that name")
        return kind, id


def to_value(obj: Object, now: Nanoseconds) -> bytes:
    """The value of an object. A `spec_version` of 0 stays 0."""
    return encode(msgspec.structs.replace(obj, meta=Meta(0, obj.meta.created_at or now, now)))


def from_value(kind: Kind, id: str, value: bytes, revision: int) -> Object:
    """The object in a value. `revision` counts from the beginning of the swarm. Raises
    `OperationFailed`."""
    try:
        obj: Object = decode(value, TYPES[kind])
    except (msgspec.MsgspecError, ValueError) as error:
        raise OperationFailed(f"{kind} {id} is damaged: {error}") from error
    meta = Meta(revision, obj.meta.created_at, obj.meta.updated_at)
    if isinstance(obj, Service) and obj.spec_version == 0:
        return msgspec.structs.replace(obj, meta=meta, spec_version=revision)
    return msgspec.structs.replace(obj, meta=meta)


def settled(kind: Kind, pair: KeyValue, base: int) -> bytes:
    """The value to write again without a change: a service keeps its `spec_version`."""
    if kind != "service":
        return pair.value
    fields = msgspec.msgpack.decode(pair.value)
    return msgspec.msgpack.encode(
        {**fields, "spec_version": fields.get("spec_version", 0) or base + pair.mod_revision}
    )


MOST_WRITES = 120
"""Writes in one transaction of many: fewer than the 128 operations that an etcd with default
settings allows."""
MOST_BYTES = 8 << 20
"""Bytes of their values, of which the last may exceed it: configs have up to a megabyte each."""


def batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    """The writes in their order, in lists of which each fits into one transaction."""
    batch, size = list[Write](), 0
    for write in writes:
        batch.append(write)
        size += len(write.value)
        if len(batch) >= MOST_WRITES or size >= MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Transaction(msgspec.Struct, frozen=True):
    compares: tuple[Compare, ...]
    writes: tuple[Operation, ...]


def transaction(
    keys: Keys, state: ClusterState, changes: Sequence[Change], base: int, now: Nanoseconds
) -> Transaction:
    """The transaction for changes that `state.check` has accepted. The writes are in order of keys,
    so watchers and loaders see the objects of one commit in the same order."""
    compares = [_compare(keys, change, base) for change in changes]
    writes: dict[str, Operation] = {}
    for change in changes:
        if isinstance(change, Check):
            continue
        kind, id, _ = compared(change)
        key = keys.object(kind, id)
        writes[key] = (
            Write(key, to_value(change.object, now)) if isinstance(change, Put) else Delete(key)
        )
    if writes:
        taken, freed = _names(state, changes)
        for kind, name in freed.keys() - taken.keys():
            writes[keys.name(kind, name)] = Delete(keys.name(kind, name))
        for (kind, name), id in taken.items():
            key = keys.name(kind, name)
            writes[key] = Write(key, id.encode())
            if (kind, name) not in freed:
                compares.append(Compare(key, 0))
        writes[keys.last] = Write(keys.last)
    return Transaction(tuple(compares), tuple(writes[key] for key in sorted(writes)))


def _compare(keys: Keys, change: Change, base: int) -> Compare:
    kind, id, version = compared(change)
    return Compare(keys.object(kind, id), version - base if version else 0)


Names = Mapping[tuple[Kind, str], str]


def _names(state: ClusterState, changes: Sequence[Change]) -> tuple[Names, Names]:
    """Names that change hands, with the object's id: those taken and those released."""
    taken, freed = {}, {}
    for change in changes:
        if isinstance(change, Check):
            continue
        kind, id, _ = compared(change)
        if kind not in UNIQUE_NAMES:
            continue
        before = state.tables[kind].get(id)
        if isinstance(change, Put) and (before is None or before.name != change.object.name):
            taken[kind, change.object.name] = id
        if before is not None and (isinstance(change, Remove) or before.name != change.object.name):
            freed[kind, before.name] = id
    return taken, freed
