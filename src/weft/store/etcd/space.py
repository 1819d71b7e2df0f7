"""What is to be done when the database of a member of etcd has reached its quota.

etcd raises an alarm then, NOSPACE, and takes no write until somebody has made room and disarmed it.
Compaction throws history away, which frees pages in every member's file; to be defragmented makes a
file smaller, which is what counts. A manager reaches the member beside it only, so each does that
for its own, and those that raised the alarm one after the other: a member answers nothing
meanwhile.

The alarm of a member that is down, or whose manager is, is disarmed by the others after a while. If
its database is still full it raises it again.
"""

import asyncio
import logging
from contextlib import suppress

from weft.errors import WeftError
from weft.store.etcd.base import Compacted, Kv, MemberStatus

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
            status = await kv.status()
        except WeftError:  # others say so
            continue
        try:
            waited = await _see_to(kv, status, waited) if status.is_full else 0.0
        except WeftError as error:
            log.warning("etcd.not_relieved member=%x cause=%s", status.member, error)


async def _see_to(kv: Kv, status: MemberStatus, waited: float) -> float:
    """`waited`, and gives: seconds that others have been waited for."""
    alarmed = await kv.alarms()
    if status.member == min(alarmed, default=0):
        await _relieve(kv, status)
        return 0.0
    if waited < PATIENCE:
        return waited + LOOK
    for member in alarmed - {status.member}:
        log.warning("etcd.disarmed member=%x cause=nobody has made room there", member)
        await kv.disarm(member)
    return 0.0


async def _relieve(kv: Kv, own: MemberStatus) -> None:
    log.error("etcd.full member=%x size=%d in_use=%d", own.member, own.size, own.in_use)
    with suppress(Compacted):
        await kv.compact(own.revision)
    await kv.defragment()
    await kv.disarm(own.member)
    log.info("etcd.relieved member=%x size=%d", own.member, (await kv.status()).size)
