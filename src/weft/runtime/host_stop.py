"""How a container ends with its host: by its stop signal and, after its grace period, by SIGKILL, as
at any other stop. But its record stays that of a running one, since its end says nothing about the
program (`conmon.py`): the next daemon finds it as if the host had lost its power.

What is mounted for it goes, too: systemd cannot unmount the file systems below it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from signal import SIGKILL

from weft.errors import WeftError
from weft.model.meta import SECOND
from weft.model.signals import signal_number
from weft.runtime.box import Box
from weft.system.process import Process

log = logging.getLogger(__name__)

KILL_PATIENCE = 10.0
"""Seconds that a killed process may take to end (one in an uninterruptible wait takes longer), and
its conmon after it."""

_Step = Callable[[Box], Awaitable[None]]


async def end_with_host(boxes: Iterable[Box], thaw: _Step, put_away: _Step) -> None:
    """Ends all that run, together. `thaw` lets a paused container run; `put_away` releases what an
    ended one has."""
    running = [box for box in boxes if box.is_running]
    await asyncio.gather(*(_end_one(box, thaw, put_away) for box in running))


async def _end_one(box: Box, thaw: _Step, put_away: _Step) -> None:
    """An error is logged: the others end all the same."""
    id = box.container.id[:12]
    try:
        async with box.lock:
            if box.init is not None:
                box.init.kill(signal_number(box.record.stop_signal))
                await thaw(box)
                await _end(box, box.init)
            if box.conmon is not None and not await _has_ended(box.conmon, KILL_PATIENCE):
                box.conmon.kill(SIGKILL)
            await put_away(box)
    except (WeftError, OSError) as error:
        log.warning("container.not_ended_with_host container=%s cause=%s", id, error)


async def _end(box: Box, init: Process) -> None:
    id, grace = box.container.id[:12], box.container.stop_grace_period / SECOND
    if await _has_ended(init, grace):
        log.info("container.ended_with_host container=%s", id)
        return
    init.kill(SIGKILL)
    log.info("container.killed container=%s cause=%r", id, "grace period over")
    if not await _has_ended(init, KILL_PATIENCE):
        log.error("container.not_ended_with_host container=%s cause=%r", id, "process does not end")


async def _has_ended(process: Process, seconds: float) -> bool:
    """Waits for the end at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True
