"""The manager's listener on port 2377: for the root certificate, for joining, for sessions, for
streams, and for other managers.

GET  /v1/root          the root certificate, for anybody; a host compares it with its token's digest
POST /v1/join          `AdmissionRequest` -> `Admitted`; the token inside authenticates the host
GET  /v1/session       a WebSocket, for holders of a certificate of this cluster
POST /v1/epoch         `Epoch`; for holders of a certificate of this cluster
POST /v1/revoked       `Revoked`; for holders of a certificate of this cluster
POST /v1/attachments   `AttachmentRequest` -> `AttachmentGrant`; for holders of a certificate
POST /v1/members       `MemberRequest` -> `MemberGrant`; for holders of a manager's certificate
POST /v1/members/vote  gives the member its vote; for holders of a manager's certificate
POST /v1/sealing-keys  `SealingKeyGrant`; for holders of a manager's certificate
POST /v1/streams       `PublishRequest` from another manager, for a node with a session here
GET  /v1/streams/{id}  a WebSocket, for a node that was told to publish for this subscription

All connections use TLS, and a certificate is believed only as far as TLS has verified it. The
manager behind the listener says whether the certificate's holder is still part of the swarm.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from weft.errors import (
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    WeftError,
    cause_of,
)
from weft.model import codec
from weft.model.ids import ClusterId
from weft.session import tls
from weft.session.base import (
    AdmissionRequest,
    AttachmentRequest,
    Identity,
    Manager,
    MemberRequest,
    PublishRequest,
    SessionClosed,
)
from weft.session.identity import CredentialSource
from weft.session.listener import LIMITS, Limits, Listener
from weft.session.messages import (
    MAX_FRAME,
    MAX_FROM_AGENT,
    AssignmentUpdate,
    Epoch,
    FromAgent,
    FromManager,
    FromPublisher,
    Goodbye,
)
from weft.session.pace import READ
from weft.system.log_limit import LogLimit

log = logging.getLogger(__name__)

MAX_REQUEST = 64 << 10
"""Bytes: a certificate request and a few words."""
REQUEST_TIMEOUT = 20.0
"""Seconds, as in Docker Swarm for joining."""
SESSION_CLOSE_TIMEOUT = 2.0


Handler = Callable[[web.Request], Awaitable[bytes]]


class SessionServer:
    def __init__(
        self,
        manager: Manager,
        cluster: ClusterId,
        credential_source: CredentialSource,
        limits: Limits = LIMITS,
    ) -> None:
        self._manager = manager
        self._cluster = cluster
        self._credential_source = credential_source
        self._limits = limits
        self._limit = LogLimit(time.monotonic)
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None

    @property
    def unproven(self) -> int:
        """Connections whose client has not proved itself yet."""
        return self._listener.unproven if self._listener is not None else 0

    async def start(self, listen: str) -> None:
        """Listens on `host:port`. Raises `OperationFailed`."""
        app = web.Application(client_max_size=MAX_REQUEST)
        app.on_response_prepare.append(_last_answer)
        app.router.add_get("/v1/root", self._root)
        answering = partial(_answering, self._limit)
        app.router.add_post("/v1/join", answering(self._join))
        app.router.add_get("/v1/session", self._session)
        app.router.add_post("/v1/epoch", answering(self._epoch))
        app.router.add_post("/v1/revoked", answering(self._revoked))
        app.router.add_post("/v1/attachments", answering(self._attach))
        app.router.add_post("/v1/members", answering(self._enlist))
        app.router.add_post("/v1/members/vote", answering(self._admit_vote))
        app.router.add_post("/v1/sealing-keys", answering(self._sealing_keys))
        app.router.add_post("/v1/streams", answering(self._pass_on))
        app.router.add_get("/v1/streams/{subscription}", self._take_stream)
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=SESSION_CLOSE_TIMEOUT,
            logger=HttpLog(log, self._limit),
        )
        await runner.setup()
        assert runner.server is not None
        contexts = tls.Contexts(self._credential_source, tls.server_context)
        listener = Listener(runner.server, contexts.current, self._limits, self._manager.knows)
        try:
            listener.start(listen)
        except BaseException:
            await runner.cleanup()
            raise
        self._runner, self._listener = runner, listener
        log.info("sessions.listening address=%s", listen)

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = self._listener = None

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text=self._credential_source.credentials.root)

    async def _join(self, request: web.Request) -> bytes:
        admission = codec.decode(await request.read(), AdmissionRequest)
        admitted = await self._manager.admit(admission, request.remote or "")
        log.info(
            "join.admitted node=%s role=%s address=%s", admitted.node, admitted.role, request.remote
        )
        return codec.encode(admitted)

    async def _attach(self, request: web.Request) -> bytes:
        peer = tls.identity(_peer_certificate(request), self._cluster)
        asked = codec.decode(await request.read(), AttachmentRequest)
        return codec.encode(await self._manager.attach(peer, asked))

    async def _enlist(self, request: web.Request) -> bytes:
        peer = self._manager_at(request)
        asked = codec.decode(await request.read(), MemberRequest)
        return codec.encode(await self._manager.enlist(peer, asked))

    async def _admit_vote(self, request: web.Request) -> bytes:
        await self._manager.admit_vote(self._manager_at(request))
        return b""

    async def _sealing_keys(self, request: web.Request) -> bytes:
        return codec.encode(await self._manager.sealing_keys(self._manager_at(request)))

    async def _pass_on(self, request: web.Request) -> bytes:
        peer = self._manager_at(request)
        await self._manager.pass_on(peer, codec.decode(await request.read(), PublishRequest))
        return b""

    async def _take_stream(self, request: web.Request) -> web.StreamResponse:
        try:
            peer = tls.identity(_peer_certificate(request), self._cluster)
            source = ServerStream(request, peer, self._messages(request, FromPublisher))
            await self._manager.take_stream(source, request.match_info["subscription"])
        except Forbidden as error:
            if times := self._limit.times(f"stream {request.remote}"):
                log.info(
                    "stream.refused address=%s cause=%s times=%d", request.remote, error, times
                )
            return web.Response(status=403, text=str(error))
        if not source.socket.prepared:
            return web.Response(status=503, text="no more frames are wanted")
        await source.socket.close()
        return source.socket

    async def _epoch(self, request: web.Request) -> bytes:
        """A manager that asks was left behind, so its own certificate is revoked: an epoch is all
        that it gets."""
        tls.identity(_peer_certificate(request), self._cluster)
        return codec.encode(Epoch(self._manager.epoch))

    async def _revoked(self, request: web.Request) -> bytes:
        peer = tls.identity(_peer_certificate(request), self._cluster)
        return codec.encode(await self._manager.revoked(peer))

    def _manager_at(self, request: web.Request) -> Identity:
        peer = tls.identity(_peer_certificate(request), self._cluster)
        if peer.role != "manager":
            raise Forbidden(f"node {peer.node} is not a manager")
        return peer

    async def _session(self, request: web.Request) -> web.StreamResponse:
        try:
            peer = tls.identity(_peer_certificate(request), self._cluster)
        except Forbidden as error:
            return web.Response(status=403, text=str(error))
        if not self._manager.is_serving:
            return web.Response(status=503, text="this manager has no majority of the managers")
        socket = _socket(MAX_FROM_AGENT)
        await socket.prepare(request)
        session = ServerSession(
            socket, request, peer, self._limits.send, self._messages(request, FromAgent)
        )
        try:
            await self._manager.serve(session)
        except SessionClosed:
            pass
        except WeftError as error:
            if times := self._limit.times(f"session {peer.node}"):
                log.warning("session.refused node=%s cause=%s times=%d", peer.node, error, times)
            await session.close(str(error))
        finally:
            await socket.close()
        return socket

    def _messages(self, request: web.Request, kind: Any) -> "Messages":
        assert self._listener is not None, "there are no requests before it listens"
        return Messages(self._listener, request, kind)


async def _last_answer(request: web.Request, response: web.StreamResponse) -> None:
    """A connection that is no WebSocket serves one request: a stranger would make thousands of
    requests on one connection."""
    response.force_close()


def _socket(largest: int) -> web.WebSocketResponse:
    """`largest`: bytes of a message. No peer sends pings: answers to pings would not be counted."""
    return web.WebSocketResponse(
        max_msg_size=largest, compress=False, timeout=SESSION_CLOSE_TIMEOUT, autoping=False
    )


class HttpLog(logging.LoggerAdapter[logging.Logger]):
    """Limits aiohttp's log. A request that aiohttp cannot read is logged in one line, once in a
    while, instead of with a traceback. A handler that failed is a mistake here, and is logged in
    full."""

    def __init__(self, logger: logging.Logger, limit: LogLimit) -> None:
        super().__init__(logger)
        self._limit = limit

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        error = kwargs.get("exc_info")
        if isinstance(error, HttpProcessingError):
            level, msg, args, kwargs = logging.INFO, "http.malformed cause=%s", (error.message,), {}
        if level >= logging.INFO and (times := self._limit.times(f"http {type(error).__name__}")):
            super().log(level, f"{msg} times=%d", *args, times, **kwargs)


def _answering(
    limit: LogLimit, handler: Handler
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Wraps a handler with one question and one answer; errors become statuses (`client.ERRORS` is
    the way back). `limit`: for the log of refusals."""

    async def answer(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return web.Response(body=await handler(request))
        except msgspec.DecodeError as error:
            return web.Response(status=400, text=f"malformed request: {error}")
        except Forbidden as error:
            if times := limit.times(f"{request.path} {request.remote}"):
                log.warning(
                    "request.refused path=%s address=%s cause=%s times=%d",
                    request.path,
                    request.remote,
                    error,
                    times,
                )
            return web.Response(status=403, text=str(error))
        except InvalidArgument as error:
            return web.Response(status=400, text=str(error))
        except FailedPrecondition as error:
            return web.Response(status=412, text=str(error))
        except NotFound as error:
            return web.Response(status=404, text=str(error))
        except Conflict as error:
            return web.Response(status=409, text=str(error))
        except ConnectionError as error:  # nobody is there to read this
            return web.Response(status=400, text=cause_of(error))
        except (WeftError, TimeoutError) as error:
            return web.Response(status=503, text=str(error) or "the manager did not answer in time")

    return answer


class Messages:
    """Reads the messages of a request's WebSocket, at the expense of their sender."""

    def __init__(self, listener: Listener, request: web.Request, kind: Any) -> None:
        """`kind`: the union of the messages."""
        self._listener = listener
        self._request = request
        self._kind = kind

    def proved(self) -> None:
        """The connection has proved itself."""
        self._listener.proved(self._request.transport)

    async def next(self, socket: web.WebSocketResponse) -> Any:
        frame, began = await socket.receive(), time.thread_time()
        try:
            return decode_frame(frame, self._kind)
        finally:
            self._listener.charge(self._request.transport, time.thread_time() - began + READ)


class ServerSession:
    """`session.base.ManagerSession` over a WebSocket."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        peer: Identity,
        patience: float,
        messages: Messages,
    ) -> None:
        """`patience`: seconds that the other side may take for one message."""
        self.peer = peer
        self.address = request.remote or ""
        self._socket = socket
        self._request = request
        self._patience = patience
        self._messages = messages
        self._has_proved = False

    async def send(self, message: FromManager) -> None:
        """Cuts off an agent that does not read: otherwise its messages would stay in memory for as
        long as the agent likes."""
        try:
            async with asyncio.timeout(self._patience):
                await self._socket.send_bytes(encoded(message))
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise SessionClosed(
                f"node {self.peer.node} has not read for {self._patience:g} s"
            ) from None
        except (ConnectionError, RuntimeError) as error:
            raise SessionClosed(f"session with {self.peer.node} is closed: {error}") from error

    async def receive(self) -> FromAgent:
        message: FromAgent = await self._messages.next(self._socket)
        if not self._has_proved:
            self._messages.proved()
            self._has_proved = True
        return message

    async def close(self, reason: str) -> None:
        try:
            await self.send(Goodbye(reason))
        except SessionClosed:
            return
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason.encode()[:100])


class ServerStream:
    """`session.base.StreamSource` over a WebSocket, which is accepted by the first `receive`."""

    def __init__(self, request: web.Request, peer: Identity, messages: Messages) -> None:
        self.peer = peer
        self._request = request
        self._messages = messages
        self.socket = _socket(MAX_FRAME)

    async def receive(self) -> FromPublisher:
        try:
            if not self.socket.prepared:
                await self.socket.prepare(self._request)
                self._messages.proved()
            message: FromPublisher = await self._messages.next(self.socket)
        except (ConnectionError, RuntimeError) as error:
            raise SessionClosed(f"node {self.peer.node} publishes no more: {error}") from error
        return message


def encoded(message: FromManager) -> bytes:
    if isinstance(message, AssignmentUpdate):
        change: Any = message.change.encoded
        return codec.encode(AssignmentUpdate(change))
    return codec.encode(message)


def decode_frame(frame: Any, type_: Any) -> Any:
    """Decodes a message of the union `type_` from a WebSocket frame. Raises `SessionClosed` for
    everything else."""
    if frame.type is not WSMsgType.BINARY:
        raise SessionClosed(
            f"session closed by the other side: {frame.extra or frame.type.name.lower()}"
        )
    try:
        return codec.decode(frame.data, type_)
    except msgspec.DecodeError as error:
        raise SessionClosed(f"malformed message: {error}") from error


def _peer_certificate(request: web.Request) -> bytes | None:
    """In DER, as TLS has verified it."""
    tunnel = request.transport.get_extra_info("ssl_object") if request.transport else None
    certificate: bytes | None = tunnel.getpeercert(binary_form=True) if tunnel is not None else None
    return certificate
