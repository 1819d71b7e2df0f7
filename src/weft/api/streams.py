"""A program's streams over a connection: frames of output one way, input the other.

A frame is a byte for the stream (1 stdout, 2 stderr, 3 an error of the daemon), three zeros, the length in four bytes, big-endian, and
the data. A terminal has one stream and no frames.
"""

import asyncio
import logging
import struct
from contextlib import suppress

from weft.api.hijack import Connection
from weft.errors import WeftError
from weft.runtime.base import Attached

log = logging.getLogger(__name__)
STDOUT, STDERR, ERROR = 1, 2, 3


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


async def join(attached: Attached, connection: Connection, *, stdin: bool, outputs: frozenset[int], framed: bool) -> None:
    """Carries both directions until the program's output ends or the client is gone. Raises no error of either side."""
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(_feed(connection, attached) if stdin else _discard(connection))
        watching = group.create_task(connection.lost.wait())
        showing = group.create_task(_show(attached, connection, outputs, framed))
        await asyncio.wait((watching, showing), return_when=asyncio.FIRST_COMPLETED)
        for task in (feeding, watching, showing):
            task.cancel()


async def _show(attached: Attached, connection: Connection, outputs: frozenset[int], framed: bool) -> None:
    with suppress(ConnectionError, WeftError):
        while True:
            stream, data = await attached.read()
            if not data and stream == 0:
                return
            if stream in outputs and data:
                await connection.write(frame(stream, data) if framed else data)


async def _feed(connection: Connection, attached: Attached) -> None:
    """A program that no longer reads its input is no error: its output goes on."""
    try:
        while data := await connection.read():
            await attached.write(data)
        await attached.close_stdin()
    except (ConnectionError, WeftError) as error:
        log.debug("stream.input_ended cause=%s", error)
        await _discard(connection)


async def _discard(connection: Connection) -> None:
    """Reads on, so that the client's end is seen."""
    while await connection.read():
        pass
