"""The stream of the lines of a service's or a task's containers, from the nodes of the tasks.

Without `follow` the reader is told at the end which lines are missing, and why. With `follow` it
ends when the service or task is gone, or the reader is."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from weft.errors import Unavailable
from weft.manager.broker import StreamBroker
from weft.manager.streams import Accepted, End, How, NodesOfTasks
from weft.model.ids import NodeId, TaskId
from weft.model.logs import LogsWanted, Seen, TaskLog, note
from weft.model.meta import Nanoseconds
from weft.session.messages import LogLines, LogsRequest
from weft.store.base import Store

OVERHEAD = 200
"""Bytes that a line takes in memory beside its text."""
SYNC_COST = 1000
"""Tokens that a message costs in addition if it names tasks which this manager does not know
there."""

INCOMPLETE = (
    "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
)
"""Docker Swarm's text."""


async def read_logs(
    broker: StreamBroker, store: Store, wanted: LogsWanted
) -> AsyncGenerator[Sequence[TaskLog], None]:
    """Yields the lines. Raises `Unavailable` at the end if something is missing."""
    targets = NodesOfTasks(wanted.service, wanted.task, begun=not wanted.follow)
    reasons = list[str]()
    if not wanted.follow:
        nowhere = (task.id for task in targets.tasks(store.state) if task.node is None)
        reasons += (f"task {id} has not been scheduled" for id in nowhere)
    async with aclosing(broker.read(LogStream(wanted, targets, store), targets)) as batches:
        async for batch in batches:
            if not wanted.follow:
                ends = [item for item in batch if isinstance(item, End)]
                reasons += (end.cause for end in ends if end.how is not How.ENDED)
            if lines := [item for item in batch if isinstance(item, TaskLog)]:
                yield lines
    if reasons:
        raise Unavailable(INCOMPLETE + ", ".join(reasons))


class LogStream:
    """`streams.Stream`. Its items are `TaskLog`."""

    frame = LogLines

    def __init__(self, wanted: LogsWanted, targets: NodesOfTasks, store: Store) -> None:
        self._wanted = wanted
        self._targets = targets
        self._store = store
        self._seen: Seen = {}

    def __str__(self) -> str:
        wanted = self._wanted
        return f"logs service={wanted.service} task={wanted.task} follow={wanted.follow}"

    @property
    def follow(self) -> bool:
        return self._wanted.follow

    @property
    def until(self) -> Nanoseconds:
        return self._wanted.until

    def request(self, node: NodeId) -> LogsRequest:
        seen = tuple((task, at) for task, at in self._seen.items() if self._is_on(node, task))
        return LogsRequest(wanted=self._wanted, seen=seen)

    async def accept(self, node: NodeId, frame: LogLines) -> Accepted:
        """Takes the lines of wanted tasks on this node. For an unknown task the state is
        synchronized first: it may be older than the task."""
        cost = 1 + len(frame.lines)
        tasks = {task for task, _ in frame.lines}
        if not all(self._is_on(node, task) for task in tasks):
            cost += SYNC_COST
            with suppress(Unavailable):
                await self._store.sync()
        state = self._store.state
        services = {task: state.tasks[task].service for task in tasks if self._is_on(node, task)}
        lines = [(task, line) for task, line in frame.lines if task in services]
        if self._wanted.follow:
            for task, line in lines:
                note(self._seen, task, line)
        size = sum(len(line.data) + OVERHEAD for _, line in lines)
        size += sum(len(name) + len(value) for all in frame.details.values() for name, value in all)
        items = [
            TaskLog(node, services[task], task, line, frame.details.get(task, ()))
            for task, line in lines
        ]
        return Accepted(items, size, cost)

    def _is_on(self, node: NodeId, id: TaskId) -> bool:
        """The task is wanted, and is assigned to that node."""
        task = self._store.state.tasks.get(id)
        return task is not None and task.node == node and self._targets.match(task)
