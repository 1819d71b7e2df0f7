"""Publishes streams to the managers that ask for them, each on a connection of its own.

    Publish (uplink) ─▶ StreamPublisher ─▶ a connection to the manager ─▶ frame … StreamEnd
                              └─────────▶ the publisher of this kind of stream

A publisher is a function that makes frames of a request. It is asked for the next frame when the
last one is sent, so a manager that reads slowly makes it wait. When the manager closes the
connection, all of it ends."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from weft.errors import WeftError
from weft.model.text import cut
from weft.session.base import OpenStream, StreamSink
from weft.session.messages import Frame, Publish, StreamEnd, StreamRequest, kind_of

log = logging.getLogger(__name__)

MOST = 64
"""Connections at a time. Requests beyond that are not answered."""
MAX_ERROR = 1000
"""Characters of the error at the end of a stream."""

Frames = AsyncGenerator[Frame, None]
Publishers = Mapping[type[StreamRequest], Callable[[Any], Frames]]
"""By kind of request. Frames end with `WeftError` if a part could not be published."""


class StreamPublisher:
    def __init__(self, publishers: Publishers, open_stream: OpenStream) -> None:
        self._publishers = publishers
        self._open = open_stream
        self._asked: asyncio.Queue[Publish] = asyncio.Queue()
        self._count = 0
        """The number of unfinished requests, waiting ones included."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(map(kind_of, self._publishers))

    def ask(self, publish: Publish) -> None:
        if self._count >= MOST:
            log.warning("stream.too_many %s", _named(publish))
            return
        self._count += 1
        self._asked.put_nowait(publish)

    async def run(self) -> None:
        """Runs until cancelled. A connection outlives the session on which it was asked for."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._publish(await self._asked.get()))

    async def _publish(self, publish: Publish) -> None:
        name = _named(publish)
        try:
            publisher = self._publishers[type(publish.request)]
            sink = await self._open(publish.manager, publish.subscription)
            log.info("stream.publishing %s", name)
            await _carry(publisher(publish.request), sink)
            log.info("stream.published %s", name)
        except WeftError as cause:
            log.info("stream.not_published %s cause=%s", name, cause)
        except Exception:
            log.exception("stream.failed %s", name)
        finally:
            self._count -= 1


def _named(publish: Publish) -> str:
    return (
        f"kind={kind_of(publish.request)!r} manager={publish.manager}"
        f" subscription={publish.subscription}"
    )


async def _carry(frames: Frames, sink: StreamSink) -> None:
    """Runs until the manager closes the connection. Only the manager may close it first, or the
    last frames could be lost."""
    closed = asyncio.create_task(sink.closed())
    sending = asyncio.create_task(_send(frames, sink))
    try:
        await asyncio.wait((closed, sending), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
        await closed
    finally:
        closed.cancel()
        sending.cancel()
        try:
            await asyncio.gather(closed, sending, return_exceptions=True)
        finally:
            await sink.close()


async def _send(frames: Frames, sink: StreamSink) -> None:
    error = ""
    async with aclosing(frames):
        while True:
            try:
                frame = await anext(frames)
            except StopAsyncIteration:
                break
            except WeftError as cause:
                error = str(cause)
                break
            await sink.send(frame)
    await sink.send(StreamEnd(cut(error, MAX_ERROR)))
