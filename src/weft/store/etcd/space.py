"""Makes room when the database of an etcd member has reached its quota.

etcd then raises the alarm NOSPACE, and refuses writes until somebody has made room and disarmed the
alarm. Compaction discards history, which frees pages in every member's file; defragmentation makes
a file smaller, and only the file's size counts. A manager reaches only the member beside it, so
each manager relieves its own member. Members that raised the alarm are relieved one after the
other, because a member answers nothing during defragmentation.

If a member with an alarm, or its manager, is down, the other managers disarm that alarm after a
while. If the member's database is still full, the member raises the alarm again."""

import asyncio
import logging
from contextlib import suppress

from weft.errors import WeftError
from weft.store.etcd.base import Compacted, Kv, MemberStatus

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks."""
PATIENCE = 30.0
"""Seconds that another manager has to relieve its own member."""


async def keep_free(kv: Kv) -> None:
    """Runs until cancelled. `kv`: the member beside this manager."""
    waited = 0.0
    while True:
        await asyncio.sleep(LOOK)
        try:
            status = await kv.status()
        except WeftError:  # other parts log that
            continue
        try:
            waited = await _see_to(kv, status, waited) if status.is_full else 0.0
        except WeftError as error:
            log.warning("etcd.not_relieved member=%x cause=%s", status.member, error)


async def _see_to(kv: Kv, status: MemberStatus, waited: float) -> float:
    """`waited` and the result: seconds spent waiting for other managers."""
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
