"""etcd's gRPC messages as its JSON gateway writes them: bytes in base64, 64-bit numbers as text,
zero values left out.

The names are those of etcd's `rpc.proto`. Nothing outside `client.py` sees these."""

from collections.abc import Sequence
from typing import Any

import msgspec

from weft.store.etcd import base


class Header(msgspec.Struct):
    revision: int = 0
    member_id: int = 0


class Pair(msgspec.Struct):
    key: bytes
    create_revision: int = 0
    mod_revision: int = 0
    value: bytes = b""
    lease: int = 0

    def pair(self) -> base.KeyValue:
        return base.KeyValue(
            self.key.decode(), self.value, self.create_revision, self.mod_revision, self.lease
        )


class RangeResponse(msgspec.Struct):
    header: Header = msgspec.field(default_factory=Header)
    kvs: list[Pair] = msgspec.field(default_factory=list)
    more: bool = False

    def pairs(self) -> tuple[base.KeyValue, ...]:
        return tuple(each.pair() for each in self.kvs)


class ResponseOp(msgspec.Struct):
    response_range: RangeResponse | None = None


class TxnResponse(msgspec.Struct):
    header: Header
    succeeded: bool = False
    responses: list[ResponseOp] = msgspec.field(default_factory=list)


class WatchEvent(msgspec.Struct):
    kv: Pair
    type: str = "PUT"

    def changed(self) -> base.Changed:
        kv, deleted = self.kv, self.type == "DELETE"
        return base.Changed(
            kv.key.decode(), None if deleted else kv.value, kv.create_revision, kv.mod_revision
        )


class WatchResponse(msgspec.Struct):
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[WatchEvent] = msgspec.field(default_factory=list)


class Lease(msgspec.Struct):
    ID: int = 0
    TTL: int = 0


class MemberInfo(msgspec.Struct):
    ID: int
    name: str = ""
    peerURLs: list[str] = msgspec.field(default_factory=list)
    isLearner: bool = False

    def member(self) -> base.Member:
        return base.Member(self.ID, self.name, tuple(self.peerURLs), self.isLearner)


class MemberList(msgspec.Struct):
    members: list[MemberInfo] = msgspec.field(default_factory=list)


class MemberAdded(msgspec.Struct):
    member: MemberInfo


class StatusResponse(msgspec.Struct):
    header: Header
    leader: int = 0
    dbSize: int = 0
    dbSizeInUse: int = 0
    isLearner: bool = False
    errors: list[str] = msgspec.field(default_factory=list)
    """Includes alarms, as text."""


class Alarm(msgspec.Struct):
    memberID: int = 0
    alarm: str = "NONE"


class Alarms(msgspec.Struct):
    alarms: list[Alarm] = msgspec.field(default_factory=list)


class Done(msgspec.Struct):
    """An answer without content."""


class Refusal(msgspec.Struct):
    message: str = ""
    code: int = 0
    """The gRPC code."""
    grpc_code: int = 0
    """The gRPC code in a stream."""
    error: str = ""


class Streamed(msgspec.Struct):
    """One line of a stream."""

    result: msgspec.Raw = msgspec.Raw(b"")
    error: Refusal | None = None


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def key_range(key: str, end: str) -> dict[str, Any]:
    return {"key": key.encode(), **({"range_end": end.encode()} if end else {})}


def operations(wanted: Sequence[base.Operation]) -> list[dict[str, Any]]:
    return [_operation(each) for each in wanted]


def _operation(wanted: base.Operation) -> dict[str, Any]:
    if isinstance(wanted, base.Write):
        put = {
            "key": wanted.key.encode(),
            "value": wanted.value,
            **({"lease": str(wanted.lease)} if wanted.lease else {}),
        }
        return {"request_put": put}
    verb = "request_delete_range" if isinstance(wanted, base.Delete) else "request_range"
    return {verb: key_range(wanted.key, wanted.end)}


def compares(wanted: Sequence[base.Compare]) -> list[dict[str, Any]]:
    return [
        {"key": each.key.encode(), "target": "MOD", "result": "EQUAL", "mod_revision": str(each.mod_revision)}
        for each in wanted
    ]  # fmt: skip
