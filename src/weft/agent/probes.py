"""Publishes this node's part of a probe (`engine/probes.py`) to the manager that asked for it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from weft.engine.engine import Engine
from weft.engine.networking import Networking
from weft.engine.probes import send, watch
from weft.model.ids import WorkloadId
from weft.model.probe import ProbeWanted
from weft.session.messages import ProbeFrame


async def probe_frames(
    engine: Engine, networking: Networking, wanted: ProbeWanted
) -> AsyncGenerator[ProbeFrame, None]:
    """Raises `OperationFailed` if the kernel does not send the packets."""
    adapters, mark = engine.adapters.network, wanted.mark
    if wanted.departure is not None:
        yield ProbeFrame(time=await send(adapters, engine.now, mark, wanted.departure))
        return
    there = networking.spots(WorkloadId(wanted.task)) if wanted.task is not None else ()
    async with aclosing(watch(adapters, mark, (*wanted.spots, *there))) as watching:
        async for seen, failures in watching:
            yield ProbeFrame(time=engine.now(), seen=seen, failures=failures)
