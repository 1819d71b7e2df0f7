"""Both ends of a connection on which an agent publishes a stream, in one process. Every message goes
through the codec, as on the wire, and a manager that does not read makes the agent wait."""

import asyncio
from collections.abc import Awaitable, Callable

from weft.model import codec
from weft.session.base import Identity, SessionClosed
from weft.session.messages import FromPublisher

WINDOW = 2
"""Messages on their way."""


class MemoryStream:
    """`session.base.StreamSource` and `StreamSink`. `passable` is awaited for each message on its way."""

    def __init__(self, peer: Identity, passable: Callable[[], Awaitable[None]]) -> None:
        self.peer = peer
        self._passable = passable
        self._messages: asyncio.Queue[bytes] = asyncio.Queue(WINDOW)
        self._over = asyncio.Event()
        self.accepted = asyncio.Event()
        """The manager has begun to read."""
        self.sent = 0
        """Bytes."""

    async def receive(self) -> FromPublisher:
        self.accepted.set()
        getting = asyncio.ensure_future(self._messages.get())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((getting, over), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                raise SessionClosed("the agent is gone")
            message: FromPublisher = codec.decode(getting.result(), FromPublisher)
            return message
        finally:
            getting.cancel()
            over.cancel()

    async def send(self, message: FromPublisher) -> None:
        data = codec.encode(message)
        await self._passable()
        putting = asyncio.ensure_future(self._messages.put(data))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((putting, over), return_when=asyncio.FIRST_COMPLETED)
            if not putting.done():
                raise SessionClosed("the manager wants no more frames")
            self.sent += len(data)
        finally:
            putting.cancel()
            over.cancel()

    async def closed(self) -> None:
        await self._over.wait()

    async def close(self) -> None:
        self._over.set()
