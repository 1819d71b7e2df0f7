"""Takes a connection over from HTTP: after `exec` and `attach` the connection carries a program's
own bytes in both directions.

`take_over` answers 101 UPGRADED (or 200 for clients that did not ask to upgrade), and from then on
the connection belongs to a `Connection`. Three pitfalls determine the design:

* The client closes its sending half when its standard input ends, and goes on reading:
  `eof_received` must return True, because otherwise the transport closes both halves.
* The client sends nothing between its request and the answer (RFC 9110 section 7.8); the parser
  would lose such bytes.
* aiohttp must learn of the connection's end, and must not write a response of its own: hence
  `Taken`.

Buffers are bounded in both directions: a reader that stops makes only its own writer stop.
"""

import asyncio
import fcntl
import sys
import termios
from contextlib import suppress

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from weft.api.connection import HttpConnection
from weft.errors import OperationFailed

HIGH_WATER = 256 * 1024
"""Bytes of input that are buffered before the client must wait."""
TAKEN_PATIENCE, TAKEN_POLL = 0.1, 0.001
"""Seconds: how long to wait for a client to read the headers, and how often to look."""
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


class Taken(web.StreamResponse):
    """A handler returns this after it took the connection over; it writes nothing."""

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        self.force_close()
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        return None


class Connection(asyncio.Protocol):
    """The bytes of a connection that was taken over from HTTP."""

    def __init__(self, transport: asyncio.Transport, http: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._http = http
        self._received = bytearray()
        self._ended = False
        self._paused = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = asyncio.Event()

    # --- what the program side calls

    async def read(self) -> bytes:
        """The next input; empty when the client has closed its sending half or is gone."""
        await self._readable.wait()
        data = bytes(self._received)
        self._received.clear()
        if not self._ended:
            self._readable.clear()
        if self._paused and not self._ended:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Raises `ConnectionResetError` when the client is gone."""
        if self.lost.is_set() or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._writable.wait()

    async def taken(self) -> None:
        """Returns when the client has read what was written, or after a moment: docker-py loses
        what it reads together with the headers of the answer."""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(TAKEN_PATIENCE):
                while _unread(self._transport) and not self.lost.is_set():
                    await asyncio.sleep(TAKEN_POLL)

    def close(self) -> None:
        """Data that was already written is still sent."""
        self._transport.close()

    # --- what the event loop calls

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._readable.set()
        if len(self._received) > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        self._readable.set()
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()
        self._writable.set()
        self.lost.set()
        self._http.connection_lost(exc)


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not read (of TCP: whose arrival it has not confirmed). Raises
    `OSError`."""
    socket = transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return 0
    answer = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def take_over(request: web.Request, content_type: str) -> Connection:
    """Sends the answer and returns the connection. The request's body must have been read. Raises
    `OperationFailed` if the client is gone."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise OperationFailed("cannot attach: the client is gone")
    if request.headers.get("Upgrade"):
        status = "101 UPGRADED"
        upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        status, upgrade, content_type = "200 OK", "", RAW
    http = request.protocol
    connection = Connection(transport, http)
    transport.write(f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{upgrade}\r\n".encode())
    transport.set_protocol(connection)
    if isinstance(http, HttpConnection) and http.input_ended:
        connection.eof_received()
    else:
        transport.resume_reading()
    return connection
