"""The broker of streams: subscriptions of readers on this manager, and the nodes that publish for
them.

    read    a subscription begins: each of its nodes is asked to publish, through the manager that
            has the node's session
    take    a node that was asked has connected, until its certificate is no longer accepted
    end     all nodes have sent all; or a followed stream has no targets any more; or the reader, or
            this manager, has ended it

The store holds nothing of this. Frames wait in the agents until they are read: see decision 16."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from weft.errors import FailedPrecondition, Forbidden, InvalidArgument, Unavailable
from weft.manager.certificates import known_peer
from weft.manager.streams import NodeGone, NodeUnknown, Stream, Targets
from weft.manager.subscription import Arrival, Subscription
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import NodeState
from weft.model.state import Kind
from weft.session.base import Identity, PublishRequest, Relay, StreamSource
from weft.session.messages import Publish
from weft.store.base import Store

log = logging.getLogger(__name__)

ATTEMPTS, PAUSE = 4, 0.5
"""How often, and how many seconds apart, a ready node is asked: its session may be moving from one
manager to another."""

Tell = Callable[[NodeId, Publish], None]
"""Asks a node with a session here. Raises `FailedPrecondition` if it has none, `InvalidArgument` if
it cannot publish this kind of stream."""


async def no_relay(manager: str, request: PublishRequest) -> None:
    """The `Relay` of a manager that cannot reach others."""
    raise Unavailable(f"cannot reach manager {manager}")


class StreamBroker:
    """`new_id` gives an unguessable id, a new one each time."""

    def __init__(
        self,
        own: NodeId,
        store: Store,
        clock: Callable[[], Nanoseconds],
        tell: Tell,
        relay: Relay,
        new_id: Callable[[], str],
    ) -> None:
        self._own = own
        self._store = store
        self._clock = clock
        self._tell = tell
        self._relay = relay
        self._new_id = new_id
        self._live: dict[str, Subscription] = {}
        self._publishers: dict[NodeId, dict[Arrival, Identity]] = {}
        """Present connections, with the identities shown."""
        self._running: set[asyncio.Task[None]] = set()

    @property
    def own(self) -> NodeId:
        """This manager's node."""
        return self._own

    async def watch(self) -> None:
        """Runs until cancelled. Ends the connections of publishers whose certificates are no longer
        accepted."""
        kinds: tuple[Kind, ...] = ("cluster", "node")
        changes = self._store.subscribe(kinds)
        try:
            while True:
                events = await changes.next()
                everybody = any(event.kind == "cluster" for event in events)
                for node in (
                    self._publishers if everybody else {NodeId(event.object.id) for event in events}
                ):
                    self._end_refused(node)
        finally:
            changes.close()

    def _end_refused(self, node: NodeId) -> None:
        for arrival, peer in self._publishers.get(node, {}).items():
            try:
                known_peer(self._store.state, peer)
            except Forbidden as cause:
                arrival.refuse(cause)

    def close(self) -> None:
        """Ends all subscriptions."""
        for running in self._running:
            running.cancel()

    async def read(
        self, stream: Stream[Any], targets: Targets
    ) -> AsyncGenerator[Sequence[Any], None]:
        """Yields the items of the stream, and for each node an `End` after its last item. Raises
        `Unavailable` if this manager stops."""
        id = self._new_id()
        subscription = self._live[id] = Subscription(
            id, self._address(), stream, targets, self._store, self._clock, self._summon
        )
        running = asyncio.create_task(subscription.run(), name=f"stream {id}")
        self._running.add(running)
        running.add_done_callback(lambda _: subscription.queue.close())
        log.info("stream.begin subscription=%s stream=%s", id, stream)
        try:
            while batch := await subscription.queue.take():
                yield [item for items in batch for item in items]
            await asyncio.wait((running,))
            if running.cancelled():
                raise Unavailable("the manager is stopping")
            running.result()
        finally:
            del self._live[id]
            running.cancel()
            await asyncio.wait((running,))
            self._running.discard(running)
            log.info("stream.end subscription=%s", id)

    async def take(self, source: StreamSource, id: str) -> None:
        """See `session.base.Manager.take_stream`."""
        peer = source.peer
        known_peer(self._store.state, peer)
        subscription = self._live.get(id)
        if subscription is None or not (arrival := subscription.arrived(source)):
            raise Forbidden(f"no stream of node {peer.node} is wanted for {id!r}")
        connections = self._publishers.setdefault(peer.node, {})
        connections[arrival] = peer
        try:
            await arrival.over.wait()
        finally:
            del connections[arrival]
            if not connections:
                del self._publishers[peer.node]

    def _address(self) -> str:
        """`host:port` at which agents reach this manager; empty if unknown."""
        node = self._store.state.nodes.get(self._own)
        return node.manager_address if node is not None else ""

    async def _summon(self, id: NodeId, publish: Publish) -> None:
        """See `subscription.Summon`."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE)
            node = self._store.state.nodes.get(id)
            if node is None:
                raise NodeUnknown(f"node {id} is not part of the swarm")
            if node.status.state is not NodeState.READY:
                break
            try:
                if node.status.manager in (None, self._own):
                    return self._tell(id, publish)
                holder = self._store.state.nodes.get(node.status.manager)
                if holder is not None and holder.manager_address:
                    return await self._relay(
                        holder.manager_address, PublishRequest(node=id, publish=publish)
                    )
            except InvalidArgument as cause:
                raise Unavailable(str(cause)) from cause
            except (FailedPrecondition, Unavailable, Forbidden) as cause:
                log.info(
                    "stream.not_asked node=%s manager=%s cause=%s", id, node.status.manager, cause
                )
        raise NodeGone(f"node {id} is not available")
