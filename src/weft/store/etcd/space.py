"""What is to be done when the database of a member of etcd has reached its quota.

etcd raises an alarm then, NOSPACE, and takes no write until somebody has made room and disarmed it. Compaction throws history away,
which frees pages in every member's file; to be defragmented makes a file smaller, which is what counts. A manager reaches the member
beside it only, so each does that for its own, and those that raised the alarm one after the other: a member answers nothing meanwhile.

The alarm of a member that is down, or whose manager is, is disarmed by the others after a while. If its database is still full it
raises it again.
"""

import asyncio
import logging
from contextlib import suppress

from weft.errors import WeftError
from weft.store.etcd.base import Compacted, Kv

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks."""
PATIENCE = 30.0
"""Seconds for another manager to see to its own member."""


async def keep_free(kv: Kv) -> None:
    """Until cancelled. `kv`: the member beside this manager."""
    waited = 0.0
    while True:
        await asyncio.sleep(LOOK)
        try:
            waited = await _look(kv, waited)
        except WeftError as error:
            log.warning("etcd.not_relieved cause=%s", error)


async def _look(kv: Kv, waited: float) -> float:
    """For how long it has waited for others now."""
    status = await kv.status()
    alarmed = await kv.alarms() if status.is_full else frozenset()
    if not alarmed:
        return 0.0
    if status.member == min(alarmed):
        await _relieve(kv, status.member)
        return 0.0
    if waited < PATIENCE:
        return waited + LOOK
    for member in alarmed - {status.member}:
        log.warning("etcd.disarmed member=%x cause=nobody has made room there", member)
        await kv.disarm(member)
    return 0.0


async def _relieve(kv: Kv, own: int) -> None:
    before = await kv.status()
    log.error("etcd.full member=%x size=%d in_use=%d", own, before.size, before.in_use)
    with suppress(Compacted):
        await kv.compact(before.revision)
    await kv.defragment()
    await kv.disarm(own)
    after = await kv.status()
    log.info("etcd.relieved member=%x size=%d", own, after.size)
