"""Limits the processor time that each client may cost: received data is charged to an account with
the time that it took, and a connection in debt is not read from until the debt is paid.

    socket ─▶ Paced ─▶ TLS ─▶ Connection (listener.py) ─▶ WebSocket ─▶ decoded message (server.py)
              reads a piece; `charge` for its cost                     `charge` again

Bytes would be the wrong measure. On one machine a byte cost 1 ns in a large frame, 30 ns in an
empty frame and 100 ns alone in its TLS record, and there may be dearer ones. So time is measured,
whatever it went into. A piece is small, because the whole piece is processed before another
connection's turn.

All connections of a member pay from one account, and so do those of strangers from one address.
Strangers at addresses that are not known as nodes' share one more account.

`Paced` stands below TLS, because TLS would take in and decrypt a quarter of a megabyte at a time.
The socket is read only if the protocol behind TLS wants more and no debt is left.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import cast

import msgspec

from weft.system.log_limit import LogLimit
from weft.system.rate import TokenBucket, TokenBuckets

log = logging.getLogger(__name__)

PIECE = 32 << 10
"""Bytes of one read: two TLS records of the largest size."""
READ = 20e-6
"""Seconds of the processor for work that cannot be measured here: a read, or a message after
decoding."""
SHORTEST = 0.01
"""Seconds of the shortest pause: more data arrives meanwhile, and a pause costs something as
well."""
ACCOUNTS = 8192
"""Names and addresses whose debts are remembered."""

Charge = Callable[[float], float]
"""Takes seconds of the processor; returns the seconds until they are earned."""


class Share(msgspec.Struct, frozen=True):
    rate: float
    """Share of one processor, in the long run: seconds a second."""
    burst: float
    """Seconds of the processor that may be used at once after a quiet time."""


class PaceLimits(msgspec.Struct, frozen=True):
    member: Share = Share(0.15, 0.5)
    """One node, with its session and all the streams that it publishes here. Logs of about 60 MB/s
    need as much."""
    source: Share = Share(0.2, 2.0)
    """Strangers at one address, and nodes that have not shown their certificates yet. A handshake
    takes some milliseconds, so this share is enough for more than `DoorLimits.rate` of them."""
    strangers: Share = Share(0.4, 2.0)
    """All strangers at addresses that are not known as nodes'."""


class Accounts:
    def __init__(
        self, limits: PaceLimits, known: Callable[[str], bool], now: Callable[[], float]
    ) -> None:
        """`known`: whether an IP address is a node's. `now`: the loop's clock, in seconds."""
        self._known = known
        self._now = now
        self._log = LogLimit(now)
        self._members = TokenBuckets(limits.member.rate, limits.member.burst, ACCOUNTS)
        self._sources = TokenBuckets(limits.source.rate, limits.source.burst, ACCOUNTS)
        self._strangers = TokenBucket(limits.strangers.rate, limits.strangers.burst)

    def member(self, name: str) -> Charge:
        return lambda seconds: self._told(
            f"member {name}", self._members.owes(name, self._now(), seconds)
        )

    def stranger(self, source: str) -> Charge:
        """The account of strangers at that IP address."""
        is_known = self._known(source)

        def charge(seconds: float) -> float:
            owed = self._sources.owes(source, self._now(), seconds)
            if not is_known:
                owed = max(owed, self._strangers.owes(self._now(), seconds))
            return self._told(source, owed)

        return charge

    def _told(self, who: str, owed: float) -> float:
        if owed > 0 and (times := self._log.times(who)):
            log.info(
                "pace.slowed who=%s cause=more than its share of the processor times=%d", who, times
            )
        return owed


class Paced(asyncio.BufferedProtocol):
    """Between a socket's transport and TLS."""

    def __init__(self, charge: Charge, spent: Callable[[], float] = time.thread_time) -> None:
        """`spent`: the processor time that this thread has used, in seconds."""
        self.account = charge
        """May be replaced: only the handshake shows whose connection this is."""
        self._spent = spent
        self._transport: asyncio.Transport | None = None
        """None again once the transport is lost."""
        self._tls: asyncio.BufferedProtocol | None = None
        self._early: bytearray | None = bytearray()
        """Data that came before TLS was ready for it."""
        self._buffer = bytearray()
        """The buffer for early data."""
        self._is_held = False
        """The protocol behind TLS wants no more data for now."""
        self._debt: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None
        """Other connections have their turn first: while there is more to read, uvloop would go on
        with this one."""
        self.pauses = 0
        """How often reading was paused for a debt."""

    async def start_tls(
        self, protocol: asyncio.Protocol, context: ssl.SSLContext, patience: float
    ) -> asyncio.Transport:
        """Agrees on TLS for `protocol` within `patience` seconds. `protocol` may be called before
        this returns, except for its `connection_made`. Raises `OSError`. After an error, or if this
        is cancelled, the connection is aborted."""
        loop, transport = asyncio.get_running_loop(), self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the other side is gone")
        # Before TLS sees the transport, which `start_tls` leaves to the loop.
        loop.call_soon(self._step_between)
        try:
            return cast(
                asyncio.Transport,
                await loop.start_tls(
                    transport, protocol, context, server_side=True, ssl_handshake_timeout=patience
                ),
            )
        except BaseException:
            transport.abort()
            raise

    def _step_between(self) -> None:
        if self._transport is not None:
            self._tls = cast(asyncio.BufferedProtocol, self._transport.get_protocol())
            self._transport.set_protocol(self)
            asyncio.get_running_loop().call_soon(self._feed_early)

    def _feed_early(self) -> None:
        early, self._early = self._early, None
        self._buffer = bytearray()
        if early and self._tls is not None:
            memoryview(self._tls.get_buffer(len(early)))[: len(early)] = early
            self._pass_on(len(early))

    # --- charging

    def charge(self, seconds: float) -> None:
        """Charges seconds of the processor. Nothing is read until they are earned."""
        owed = self.account(seconds)
        if owed > 0 and self._transport is not None:
            if self._debt is None:
                self.pauses += 1
            else:
                self._debt.cancel()
            self._debt = asyncio.get_running_loop().call_later(max(owed, SHORTEST), self._paid)
            self._transport.pause_reading()

    def _paid(self) -> None:
        self._debt = None
        self._go_on()

    def pause_reading(self) -> None:
        self._is_held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_held = False
        self._go_on()

    def _next_turn(self) -> None:
        self._turn = None
        self._go_on()

    def _go_on(self) -> None:
        is_free = not self._is_held and self._debt is None and self._turn is None
        if self._transport is not None and is_free:
            self._transport.resume_reading()

    def _pass_on(self, nbytes: int) -> None:
        assert self._tls is not None
        began = self._spent()
        self._tls.buffer_updated(nbytes)
        self.charge(self._spent() - began + READ)
        if nbytes == PIECE and self._turn is None and self._transport is not None:
            self._turn = asyncio.get_running_loop().call_soon(self._next_turn)
            self._transport.pause_reading()

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._tls is None:
            self._buffer = bytearray(PIECE)
            return memoryview(self._buffer)
        if self._early is not None:
            self._feed_early()
        return memoryview(self._tls.get_buffer(PIECE))[:PIECE]

    def buffer_updated(self, nbytes: int) -> None:
        if self._tls is not None:
            self._pass_on(nbytes)
        elif self._early is not None and self._transport is not None:
            self._early += self._buffer[:nbytes]
            self._transport.pause_reading()

    def eof_received(self) -> bool | None:
        return self._tls.eof_received() if self._tls is not None else None

    def pause_writing(self) -> None:
        if self._tls is not None:
            self._tls.pause_writing()

    def resume_writing(self) -> None:
        if self._tls is not None:
            self._tls.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for later in (self._debt, self._turn):
            if later is not None:
                later.cancel()
        if self._tls is not None:
            self._tls.connection_lost(exc)
            self._tls = None
