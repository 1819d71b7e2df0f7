"""What is wrong with this node: its network, its certificate, its session; and its host, as far as
the daemon looks at that."""

import asyncio
from collections.abc import Iterator

from weft.agent.adapters import Adapters
from weft.agent.uplink import Uplink
from weft.engine.engine import Engine
from weft.engine.examination import examine_network, mend
from weft.engine.networking import Networking
from weft.errors import WeftError
from weft.model.finding import Examination, Finding, few
from weft.model.meta import SECOND, Nanoseconds

LATE = 0.9
"""The part of a certificate's life after which it should have been renewed long ago: that is due
between a half and four fifths of it."""


async def examine(
    engine: Engine, networking: Networking, uplink: Uplink, adapters: Adapters, repair: bool
) -> Examination:
    mended = await mend(engine, networking) if repair else ()
    host = asyncio.ensure_future(adapters.examine_host())
    try:
        found = [
            *session(uplink),
            *certificate(uplink, engine.now()),
            *await _network(engine, networking),
        ]
        return Examination(findings=few([*found, *await host]), mended=mended)
    finally:
        host.cancel()


async def _network(engine: Engine, networking: Networking) -> list[Finding]:
    try:
        return await examine_network(engine, networking)
    except WeftError as error:
        return [Finding(severity="error", what="network", cause=f"cannot look at it: {error}")]


def session(uplink: Uplink) -> Iterator[Finding]:
    if not uplink.connected and uplink.error:
        yield Finding(
            severity="error",
            what="session with a manager",
            cause=uplink.error,
            remedy="docker info names the managers; TCP port 2377 must be reachable there",
        )


def certificate(uplink: Uplink, now: Nanoseconds) -> Iterator[Finding]:
    expires, late = uplink.expires, uplink.renewal_is_late(LATE)
    if expires is None or not late:
        return
    left = max(expires - now, 0) // SECOND
    ends = f"it ends in {left} s" if left else "it has ended"
    yield Finding(
        severity="error",
        what="certificate of the node",
        cause=f"{ends} and was not renewed",
        remedy="look for certificate in journalctl -u weft; a clock may be wrong",
    )
