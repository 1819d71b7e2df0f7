"""The manager's listener on port 2377: one place to learn the root certificate, one to join, one for sessions. TLS always.

GET  /v1/root      the root certificate, for anybody: the joining host compares it with its token's digest
POST /v1/join      `AdmissionRequest` -> `Admitted`; the token inside is what authenticates it
GET  /v1/session   a WebSocket, for holders of a certificate of this cluster
"""

import asyncio
import logging
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from weft.cluster import tls
from weft.cluster.base import AdmissionRequest, Identity, Manager, SessionClosed
from weft.cluster.identity import Credentials
from weft.cluster.messages import MAX_MESSAGE, AssignmentUpdate, FromAgent, FromManager, Goodbye
from weft.errors import Forbidden, InvalidArgument, OperationFailed, WeftError
from weft.model import codec
from weft.model.assignment import prepared
from weft.model.ids import ClusterId

log = logging.getLogger(__name__)

MAX_JOIN_REQUEST = 64 << 10
"""Bytes: a certificate request and a few words."""
JOIN_TIMEOUT = 20.0
"""Seconds, as the original's."""
SESSION_CLOSE_TIMEOUT = 2.0


class SessionServer:
    def __init__(self, manager: Manager, cluster: ClusterId, credentials: Credentials) -> None:
        self._manager = manager
        self._cluster = cluster
        self._credentials = credentials
        self._runner: web.AppRunner | None = None

    async def start(self, listen: str) -> None:
        """Listens on `host:port`. Raises `OperationFailed`."""
        host, _, port = listen.rpartition(":")
        app = web.Application(client_max_size=MAX_JOIN_REQUEST)
        app.router.add_get("/v1/root", self._root)
        app.router.add_post("/v1/join", self._join)
        app.router.add_get("/v1/session", self._session)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SESSION_CLOSE_TIMEOUT)
        await runner.setup()
        try:
            context = tls.server_context(self._credentials)
            await web.TCPSite(runner, host or "0.0.0.0", int(port), ssl_context=context, reuse_address=True).start()
        except OSError as error:
            await runner.cleanup()
            raise OperationFailed(f"cannot listen on {listen}: {error.strerror or error}") from error
        self._runner = runner
        log.info("sessions.listening address=%s", listen)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text=self._credentials.root)

    async def _join(self, request: web.Request) -> web.Response:
        try:
            admission = codec.decode(await request.read(), AdmissionRequest)
            async with asyncio.timeout(JOIN_TIMEOUT):
                admitted = await self._manager.admit(admission)
        except msgspec.DecodeError as error:
            return web.Response(status=400, text=f"cannot join: malformed request: {error}")
        except Forbidden as error:
            log.warning("join.refused address=%s", request.remote)
            return web.Response(status=403, text=str(error))
        except InvalidArgument as error:
            return web.Response(status=400, text=str(error))
        except (WeftError, TimeoutError) as error:
            return web.Response(status=503, text=str(error) or "cannot join: the manager did not answer in time")
        log.info("join.admitted node=%s role=%s address=%s", admitted.node, admitted.role, request.remote)
        return web.Response(body=codec.encode(admitted))

    async def _session(self, request: web.Request) -> web.StreamResponse:
        try:
            peer = tls.identity(_peer_certificate(request), self._cluster)
        except Forbidden as error:
            return web.Response(status=403, text=str(error))
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, compress=False, timeout=SESSION_CLOSE_TIMEOUT)
        await socket.prepare(request)
        session = ServerSession(socket, peer, request.remote or "")
        try:
            await self._manager.serve(session)
        except SessionClosed:
            pass
        except WeftError as error:
            log.warning("session.refused node=%s cause=%s", peer.node, error)
            await session.close(str(error))
        finally:
            await socket.close()
        return socket


class ServerSession:
    """`cluster.base.ManagerSession` over a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, peer: Identity, address: str) -> None:
        self.peer = peer
        self.address = address
        self._socket = socket

    async def send(self, message: FromManager) -> None:
        try:
            await self._socket.send_bytes(encoded(message))
        except (ConnectionError, RuntimeError) as error:
            raise SessionClosed(f"session with {self.peer.node} is closed: {error}") from error

    async def receive(self) -> FromAgent:
        message: FromAgent = decode_frame(await self._socket.receive(), FromAgent)
        return message

    async def close(self, reason: str) -> None:
        try:
            await self.send(Goodbye(reason))
        except SessionClosed:
            return
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason.encode()[:100])


def encoded(message: FromManager) -> bytes:
    if isinstance(message, AssignmentUpdate):
        return codec.encode(AssignmentUpdate(prepared(message.change)))
    return codec.encode(message)


def decode_frame(frame: Any, type_: Any) -> Any:
    """A message of the union `type_` from a WebSocket frame. Raises `SessionClosed` for everything else."""
    if frame.type is not WSMsgType.BINARY:
        raise SessionClosed(f"session closed by the other side: {frame.extra or frame.type.name.lower()}")
    try:
        return codec.decode(frame.data, type_)
    except msgspec.DecodeError as error:
        raise SessionClosed(f"malformed message: {error}") from error


def _peer_certificate(request: web.Request) -> dict[str, Any] | None:
    return request.transport.get_extra_info("peercert") if request.transport else None
