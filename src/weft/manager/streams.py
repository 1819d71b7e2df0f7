"""A stream of one kind of thing from some of the nodes, as its reader on this manager sees it.

    Stream    what the nodes are asked for, and what becomes of the frames that they send
    Targets   the nodes, which may change while the stream is followed
    End       for each node, how its part of the stream has ended

A new kind is a `Stream` here, a request and a frame in `session/messages.py`, and a publisher on
the agent (`agent/streams.py`). `subscription.py` reads the nodes; `broker.py` connects both."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from weft.errors import Unavailable, WeftError
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.state import ClusterState, Event, Kind
from weft.model.task import Task, TaskState
from weft.session.messages import StreamRequest

F = TypeVar("F")


class Accepted(NamedTuple):
    """What becomes of one frame."""

    items: Sequence[object]
    """For the reader."""
    size: int
    """Bytes that the items take in memory."""
    cost: float
    """Tokens; see `subscription.RATE`."""


class Stream(Protocol[F]):
    """One kind of stream, with the parameters of one reader."""

    @property
    def frame(self) -> type[F]:
        """The type of its frames; a node that sends another one is not believed."""
        ...

    @property
    def follow(self) -> bool:
        """Whether a node is asked again when its part has ended, for as long as there are
        targets."""
        ...

    @property
    def until(self) -> Nanoseconds:
        """When a followed stream ends; 0 for never."""
        ...

    def request(self, node: NodeId) -> StreamRequest: ...

    async def accept(self, node: NodeId, frame: F) -> Accepted:
        """Called for each frame, in order. The node waits meanwhile, and other nodes do not."""
        ...


class Targets(Protocol):
    """The nodes of a stream."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of objects in the state that they depend on."""
        ...

    def nodes(self, state: ClusterState) -> Iterable[NodeId]:
        """In the order in which they are asked."""
        ...

    def concerns(self, event: Event) -> bool:
        """Whether the nodes may be others after this event, which is of one of the kinds."""
        ...

    def is_over(self, state: ClusterState) -> bool:
        """Whether there will be no nodes any more if there are none now."""
        ...


class How(StrEnum):
    ENDED = "ended"
    """The node has sent all."""
    FAILED = "failed"
    """The node said that something is missing, or cannot publish, or was not believed."""
    GONE = "gone"
    """The node is not READY, did not answer, or was lost."""
    UNKNOWN = "unknown"
    """There is no such node."""
    CANCELLED = "cancelled"
    """The node is no longer one of the targets."""


class End(msgspec.Struct, frozen=True):
    """The end of a node's part of a stream. In a followed stream the node is asked again, unless it
    is no longer a target."""

    node: NodeId
    how: How
    cause: str = ""


class NodeGone(Unavailable):
    pass


class NodeUnknown(Unavailable):
    pass


def end_of(node: NodeId, cause: WeftError) -> End:
    match cause:
        case NodeUnknown():
            return End(node, How.UNKNOWN, str(cause))
        case NodeGone():
            return End(node, How.GONE, str(cause))
        case _:
            return End(node, How.FAILED, str(cause))


class TheseNodes:
    """`Targets` that are named."""

    kinds: tuple[Kind, ...] = ("node",)

    def __init__(self, nodes: Iterable[NodeId]) -> None:
        self._nodes = tuple(dict.fromkeys(nodes))

    def nodes(self, state: ClusterState) -> Iterable[NodeId]:
        return self._nodes

    def concerns(self, event: Event) -> bool:
        return False

    def is_over(self, state: ClusterState) -> bool:
        return True


class NodesOfTasks:
    """`Targets` with tasks of a service, or with one task."""

    kinds: tuple[Kind, ...] = ("service", "task")

    def __init__(self, service: ServiceId | None, task: TaskId | None, begun: bool = False) -> None:
        """`begun`: leave out tasks of the service that are not RUNNING yet."""
        self._service = service
        self._task = task
        self._begun = begun

    def tasks(self, state: ClusterState) -> list[Task]:
        if self._service is not None:
            tasks = state.tasks_of(self._service).values()
            return [task for task in tasks if not self._begun or task.state >= TaskState.RUNNING]
        one = state.tasks.get(self._task) if self._task is not None else None
        return [one] if one is not None else []

    def nodes(self, state: ClusterState) -> Iterable[NodeId]:
        return (task.node for task in self.tasks(state) if task.node is not None)

    def concerns(self, event: Event) -> bool:
        changed = event.object
        if isinstance(changed, Task):
            return self.match(changed)
        return changed.id == self._service

    def match(self, task: Task) -> bool:
        if self._service is not None:
            return task.service == self._service
        return task.id == self._task

    def is_over(self, state: ClusterState) -> bool:
        if self._service is not None:
            return self._service not in state.services
        return self._task not in state.tasks
