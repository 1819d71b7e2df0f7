"""A node's side of port 2377: joins a swarm with a token, holds a session with a manager, becomes a
manager.

Joining trusts no host before it must. The client fetches the root certificate without verification
and compares it with the digest in the token. Only then does it send the secret, over a connection
that this root vouches for.
"""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from weft.errors import (
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    Unavailable,
    WeftError,
    cause_of,
)
from weft.model import codec
from weft.pki.authority import private_pem, request
from weft.pki.tokens import parse_token
from weft.session import keepalive, tls
from weft.session.base import AdmissionRequest, Admitted, MemberGrant, MemberRequest, SessionClosed
from weft.session.deadlines import USUAL, Deadlines
from weft.session.identity import Credentials, CredentialSource, new_key
from weft.session.messages import MAX_FROM_MANAGER, Epoch, FromAgent, FromManager, Goodbye
from weft.session.server import decode_frame

log = logging.getLogger(__name__)

MAX_ANSWER = 1 << 20
"""Bytes. A root certificate comes from a host that has not proved anything yet."""
ERRORS: Mapping[int, type[WeftError]] = {
    400: InvalidArgument,
    403: Forbidden,
    412: FailedPrecondition,
}
FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


async def join(
    addresses: Sequence[str], ask: Callable[[str], AdmissionRequest], token: str
) -> tuple[Admitted, Credentials]:
    """Joins through the first manager that answers. `ask` makes the admission request from a
    certificate request (PEM).

    Raises `InvalidArgument` for an invalid token, `Forbidden` for a token that is refused or was
    made for another swarm, `Unavailable` if no manager answers."""
    expected = parse_token(token)
    key = new_key()
    causes = []
    for address in addresses:
        try:
            root = await _fetch_root(address)
            if not expected.recognises(root):
                raise Forbidden(
                    "remote CA does not match fingerprint. The join token was made for another"
                    " swarm"
                )
            admitted = await _admit(address, root, ask(request(key)))
            return admitted, Credentials(
                admitted.certificate, private_pem(key), admitted.root_certificate
            )
        except FAILURES as error:
            causes.append(f"{address}: {reason_of(error)}")
    raise Unavailable(f"cannot join swarm: {'; '.join(causes) or 'no manager address given'}")


def reason_of(error: BaseException) -> str:
    """asyncio's text for a refused connection has the address in Python's notation. The number of a
    TLS error is OpenSSL's."""
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return cause_of(error)
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else cause_of(error)


async def _fetch_root(address: str) -> str:
    async with aiohttp.ClientSession(timeout=USUAL.request) as http:
        async with http.get(f"https://{address}/v1/root", ssl=tls.unverified_context()) as response:
            response.raise_for_status()
            return (await _body(response)).decode(errors="replace")


async def _admit(address: str, root: str, admission: AdmissionRequest) -> Admitted:
    body = await post(address, "/v1/join", tls.client_context(root), codec.encode(admission))
    admitted: Admitted = decoded(address, body, Admitted)
    return admitted


async def post(
    address: str,
    path: str,
    context: ssl.SSLContext,
    body: bytes,
    errors: Mapping[int, type[WeftError]] = ERRORS,
    deadlines: Deadlines = USUAL,
) -> bytes:
    """Sends a request to a host that proves to be a manager. Raises the error that the status
    stands for (see `server._answering`), or `Unavailable` for one that is not in `errors`, and
    `FAILURES`."""
    async with aiohttp.ClientSession(timeout=deadlines.request) as http:
        url = f"https://{address}{path}"
        async with http.post(
            url, data=body, ssl=context, server_hostname=tls.MANAGER_NAME
        ) as response:
            answer = await _body(response)
            if response.status == 200:
                return answer
            raise errors.get(response.status, Unavailable)(answer.decode(errors="replace"))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {MAX_ANSWER} bytes")
    return b"".join(parts)


def decoded(address: str, body: bytes, type_: Any) -> Any:
    try:
        return codec.decode(body, type_)
    except msgspec.DecodeError as error:
        raise Unavailable(f"cannot understand manager {address}: {error}") from error


class MemberClient:
    """Asks the present managers to make this node one of them (`session.base.Manager.enlist` and
    `admit_vote`). Skips a manager that cannot be reached, or cannot answer now."""

    def __init__(
        self,
        credential_source: CredentialSource,
        managers: Callable[[], Sequence[str]],
        is_revoked: tls.IsRevoked = tls.none_known,
        deadlines: Deadlines = USUAL,
    ) -> None:
        self._deadlines = deadlines
        self._contexts = tls.node_contexts(credential_source, is_revoked)
        self._managers = managers

    async def enlist(self, request: MemberRequest) -> MemberGrant:
        address, body = await self._ask("/v1/members", codec.encode(request))
        grant: MemberGrant = decoded(address, body, MemberGrant)
        return grant

    async def admit_vote(self) -> None:
        await self._ask("/v1/members/vote", b"")

    async def _ask(self, path: str, body: bytes) -> tuple[str, bytes]:
        causes = []
        for address in self._managers():
            try:
                context = self._contexts.current()
                return address, await post(address, path, context, body, ERRORS, self._deadlines)
            except (*FAILURES, Unavailable) as error:
                causes.append(f"{address}: {reason_of(error)}")
        raise Unavailable(f"cannot reach a manager: {'; '.join(causes) or 'none known'}")


async def open_socket(
    manager: str, path: str, context: ssl.SSLContext, largest: int, deadlines: Deadlines = USUAL
) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    """A WebSocket to a manager, and the HTTP session to close after it. `largest`: bytes of the
    largest message to receive. Raises `FAILURES`."""
    connector = aiohttp.TCPConnector(socket_factory=keepalive.watched_socket)
    http = aiohttp.ClientSession(connector=connector, timeout=deadlines.session)
    try:
        async with asyncio.timeout(deadlines.handshake):
            socket = await http.ws_connect(
                f"https://{manager}{path}",
                ssl=context,
                server_hostname=tls.MANAGER_NAME,
                max_msg_size=largest,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=2),
            )
    except BaseException:
        await http.close()
        raise
    return http, socket


class EpochClient:
    """Asks a manager for the epoch of its cluster."""

    def __init__(
        self,
        credential_source: CredentialSource,
        is_revoked: tls.IsRevoked = tls.none_known,
        deadlines: Deadlines = USUAL,
    ) -> None:
        self._deadlines = deadlines
        self._contexts = tls.node_contexts(credential_source, is_revoked)

    async def __call__(self, manager: str) -> int:
        """Raises `Unavailable` if no manager answers at `host:port`, or if its certificate was
        revoked; `Forbidden` if the manager is not of this cluster."""
        try:
            async with asyncio.timeout(self._deadlines.handshake):
                answer = await post(manager, "/v1/epoch", self._contexts.current(), b"")
        except FAILURES as error:
            raise Unavailable(f"cannot ask manager {manager}: {cause_of(error)}") from error
        epoch: Epoch = decoded(manager, answer, Epoch)
        return epoch.epoch


class Connector:
    """`session.base.Connect`: opens a session with the first manager that answers, in the order
    known.

    Managers that already had a session with this node are asked after the others, the last
    session's manager last: it may answer without being able to serve, or have stopped. That manager
    is not asked at all while others say that they have no leader yet. If that manager was their
    leader and is gone, the others elect a new one sooner than this node would notice the
    silence."""

    def __init__(
        self,
        credential_source: CredentialSource,
        managers: Callable[[], Sequence[str]],
        is_revoked: tls.IsRevoked = tls.none_known,
        deadlines: Deadlines = USUAL,
    ) -> None:
        self._deadlines = deadlines
        self._contexts = tls.node_contexts(credential_source, is_revoked)
        self._managers = managers
        self._had: list[str] = []
        """Managers with which there has been a session, the latest last."""
        self._since: float | None = None
        """Time of the first attempt after the last session."""

    async def __call__(self) -> "ClientSession":
        now = asyncio.get_running_loop().time()
        self._since = since = now if self._since is None else self._since
        causes, electing = [], False
        for address in sorted(self._managers(), key=self._turn):
            if electing and self._had[-1:] == [address] and now - since < self._deadlines.election:
                continue
            try:
                http, socket = await open_socket(
                    address,
                    "/v1/session",
                    self._contexts.current(),
                    MAX_FROM_MANAGER,
                    self._deadlines,
                )
                self._had, self._since = (
                    [*(each for each in self._had if each != address), address],
                    None,
                )
                return ClientSession(http, socket, address.rpartition(":")[0])
            except aiohttp.WSServerHandshakeError as error:
                if error.status == 403:
                    raise Forbidden(f"manager {address} refuses this node") from error
                electing = error.status == 503
                causes.append(f"{address}: status {error.status}")
            except FAILURES as error:
                causes.append(f"{address}: {reason_of(error)}")
        raise Unavailable(f"cannot reach a manager: {'; '.join(causes) or 'none known'}")

    def _turn(self, address: str) -> int:
        return self._had.index(address) + 1 if address in self._had else 0


class ClientSession:
    """`session.base.AgentSession` over a WebSocket."""

    def __init__(
        self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, address: str
    ) -> None:
        self.address = address
        self.serial = tls.server_serial(socket)
        self._http = http
        self._socket = socket

    async def send(self, message: FromAgent) -> None:
        try:
            await self._socket.send_bytes(codec.encode(message))
        except (ConnectionError, RuntimeError, aiohttp.ClientError) as error:
            raise SessionClosed(f"session with the manager is closed: {error}") from error

    async def receive(self) -> FromManager:
        try:
            message: FromManager = decode_frame(await self._socket.receive(), FromManager)
        except (ConnectionError, RuntimeError, aiohttp.ClientError, msgspec.DecodeError) as error:
            raise SessionClosed(f"session with the manager is closed: {error}") from error
        if isinstance(message, Goodbye):
            log.info("session.goodbye cause=%s", message.reason)
        return message

    async def close(self, reason: str) -> None:
        try:
            with contextlib.suppress(SessionClosed):
                await self.send(Goodbye(reason))
            await self._socket.close()
        finally:
            await self._http.close()
