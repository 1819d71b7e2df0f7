"""The HTTP side of one connection. aiohttp handles it, with three exceptions:

* A client may close its sending half after its request and go on reading (`nc -N`, socat, a Go
  client that sends `docker exec` without a standard input). aiohttp then closes the whole
  connection and leaves the request unanswered. Weft answers every request that arrived complete,
  and closes the connection afterwards. A client that is gone altogether looks the same at first. A
  watch on the socket notices that the other half is closed as well, so that a stream without a
  reader ends at once.
* Input that is not HTTP gets the API's own error, as JSON, and one line in the log.
* Lines and headers may be longer than aiohttp's 8 kB (credentials for a registry, long filters),
  and no body is decompressed.
"""

import asyncio
import logging
import select
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_request import BaseRequest

from weft.api.errors import error_response, internal_error
from weft.errors import clip

log = logging.getLogger(__name__)

MAX_LINE = 64 * 1024
"""Bytes of the request line, and of each header."""
MAX_HEADERS = 128


class HttpConnection(web.RequestHandler):
    def __init__(self, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
        self.input_ended = False
        """The client has closed its sending half."""
        self._answered = 0
        self._last_body: StreamReader | None = None
        self._watch: HangUp | None = None
        make = server.request_factory

        def remember(message: object, body: StreamReader, *rest: object) -> BaseRequest:
            self._last_body = body
            return make(message, body, *rest)  # type: ignore[arg-type]

        self._request_factory = remember

    def eof_received(self) -> bool:  # type: ignore[override]
        """True keeps the other half open."""
        self.input_ended = True
        body = self._messages[-1][1] if self._messages else self._last_body
        if self._answered == self._request_count or body is None or not body.is_eof():
            return False
        self._watch = HangUp(cast(asyncio.Transport, self.transport))
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        super().connection_lost(exc)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(
            resp, web.HTTPException
        ):  # raised by aiohttp itself before any handler runs: an unknown Expect
            resp = error_response(
                resp.status, f"cannot read the request: {clip(resp.text or resp.reason)}"
            )
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        if self.input_ended and self._answered == self._request_count:
            self.close()
        return finished

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers errors that no handler saw, and closes the connection. The log contains no line
        of the request, which may hold credentials."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        if status >= 500:
            response = internal_error(request.method, request.path, exc)
        elif isinstance(exc, LineTooLong):
            response = error_response(
                431, f"cannot read the request: a line of it is longer than {MAX_LINE} bytes"
            )
        else:
            response = error_response(status, f"cannot read the request: {clip(message or '')}")
        if status < 500:
            log.info("api.unreadable status=%d cause=%s", response.status, type(exc).__name__)
        response.force_close()
        return response


class HangUp:
    """Aborts a connection whose peer has closed both directions, when nothing reads from the
    connection and would notice.

    epoll(7) always reports EPOLLHUP. The end of input alone is EPOLLRDHUP, which this epoll does
    not ask for. An epoll descriptor with events is itself readable, and both event loops can wait
    for that.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll(1)
        self._epoll.register(transport.get_extra_info("socket").fileno(), 0)
        self._loop.add_reader(self._epoll.fileno(), self._gone)

    def _gone(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._transport.abort()

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
