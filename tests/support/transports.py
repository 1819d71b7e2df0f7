"""Connections of the running event loop, for tests that end a loop soon after they have closed
them."""

import asyncio
from typing import Any

PATIENCE = 2.0
"""Seconds."""


async def all_ended() -> None:
    """Returns when no connection is open on this loop; aborts those that take too long. TLS ends a
    connection only when the other side has answered the farewell: a loop that ends before leaves
    the socket to the garbage collector, which complains in the middle of another test."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while (still_open := _open(loop)) and loop.time() < end:
        await asyncio.sleep(0.01)
    for transport in still_open:
        transport.abort()
    await asyncio.sleep(0)


def _open(loop: asyncio.AbstractEventLoop) -> list[asyncio.WriteTransport]:
    selector: Any = getattr(loop, "_selector", None)  # uvloop has none, and does not complain
    if selector is None:
        return []
    handles = [handle for key in selector.get_map().values() for handle in key.data if handle]
    owners = {
        id(owner): owner for h in handles if (owner := getattr(h._callback, "__self__", None))
    }
    return [owner for owner in owners.values() if isinstance(owner, asyncio.WriteTransport)]
