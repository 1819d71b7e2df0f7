"""Brings streams to the manager that asked for them: a request to an agent by way of another
manager, and the connection on which that agent publishes.

    ManagerRelay      a manager asks the one that has the agent's session
    StreamConnector   the agent opens its connection; the manager's end is `server.ServerStream`

TCP alone limits how fast frames come: neither end holds more than a few.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import WSMsgType

from weft.errors import Forbidden, Unavailable, cause_of
from weft.model import codec
from weft.session import tls
from weft.session.base import PublishRequest, SessionClosed
from weft.session.client import FAILURES, open_socket, post
from weft.session.identity import CredentialSource
from weft.session.messages import FromPublisher
from weft.system.waiting import first

RELAY_TIMEOUT = 5.0
"""Seconds that another manager may take to pass on a message."""
LARGEST_ANSWER = 4 << 20
"""Bytes, although a manager has nothing to send here."""

UntilRevoked = Callable[[str], Coroutine[Any, Any, None]]
"""Waits until the certificate with a serial number is known to be revoked."""


async def never(_: str) -> None:
    """For clients that do not know which certificates were revoked."""
    await asyncio.get_running_loop().create_future()


class ManagerRelay:
    """`session.base.Relay`."""

    def __init__(
        self, credential_source: CredentialSource, is_revoked: tls.IsRevoked = tls.none_known
    ) -> None:
        self._contexts = tls.node_contexts(credential_source, is_revoked)

    async def __call__(self, manager: str, request: PublishRequest) -> None:
        try:
            async with asyncio.timeout(RELAY_TIMEOUT):
                await post(manager, "/v1/streams", self._contexts.current(), codec.encode(request))
        except FAILURES as error:
            raise Unavailable(f"cannot reach manager {manager}: {cause_of(error)}") from error


class StreamConnector:
    """`session.base.OpenStream`."""

    def __init__(
        self,
        credential_source: CredentialSource,
        is_revoked: tls.IsRevoked = tls.none_known,
        revoked: UntilRevoked = never,
    ) -> None:
        self._contexts = tls.node_contexts(credential_source, is_revoked)
        self._revoked = revoked

    async def __call__(self, manager: str, subscription: str) -> "ClientStream":
        try:
            http, socket = await open_socket(
                manager, f"/v1/streams/{subscription}", self._contexts.current(), LARGEST_ANSWER
            )
            return ClientStream(http, socket, self._revoked)
        except FAILURES as error:
            if isinstance(error, aiohttp.WSServerHandshakeError) and error.status == 403:
                raise Forbidden(
                    f"manager {manager} does not want a stream of this node for {subscription}"
                ) from error
            raise Unavailable(f"cannot publish to manager {manager}: {cause_of(error)}") from error


class ClientStream:
    """`session.base.StreamSink` over a WebSocket."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        socket: aiohttp.ClientWebSocketResponse,
        revoked: UntilRevoked,
    ) -> None:
        self._http = http
        self._socket = socket
        self._revoked = revoked
        self._serial = tls.server_serial(socket)

    async def send(self, message: FromPublisher) -> None:
        try:
            await self._socket.send_bytes(codec.encode(message))
        except (ConnectionError, RuntimeError, aiohttp.ClientError) as error:
            raise SessionClosed(f"the manager wants no more frames: {error}") from error

    async def closed(self) -> None:
        """Also when the manager's certificate is revoked."""
        await first(self._ended(), self._revoked(self._serial))

    async def _ended(self) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError, aiohttp.ClientError):
            while (await self._socket.receive()).type in (WSMsgType.BINARY, WSMsgType.TEXT):
                pass

    async def close(self) -> None:
        try:
            await self._socket.close()
        finally:
            await self._http.close()
