"""A listening socket that many connections cannot block: connections are accepted as fast as they
come, and surplus ones are closed before they have cost anything.

    accept ─▶ a place in the crowd ─▶ first bytes ─▶ begin ─▶ proved
              (`crowd.py`: which      (until then     (TLS: a limited   (its place is free)
              other must be closed)   no TLS, no      rate for each
                                      task)           address)

No connection waits in the kernel's queue behind others: a thousand silent connections a second cost
a few hundredths of a processor. Only the TLS handshake is expensive. So each address has a rate of
handshakes, and so have all addresses together that are not known to be nodes'. A client that comes
too often is cut off, and may come again.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

import msgspec

from weft.system.crowd import Crowd, CrowdLimits
from weft.system.log_limit import LogLimit
from weft.system.rate import TokenBucket, TokenBuckets

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that the kernel holds while the event loop is busy; it takes `net.core.somaxconn`
if that is less."""
AT_ONCE = 64
"""Connections that are accepted before others of the event loop get their turn."""
RETRY = 0.1
"""Seconds to wait when the process has no descriptor left."""
SOURCES = 4096
"""The number of addresses whose rate is remembered."""
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection at once; the kernel sends and remembers nothing more."""


class DoorLimits(msgspec.Struct, frozen=True):
    crowd: CrowdLimits = CrowdLimits()
    silence: float = 5.0
    """Seconds until the first byte."""
    proof: float = 30.0
    """Seconds until the connection must have proved who it is; joining takes up to 20."""
    rate: float = 30.0
    burst: float = 100.0
    """Handshakes a second from one address, and the number at once after a quiet time. A handshake
    costs some milliseconds."""
    strangers_rate: float = 100.0
    strangers_burst: float = 300.0
    """The same limits for all addresses together that are not known to be nodes'."""


class Guest:
    """An accepted connection that has not yet proved who it is."""

    def __init__(
        self, connection: socket.socket, source: str, gone: "Callable[[Guest], None]"
    ) -> None:
        self.socket: socket.socket | None = connection
        """None after `adopted`."""
        self.source = source
        """IP address of the client."""
        self._gone = gone
        self._abort: Callable[[], object] = self._close
        self.timer: asyncio.TimerHandle | None = None

    def adopted(self, abort: Callable[[], object]) -> socket.socket:
        """Hands the socket over to the caller, who calls `leave` when the connection has ended.
        `abort` closes the connection from now on."""
        connection = self.socket
        assert connection is not None
        self.socket, self._abort = None, abort
        return connection

    def end(self) -> None:
        """Cuts the connection off, whatever its state."""
        self.leave()
        self._abort()

    def leave(self) -> None:
        """Gives up the place in the crowd: the connection has ended or has proved who it is."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._gone(self)

    def _close(self) -> None:
        if self.socket is not None:
            asyncio.get_running_loop().remove_reader(self.socket)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            self.socket.close()
            self.socket = None


class Doorway:
    def __init__(
        self,
        begin: Callable[[Guest], None],
        limits: DoorLimits,
        known: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`begin` is called when a connection has sent its first bytes, and calls `adopted`.
        `known`: whether an address belongs to a node."""
        self._begin = begin
        self._limits = limits
        self._known = known
        self._crowd: Crowd[Guest] = Crowd(limits.crowd, known)
        self._rates = TokenBuckets(limits.rate, limits.burst, SOURCES)
        self._strangers = TokenBucket(limits.strangers_rate, limits.strangers_burst)
        self._sockets: list[socket.socket] = []
        self._pause: asyncio.TimerHandle | None = None
        self._log = LogLimit(self._now)

    @property
    def waiting(self) -> int:
        """The number of connections that have not left yet."""
        return len(self._crowd)

    def start(self, listening: socket.socket) -> None:
        """Accepts connections on a listening, non-blocking socket, and closes the socket with the
        doorway. May be called for several sockets."""
        self._sockets.append(listening)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def stop_listening(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def close(self) -> None:
        """Stops listening and cuts off the connections that have not left yet."""
        self.stop_listening()
        for guest in self._crowd.all():
            guest.end()

    def is_member(self, guest: Guest, name: str) -> None:
        """The connection has shown a certificate with that name."""
        if (displaced := self._crowd.is_member(guest, name)) is not None:
            self._cut_off(displaced, f"member {name}", "too many connections")

    # ---

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, (source, *_) = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.warning("doorway.accept_failed cause=%s", error)
                self._rest()
                return
            connection.setblocking(False)
            self._let_in(Guest(connection, source, self._forget))

    def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
        self._pause = loop.call_later(RETRY, self._go_on)

    def _go_on(self) -> None:
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _let_in(self, guest: Guest) -> None:
        loop, connection = asyncio.get_running_loop(), guest.socket
        assert connection is not None
        loop.add_reader(connection, self._first_word, guest)
        guest.timer = loop.call_later(self._limits.silence, guest.end)
        if (displaced := self._crowd.enter(guest, guest.source)) is not None:
            self._cut_off(displaced, displaced.source, "too many connections")

    def _first_word(self, guest: Guest) -> None:
        now, loop = self._now(), asyncio.get_running_loop()
        assert guest.socket is not None
        loop.remove_reader(guest.socket)
        self._crowd.spoke(guest)
        if not self._rates.allows(guest.source, now):
            self._cut_off(guest, guest.source, "too often")
        elif not self._known(guest.source) and not self._strangers.allows(now):
            self._cut_off(guest, guest.source, "too many strangers")
        else:
            assert guest.timer is not None
            guest.timer.cancel()
            guest.timer = loop.call_later(self._limits.proof, guest.end)
            self._begin(guest)

    def _forget(self, guest: Guest) -> None:
        self._crowd.leave(guest)

    def _cut_off(self, guest: Guest, who: str, cause: str) -> None:
        guest.end()
        if times := self._log.times(who):
            log.warning("doorway.cut_off who=%s cause=%s times=%d", who, cause, times)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
