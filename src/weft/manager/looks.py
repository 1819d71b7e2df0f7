"""A look at all nodes of the swarm at once: passes on what they say, and who is silent.

A node says at once that it is there, and the rest as it has it. One that has said nothing within
`GREETING` is shown as such, and the others' words are shown nevertheless; in a look that goes on it
may come later."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from weft.manager.broker import StreamBroker
from weft.manager.streams import Accepted, End, How, TheseNodes
from weft.model.flows import FlowsFrame, FlowsWanted
from weft.model.ids import NodeId
from weft.model.look import LookBegun, LookEvent, NodeDone, NodeSaid, NodeSilent
from weft.model.node import NodeState
from weft.model.state import ClusterState, Event, Kind
from weft.model.top import TopFrame, TopWanted
from weft.session.messages import FlowsRequest, StreamRequest, TopRequest
from weft.store.base import Store

F = TypeVar("F", FlowsFrame, TopFrame)

GREETING = 2.0
"""Seconds for a node to say that it is there."""
LONGEST = 20.0
"""Seconds for all that it says, in a look that does not go on."""
LARGEST = 256 << 10
"""Bytes that a frame takes in memory at most, by the limit on its length."""
SMALL = 500
"""Bytes of a frame with nothing in it."""


class LookStream(Generic[F]):
    """`streams.Stream`. Its items are `NodeSaid`."""

    until = 0

    def __init__(self, request: StreamRequest, frame: type[F], follow: bool) -> None:
        self.frame: type[F] = frame
        self.follow = follow
        self._request = request

    def __str__(self) -> str:
        return f"look request={self._request}"

    def request(self, node: NodeId) -> StreamRequest:
        return self._request

    async def accept(self, node: NodeId, frame: F) -> Accepted:
        size = SMALL if frame.is_small else LARGEST
        return Accepted([NodeSaid(node, frame)], size, cost=1)


class Everybody:
    """`streams.Targets`: the nodes that are ready, as they come."""

    kinds: tuple[Kind, ...] = ("node",)

    def nodes(self, state: ClusterState) -> Iterable[NodeId]:
        return ready(state)

    def concerns(self, event: Event) -> bool:
        return True

    def is_over(self, state: ClusterState) -> bool:
        return False


class _Silence:
    """Who has not answered yet."""

    def __init__(self, nodes: Iterable[NodeId]) -> None:
        self.unheard = set(nodes)
        self.unfinished = set(self.unheard)

    def take(self, item: NodeSaid | End) -> LookEvent:
        id = NodeId(item.node)
        self.unheard.discard(id)
        if isinstance(item, NodeSaid):
            return item
        self.unfinished.discard(id)
        return NodeDone(id) if item.how is How.ENDED else NodeSilent(id, item.cause or item.how)


def flows(
    broker: StreamBroker, store: Store, wanted: FlowsWanted
) -> AsyncGenerator[LookEvent, None]:
    """Yields until all nodes have said all; if it follows, until the reader goes. Raises
    `Unavailable` if this manager stops."""
    service = store.state.services.get(wanted.service) if wanted.service is not None else None
    stream = LookStream(FlowsRequest(wanted.follow), FlowsFrame, wanted.follow)
    return look(broker, store, stream, service.name if service is not None else "")


def top(broker: StreamBroker, store: Store, wanted: TopWanted) -> AsyncGenerator[LookEvent, None]:
    """Yields until the reader goes, or with `once` until all nodes have said all. Raises
    `Unavailable` if this manager stops."""
    return look(broker, store, LookStream(TopRequest(wanted), TopFrame, not wanted.once))


async def look(
    broker: StreamBroker, store: Store, stream: LookStream[Any], service: str = ""
) -> AsyncGenerator[LookEvent, None]:
    yield LookBegun(nodes=_nodes(store.state), service=service)
    nodes = ready(store.state)
    silence = _Silence(nodes)
    targets = Everybody() if stream.follow else TheseNodes(nodes)
    async with aclosing(broker.read(stream, targets)) as batches:
        async for batch in _within(batches, silence, stream.follow):
            if batch is None:
                for node in silence.unheard:
                    yield NodeSilent(node, f"it did not answer within {GREETING:g} s")
                continue
            for item in batch:
                yield silence.take(item)
    for node in () if stream.follow else silence.unfinished - silence.unheard:
        yield NodeSilent(node, f"it did not say all within {LONGEST:g} s")


async def _within(
    batches: AsyncGenerator[Any, None], silence: _Silence, follow: bool
) -> AsyncGenerator[Any, None]:
    """The batches, and once, when `GREETING` has passed, None. Ends when all is said, or when
    `LONGEST` has passed, unless it follows."""
    now = asyncio.get_running_loop().time
    greeting, end = now() + GREETING, now() + LONGEST
    told = False
    waiting: asyncio.Task[Any] | None = None
    try:
        while follow or not told or silence.unfinished - silence.unheard:
            deadline = greeting if not told else None if follow else end
            waiting = waiting or asyncio.ensure_future(_next(batches))
            left = None if deadline is None else max(0.0, deadline - now())
            await asyncio.wait((waiting,), timeout=left)
            if waiting.done():
                batch, waiting = waiting.result(), None
                if batch is None:
                    return
                yield batch
            elif told:
                return
            else:
                told = True
                yield None
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _next(batches: AsyncGenerator[Any, None]) -> Any:
    """None at the end."""
    return await anext(batches, None)


def ready(state: ClusterState) -> list[NodeId]:
    return [id for id, node in state.nodes.items() if node.status.state is NodeState.READY]


def _nodes(state: ClusterState) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return tuple(
        (
            id,
            node.hostname or id,
            tuple(filter(None, dict.fromkeys((str(node.data_path_address), node.status.address)))),
        )
        for id, node in state.nodes.items()
    )
