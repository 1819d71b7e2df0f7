"""Tasks whose failure must not end the others of their group.

An exception that leaves one task of an `asyncio.TaskGroup` cancels all others and ends whoever
waits for the group: in a daemon, in the end, the daemon. So a task about one node, session or
message is `contained`, and a loop that serves all of them is `lasting`. Cancellation passes both.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0
"""Seconds until a loop that failed begins again."""


async def contained(name: str, work: Awaitable[object]) -> None:
    """Awaits `work`. What it raises is logged, under `name`, and goes no further."""
    try:
        await work
    except Exception:
        log.exception("task.failed name=%s", name)


async def lasting(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Until `run` returns. When it raises instead, that is logged, and it begins again after a
    pause that grows with each failure; one that lasted longer than the pause starts afresh."""
    pause, clock = FIRST_PAUSE, asyncio.get_running_loop().time
    while True:
        begun = clock()
        try:
            await run()
            return
        except Exception:
            if clock() - begun > LAST_PAUSE:
                pause = FIRST_PAUSE
            log.exception("loop.failed name=%s retry_after=%gs", name, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancels it and waits for its end. What it failed with, if it did, is logged."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await contained(task.get_name(), task)
