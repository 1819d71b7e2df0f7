"""Work that would keep the event loop from everything else, in threads of its own.

A thread cannot be cancelled. A caller that is cancelled while it waits therefore stays until the
work has ended, so that nothing is taken away below a thread that still uses it.
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
        """Work that looks at `stop`, which is set if the caller is cancelled: what the work gives
        or raises then is nobody's concern."""
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
        """Work that is not given up. A caller that was cancelled gets the result all the same, and
        is cancelled where it waits next."""
        future = self._begin(function, *args, **kwargs)
        await self._end(future)
        return future.result()

    def begin(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Work that nobody waits for, and that must not raise."""
        self._pool.submit(function, *args, **kwargs)

    def _begin(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    async def _end(self, future: asyncio.Future[T]) -> None:
        """Waits however often the caller is cancelled, and passes that on afterwards."""
        task = asyncio.current_task()
        again = 0
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                again += 1
        if future.exception() is not None:
            pass  # asked for, so that asyncio does not complain that nobody did
        for _ in range(again if task is not None else 0):
            assert task is not None
            task.uncancel()
            task.cancel()
