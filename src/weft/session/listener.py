"""The TLS listener for sessions, which strangers cannot exhaust.

Anybody may connect to a manager, and most of a connection's cost arises before the client has
identified itself. `system/doorway.py` decides which connections may begin, and which must go when
there are too many. The listener agrees on TLS. A client that shows a node's certificate counts as
that node from then on. All others count as strangers until they have proved themselves: a session
has had its first message, or a request was answered. No client may take longer than
`DoorLimits.proof`. `pace.py` limits how fast their data is read.

Each connection is served with the newest TLS context, so the certificate is always the current one.
The listening socket stays open meanwhile, so no client is turned away while certificates change.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.session import keepalive
from weft.session.pace import Accounts, Paced, PaceLimits
from weft.system.doorway import BACKLOG, DoorLimits, Doorway, Guest

log = logging.getLogger(__name__)

PIECE = 1 << 15
"""Bytes."""
HANDSHAKE_TIMEOUT = 10.0
"""Seconds."""


class Limits(msgspec.Struct, frozen=True):
    door: DoorLimits = DoorLimits()
    send: float = 30.0
    """Seconds that the other side may take for one message."""
    pace: PaceLimits = PaceLimits()


LIMITS = Limits()


class InPieces:
    """A TLS transport that writes large messages in pieces. The buffer that OpenSSL encrypts into
    grows to the size of the largest write, and keeps that size for as long as the connection lives:
    half a megabyte for each of a thousand agents. Reading is paused below TLS, where pieces are
    small as well."""

    def __init__(self, transport: asyncio.Transport, guest: Guest, paced: Paced) -> None:
        self._transport = transport
        self.guest = guest
        self.paced = paced

    def pause_reading(self) -> None:
        self.paced.pause_reading()

    def resume_reading(self) -> None:
        self.paced.resume_reading()

    def close(self) -> None:
        """Resumes reading, because the other side's end of TLS is still to be read."""
        self.paced.resume_reading()
        self._transport.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            self._transport.write(view[at : at + PIECE])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(asyncio.Protocol):
    """A connection that has sent something: passes data on to the protocol behind it, and notices
    the end."""

    def __init__(
        self, guest: Guest, behind: asyncio.Protocol, door: Doorway, accounts: Accounts
    ) -> None:
        self._guest = guest
        self._behind = behind
        self._door = door
        self._accounts = accounts
        self._socket: socket.socket | None = guest.adopted(self._abort)
        """The socket, until a transport takes it over."""
        self._serving: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        """Set once TLS is agreed on."""
        self._early: list[bytes] = []
        """Data that came with the last message of the handshake."""
        self._is_lost = False

    def serve(self, context: Callable[[], ssl.SSLContext]) -> "asyncio.Task[None]":
        """Agrees on TLS; the task ends when the handshake has succeeded or failed."""
        self._serving = asyncio.create_task(self._handshake(context))
        return self._serving

    async def _handshake(self, context: Callable[[], ssl.SSLContext]) -> None:
        try:
            newest, connection = context(), self._socket
            assert connection is not None, "who takes it away cancels this task"
            self._socket = None
            paced = Paced(self._accounts.stranger(self._guest.source))
            await asyncio.get_running_loop().connect_accepted_socket(lambda: paced, connection)
            transport = await paced.start_tls(self, newest, HANDSHAKE_TIMEOUT)
            if not self._is_lost:
                self._begin(transport, paced)
        except OSError as error:
            log.debug("listener.handshake_failed cause=%s", error)
            self._guest.end()
        except Exception:
            log.exception("listener.handshake_broken")
            self._guest.end()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        elif self._serving is not None and self._serving is not asyncio.current_task():
            self._serving.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _begin(self, transport: asyncio.Transport, paced: Paced) -> None:
        self.transport = cast(asyncio.Transport, InPieces(transport, self._guest, paced))
        if name := _common_name(transport.get_extra_info("peercert")):
            paced.account = self._accounts.member(name)
            self._door.is_member(self._guest, name)
        self._behind.connection_made(self.transport)
        early, self._early = self._early, []
        for data in early:
            self._behind.data_received(data)

    # --- asyncio.Protocol, which may be called before `_begin`

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            self._early.append(data)
        else:
            self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received() if self.transport is not None else None

    def pause_writing(self) -> None:
        if self.transport is not None:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        if self.transport is not None:
            self._behind.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._guest.leave()
        if self.transport is not None:
            self._behind.connection_lost(exc)


class Listener:
    def __init__(
        self,
        protocol: Callable[[], asyncio.Protocol],
        context: Callable[[], ssl.SSLContext],
        limits: Limits,
        known: Callable[[str], bool],
    ) -> None:
        """`known`: whether an IP address is a node's."""
        self._protocol = protocol
        self._context = context
        self._door = Doorway(self._begin, limits.door, known)
        self._accounts = Accounts(limits.pace, known, lambda: asyncio.get_running_loop().time())
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def unproven(self) -> int:
        """The number of connections that have not proved themselves yet."""
        return self._door.waiting

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
        self._door.start(listening)

    async def close(self) -> None:
        """Accepts no more connections, and ends those that have not proved themselves; the others
        belong to the protocol."""
        self._door.close()
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def proved(self, transport: asyncio.BaseTransport | None) -> None:
        """The connection with this transport has proved itself."""
        if isinstance(transport, InPieces):
            transport.guest.leave()

    def charge(self, transport: asyncio.BaseTransport | None, seconds: float) -> None:
        """Charges the connection with this transport for work other than reading, in seconds of the
        processor."""
        if isinstance(transport, InPieces):
            transport.paced.charge(seconds)

    def _begin(self, guest: Guest) -> None:
        handshake = Connection(guest, self._protocol(), self._door, self._accounts).serve(
            self._context
        )
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)


def _common_name(certificate: Any) -> str:
    """The node's id from a certificate that TLS has verified, as `SSLSocket.getpeercert` gives it.
    Empty if there is no certificate."""
    subject = certificate.get("subject", ()) if certificate else ()
    return next((text for part in subject for key, text in part if key == "commonName"), "")
