"""Publishes the packets of this node's interfaces for one capture.

    interfaces (network/vantage.py) ─▶ a tap each ─▶ records ─▶ frames, at most `UNSENT` at a time

Containers come and go while packets are watched: every `LOOK` seconds the interfaces are compared
with the taps. If the manager takes frames too slowly, nothing is read meanwhile; the kernel then
drops what no longer fits into a tap's memory, and the next frame says how many packets that were.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from weft.errors import WeftError
from weft.linux.base import PacketTap
from weft.model.capture import CaptureFrame, CaptureWanted, Instruction
from weft.model.meta import Nanoseconds
from weft.network.vantage import Vantage
from weft.system.bounded_queue import BoundedQueue
from weft.system.supervision import cancelled

log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds."""
MEMORY = 64 << 20
"""Bytes of all taps of a capture together, as far as `SMALLEST` allows."""
LARGEST, SMALLEST = 16 << 20, 1 << 20
"""Bytes of one tap."""
MOST = 128
"""Interfaces of one capture on a node."""
UNSENT = 128 << 10
"""Bytes of records that wait for the connection, and so about the size of a frame."""


class Watched(Protocol):
    """The part of `engine.networking.Networking` that is needed here."""

    def vantages(self, wanted: CaptureWanted) -> Sequence[Vantage]: ...

    async def open_tap(
        self, vantage: Vantage, program: Sequence[Instruction], memory: int
    ) -> PacketTap: ...


class Capture:
    def __init__(
        self, networking: Watched, clock: Callable[[], Nanoseconds], wanted: CaptureWanted
    ) -> None:
        self._networking = networking
        self._clock = clock
        self._wanted = wanted
        self._taps: dict[Vantage, tuple[int, PacketTap, asyncio.Task[None]]] = {}
        self._count = 0
        self._queue: BoundedQueue[tuple[int, bytes]] = BoundedQueue(UNSENT)
        self._opened: list[tuple[int, str]] = []
        self._failed: dict[Vantage, str] = {}
        """Interfaces that could not be watched, and what was said of it."""
        self._unsaid: list[str] = []

    async def frames(self) -> AsyncGenerator[CaptureFrame, None]:
        """Yields at once, so that the manager can compare clocks, and then without end."""
        try:
            await self._look()
            yield self._frame(())
            time = asyncio.get_running_loop().time
            looked = time()
            while True:
                packets: list[tuple[int, bytes]] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        packets = await self._queue.take()
                if time() - looked > LOOK:
                    await self._look()
                    looked = time()
                yield self._frame(packets)
        finally:
            for vantage in list(self._taps):
                await self._close(vantage)

    def _frame(self, packets: Sequence[tuple[int, bytes]]) -> CaptureFrame:
        opened, self._opened = self._opened, []
        failed, self._unsaid = self._unsaid, []
        lost = [(number, tap.dropped()) for number, tap, _ in self._taps.values()]
        idle = self._queue.is_empty and all(tap.is_waiting for _, tap, _ in self._taps.values())
        return CaptureFrame(
            now=self._clock(), caught_up=idle, opened=tuple(opened), packets=tuple(packets),
            dropped=tuple(each for each in lost if each[1]), failed=tuple(failed),
        )  # fmt: skip

    async def _look(self) -> None:
        wanted = self._networking.vantages(self._wanted)[:MOST]
        for vantage, (_, _, pump) in list(self._taps.items()):
            if vantage not in wanted or pump.done():
                await self._close(vantage)
        self._failed = {vantage: why for vantage, why in self._failed.items() if vantage in wanted}
        new = [vantage for vantage in wanted if vantage not in self._taps]
        memory = max(SMALLEST, min(LARGEST, MEMORY // max(1, len(wanted))))
        for vantage in new:
            await self._open(vantage, memory)

    async def _open(self, vantage: Vantage, memory: int) -> None:
        try:
            tap = await self._networking.open_tap(vantage, self._wanted.filter, memory)
        except WeftError as cause:
            if self._failed.get(vantage) != str(cause):
                self._failed[vantage] = str(cause)
                self._unsaid.append(f"{vantage.name}: {cause}")
            return
        self._failed.pop(vantage, None)
        number = self._count
        self._count += 1
        self._taps[vantage] = (number, tap, asyncio.create_task(self._pump(number, tap)))
        self._opened.append((number, vantage.name))

    async def _close(self, vantage: Vantage) -> None:
        _, tap, pump = self._taps.pop(vantage)
        await cancelled(pump)
        tap.close()

    async def _pump(self, number: int, tap: PacketTap) -> None:
        """Runs until cancelled, or until the interface is gone: it is then looked for again."""
        try:
            while True:
                data = await tap.read()
                await self._queue.give(number, (number, data), len(data))
        except WeftError as cause:
            log.debug("capture.interface_gone interface=%d cause=%s", number, cause)
