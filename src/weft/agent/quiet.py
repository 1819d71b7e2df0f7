"""How long a task that no node is to send new connections to still waits for its stop signal.

The manager tells every node at once to leave the task out, and this node to stop it as well. Nobody
says when the other nodes have done so, and a busy one may need longer than others. So the task's
own node looks: it waits until the container has accepted no connection for a moment (decision
33)."""

import asyncio
from collections.abc import Callable

MOMENT = 0.3
"""Seconds. A session is faster than the gossip of Docker Swarm, which waits 2 s for it to spread,
and users wait for a service to scale down."""
LONGEST = 2.0
"""Seconds. A container may be asked by clients that know its own address, for ever."""


async def unasked(accepted: Callable[[], int]) -> None:
    """Returns when no connection has been accepted for `MOMENT`, or after `LONGEST`. `accepted`:
    how many connections have been accepted so far."""
    now = asyncio.get_running_loop().time
    end, before = now() + LONGEST, accepted()
    while True:
        await asyncio.sleep(MOMENT)
        before, seen = accepted(), before
        if before == seen or now() >= end:
            return
