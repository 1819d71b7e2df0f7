"""Logs of services and tasks: a subscription for each reader, and the nodes that publish for it.

    read       a subscription begins: each node that has wanted tasks is asked to publish, through
               the manager that has the node's session
    take       a node that was asked has connected, until its certificate is no longer accepted
    end        without `follow`: all nodes have sent all, or the reader is told which have not. With
               `follow`: the service or task is gone, or the reader is

The store holds nothing of this. Lines wait in the agents until they are read: see decision 16."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress

from weft.errors import FailedPrecondition, Forbidden, InvalidArgument, Unavailable, WeftError
from weft.manager.certificates import known_peer
from weft.manager.incoming import checked
from weft.model.container import LogLine
from weft.model.ids import NodeId, TaskId
from weft.model.logs import LogsWanted, Seen, TaskLog, note
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import NodeState
from weft.model.state import Event, Kind
from weft.model.task import Task, TaskState
from weft.session.base import Identity, LogRequest, LogSource, Relay, SessionClosed
from weft.session.messages import FromPublisher, LogLines, PublishLogs
from weft.store.base import Store
from weft.system.bounded_queue import BoundedQueue
from weft.system.rate import TokenBucket

log = logging.getLogger(__name__)

WINDOW = 16
"""Nodes that one subscription asks at a time or, without `follow`, that publish for it at a
time."""
ARRIVAL = 10.0
"""Seconds that a node has to connect after it was asked."""
ATTEMPTS, PAUSE = 4, 0.5
"""How often, and how many seconds apart, a ready node is asked: its session may be moving from one
manager to another."""
RETRY = 1.0
"""Seconds until a followed node is asked again."""
CHECK = 5.0
"""Seconds of silence after which a publisher's node is checked."""
UNREAD = 256 << 10
"""Bytes of lines that may wait for the reader."""
OVERHEAD = 200
"""Bytes that a line takes in memory beside its text."""
LINES_RATE, LINES_BURST = 20_000.0, 20_000.0
"""Lines that are accepted from one publisher per second, and in a burst."""
SYNC_COST = 1000
"""Lines that a message counts in addition if it names tasks which this manager does not know
there."""
MOST_SAID = 1000
"""Characters shown of a node's errors."""

INCOMPLETE = (
    "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
)
"""Docker Swarm's text."""

Tell = Callable[[NodeId, PublishLogs], None]
"""Asks a node with a session here. Raises `FailedPrecondition` if it has none, `InvalidArgument` if
it cannot publish."""
Summon = Callable[[NodeId, PublishLogs], Awaitable[None]]


async def no_relay(manager: str, request: LogRequest) -> None:
    """The `Relay` of a manager that cannot reach others."""
    raise Unavailable(f"cannot reach manager {manager}")


class LogBroker:
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

    async def read(self, wanted: LogsWanted) -> AsyncGenerator[Sequence[TaskLog], None]:
        """Yields the lines. Raises `Unavailable` at the end if something is missing."""
        id = self._new_id()
        subscription = self._live[id] = Subscription(
            id, wanted, self._store, self._clock, self._summon, self._address()
        )
        running = asyncio.create_task(subscription.run(), name=f"logs {id}")
        self._running.add(running)
        running.add_done_callback(lambda _: subscription.lines.close())
        log.info(
            "logs.begin subscription=%s service=%s task=%s follow=%s",
            id,
            wanted.service,
            wanted.task,
            wanted.follow,
        )
        try:
            while lines := await subscription.lines.take():
                yield lines
            await asyncio.wait((running,))
            if running.cancelled():
                raise Unavailable("the manager is stopping")
            running.result()
            if subscription.reasons:
                raise Unavailable(INCOMPLETE + ", ".join(subscription.reasons))
        finally:
            del self._live[id]
            running.cancel()
            await asyncio.wait((running,))
            self._running.discard(running)
            log.info("logs.end subscription=%s missing=%d", id, len(subscription.reasons))

    async def take(self, source: LogSource, id: str) -> None:
        """See `session.base.Manager.take_logs`."""
        peer = source.peer
        known_peer(self._store.state, peer)
        subscription = self._live.get(id)
        if subscription is None or not (arrival := subscription.arrived(source)):
            raise Forbidden(f"no logs of node {peer.node} are wanted for {id!r}")
        leadership_status = self._publishers.setdefault(peer.node, {})
        leadership_status[arrival] = peer
        try:
            await arrival.over.wait()
        finally:
            del leadership_status[arrival]
            if not leadership_status:
                del self._publishers[peer.node]

    def _address(self) -> str:
        """`host:port` at which agents reach this manager; empty if unknown."""
        node = self._store.state.nodes.get(self._own)
        return node.manager_address if node is not None else ""

    async def _summon(self, id: NodeId, publish: PublishLogs) -> None:
        """Asks a node to publish. Raises `Unavailable` if that fails."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE)
            node = self._store.state.nodes.get(id)
            if node is None or node.status.state is not NodeState.READY:
                break
            try:
                if node.status.manager in (None, self._own):
                    return self._tell(id, publish)
                holder = self._store.state.nodes.get(node.status.manager)
                if holder is not None and holder.manager_address:
                    return await self._relay(
                        holder.manager_address, LogRequest(node=id, publish=publish)
                    )
            except InvalidArgument as cause:
                raise Unavailable(str(cause)) from cause
            except (FailedPrecondition, Unavailable, Forbidden) as cause:
                log.info(
                    "logs.not_asked node=%s manager=%s cause=%s", id, node.status.manager, cause
                )
        raise Unavailable(f"node {id} is not available")


class Arrival:
    """The connection that is expected from a node."""

    def __init__(self) -> None:
        self.source: asyncio.Future[LogSource] = asyncio.get_running_loop().create_future()
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
        wanted: LogsWanted,
        store: Store,
        clock: Callable[[], Nanoseconds],
        summon: Summon,
        manager: str,
    ) -> None:
        self._id = id
        self._wanted = wanted
        self._store = store
        self._clock = clock
        self._summon = summon
        self._manager = manager
        self._window = asyncio.Semaphore(WINDOW)
        self._awaited: dict[NodeId, Arrival] = {}
        self._seen: Seen = {}
        self.lines: BoundedQueue[TaskLog] = BoundedQueue(UNREAD)
        self.reasons: list[str] = []
        """Why parts of the log are missing."""

    async def run(self) -> None:
        """Runs until everything was read and handed over."""
        if self._wanted.follow:
            await self._follow_until()
            return
        for task in self._tasks():
            if task.node is None:
                self.reasons.append(f"task {task.id} has not been scheduled")
        async with asyncio.TaskGroup() as group:
            for node in self._nodes():
                group.create_task(self._read_once(node))

    def arrived(self, source: LogSource) -> Arrival | None:
        """None unless this node is expected: each request allows one connection."""
        arrival = self._awaited.pop(source.peer.node, None)
        if arrival is None or arrival.source.done():
            return None
        arrival.source.set_result(source)
        return arrival

    # --- nodes to ask

    def _tasks(self) -> Iterable[Task]:
        """The wanted tasks. Without `follow`, tasks of a service that are not RUNNING yet are left
        out."""
        state, wanted = self._store.state, self._wanted
        if wanted.service is not None:
            tasks = state.tasks_of(wanted.service).values()
            return [task for task in tasks if wanted.follow or task.state >= TaskState.RUNNING]
        return (
            [task for id, task in state.tasks.items() if id == wanted.task]
            if wanted.task is not None
            else []
        )

    def _nodes(self) -> dict[NodeId, None]:
        """The nodes of the wanted tasks, in the order of the tasks."""
        return {task.node: None for task in self._tasks() if task.node is not None}

    def _is_gone(self) -> bool:
        state, wanted = self._store.state, self._wanted
        return (
            (wanted.service not in state.services)
            if wanted.service is not None
            else (wanted.task not in state.tasks)
        )

    # --- reading

    async def _read_once(self, node: NodeId) -> None:
        try:
            await self._publication(node)
        except WeftError as cause:
            self.reasons.append(str(cause))
        except Exception:
            log.exception("logs.failed subscription=%s node=%s", self._id, node)
            self.reasons.append(f"node {node}: internal error")

    async def _follow_until(self) -> None:
        left = (self._wanted.until - self._clock()) / SECOND if self._wanted.until else None
        try:
            async with asyncio.timeout(left):
                await self._follow()
        except* TimeoutError:
            """The time `until` has come."""
        except* Unavailable as causes:
            self.reasons.append(str(causes.exceptions[0]))

    async def _follow(self) -> None:
        """Runs until the service or task is gone, and all its tasks."""
        kinds: tuple[Kind, ...] = ("service", "task")
        changes = self._store.subscribe(kinds)
        reading: dict[NodeId, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while (nodes := self._nodes()) or not self._is_gone():
                    for node in [node for node in reading if node not in nodes]:
                        reading.pop(node).cancel()
                    for node in [node for node in nodes if node not in reading]:
                        reading[node] = group.create_task(self._read_on(node))
                    while not any(map(self._concerns, await changes.next())):
                        pass
                for last in reading.values():
                    last.cancel()
        finally:
            changes.close()

    def _concerns(self, event: Event) -> bool:
        changed = event.object
        if isinstance(changed, Task):
            return self._wanted.concerns(changed.service, changed.id)
        return changed.id == self._wanted.service

    async def _read_on(self, node: NodeId) -> None:
        while True:
            try:
                await self._publication(node)
            except WeftError as cause:
                log.info("logs.interrupted subscription=%s cause=%s", self._id, cause)
            except Exception:
                log.exception("logs.failed subscription=%s node=%s", self._id, node)
            await asyncio.sleep(RETRY)

    async def _publication(self, node: NodeId) -> None:
        """One connection of a node, from the request to its end. Raises `WeftError`: what is
        missing."""
        arrival = Arrival()
        async with AsyncExitStack() as places:
            await places.enter_async_context(self._window)
            self._awaited[node] = arrival
            try:
                source = await self._arrival(node, arrival)
                if self._wanted.follow:
                    await places.aclose()
                await self._receive(node, source, arrival)
            finally:
                if self._awaited.get(node) is arrival:
                    del self._awaited[node]
                arrival.over.set()

    async def _arrival(self, node: NodeId, arrival: Arrival) -> LogSource:
        seen = tuple((task, at) for task, at in self._seen.items() if self._is_on(node, task))
        await self._summon(
            node,
            PublishLogs(
                subscription=self._id, manager=self._manager, wanted=self._wanted, seen=seen
            ),
        )
        try:
            async with asyncio.timeout(ARRIVAL):
                return await arrival.source
        except TimeoutError:
            raise Unavailable(f"node {node} did not answer within {ARRIVAL:g} s") from None

    async def _receive(self, node: NodeId, source: LogSource, arrival: Arrival) -> None:
        try:
            bucket, clock = TokenBucket(LINES_RATE, LINES_BURST), asyncio.get_running_loop().time
            while isinstance(message := await self._next(node, source, arrival), LogLines):
                cost = await self._hand_over(node, message.lines)
                if pause := bucket.owes(clock(), cost):
                    await asyncio.sleep(pause)
        except SessionClosed as cause:
            raise Unavailable(f"node {node} disconnected unexpectedly") from cause
        if message.errors:
            raise Unavailable(f"node {node}: {'; '.join(message.errors)[:MOST_SAID]}")

    async def _next(self, id: NodeId, source: LogSource, arrival: Arrival) -> FromPublisher:
        """The next message. A suspended daemon keeps its connection silent, so the connection ends
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
            try:
                return checked(receiving.result())
            except InvalidArgument as cause:
                raise Unavailable(f"node {id}: {cause}") from cause
        finally:
            receiving.cancel()

    async def _hand_over(self, node: NodeId, lines: Sequence[tuple[TaskId, LogLine]]) -> int:
        """Hands over the lines of wanted tasks on this node. For an unknown task the state is
        synchronized first: it may be older than the task. Gives the message's cost, in lines."""
        cost = 1 + len(lines)
        tasks = {task for task, _ in lines}
        if not all(self._is_on(node, task) for task in tasks):
            cost += SYNC_COST
            with suppress(Unavailable):
                await self._store.sync()
        services = {
            task: self._store.state.tasks[task].service for task in tasks if self._is_on(node, task)
        }
        for task, line in lines:
            if (service := services.get(task)) is not None:
                if self._wanted.follow:
                    note(self._seen, task, line)
                told = TaskLog(node, service, task, line)
                await self.lines.give(node, told, len(line.data) + OVERHEAD)
        return cost

    def _is_on(self, node: NodeId, id: TaskId) -> bool:
        """The task is wanted, and is assigned to that node."""
        task = self._store.state.tasks.get(id)
        return task is not None and task.node == node and self._wanted.concerns(task.service, id)
