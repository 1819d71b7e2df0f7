"""This node's part of a probe: sends the marked packets, or watches for them at interfaces.

A watcher says at once that it is there, when all its interfaces are watched, and then of each packet
that it sees. It ends when the manager closes the connection.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from weft.engine.adapters import NetworkAdapters
from weft.errors import WeftError
from weft.linux.base import PacketTap
from weft.model.meta import Nanoseconds
from weft.model.probe import Departure, Mark, Sighting, Spot
from weft.network.probe_packet import marked_filter, packets, sightings
from weft.system.supervision import cancelled

MEMORY = 256 << 10
"""Bytes of each tap."""
MOST_SPOTS = 64

Seen = tuple[Sighting, ...]
Failures = tuple[str, ...]


async def send(
    adapters: NetworkAdapters, clock: Callable[[], Nanoseconds], mark: Mark, departure: Departure
) -> Nanoseconds:
    """When the first packet was sent. Raises `OperationFailed` if the kernel refuses it."""
    sending = await adapters.open_sender(adapters.file(departure.namespace))
    try:
        sent = clock()
        for packet in packets(mark, departure):
            sending.send(packet, departure.destination)
        return sent
    finally:
        sending.close()


async def watch(
    adapters: NetworkAdapters, mark: Mark, spots: Sequence[Spot]
) -> AsyncGenerator[tuple[Seen, Failures], None]:
    """First what could not be watched, then what is seen, without end."""
    queue: asyncio.Queue[tuple[Seen, Failures]] = asyncio.Queue()
    taps: list[PacketTap] = []
    pumps: list[asyncio.Task[None]] = []
    failures = []
    try:
        for place, spot in enumerate(spots[:MOST_SPOTS]):
            path = adapters.file(spot.namespace)
            try:
                tap = await adapters.open_tap(path, spot.device, marked_filter(mark), MEMORY)
            except WeftError as cause:
                failures.append(f"{spot.device}: {cause}")
                continue
            taps.append(tap)
            pumps.append(asyncio.create_task(_pump(tap, mark, place, queue)))
        yield (), tuple(failures)
        while True:
            yield await queue.get()
    finally:
        for pump in pumps:
            await cancelled(pump)
        for tap in taps:
            tap.close()


async def _pump(
    tap: PacketTap, mark: Mark, place: int, queue: asyncio.Queue[tuple[Seen, Failures]]
) -> None:
    """Runs until cancelled, or until the interface is gone."""
    try:
        while True:
            if found := tuple(sightings(await tap.read(), mark, place)):
                queue.put_nowait((found, ()))
    except WeftError as cause:
        queue.put_nowait(((), (str(cause),)))
