"""Detects that the swarm goes on without this manager, after `docker swarm init
--force-new-cluster` at another manager that was cut off.

That manager's store then refuses the certificates of those left behind. These may have a quorum
among themselves, and hear nothing from it. So each of them asks the absent managers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from weft.errors import WeftError

log = logging.getLogger(__name__)

LOOK = 3.0
"""Seconds between two rounds of questions."""

Ask = Callable[[str], Awaitable[int]]
"""Returns the cluster's epoch as the manager at `host:port` knows it; raises `WeftError` if the
manager does not answer."""


async def later_epoch(
    own: Callable[[], int], absent: Callable[[], Collection[str]], ask: Ask
) -> int:
    """Waits until one of the absent managers reports a later epoch, and returns that epoch."""
    while True:
        await asyncio.sleep(LOOK)
        for manager in absent():
            try:
                epoch = await ask(manager)
            except WeftError as cause:
                log.debug("manager.not_asked manager=%s cause=%s", manager, cause)
                continue
            if epoch > own():
                log.warning("manager.superseded by=%s epoch=%d own=%d", manager, epoch, own())
                return epoch
