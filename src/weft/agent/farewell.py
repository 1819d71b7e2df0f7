"""What a node that leaves, or whose host is shut down, says to a manager before it ends anything.

The farewell is repeated in each session until a manager has committed it. A node waits for that
only so long: a manager out of reach must not keep a node from leaving."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from weft.session.messages import Farewell, FarewellTaken, NodeFarewell


class Farewells:
    def __init__(self) -> None:
        self._said: Farewell | None = None
        self._due = asyncio.Event()
        self._taken = asyncio.Event()

    @property
    def is_last(self) -> bool:
        """Whether no other session is to be begun."""
        return self._said in ("left", "stopping") and self._taken.is_set()

    async def say(self, farewell: Farewell, patience: float) -> bool:
        """Says it in this session, or the next. Returns whether a manager has taken it within
        `patience` seconds."""
        self._said = farewell
        self._taken.clear()
        self._due.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._taken.wait()
        return self._taken.is_set()

    async def run(self, send: Callable[[NodeFarewell], Awaitable[None]]) -> None:
        """Says what is due during a session. Runs until cancelled."""
        if self._said is not None and not self._taken.is_set():
            self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            assert self._said is not None
            await send(NodeFarewell(self._said))

    def hear(self, taken: FarewellTaken) -> None:
        if taken.farewell == self._said:
            self._taken.set()
