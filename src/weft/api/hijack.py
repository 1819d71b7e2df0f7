"""Taking a connection over from HTTP: after `exec` and `attach` it carries a program's own bytes,
both ways.

`take_over` answers 101 UPGRADED (or 200 for clients that did not ask to upgrade), and from then on
the connection belongs to a `Connection`. Three traps decide the shape of this file:

* The client closes its sending half when its standard input ends and goes on reading:
  `eof_received` must return True, or the transport would close both.
* The client sends nothing between its request and our answer (RFC 9110 section 7.8); what came
  there would be lost in the parser.
* aiohttp must still learn of the connection's end, and must write no response of its own: hence
  `Taken`.

Neither direction is buffered without limit: a reader that stops stops the writer, and only it.
"""

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from weft.api.connection import HttpConnection
from weft.errors import OperationFailed

HIGH_WATER = 256 * 1024
"""Bytes of input held before the client is made to wait."""
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


class Taken(web.StreamResponse):
    """What a handler returns after it took the connection over: writes nothing."""

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        self.force_close()
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        return None


class Connection(asyncio.Protocol):
    """The bytes of a connection that HTTP has let go of."""

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

    def close(self) -> None:
        """What was written is still sent."""
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


def take_over(request: web.Request, content_type: str) -> Connection:
    """Answers, and gives the connection. The request's body must have been read."""
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
