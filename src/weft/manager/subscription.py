"""One reader's subscription: asks the nodes of a stream to publish, reads what they send, and keeps
it for the reader, who may be slow. Each node has its share of what is kept; a node whose share is
full is not read, so TCP stops its publisher."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from weft.errors import Forbidden, InvalidArgument, Unavailable, WeftError
from weft.manager.incoming import checked
from weft.manager.streams import End, How, NodeGone, Stream, Targets, end_of
from weft.model.ids import NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import NodeState
from weft.session.base import SessionClosed, StreamSource
from weft.session.messages import FromPublisher, Publish, StreamEnd
from weft.store.base import Store
from weft.system.bounded_queue import BoundedQueue
from weft.system.rate import TokenBucket

log = logging.getLogger(__name__)

WINDOW = 16
"""Nodes that one subscription asks at a time or, if it is not followed, that publish for it at a
time."""
ARRIVAL = 10.0
"""Seconds that a node has to connect after it was asked."""
RETRY = 1.0
"""Seconds until a followed node is asked again."""
CHECK = 5.0
"""Seconds of silence after which a publisher's node is checked."""
UNREAD = 256 << 10
"""Bytes of items that may wait for the reader."""
END_SIZE = 1000
"""Bytes that an `End` takes in memory."""
RATE, BURST = 20_000.0, 20_000.0
"""Tokens that one publisher may use per second, and in a burst. A log line costs one."""

Summon = Callable[[NodeId, Publish], Awaitable[None]]
"""Asks a node to publish, wherever its session is. Raises `Unavailable`."""


class Arrival:
    """The connection that is expected from a node."""

    def __init__(self) -> None:
        self.source: asyncio.Future[StreamSource] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        """Set when the connection is no longer needed."""
        self.refused: asyncio.Future[Forbidden] = asyncio.get_running_loop().create_future()

    def refuse(self, cause: Forbidden) -> None:
        """Accepts nothing more from the node."""
        if not self.refused.done():
            self.refused.set_result(cause)


class Subscription:
    """`manager`: the address that nodes are to publish to."""

    def __init__(
        self,
        id: str,
        manager: str,
        stream: Stream[Any],
        targets: Targets,
        store: Store,
        clock: Callable[[], Nanoseconds],
        summon: Summon,
    ) -> None:
        self._id = id
        self._manager = manager
        self._stream = stream
        self._targets = targets
        self._store = store
        self._clock = clock
        self._summon = summon
        self._window = asyncio.Semaphore(WINDOW)
        self._awaited: dict[NodeId, Arrival] = {}
        self.queue: BoundedQueue[tuple[Any, ...]] = BoundedQueue(UNREAD)
        """Items of the stream, and an `End` after the last item of a node."""

    async def run(self) -> None:
        """Runs until everything was read and queued. Raises `Unavailable` if the store ends."""
        if self._stream.follow:
            await self._follow_until()
            return
        async with asyncio.TaskGroup() as group:
            for node in self._nodes():
                group.create_task(self._read_once(node))

    def arrived(self, source: StreamSource) -> Arrival | None:
        """None unless this node is expected: each request allows one connection."""
        arrival = self._awaited.pop(source.peer.node, None)
        if arrival is None or arrival.source.done():
            return None
        arrival.source.set_result(source)
        return arrival

    # --- the nodes

    def _nodes(self) -> dict[NodeId, None]:
        """Each node once, in their order."""
        return dict.fromkeys(self._targets.nodes(self._store.state))

    async def _follow_until(self) -> None:
        until, causes = self._stream.until, list[Unavailable]()
        try:
            async with asyncio.timeout((until - self._clock()) / SECOND if until else None):
                await self._follow()
        except* TimeoutError:
            """The time `until` has come."""
        except* Unavailable as group:
            causes += (cause for cause in group.exceptions if isinstance(cause, Unavailable))
        if causes:
            raise causes[0]

    async def _follow(self) -> None:
        """Runs until there are no targets and will be none."""
        targets, changes = self._targets, self._store.subscribe(self._targets.kinds)
        reading: dict[NodeId, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while (nodes := self._nodes()) or not targets.is_over(self._store.state):
                    for node in [node for node in reading if node not in nodes]:
                        await self._drop(node, reading.pop(node))
                    for node in [node for node in nodes if node not in reading]:
                        reading[node] = group.create_task(self._read_on(node))
                    while not any(map(targets.concerns, await changes.next())):
                        pass
                for node, last in reading.items():
                    await self._drop(node, last)
        finally:
            changes.close()

    async def _drop(self, node: NodeId, reading: asyncio.Task[None]) -> None:
        reading.cancel()
        await asyncio.wait((reading,))
        await self._give(node, End(node, How.CANCELLED), size=END_SIZE)

    async def _read_on(self, node: NodeId) -> None:
        while (await self._read_once(node)).how is not How.UNKNOWN:
            await asyncio.sleep(RETRY)

    # --- one node

    async def _read_once(self, node: NodeId) -> End:
        try:
            await self._publication(node)
            end = End(node, How.ENDED)
        except WeftError as cause:
            log.info("stream.interrupted subscription=%s cause=%s", self._id, cause)
            end = end_of(node, cause)
        except Exception:
            log.exception("stream.failed subscription=%s node=%s", self._id, node)
            end = End(node, How.FAILED, f"node {node}: internal error")
        await self._give(node, end, size=END_SIZE)
        return end

    async def _give(self, node: NodeId, *items: object, size: int) -> None:
        await self.queue.give(node, items, size)

    async def _publication(self, node: NodeId) -> None:
        """One connection of a node, from the request to its end. Raises `WeftError`: what is
        missing."""
        arrival = Arrival()
        async with AsyncExitStack() as places:
            await places.enter_async_context(self._window)
            self._awaited[node] = arrival
            try:
                source = await self._arrival(node, arrival)
                if self._stream.follow:
                    await places.aclose()
                await self._receive(node, source, arrival)
            finally:
                if self._awaited.get(node) is arrival:
                    del self._awaited[node]
                arrival.over.set()

    async def _arrival(self, node: NodeId, arrival: Arrival) -> StreamSource:
        request = self._stream.request(node)
        await self._summon(
            node, Publish(subscription=self._id, manager=self._manager, request=request)
        )
        try:
            async with asyncio.timeout(ARRIVAL):
                return await arrival.source
        except TimeoutError:
            raise NodeGone(f"node {node} did not answer within {ARRIVAL:g} s") from None

    async def _receive(self, node: NodeId, source: StreamSource, arrival: Arrival) -> None:
        bucket, clock = TokenBucket(RATE, BURST), asyncio.get_running_loop().time
        while not isinstance(frame := await self._next(node, source, arrival), StreamEnd):
            if not isinstance(frame, self._stream.frame):
                raise Unavailable(f"node {node} has sent {type(frame).__name__} in this stream")
            accepted = await self._stream.accept(node, frame)
            if accepted.items:
                await self._give(node, *accepted.items, size=accepted.size)
            if pause := bucket.owes(clock(), accepted.cost):
                await asyncio.sleep(pause)
        if frame.error:
            raise Unavailable(f"node {node}: {frame.error}")

    async def _next(self, id: NodeId, source: StreamSource, arrival: Arrival) -> FromPublisher:
        """The next frame. A suspended daemon keeps its connection silent, so the connection ends
        when the node is no longer READY."""
        receiving = asyncio.ensure_future(source.receive())
        waits = receiving, arrival.refused
        try:
            while not (
                await asyncio.wait(waits, timeout=CHECK, return_when=asyncio.FIRST_COMPLETED)
            )[0]:
                node = self._store.state.nodes.get(id)
                if node is None or node.status.state is not NodeState.READY:
                    raise SessionClosed(f"node {id} is silent")
            if arrival.refused.done():
                raise arrival.refused.result()
            return checked(receiving.result())
        except SessionClosed as cause:
            raise NodeGone(f"node {id} disconnected unexpectedly") from cause
        except InvalidArgument as cause:
            raise Unavailable(f"node {id}: {cause}") from cause
        finally:
            receiving.cancel()
