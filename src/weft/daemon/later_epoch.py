"""Whether the swarm goes on without this manager: `docker swarm init --force-new-cluster`, at
another one that was cut off.

Its store then refuses the certificates of those it left behind. They may have a majority among
themselves, and nothing that they would hear from it; so each of them asks the managers that take no
part.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from weft.errors import WeftError

log = logging.getLogger(__name__)

LOOK = 3.0
"""Seconds from one question to the next."""

Ask = Callable[[str], Awaitable[int]]
"""The epoch of the cluster that a manager at `host:port` is of; raises `WeftError` if it does not
say."""


async def later_epoch(
    own: Callable[[], int], absent: Callable[[], Collection[str]], ask: Ask
) -> int:
    """Waits until one of the managers that take no part says that it is of a later epoch, and
    returns that."""
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
