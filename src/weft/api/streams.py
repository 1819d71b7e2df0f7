"""Answers whose end is not known when they begin: a program's streams over a connection of their
own (frames of output in one direction, input in the other), and responses that are written piece by
piece.

From its first byte on such an answer has a format of its own, and an error must use that format:
the client would read an HTTP response in the middle as part of the stream. So there are only two
ways to begin such an answer, `carry` and `streamed`, and both always end it themselves.

A frame is a byte for the stream (1 stdout, 2 stderr, 3 an error of the daemon), three zeros, the
length in four bytes, big-endian, and the data. A terminal has one stream and no frames.
"""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType

from aiohttp import web

from weft.api.detach_keys import DetachKeys
from weft.api.errors import text_of
from weft.api.hijack import Connection, Taken, take_over
from weft.api.schema.common import encode
from weft.errors import WeftError
from weft.runtime.base import Attached

log = logging.getLogger(__name__)
STDOUT, STDERR, ERROR = 1, 2, 3


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


def error_line(text: str) -> bytes:
    """An error in an answer of JSON lines."""
    return encode({"errorDetail": {"message": text}, "error": text})


async def carry(
    request: web.Request,
    content_type: str,
    framed: bool,
    work: Callable[[Connection], Awaitable[None]],
) -> Taken:
    """Takes the connection over, runs `work` on it and closes it. An error of `work` becomes the
    stream's last frame. Raises `OperationFailed` if the client is already gone."""
    connection = take_over(request, content_type)
    try:
        await work(connection)
    except ConnectionError:
        log.debug("stream.client_gone path=%s", request.path)
    except Exception as error:
        text = f"{text_of(request, _first(error))}\n".encode()
        with suppress(ConnectionError):
            await connection.write(frame(ERROR, text) if framed else text)
    finally:
        connection.close()
    return Taken()


class Pieces:
    """A response that is written piece by piece; begins with the first piece at the latest."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self.response = response

    async def begin(self) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        await self.begin()
        await self.response.write(data)

    async def write_eof(self) -> None:
        await self.begin()
        await self.response.write_eof()


@asynccontextmanager
async def streamed(
    request: web.Request,
    content_type: str,
    last_words: Callable[[str], bytes] | None,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    at_once: bool = True,
) -> AsyncIterator[Pieces]:
    """A response that is written piece by piece. `last_words` turns an error's text into the end of
    the response; without `last_words` the connection is aborted, which the client notices.
    `at_once`: the headers are sent at once, for clients that wait for them. Otherwise an error
    before the first piece is an HTTP error like any other."""
    response = Pieces(
        request, web.StreamResponse(headers={"Content-Type": content_type, **headers})
    )
    if at_once:
        await response.begin()
    try:
        yield response
    except ConnectionError:
        raise
    except Exception as error:
        if not response.response.prepared:
            raise
        text = text_of(request, _first(error))
        if last_words is None:
            break_off(request)
            return
        await response.write(last_words(text))
    await response.write_eof()


def break_off(request: web.Request) -> None:
    """Aborts the connection, so that the client sees that the answer is incomplete."""
    if request.transport is not None:
        request.transport.abort()


def _first(error: Exception) -> Exception:
    """The first error of a group."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def join(
    attached: Attached,
    connection: Connection,
    *,
    stdin: bool,
    outputs: frozenset[int],
    framed: bool,
    keys: bytes = b"",
) -> bool:
    """Copies both directions until the program's output ends or the client is gone. `keys`: with
    these the client leaves; empty: with none. Returns whether it has left with them."""
    looked_for = DetachKeys(keys)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(
            _feed(connection, attached, looked_for) if stdin else _discard(connection)
        )
        ends = [
            group.create_task(looked_for.pressed.wait()),
            group.create_task(connection.lost.wait()),
            group.create_task(_show(attached, connection, outputs, framed)),
        ]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (feeding, *ends):
            task.cancel()
    return looked_for.pressed.is_set()


async def _show(
    attached: Attached, connection: Connection, outputs: frozenset[int], framed: bool
) -> None:
    while True:
        stream, data = await attached.read()
        if not data and stream == 0:
            return
        if stream in outputs and data:
            try:
                await connection.write(frame(stream, data) if framed else data)
            except ConnectionError:
                return


async def _feed(connection: Connection, attached: Attached, keys: DetachKeys) -> None:
    """A program that no longer reads its input is no error: its output continues."""
    try:
        while data := await connection.read():
            if passed := keys.left_of(data):
                await attached.write(passed)
        await attached.close_stdin()
    except (ConnectionError, WeftError) as error:
        log.debug("stream.input_ended cause=%s", error)
        await _discard(connection)


async def _discard(connection: Connection) -> None:
    """Reads and drops input, so that the end of the client's connection is noticed."""
    while await connection.read():
        pass
