"""The packets of a network or of some tasks, from all nodes that have a part of it.

The first frame of a node tells the manager how far the two clocks are apart: the node's clock was
read between the manager's request and the frame's arrival, so the difference is known to within
half of that time. A smaller difference counts as none.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing

from weft.manager.broker import StreamBroker
from weft.manager.streams import Accepted, End
from weft.model.capture import (
    CaptureEvent,
    CaptureFrame,
    CaptureNames,
    CaptureWanted,
    NodeGone,
    NodePackets,
)
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.state import ClusterState, Event, Kind
from weft.model.task import Task, TaskState
from weft.session.messages import CaptureRequest
from weft.store.base import Store

OVERHEAD = 200
"""Bytes that a frame takes in memory beside its records."""


async def capture(
    broker: StreamBroker, store: Store, clock: Callable[[], Nanoseconds], wanted: CaptureWanted
) -> AsyncGenerator[CaptureEvent, None]:
    """Yields until the reader goes or what is watched is removed. Raises `Unavailable` if this
    manager stops."""
    yield CaptureNames(tuple(_names(store.state, wanted)))
    stream, targets = Packets(store, clock, wanted), Watchers(wanted)
    async with aclosing(broker.read(stream, targets)) as batches:
        async for batch in batches:
            for item in batch:
                if isinstance(item, End):
                    yield NodeGone(_hostname(store.state, item.node), item.cause or item.how)
                else:
                    yield item


class Packets:
    """`streams.Stream`. Its items are `NodePackets`."""

    frame = CaptureFrame
    follow, until = True, 0

    def __init__(
        self, store: Store, clock: Callable[[], Nanoseconds], wanted: CaptureWanted
    ) -> None:
        self._store = store
        self._clock = clock
        self._wanted = wanted
        self._asked: dict[NodeId, Nanoseconds] = {}
        """When a node was asked that has not answered yet."""
        self._ahead: dict[NodeId, Nanoseconds] = {}

    def __str__(self) -> str:
        wanted = self._wanted
        return f"capture network={wanted.network} service={wanted.service} task={wanted.task}"

    def request(self, node: NodeId) -> CaptureRequest:
        self._asked[node] = self._clock()
        return CaptureRequest(self._wanted)

    async def accept(self, node: NodeId, frame: CaptureFrame) -> Accepted:
        asked = self._asked.pop(node, None)
        if asked is not None:
            self._ahead[node] = ahead(asked, frame.now, self._clock())
        size = sum(len(data) for _, data in frame.packets) + OVERHEAD
        hostname = _hostname(self._store.state, node)
        return Accepted([NodePackets(hostname, self._ahead.get(node, 0), frame)], size, cost=1)


class Watchers:
    """`streams.Targets`: the nodes with tasks on the network, or with the tasks."""

    kinds: tuple[Kind, ...] = ("network", "task")

    def __init__(self, wanted: CaptureWanted) -> None:
        self._wanted = wanted

    def nodes(self, state: ClusterState) -> Iterable[NodeId]:
        return (task.node for task in self.running(state) if task.node is not None)

    def concerns(self, event: Event) -> bool:
        changed = event.object
        return self._match(changed) if isinstance(changed, Task) else True

    def is_over(self, state: ClusterState) -> bool:
        if self._wanted.network is not None:
            return self._wanted.network not in state.networks
        if self._wanted.service is not None:
            return self._wanted.service not in state.services
        return self._wanted.task not in state.tasks

    def running(self, state: ClusterState) -> Iterable[Task]:
        wanted = self._wanted
        if wanted.network is not None:
            found: Iterable[Task] = state.tasks_attached(wanted.network).values()
        elif wanted.service is not None:
            found = state.tasks_of(wanted.service).values()
        else:
            one = state.tasks.get(wanted.task) if wanted.task is not None else None
            found = [one] if one is not None else []
        return (task for task in found if self._match(task))

    def _match(self, task: Task) -> bool:
        if task.state > TaskState.RUNNING:
            return False
        if self._wanted.network is not None:
            return any(each.network == self._wanted.network for each in task.attachments)
        return task.id == self._wanted.task or task.service == self._wanted.service


def _names(state: ClusterState, wanted: CaptureWanted) -> Iterator[tuple[str, str]]:
    """Addresses of the tasks and services on the networks that are watched."""
    watcher = Watchers(wanted)
    networks = (
        {wanted.network}
        if wanted.network is not None
        else {each.network for task in watcher.running(state) for each in task.attachments}
    )
    for network in networks:
        for task in state.tasks_attached(network).values():
            for each in task.attachments:
                if each.network == network and task.state <= TaskState.RUNNING:
                    yield str(each.address.ip), task.place
    for service in state.services.values():
        for virtual in service.endpoint.addresses:
            if virtual.network in networks:
                yield str(virtual.address.ip), service.name
    for node in state.nodes.values():
        for each in node.attachments:
            if each.network in networks:
                yield str(each.address.ip), node.hostname


def ahead(asked: Nanoseconds, now: Nanoseconds, arrived: Nanoseconds) -> Nanoseconds:
    """How far a node's clock is ahead that was read between the question and the answer's arrival;
    0 if less than what can be told."""
    difference = now - (asked + arrived) // 2
    return difference if abs(difference) > (arrived - asked) // 2 else 0


def _hostname(state: ClusterState, id: NodeId) -> str:
    node = state.nodes.get(id)
    return (node.hostname if node is not None else "") or id
