"""Publishes the connections that this node tracks, for one reader.

    namespaces (network/parties.py) ─▶ tables, once ─▶ observations with names ─▶ frames
                                    └▶ a watch each ─▶ changes, at most `RATE` a second

A reader that follows gets changes as the kernel tells them. Of connections that are older than the
watch a kernel tells no changes (nf_conntrack_events=2), and none of how many bytes they have carried,
so each table is read again every `AGAIN` seconds, under a new number. If changes were lost, nobody
listens there for `PAUSE` seconds, and then the table is read again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Protocol

from weft.errors import WeftError
from weft.linux.base import ConnectionWatch
from weft.model.flows import (
    FlowsFrame,
    Observation,
    Party,
    PartySides,
    Sides,
    Tracked,
    TrackedChange,
    TrackedTable,
)
from weft.model.meta import Nanoseconds
from weft.network.parties import FlowPlace, Parties, is_told, party
from weft.system.bounded_queue import BoundedQueue
from weft.system.rate import TokenBucket
from weft.system.supervision import cancelled

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds."""
AGAIN = 30.0
"""Seconds."""
PAUSE = 10.0
"""Seconds between two readings of one table, and from lost changes to the next watch."""
MOST_PLACES = 256
MOST = 20_000
"""Connections of one place that are read."""
MOST_TOGETHER = 100_000
"""Connections of all places of a reading."""
RATE, BURST = 1_000.0, 4_000.0
"""Changes a second, and at once: with all that follows from them, less than a tenth of a processor.
More are lost."""
UNSENT = 20_000
"""Changes that wait for the connection to the manager."""
SIZE = 100 << 10
"""Bytes of a frame, about."""
_SEEN_SIZE, _PARTY_SIZE = 80, 40
"""Bytes of an observation, and of a party beside its names."""


class Tracking(Protocol):
    """The part of `engine.networking.Networking` that is needed here."""

    @property
    def node(self) -> str: ...

    def flow_places(self) -> Sequence[FlowPlace]: ...

    def parties(self) -> Parties: ...

    async def read_connections(self, place: FlowPlace, most: int) -> TrackedTable: ...

    async def watch_connections(self, place: FlowPlace) -> ConnectionWatch: ...


class Flows:
    def __init__(
        self, networking: Tracking, clock: Callable[[], Nanoseconds], follow: bool
    ) -> None:
        self._networking = networking
        self._clock = clock
        self._follow = follow
        self._count = 0
        self._watched: dict[FlowPlace, _Watched] = {}
        self._failed: dict[FlowPlace, str] = {}
        self._queue: BoundedQueue[tuple[FlowPlace, Sequence[TrackedChange]]] = BoundedQueue(UNSENT)
        self._bucket = TokenBucket(RATE, BURST)
        self._stale: dict[FlowPlace, None] = {}
        """Places whose tables are to be read."""

    async def frames(self) -> AsyncGenerator[FlowsFrame, None]:
        """The first frame says that the node is there."""
        yield FlowsFrame(now=self._clock())
        if not self._follow:
            async for frame in self._once():
                yield frame
            return
        time = asyncio.get_running_loop().time
        looked = read = float("-inf")
        try:
            while True:
                if time() - read > AGAIN:
                    self._stale |= dict.fromkeys(self._watched)
                    read = time()
                if time() - looked > LOOK:
                    async for frame in self._look():
                        yield frame
                    looked = time()
                async for frame in self._reread():
                    yield frame
                for frame in await self._changes():
                    yield frame
        finally:
            for place in list(self._watched):
                await self._close(place)

    async def _once(self) -> AsyncGenerator[FlowsFrame, None]:
        left = MOST_TOGETHER
        places = self._networking.flow_places()
        known = self._networking.parties()
        for place in places[:MOST_PLACES]:
            self._count += 1
            try:
                table = await self._networking.read_connections(place, min(MOST, left))
            except WeftError as error:
                yield self._frame(failed=(f"{place.name}: {error}",))
                continue
            left = max(1, left - len(table.entries))
            for frame in self._told(place, self._count, table, known):
                yield frame
        if len(places) > MOST_PLACES:
            yield self._frame(left_out=len(places) - MOST_PLACES)

    # --- following

    async def _look(self) -> AsyncGenerator[FlowsFrame, None]:
        """Compares the places with the watches."""
        wanted = self._networking.flow_places()[:MOST_PLACES]
        self._failed = {place: why for place, why in self._failed.items() if place in wanted}
        gone = [p for p, watched in self._watched.items() if p not in wanted or watched.is_over]
        for place in gone:
            number = self._watched[place].number
            await self._close(place)
            yield self._frame(closed=(number,))
        for place in wanted:
            if place not in self._watched:
                async for frame in self._open(place):
                    yield frame

    async def _open(self, place: FlowPlace) -> AsyncGenerator[FlowsFrame, None]:
        try:
            watch = await self._networking.watch_connections(place)
        except WeftError as error:
            if self._failed.get(place) != str(error):
                self._failed[place] = str(error)
                yield self._frame(failed=(f"{place.name}: {error}",))
            return
        self._watched[place] = _Watched(watch, asyncio.create_task(self._pump(place, watch)))
        self._stale[place] = None

    async def _reread(self) -> AsyncGenerator[FlowsFrame, None]:
        """Reads tables anew; the place has another number from then on."""
        time = asyncio.get_running_loop().time
        stale, self._stale = self._stale, {}
        for place in stale:
            watched = self._watched.get(place)
            if watched is None:
                continue
            if time() - watched.read_at < PAUSE:
                self._stale[place] = None
                continue
            watched.read_at = time()
            try:
                table = await self._networking.read_connections(place, MOST)
            except WeftError as error:
                log.debug("flows.place_gone place=%s cause=%s", place.name, error)
                continue
            before, self._count = watched.number, self._count + 1
            watched.number = self._count
            for frame in self._told(place, self._count, table, self._networking.parties()):
                yield frame
            if before:
                yield self._frame(closed=(before,), lost=watched.take_lost())

    async def _changes(self) -> list[FlowsFrame]:
        batches: list[tuple[FlowPlace, Sequence[TrackedChange]]] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                batches = await self._queue.take()
        known = self._networking.parties()
        frames = _Frames(self._networking.node, known)
        for place, changes in batches:
            watched = self._watched.get(place)
            if watched is not None:
                for tracked, ended in changes:
                    if is_told(place, tracked, known):
                        frames.add(watched.number, tracked, ended)
        return [self._frame(parties=named, seen=seen) for named, seen in frames.all()]

    async def _pump(self, place: FlowPlace, watch: ConnectionWatch) -> None:
        """Runs until cancelled, or until the place is gone: it is then looked for again. Where
        changes come faster than they are told, nobody listens for a while: a kernel whose changes
        nobody hears spends nothing on them."""
        time = asyncio.get_running_loop().time
        try:
            while True:
                changes = await watch.read()
                if changes is None:
                    watched = self._watched[place]
                    watched.lost += 1
                    watched.close()
                    await asyncio.sleep(PAUSE)
                    watched.watch = watch = await self._networking.watch_connections(place)
                    self._stale[place] = None
                    continue
                await self._queue.give(place, (place, changes), len(changes))
                if pause := self._bucket.owes(time(), len(changes)):
                    await asyncio.sleep(pause)
        except WeftError as error:
            log.debug("flows.watch_ended place=%s cause=%s", place.name, error)

    async def _close(self, place: FlowPlace) -> None:
        watched = self._watched.pop(place)
        await cancelled(watched.pump)
        watched.close()

    # --- frames

    def _told(
        self, place: FlowPlace, number: int, table: TrackedTable, known: Parties
    ) -> Iterator[FlowsFrame]:
        """What a table has."""
        yield self._frame(
            opened=((number, place.name),),
            uncounted=int(not table.counts),
            left_out=int(not table.is_whole),
        )
        frames = _Frames(self._networking.node, known)
        for tracked in table.entries:
            if is_told(place, tracked, known):
                frames.add(number, tracked, False)
        for named, seen in frames.all():
            yield self._frame(parties=named, seen=seen, is_table=True)

    def _frame(self, **fields: Any) -> FlowsFrame:
        return FlowsFrame(now=self._clock(), **fields)


class _Watched:
    def __init__(self, watch: ConnectionWatch, pump: asyncio.Task[None]) -> None:
        self.watch: ConnectionWatch | None = watch
        """None while nobody listens."""
        self.pump = pump
        self.number = 0
        """0: its table was not read yet."""
        self.lost = 0
        self.read_at = float("-inf")
        """When its table was read last, by the loop's clock."""

    @property
    def is_over(self) -> bool:
        return self.pump.done()

    def close(self) -> None:
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.close()

    def take_lost(self) -> int:
        lost, self.lost = self.lost, 0
        return lost


class _Frames:
    """Observations in groups of `SIZE` bytes, each with the parties that it names."""

    def __init__(self, node: str, known: Parties) -> None:
        self._node = node
        self._known = known
        self._full: list[tuple[tuple[Party, ...], tuple[Observation, ...]]] = []
        self._parties: dict[Party, int] = {}
        self._seen: list[Observation] = []
        self._size = 0

    def add(self, place: int, tracked: Tracked, ended: bool) -> None:
        asked, carried = self._sides(tracked.asked), self._sides(tracked.carried)
        self._seen.append(
            Observation(
                place,
                tracked.protocol,
                asked,
                carried,
                tracked.state,
                tracked.sent,
                tracked.received,
                ended,
            )
        )
        self._size += _SEEN_SIZE
        if self._size >= SIZE:
            self._close()

    def all(self) -> Iterable[tuple[tuple[Party, ...], tuple[Observation, ...]]]:
        if self._seen:
            self._close()
        return self._full

    def _close(self) -> None:
        self._full.append((tuple(self._parties), tuple(self._seen)))
        self._parties, self._seen, self._size = {}, [], 0

    def _sides(self, sides: Sides) -> PartySides:
        source, source_port, target, target_port = sides
        return PartySides(self._number(source), source_port, self._number(target), target_port)

    def _number(self, address: IPv4Address) -> int:
        found = party(self._known, address, self._node)
        number = self._parties.get(found)
        if number is None:
            number = self._parties[found] = len(self._parties)
            self._size += _PARTY_SIZE + len(found.name) + len(found.service)
        return number
