"""Frames that a part of a node publishes, asked for one by one."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Generic, TypeVar

F = TypeVar("F")


def on_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Frames(Generic[F]):
    """Ends what it reads from when the block ends."""

    def __init__(self, frames: AsyncGenerator[F, None], patience: float) -> None:
        """`patience`: seconds for one call of `until`."""
        self.frames = frames
        self._patience = patience

    async def until(self, wanted: str) -> F:
        """The next frame with something in that field."""
        async with asyncio.timeout(self._patience):
            while True:
                frame = await anext(self.frames)
                if getattr(frame, wanted):
                    return frame

    async def __aenter__(self) -> "Frames[F]":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.frames.aclose()
