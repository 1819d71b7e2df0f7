"""Both ends of a session in one process: a `ManagerSession` and an `AgentSession` joined by two
queues.

Every message goes through the codec, as on the wire, so that a message that cannot be sent fails
here as well. The queues are short: a side that does not read makes the other one wait, as TCP does.
"""

import asyncio
from typing import Any

from weft.model import codec
from weft.session.base import Identity, SessionClosed
from weft.session.messages import FromAgent, FromManager, Goodbye

WINDOW = 4
"""Messages on the way in one direction."""


class Closing:
    """The end of a session, as both ends know it."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self.reason = ""

    def set(self, reason: str) -> None:
        if not self.happened.is_set():
            self.reason = reason
            self.happened.set()


class _End:
    def __init__(
        self,
        outgoing: asyncio.Queue[bytes],
        incoming: asyncio.Queue[bytes],
        type_: Any,
        closing: Closing,
    ) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._type = type_
        self.closing = closing

    async def send(self, message: Any) -> None:
        await self._unless_closed(self._outgoing.put(codec.encode(message)))

    async def receive(self) -> Any:
        """Messages sent before the end are still received."""
        if not self._incoming.empty():
            return codec.decode(self._incoming.get_nowait(), self._type)
        return codec.decode(await self._unless_closed(self._incoming.get()), self._type)

    async def close(self, reason: str) -> None:
        if not self.closing.happened.is_set() and not self._outgoing.full():
            self._outgoing.put_nowait(codec.encode(Goodbye(reason)))
        self.closing.set(reason)

    async def _unless_closed(self, action: Any) -> Any:
        waiting = [
            asyncio.ensure_future(action),
            asyncio.ensure_future(self.closing.happened.wait()),
        ]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting[0] in done:
                return waiting[0].result()
            raise SessionClosed(self.closing.reason)
        finally:
            for future in waiting:
                future.cancel()


class MemoryManagerSession(_End):
    def __init__(
        self,
        peer: Identity,
        address: str,
        down: asyncio.Queue[bytes],
        up: asyncio.Queue[bytes],
        closing: Closing,
    ) -> None:
        super().__init__(down, up, FromAgent, closing)
        self.peer = peer
        self.address = address


class MemoryAgentSession(_End):
    def __init__(
        self, address: str, down: asyncio.Queue[bytes], up: asyncio.Queue[bytes], closing: Closing
    ) -> None:
        super().__init__(up, down, FromManager, closing)
        self.address = address
        self.serial = ""


def session_pair(peer: Identity, address: str) -> tuple[MemoryManagerSession, MemoryAgentSession]:
    down: asyncio.Queue[bytes] = asyncio.Queue(WINDOW)
    up: asyncio.Queue[bytes] = asyncio.Queue(WINDOW)
    closing = Closing()
    return MemoryManagerSession(peer, address, down, up, closing), MemoryAgentSession(
        "", down, up, closing
    )
