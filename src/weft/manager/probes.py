"""Sends a marked packet along the way that a trace has walked, and tells which hops it has passed.

    watch   each node on the way watches the interfaces that the walk names, and says when it does
    send    then the sender's node sends the packet
    judge   `control/probe.py`, when all was seen that is expected, or `PATIENCE` is over

A node's clock is compared as for captures (`captures.py`)."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

import msgspec

from weft.control.probe import (
    Seen,
    choices,
    departure,
    hops,
    is_at_target,
    is_complete,
    is_delivered,
    judged,
    target_address,
    unsent,
)
from weft.errors import Unavailable
from weft.manager.broker import StreamBroker
from weft.manager.captures import ahead
from weft.manager.streams import Accepted, End, TheseNodes
from weft.model.ids import NodeId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.probe import (
    FIRST_PORT,
    LAST_PORT,
    MOST_PROBES,
    Departure,
    Mark,
    Probe,
    ProbeWanted,
    Spot,
)
from weft.model.state import ClusterState
from weft.model.task import TaskState
from weft.model.trace import Entry, Trace
from weft.session.messages import ProbeFrame, ProbeRequest
from weft.system.supervision import cancelled

READY = 3.0
"""Seconds for the nodes to watch."""
PATIENCE = 2.0
"""Seconds from the sending for what is missing. What was seen is told within 0.1 s."""
DOUBT = 0.5
"""Seconds in which a packet may still arrive that should not, by the walk."""
SIZE = 16 << 10
"""Bytes that a frame takes in memory at most."""


class Said(msgspec.Struct, frozen=True):
    node: NodeId
    frame: ProbeFrame
    heard: Nanoseconds


class Marked:
    """`streams.Stream`. Its items are `Said`."""

    frame = ProbeFrame
    follow, until = False, 0

    def __init__(self, wanted: dict[NodeId, ProbeWanted], clock: Callable[[], Nanoseconds]) -> None:
        self._wanted = wanted
        self._clock = clock
        self.asked: dict[NodeId, Nanoseconds] = {}

    def __str__(self) -> str:
        return "probe"

    def request(self, node: NodeId) -> ProbeRequest:
        self.asked[node] = self._clock()
        return ProbeRequest(self._wanted[node])

    async def accept(self, node: NodeId, frame: ProbeFrame) -> Accepted:
        return Accepted([Said(node, frame, self._clock())], SIZE, cost=1)


class Prober:
    """One probe."""

    def __init__(
        self,
        broker: StreamBroker,
        state: ClusterState,
        clock: Callable[[], Nanoseconds],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._broker = broker
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._waiting: set[NodeId] = set()
        """Have not said that they watch."""
        self._ahead: dict[NodeId, Nanoseconds] = {}
        self._seen: list[Seen] = []
        self._failures: dict[NodeId, list[str]] = {}
        self._changed = asyncio.Event()

    async def probe(self, trace: Trace, entry: Entry, protocol: str) -> Probe:
        """`entry`: the first one of the trace. Raises `Unavailable` if this manager stops."""
        leaves = departure(trace, entry, protocol)
        if isinstance(leaves, str):
            return unsent(leaves)
        mark = self._mark(protocol, choices(trace.out))
        source = trace.out[0].id
        watching = self._watched(trace, mark)
        self._waiting = set(watching)
        reading = asyncio.create_task(self._read(watching))
        try:
            await self._until(lambda: reading.done() or not self._waiting, READY)
            try:
                sent = await self._send(source, mark, leaves)
            except Unavailable as cause:
                return unsent(str(cause))
            await self._until(lambda: is_complete(trace, mark, self._seen), PATIENCE)
            if not is_delivered(trace):
                await self._until(lambda: is_at_target(self._seen), DOUBT)
            for node in self._waiting:
                self._failures.setdefault(node, []).extend(("", "the node did not watch in time"))
            return judged(trace, mark, sent, self._seen, self._failures)
        finally:
            await cancelled(reading)

    def _mark(self, protocol: str, count: int) -> Mark:
        number = int.from_bytes(self._entropy(4), "big") // MOST_PROBES * MOST_PROBES
        port = FIRST_PORT + int.from_bytes(self._entropy(2), "big") % (LAST_PORT - FIRST_PORT)
        return Mark(protocol=protocol, number=number, count=count, port=port)

    def _watched(self, trace: Trace, mark: Mark) -> dict[NodeId, ProbeWanted]:
        """By node. Where the walk does not arrive, the target's interfaces are watched too."""
        spots: dict[NodeId, list[Spot]] = {}
        for hop in (*hops(trace.out), *hops(trace.back)):
            spots.setdefault(hop.id, []).append(hop.spot)
        node, task = self._target(trace)
        if node is not None:
            spots.setdefault(node, [])
        return {
            id: ProbeWanted(
                mark=mark, spots=tuple(dict.fromkeys(some)), task=task if id == node else None
            )
            for id, some in spots.items()
        }

    def _target(self, trace: Trace) -> tuple[NodeId | None, TaskId | None]:
        address = target_address(trace.out)
        if is_delivered(trace) or address is None:
            return None, None
        for task in self._state.tasks.values():
            runs = task.state is TaskState.RUNNING and task.node is not None
            if runs and any(each.address.ip == address for each in task.attachments):
                return task.node, task.id
        return None, None

    async def _read(self, watching: dict[NodeId, ProbeWanted]) -> None:
        stream = Marked(watching, self._clock)
        async with aclosing(self._broker.read(stream, TheseNodes(watching))) as batches:
            async for batch in batches:
                for item in batch:
                    self._take(item, watching, stream)
                self._changed.set()

    def _take(self, item: Said | End, watching: dict[NodeId, ProbeWanted], stream: Marked) -> None:
        node = item.node
        self._waiting.discard(node)
        if isinstance(item, End):
            # No text: nothing of this node can be told.
            self._failures.setdefault(node, []).extend(("", item.cause or item.how))
            return
        asked = stream.asked.pop(node, None)
        if asked is not None:
            self._ahead[node] = ahead(asked, item.frame.time, item.heard)
        self._failures.setdefault(node, []).extend(item.frame.failures)
        spots = watching[node].spots
        for one in item.frame.seen:
            spot = spots[one.spot] if 0 <= one.spot < len(spots) else None
            self._seen.append(Seen(node, spot, one, one.time - self._ahead[node]))

    async def _send(self, node: NodeId, mark: Mark, leaves: Departure) -> Nanoseconds:
        """When, by this manager's clock. Raises `Unavailable`."""
        stream = Marked({node: ProbeWanted(mark=mark, departure=leaves)}, self._clock)
        async with aclosing(self._broker.read(stream, TheseNodes([node]))) as batches:
            async for batch in batches:
                for item in batch:
                    if isinstance(item, Said):
                        return item.frame.time - self._ahead.get(node, 0)
                    raise Unavailable(item.cause or "the node sends no packets")
        raise Unavailable("the node has sent nothing")

    async def _until(self, is_over: Callable[[], bool], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_over():
                    self._changed.clear()
                    await self._changed.wait()
