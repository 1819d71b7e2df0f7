"""A packet's way over the hosts of the swarm: asks the node where it begins, follows it from node
to node, and then its answer back.

Each node walks the packet through its own kernel (`network/trace/walk.py`) and tells the steps; the
manager only carries the packet on. A node that does not answer in time ends the way, and what is
known so far is shown."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from weft.control.requests.traces import Question, question
from weft.manager.broker import StreamBroker
from weft.manager.streams import Accepted, End, TheseNodes
from weft.model.ids import NodeId
from weft.model.state import ClusterState
from weft.model.trace import (
    Cause,
    CauseKind,
    Delivered,
    Entry,
    Finding,
    Flow,
    FromWire,
    Leg,
    Packet,
    Passage,
    Sent,
    Stopped,
    Trace,
    TraceWanted,
)
from weft.session.messages import TraceFrame, TraceRequest

PATIENCE = 2.0
"""Seconds that each node has to answer."""
MOST_LEGS = 16
SIZE = 64 << 10
"""Bytes that a passage takes in memory at most."""


class Traces:
    """`streams.Stream`. Its items are passages."""

    frame = TraceFrame
    follow, until = False, 0

    def __init__(self, request: TraceRequest) -> None:
        self._request = request

    def __str__(self) -> str:
        return "trace"

    def request(self, node: NodeId) -> TraceRequest:
        return self._request

    async def accept(self, node: NodeId, frame: TraceFrame) -> Accepted:
        return Accepted([frame.passage], SIZE, cost=1)


class Tracer:
    def __init__(self, broker: StreamBroker, state: ClusterState, own: NodeId) -> None:
        """`own`: this manager's node."""
        self._broker = broker
        self._state = state
        self._own = own
        self._flows: dict[NodeId, tuple[Flow, ...]] = {}

    async def trace(self, wanted: TraceWanted) -> Trace:
        """Raises the errors of `question`, and `Unavailable` if this manager stops."""
        first = question(self._state, self._own, wanted)
        out = await self._follow(first)
        exit = _exit(out)
        if exit is None or isinstance(exit, Stopped):
            return _ended(out, (), "the packet does not arrive")
        lost = self._lost(out)
        if lost is not None:
            return _ended(out, (), "the packet does not arrive", lost)
        back = await self._follow(Question(out[-1].id, exit.answer))
        sent = _first_packet(out)
        answered = _exit(back)
        if sent is not None and answered is not None and _is_answer(answered, sent, out):
            return _ended(out, back, "the packet arrives, and its answer comes back", arrived=True)
        return _ended(out, back, "the packet arrives, but its answer does not come back")

    async def _follow(self, start: Question) -> tuple[Leg, ...]:
        legs: list[Leg] = []
        node, entry, task, name, container = start
        while len(legs) < MOST_LEGS:
            request = TraceRequest(
                entry=entry, task=task, name=name, container=container,
                flows=self._flows.get(node, ()),
            )  # fmt: skip
            leg = await self._ask(node, request)
            legs.append(leg)
            if leg.passage is None:
                break
            self._flows[node] = leg.passage.flows
            following = self._next(leg.passage.exit)
            if following is None:
                break
            (node, entry), task, name, container = following, None, "", ""
        return tuple(legs)

    async def _ask(self, node: NodeId, request: TraceRequest) -> Leg:
        known = self._state.nodes.get(node)
        name = known.hostname if known is not None else node
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._answer(node, request)
        except TimeoutError:
            answer = f"the node did not answer within {PATIENCE:g} s"
        if isinstance(answer, Passage):
            return Leg(node, name, answer)
        return Leg(node, name, None, answer)

    async def _answer(self, node: NodeId, request: TraceRequest) -> Passage | str:
        """The passage, or why there is none."""
        reading = self._broker.read(Traces(request), TheseNodes([node]))
        async with aclosing(reading) as batches:
            async for batch in batches:
                item = batch[0]
                if isinstance(item, Passage):
                    return item
                if isinstance(item, End) and item.cause:
                    return item.cause
        return "the node sent no answer"

    def _next(self, exit: Delivered | Sent | Stopped) -> tuple[NodeId, Entry] | None:
        """The host to which a packet was sent; None if it goes outside."""
        if not isinstance(exit, Sent):
            return None
        for address in (exit.neighbour, exit.datagram.packet.destination):
            for node in self._state.nodes.values():
                if node.data_path_address == address:
                    return node.id, FromWire(exit.datagram)
        return None

    def _lost(self, legs: Sequence[Leg]) -> Finding | None:
        """Of a packet for an address of the swarm that left all hosts."""
        exit = _exit(legs)
        if not isinstance(exit, Sent):
            return None
        destination = exit.datagram.packet.destination
        for network in self._state.networks.values():
            if any(destination in segment.subnet for segment in network.segments):
                words = f"left the hosts by {exit.device} to {exit.neighbour}"
                missing = f"{destination} is an address of network {network.name}"
                repair = "the daemon of this host puts its routes and rules back within 10 s"
                cause = Cause(CauseKind.NO_ROUTE, "host", exit.device, words, missing, repair)
                return Finding(legs[-1].node, "host", cause)
        return None


def _exit(legs: Sequence[Leg]) -> Delivered | Sent | Stopped | None:
    passage = legs[-1].passage
    return passage.exit if passage is not None else None


def _first_packet(legs: Sequence[Leg]) -> Packet | None:
    """As it was sent, with the source that the kernel chose."""
    passage = legs[0].passage
    steps = passage.steps if passage is not None else ()
    return next((step.packet for step in steps if int(step.packet.source)), None)


def _is_answer(exit: Delivered | Sent | Stopped, sent: Packet, out: Sequence[Leg]) -> bool:
    """Whether the answer came to where the packet was sent, as an answer to it."""
    first = out[0].passage
    begin = first.steps[0] if first is not None and first.steps else None
    match exit:
        case Delivered(namespace=namespace, packet=packet):
            return begin is not None and namespace == begin.namespace and packet == sent.reversed()
        case Sent(datagram=datagram):
            return datagram.packet == sent.reversed()
    return False


def _ended(
    out: tuple[Leg, ...],
    back: tuple[Leg, ...],
    verdict: str,
    *more: Finding,
    arrived: bool = False,
) -> Trace:
    findings = [*more]
    for leg in (*out, *back):
        if leg.passage is None:
            continue
        exit, labels = leg.passage.exit, leg.passage.labels
        stopped = (exit.cause,) if isinstance(exit, Stopped) else ()
        findings += [
            Finding(leg.node, labels.get(cause.namespace, cause.namespace), cause)
            for cause in (*stopped, *leg.passage.remarks)
        ]
    silent = [leg for leg in (*out, *back) if leg.passage is None]
    if silent:
        verdict = f"the way is not known beyond {silent[0].node}: {silent[0].failure}"
    return Trace(
        out=out, back=back, arrived=arrived, verdict=verdict,
        findings=tuple(dict.fromkeys(findings)),
    )  # fmt: skip
