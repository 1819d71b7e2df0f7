"""Runs work that would block the event loop in threads of its own.

A thread cannot be cancelled. So a caller that is cancelled while it waits stays until the work has
ended, and removes nothing that the thread still uses.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(
        self, stop: threading.Event, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs work that checks `stop`, which is set if the caller is cancelled; the work's result
        or error is then ignored."""
        future = self._begin(function, *args, **kwargs)
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                stop.set()
                await self._end(future)
                raise
        return future.result()

    async def finish(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs work to its end. A cancelled caller still gets the result, and is cancelled at its
        next wait."""
        future = self._begin(function, *args, **kwargs)
        await self._end(future)
        return future.result()

    def begin(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Starts work that nobody waits for and that must not raise."""
        self._pool.submit(function, *args, **kwargs)

    def _begin(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    async def _end(self, future: asyncio.Future[T]) -> None:
        """Waits even if the caller is cancelled, several times if need be, and cancels the caller
        afterwards."""
        task = asyncio.current_task()
        again = 0
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                again += 1
        if future.exception() is not None:
            pass  # the exception was retrieved, so that asyncio logs no complaint
        for _ in range(again if task is not None else 0):
            assert task is not None
            task.uncancel()
            task.cancel()
