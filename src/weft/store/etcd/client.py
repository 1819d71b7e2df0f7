"""`Kv` over etcd's JSON gateway: of our own member, at its UNIX socket, or of an external etcd, at
https endpoints.

With several endpoints the client uses one until it does not answer, then the next. A call is
repeated only if there was no connection: after sending, the client cannot know whether the call was
carried out. The header `hasleader` makes a member without a leader refuse at once instead of
waiting for one."""

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from weft.errors import (
    Conflict,
    FailedPrecondition,
    NotFound,
    OperationFailed,
    Unavailable,
    WeftError,
    cause_of,
)
from weft.store.etcd import wire
from weft.store.etcd.base import (
    FULL,
    NO_MAJORITY,
    USUAL,
    Answer,
    Batch,
    Compacted,
    Compare,
    Member,
    MemberStatus,
    Operation,
    Pace,
    Range,
)

# In proportion to the election timeout (`base.Pace`).
CONNECT = 3.0
CALL = 6.0
"""Seconds. After the loss of its leader, a cluster needs two for an election."""
HOUSEKEEPING = 300.0
"""Seconds for calls that go through a member's whole database."""
NO_SPACE = "NOSPACE"
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
_IN_PARTS = 1 << 16
_RATE = 1e6
"""Bytes per second that a busy member accepts: a large transaction gets more time."""
_LARGEST = 64 << 20
"""Bytes of a call. etcd would refuse a larger one as well, after reading it."""
_NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}
_BY_CODE: Mapping[int, type[WeftError]] = {
    4: Unavailable,
    5: NotFound,
    6: Conflict,
    9: FailedPrecondition,
    14: Unavailable,
}
"""gRPC codes; the rest are `OperationFailed`."""
_REFUSALS: Mapping[str, tuple[type[WeftError], str]] = {
    "unhealthy cluster": (
        FailedPrecondition,
        "a manager is down, or has been up for less than five seconds: the managers cannot be"
        " changed now",
    ),
    "not enough started members": (
        FailedPrecondition,
        "too few managers are online to go on without this one",
    ),
    "in sync with leader": (
        FailedPrecondition,
        "the new manager does not know all that the others know yet",
    ),
    "can only promote a learner member": (FailedPrecondition, "the manager has a vote already"),
    "not supported for learner": (FailedPrecondition, "this manager has no vote yet"),
    "too many learner members": (FailedPrecondition, "another manager is being added"),
    "Peer URLs already exists": (FailedPrecondition, "another manager has this address"),
    "member not found": (NotFound, "there is no such manager"),
    "database space exceeded": (OperationFailed, FULL),
    "future revision": (
        Unavailable,
        "cannot read the store: this member of it is behind another one",
    ),
}
"""etcd's refusals, and what they mean to a user, who does not know of etcd. A part of each of etcd's
texts, the longer one first where two match."""
_LIMITS: Mapping[str, str] = {
    "too many operations": "--max-txn-ops",
    "request is too large": "--max-request-bytes",
    "larger than max": "--max-request-bytes",
}
"""The etcd options behind refusals of large transactions. The last text is gRPC's, and depends on
the same option."""

T = TypeVar("T")


class GatewayClient:
    """Create it inside a running event loop."""

    def __init__(
        self, http: aiohttp.ClientSession, endpoints: Sequence[str], pace: Pace = USUAL
    ) -> None:
        self._http, self.pace = http, pace
        self._endpoints = list(endpoints)
        self._is_silent = False
        self._endless = aiohttp.ClientTimeout(total=None, connect=pace.of(CONNECT))

    @classmethod
    def local(cls, socket: Path, pace: Pace = USUAL) -> "GatewayClient":
        connector = aiohttp.UnixConnector(str(socket), limit=0)
        return cls(_session(connector), ["http://localhost"], pace)

    @classmethod
    def remote(
        cls, endpoints: Sequence[str], context: ssl.SSLContext | None, pace: Pace = USUAL
    ) -> "GatewayClient":
        """`endpoints` are `host:port`. `context` has the client's certificate; None speaks plain
        HTTP."""
        connector = aiohttp.TCPConnector(limit=0, ssl=context if context is not None else True)
        return cls(
            _session(connector),
            [f"{'https' if context else 'http'}://{each}" for each in endpoints],
            pace,
        )

    def first_answer(self) -> Coroutine[Any, Any, None]:
        """Waits for the first answer of a member that does not answer yet. Until then every call is
        refused at once, as without quorum: a call sent to the socket would wait there and might be
        carried out long after its caller gave up."""
        self._is_silent = True
        return self._hear()

    async def _hear(self) -> None:
        while self._is_silent:
            try:
                async with self._http.post(
                    f"{self._endpoints[0]}/v3/maintenance/status", data=b"{}", timeout=self._endless
                ):
                    self._is_silent = False
            except _FAILURES:
                await asyncio.sleep(self.pace.of(CONNECT))

    async def range(
        self,
        key: str,
        end: str = "",
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
    ) -> Range:
        asked = wire.key_range(key, end) | {
            "limit": str(limit),
            "revision": str(revision),
            "serializable": serializable,
        }
        headers = {} if serializable else _NEEDS_LEADER
        answer = await self._call("kv/range", asked, wire.RangeResponse, headers)
        return Range(answer.header.revision, answer.pairs(), answer.more)

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        asked = {
            "compare": wire.compares(compares),
            "success": wire.operations(then),
            "failure": wire.operations(otherwise),
        }
        answer = await self._call("kv/txn", asked, wire.TxnResponse, _NEEDS_LEADER)
        reads = tuple(
            each.response_range.pairs()
            for each in answer.responses
            if each.response_range is not None
        )
        return Answer(answer.succeeded, answer.header.revision, reads)

    async def watch(self, key: str, end: str, revision: int) -> AsyncGenerator[Batch, None]:
        asked = wire.encode(
            {"create_request": wire.key_range(key, end) | {"start_revision": str(revision)}}
        )
        try:
            async with await self._post("watch", asked, timeout=self._endless) as response:
                async for line in _lines(response.content):
                    yield _batch(line)
        except _FAILURES as error:
            self._turn()
            raise Unavailable(f"cannot watch the store: {cause_of(error)}") from error
        raise Unavailable("cannot watch the store: the connection ended")

    async def grant(self, ttl: int) -> int:
        return (await self._call("lease/grant", {"TTL": str(ttl)}, wire.Lease, _NEEDS_LEADER)).ID

    async def keep_alive(self, lease: int) -> int:
        answer = await self._call(
            "lease/keepalive", {"ID": str(lease)}, wire.Streamed, _NEEDS_LEADER
        )
        if answer.error is not None:
            raise refusal(answer.error)
        left = _decode(bytes(answer.result), wire.Lease).TTL
        if left <= 0:
            raise NotFound(f"lease {lease} not found")
        return left

    async def revoke(self, lease: int) -> None:
        with contextlib.suppress(NotFound):
            await self._call("lease/revoke", {"ID": str(lease)}, wire.Done, _NEEDS_LEADER)

    async def members(self) -> tuple[Member, ...]:
        return tuple(
            each.member()
            for each in (await self._call("cluster/member/list", {}, wire.MemberList)).members
        )

    async def add_learner(self, peer_url: str) -> Member:
        asked = {"peerURLs": [peer_url], "isLearner": True}
        return (
            await self._call("cluster/member/add", asked, wire.MemberAdded, _NEEDS_LEADER)
        ).member.member()

    async def promote(self, member: int) -> None:
        await self._call("cluster/member/promote", {"ID": str(member)}, wire.Done, _NEEDS_LEADER)

    async def remove_member(self, member: int) -> None:
        await self._call("cluster/member/remove", {"ID": str(member)}, wire.Done, _NEEDS_LEADER)

    async def status(self) -> MemberStatus:
        it = await self._call("maintenance/status", {}, wire.StatusResponse)
        is_full = any(NO_SPACE in error for error in it.errors)
        return MemberStatus(
            it.header.member_id,
            it.leader,
            it.header.revision,
            it.dbSize,
            it.isLearner,
            it.dbSizeInUse,
            is_full,
        )

    async def alarms(self) -> frozenset[int]:
        found = await self._call("maintenance/alarm", {"action": "GET"}, wire.Alarms)
        return frozenset(each.memberID for each in found.alarms if each.alarm == NO_SPACE)

    async def disarm(self, member: int) -> None:
        asked = {"action": "DEACTIVATE", "memberID": str(member), "alarm": NO_SPACE}
        await self._call("maintenance/alarm", asked, wire.Alarms, _NEEDS_LEADER)

    async def compact(self, revision: int) -> None:
        asked = {"revision": str(revision), "physical": True}
        await self._call("kv/compaction", asked, wire.Done, _NEEDS_LEADER, HOUSEKEEPING)

    async def defragment(self) -> None:
        await self._call("maintenance/defragment", {}, wire.Done, None, HOUSEKEEPING)

    async def close(self) -> None:
        await self._http.close()

    async def _call(
        self,
        path: str,
        asked: Any,
        type_: type[T],
        headers: Mapping[str, str] | None = None,
        patience: float = CALL,
    ) -> T:
        body = wire.encode(asked)
        if len(body) > _LARGEST:
            raise OperationFailed(
                f"cannot write {len(body)} bytes to the store at once: {_LARGEST} is the most"
            )
        total, connect = self.pace.of(patience) + len(body) / _RATE, self.pace.of(CONNECT)
        timeout = aiohttp.ClientTimeout(total=total, connect=connect)
        try:
            async with await self._post(path, body, headers=headers, timeout=timeout) as response:
                said = await response.read()
        except TimeoutError as error:
            self._turn()
            raise Unavailable(NO_MAJORITY) from error
        except _FAILURES as error:
            self._turn()
            raise Unavailable(f"cannot reach the store: {cause_of(error)}") from error
        if response.status != 200:
            refused = refusal(_decode(said, wire.Refusal))
            if isinstance(refused, Unavailable):
                self._turn()  # another endpoint may have a quorum
            raise refused
        return _decode(said, type_)

    async def _post(self, path: str, body: bytes, **how: Any) -> aiohttp.ClientResponse:
        """Posts to the first endpoint that accepts a connection."""
        if self._http.closed:
            raise Unavailable("cannot reach the store: this manager is stopping")
        if self._is_silent:
            raise Unavailable(NO_MAJORITY)
        for _ in self._endpoints[1:]:
            try:
                return await self._http.post(
                    f"{self._endpoints[0]}/v3/{path}", data=_sendable(body), **how
                )
            except (
                aiohttp.ClientConnectorError,
                aiohttp.ConnectionTimeoutError,
            ):  # so nothing was sent
                self._turn()
        return await self._http.post(f"{self._endpoints[0]}/v3/{path}", data=_sendable(body), **how)

    def _turn(self) -> None:
        self._endpoints.append(self._endpoints.pop(0))


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector)


def _sendable(body: bytes) -> bytes | io.BytesIO:
    """aiohttp sends a file in parts, and bytes in one piece."""
    return io.BytesIO(body) if len(body) >= _IN_PARTS else body


def _decode(said: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(said, type=type_, strict=False)
    except msgspec.MsgspecError as error:
        raise OperationFailed(f"cannot read the store's answer {said[:200]!r}: {error}") from error


def _batch(line: bytes) -> Batch:
    streamed = _decode(line, wire.Streamed)
    if streamed.error is not None:
        raise refusal(streamed.error)
    response = _decode(bytes(streamed.result), wire.WatchResponse)
    if response.compact_revision:
        raise Compacted(
            f"cannot watch the store: revisions before {response.compact_revision} are gone"
        )
    if response.canceled:
        raise Unavailable(f"cannot watch the store: {response.cancel_reason}")
    return Batch(tuple(event.changed() for event in response.events))


def refusal(said: wire.Refusal) -> WeftError:
    """The error that etcd's answer stands for."""
    text, code = said.message or said.error, said.code or said.grpc_code
    for phrase, (kind, words) in _REFUSALS.items():
        if phrase in text:
            return kind(words)
    text = text.removeprefix("etcdserver: ")
    if "has been compacted" in text:
        return Compacted(f"cannot read the store: {text}")
    for phrase, option in _LIMITS.items():
        if phrase in text:
            return OperationFailed(
                f"cannot write so much to etcd at once: raise its {option}: {text}"
            )
    kind = _BY_CODE.get(code, OperationFailed)
    return Unavailable(NO_MAJORITY) if kind is Unavailable else kind(f"the store refuses: {text}")


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Splits the stream into lines, each of any length: the largest transaction is one line."""
    parts: list[bytes] = []
    async for chunk in content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield b"".join([*parts, line])
            parts.clear()
        if rest:
            parts.append(rest)
