"""A TLS listener that strangers cannot exhaust.

Anybody may connect to a manager, and most of what a connection costs is spent before it has said who it is. So connections are
accepted here one by one and counted until they have proved themselves: that is when a session has had its first message. At most
`Limits.unproven` may be at that stage. When there are as many, the oldest makes room for the next one, but not before it had
`Limits.grace` seconds: until then the next one waits in the kernel's queue. None may stay longer than `Limits.proof`. Who needs a
few milliseconds for it, as an agent does, gets in however many others open connections and say nothing.

The certificate is that of the moment: each connection is served with the newest context. The listening socket stays open
meanwhile, so nobody is turned away while certificates change.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.session import keepalive

log = logging.getLogger(__name__)

BACKLOG = 1024
PIECE = 1 << 15
"""Bytes."""
RETRY = 0.1
"""Seconds to wait when the process has no descriptor left."""


class Limits(msgspec.Struct, frozen=True):
    unproven: int = 512
    """Connections of which nobody knows yet who it is."""
    grace: float = 3.0
    """Seconds that each of them has in any case."""
    proof: float = 30.0
    """Seconds that it has at most: joining takes up to 20."""
    send: float = 30.0
    """Seconds that the other side may take for one message."""


LIMITS = Limits()


class InPieces:
    """A TLS transport to which large messages are written in pieces. The buffer that OpenSSL encrypts into grows to the size of what is
    written at once, and keeps that for as long as the connection lives: half a megabyte for each of a thousand agents."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            self._transport.write(view[at : at + PIECE])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(asyncio.Protocol):
    """One that has been accepted: what arrives goes to the protocol behind it, and its end is noticed."""

    def __init__(self, accepted: socket.socket, behind: asyncio.Protocol, over: Callable[[], None]) -> None:
        self._socket = accepted
        self._behind = behind
        self._over = over
        self._serving: asyncio.Task[None] | None = None
        self._adopted = False
        """The socket belongs to a transport."""
        self.since = asyncio.get_running_loop().time()
        self.transport: asyncio.Transport | None = None
        """Once TLS is agreed on."""

    def serve(self, context: Callable[[], ssl.SSLContext], limits: Limits) -> None:
        self._serving = asyncio.create_task(self._handshake(context, limits))
        self.deadline = asyncio.get_running_loop().call_later(limits.proof, self.end)

    async def _handshake(self, context: Callable[[], ssl.SSLContext], limits: Limits) -> None:
        try:
            newest = context()
            self._adopted = True
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, self._socket, ssl=newest, ssl_handshake_timeout=limits.proof
            )
        except OSError as error:
            log.debug("listener.handshake_failed cause=%s", error)
            self._end()
        except Exception:
            log.exception("listener.handshake_broken")
            self._end()

    def end(self) -> None:
        """At once, whatever it is doing."""
        if self.transport is not None:
            self.transport.abort()
        elif self._serving is not None:
            self._serving.cancel()
        self._end()

    async def ended(self) -> None:
        if self._serving is not None:
            await asyncio.wait([self._serving])

    def _end(self) -> None:
        self.deadline.cancel()
        if not self._adopted:
            self._socket.close()
        self._over()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, InPieces(cast(asyncio.Transport, transport)))
        self._behind.connection_made(self.transport)

    def data_received(self, data: bytes) -> None:
        self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._behind.connection_lost(exc)


class Listener:
    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], context: Callable[[], ssl.SSLContext], limits: Limits
    ) -> None:  # fmt: skip
        self._protocol = protocol
        self._context = context
        self._limits = limits
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._unproven: dict[int, Connection] = {}
        """By number, the oldest first."""
        self._changed = asyncio.Event()
        """Some connection is no longer among them."""
        self._count = 0

    @property
    def unproven(self) -> int:
        return len(self._unproven)

    def start(self, listen: str) -> None:
        """Listens on `host:port`. Raises `OperationFailed`."""
        host, _, port = listen.rpartition(":")
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keepalive.watch(listening)
            listening.bind((host or "0.0.0.0", int(port)))
            listening.listen(BACKLOG)
        except (OSError, ValueError, OverflowError) as error:
            listening.close()
            raise OperationFailed(f"cannot listen on {listen}: {cause_of(error)}") from error
        self._socket = listening
        self._accepting = asyncio.create_task(self._accept(listening), name=f"listener {listen}")

    async def close(self) -> None:
        """Accepts no more and ends the connections that have not proved themselves; the others are the protocol's."""
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
        if self._socket is not None:
            self._socket.close()
        connections = list(self._unproven.values())
        for connection in connections:
            connection.end()
        for connection in connections:
            await connection.ended()
        self._socket = self._accepting = None

    def proved(self, transport: asyncio.BaseTransport | None) -> None:
        """The connection with this transport has said who it is."""
        for number, connection in self._unproven.items():
            if transport is not None and connection.transport is transport:
                connection.deadline.cancel()
                self._forget(number)
                return

    # ---

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._make_room()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("listener.accept_failed cause=%s", error)
                await asyncio.sleep(RETRY)
                continue
            accepted.setblocking(False)
            self._count += 1
            connection = Connection(accepted, self._protocol(), partial(self._forget, self._count))
            self._unproven[self._count] = connection
            connection.serve(self._context, self._limits)

    async def _make_room(self) -> None:
        clock = asyncio.get_running_loop().time
        while len(self._unproven) >= self._limits.unproven:
            oldest = next(iter(self._unproven.values()))
            left = oldest.since + self._limits.grace - clock()
            if left <= 0:
                log.debug("listener.made_room unproven=%d", len(self._unproven))
                oldest.end()
                continue
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _forget(self, number: int) -> None:
        if self._unproven.pop(number, None) is not None:
            self._changed.set()
