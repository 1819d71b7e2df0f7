"""Tasks whose failure must not end the other tasks of their group.

An exception that leaves one task of an `asyncio.TaskGroup` cancels all others, ends the task that
waits for the group, and in the end the daemon. So a task about one node, session or message is
`contained`, and a loop that serves all of them is `lasting`. Both let cancellation pass.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0
"""Seconds until a loop that failed begins again."""


async def contained(name: str, work: Awaitable[object]) -> None:
    """Awaits `work`. An exception is logged, under `name`, and goes no further."""
    try:
        await work
    except Exception:
        log.exception("task.failed name=%s", name)


async def lasting(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Runs until `run` returns. An exception is logged, and `run` is called again after a pause
    that grows with each failure. If `run` lasted longer than the longest pause, the pause starts
    afresh."""
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


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits for its end, whatever that is. A caller that is cancelled meanwhile
    waits all the same, and is cancelled then: if it took its own cancellation for the task's, it
    would go on for ever."""
    task.cancel()
    own: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            own = error
    if own is not None:
        raise own


async def ended(task: asyncio.Task[Any]) -> None:
    """`cancelled`; if the task failed, the exception is logged."""
    try:
        await cancelled(task)
    finally:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.error("task.failed name=%s", task.get_name(), exc_info=error)
