"""The API's server: HTTP on UNIX sockets that only root may use, and on TCP with mutual TLS.

`ApiServer(node)` puts the route table in front of the node. Each request becomes a `Call`. This
file alone maps the errors that handlers raise to a status. The server knows nothing of the node's
work, and the node nothing of HTTP.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from aiohttp import web

from weft import errors
from weft.api.backend import Node
from weft.api.call import Call, Handler
from weft.api.connection import HttpConnection
from weft.api.errors import error_response, internal_error, message_of, status_of, text_of
from weft.api.execs import Execs
from weft.api.metrics import TALLY
from weft.api.request_tally import RequestTally
from weft.api.routes import INTERRUPTIBLE, VERSIONED, is_shared, paths
from weft.api.streams import break_off
from weft.api.tls import TlsListener
from weft.api.versions import MAX_VERSION, check_served
from weft.errors import clip
from weft.system import memory
from weft.system.files import make_missing
from weft.system.tls_files import TlsFiles

log = logging.getLogger(__name__)

MAX_BODY = 3 * 2**19
"""Bytes of a request's body, 1.5 MiB: the limit of one transaction in Docker's store (swarmkit
manager/state/store/memory.go). Archives of images are streamed and have no limit here."""
BACKLOG = 4096
"""Connections that wait to be accepted; the kernel uses the smaller of this and
net.core.somaxconn, as for Go. One more nonblocking client of a UNIX socket gets EAGAIN."""
LARGE = 2**18
"""Bytes of a body above which the memory that its request used is released."""
AFTERWARDS = 2.0
"""Seconds from a large request to the release of memory."""
DECODED_AT_ONCE = 2
"""Long bodies that are decoded at the same time. To decode one megabyte takes ten megabytes of
memory and a tenth of a second of CPU time."""
MAX_LOGGED = 1024
"""Characters of a cause in the log."""
_KEEP_SOCKET: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""From Python 3.13 on a server removes the file of its socket, also of one that it was given."""
GRACE = 1.0
"""Seconds that `close` gives to requests in progress; streams would go on for ever."""


class ApiServer:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._execs = Execs()
        self.tally = RequestTally()
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)
        self._working: set[asyncio.Task[web.StreamResponse]] = set()
        self._releasing: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.AbstractServer] = []
        self._tls: list[TlsListener] = []
        self._sockets: list[tuple[Path, int]] = []
        """Each path with the inode of its socket: another daemon may have put its own socket
        there."""

    async def start(self, path: Path) -> None:
        """Listens at `path`; may be called for several paths. Replaces a socket without a listener.
        Raises `Conflict` if the socket has a listener or `path` is not a socket; `OperationFailed`
        if the socket cannot be made."""
        listening = _listen(path)
        self._sockets.append((path, path.stat().st_ino))
        await self._listen_at(listening, path)

    async def adopt(self, listening: socket.socket) -> None:
        """Listens at a UNIX socket that somebody else has made, and will remove."""
        await self._listen_at(listening, listening.getsockname())

    async def _listen_at(self, listening: socket.socket, path: Path | str) -> None:
        server = await asyncio.get_running_loop().create_unix_server(
            await self._protocols(), sock=listening, backlog=BACKLOG, **_KEEP_SOCKET
        )
        self._servers.append(server)
        log.info("api.listening path=%s version=%s", path, MAX_VERSION)

    async def start_tls(self, address: str, port: int, files: TlsFiles) -> int:
        """Listens on TCP for clients with a certificate of the CA, and returns the port. Raises
        `InvalidArgument` for unusable files, `OperationFailed` if the address cannot be used."""
        listener = TlsListener(files, await self._protocols())
        bound = await listener.start(address, port)
        self._tls.append(listener)
        log.info("api.listening address=%s port=%d version=%s", address, bound, MAX_VERSION)
        return bound

    async def close(self) -> None:
        """Ends all requests, streams included, and removes the sockets that still belong to this
        server."""
        for server in self._servers:
            server.close()
        for listener in self._tls:
            listener.stop_listening()
        self._servers.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._releasing is not None:
            self._releasing.cancel()
            await asyncio.wait((self._releasing,))
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._execs.close()
        for listener in self._tls:
            await listener.close()
        self._tls.clear()
        for path, inode in self._sockets:
            try:
                if path.stat().st_ino == inode:
                    path.unlink()
            except FileNotFoundError:
                pass
        self._sockets.clear()

    async def _protocols(self) -> Callable[[], HttpConnection]:
        """The factory for the HTTP side of a connection; the same for all sockets."""
        if self._runner is None:
            runner = web.AppRunner(
                self._application(),
                handle_signals=False,
                shutdown_timeout=GRACE,
                handler_cancellation=True,
            )
            await runner.setup()
            self._runner = runner
        assert self._runner.server is not None
        return partial(HttpConnection, self._runner.server)

    def _application(self) -> web.Application:
        application = web.Application(
            client_max_size=MAX_BODY,
            middlewares=[self._count, answer_errors, check_version, check_encoding],
        )
        application[TALLY] = self.tally
        application.on_response_prepare.append(self._add_headers)
        for method, path, handler in paths():
            interruptible = method == "GET" or handler in INTERRUPTIBLE
            bound = self._bound(handler, interruptible, is_shared(path.removeprefix(VERSIONED)))
            application.router.add_route(method, path, bound)
        return application

    def _bound(
        self, handler: Handler, interruptible: bool, shared: bool
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """`shared`: the request concerns state that all managers share. A change that another
        manager committed arrives here a moment later, so the handler first waits for it: a client
        finds every object that it has created."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                if shared:
                    await self._catch_up()
                return await handler(Call(request, self._node, self._execs, self._decoding))
            finally:
                if request.content.total_bytes > LARGE:
                    self._release_memory()

        async def carry_through(request: web.Request) -> web.StreamResponse:
            task = asyncio.create_task(handle(request))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
            try:
                return await asyncio.shield(task)
            finally:
                # The task's exception refers to this frame, and this frame to the task: without
                # `del` a body of megabytes would stay until the garbage collector runs.
                del task

        return handle if interruptible else carry_through

    @web.middleware
    async def _count(self, request: web.Request, handler: "_Next") -> web.StreamResponse:
        begun, status = perf_counter(), 0
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            self.tally.add(request, status, begun)

    async def _catch_up(self) -> None:
        try:
            swarm = self._node.swarm()
        except errors.Unavailable:  # not a manager: the handler raises this if it needs one
            return
        await swarm.catch_up()

    def _release_memory(self) -> None:
        """Releases memory a little later, once for all large requests of that time."""
        if self._releasing is None or self._releasing.done():
            self._releasing = asyncio.create_task(self._release_soon())

    @staticmethod
    async def _release_soon() -> None:
        await asyncio.sleep(AFTERWARDS)
        await asyncio.to_thread(memory.release)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Api-Version"] = MAX_VERSION
        response.headers["Ostype"] = "linux"
        response.headers["Server"] = f"Weft/{self._node.info.version} (linux)"


_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_errors(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Answers errors as Docker's clients expect them. A bug is logged, and the client learns only
    that there was one. An answer that has begun is broken off instead, unless its stream has ended
    in its own form."""
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as error:
        if _has_begun(request):
            text_of(request, error)
            break_off(request)
            raise ConnectionResetError("the answer has begun") from error
        return _answer(request, error)


def _has_begun(request: web.Request) -> bool:
    """Whether the client has received data already, or the connection was taken over from HTTP."""
    transport = request.transport
    return (
        request.writer.output_size > 0
        or transport is None
        or transport.get_protocol() is not request.protocol
    )


def _answer(request: web.Request, error: Exception) -> web.StreamResponse:
    match error:
        case errors.WeftError():
            status, cause = status_of(error), clip(str(error), MAX_LOGGED)
            log.info(
                "api.refused method=%s path=%s status=%d cause=%s",
                request.method,
                clip(request.path),
                status,
                cause,
            )
            return error_response(status, message_of(error))
        case web.HTTPRequestEntityTooLarge():
            return error_response(
                413, f"cannot read the request: its body is larger than {MAX_BODY} bytes"
            )
        case web.RequestPayloadError():
            return error_response(400, f"cannot read the body of the request: {clip(str(error))}")
        case web.HTTPNotFound() | web.HTTPMethodNotAllowed():
            return error_response(404, "page not found")
        case web.HTTPException():
            return error_response(error.status, error.reason)
        case _:
            return internal_error(request.method, request.path, error)


@web.middleware
async def check_version(request: web.Request, handler: _Next) -> web.StreamResponse:
    text = request.match_info.get("version")
    if text:
        check_served(text)
    return await handler(request)


@web.middleware
async def check_encoding(request: web.Request, handler: _Next) -> web.StreamResponse:
    """RFC 9110 section 8.4: 415 for an unsupported coding. Docker ignores the header."""
    coding = request.headers.get("Content-Encoding", "")
    if coding.strip().lower() not in ("", "identity"):
        return error_response(
            415, f"cannot read the request: Content-Encoding {clip(coding)!r} is not supported"
        )
    return await handler(request)


def _listen(path: Path) -> socket.socket:
    """Makes a listening socket beside `path` and moves it there, so that `path` is never missing or
    open to other users."""
    _refuse_taken(path)
    temporary = path.with_name(f".{os.getpid():x}.sock")
    listening = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        make_missing(path.parent, 0o755)
        temporary.unlink(missing_ok=True)
        listening.bind(str(temporary))
        temporary.chmod(0o600)
        listening.listen(BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listening.close()
        raise errors.OperationFailed(
            f"cannot listen on {path}: {errors.cause_of(error)}"
        ) from error
    return listening


def _refuse_taken(path: Path) -> None:
    """Raises `Conflict` unless `path` is free or a socket without a listener."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.Conflict(f"cannot listen on {path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT)
    if not refused:
        raise errors.Conflict(f"cannot listen on {path}: another daemon listens there")
