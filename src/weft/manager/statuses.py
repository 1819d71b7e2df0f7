"""Commits what agents report about their tasks, for all nodes together.

Reports that arrive within a few milliseconds share one commit. Only the node that a task is
assigned to can report on the task, and an observed state only advances. A report that is late,
repeated or about another node's task is accepted and changes nothing, so an agent that repeats a
report until it is answered comes to an end."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from weft.errors import WeftError
from weft.manager.transaction import transact
from weft.model.ids import NodeId, TaskId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.state import Change, ClusterState, Put
from weft.model.task import Task, TaskState, TaskStatus
from weft.store.base import Store
from weft.system.supervision import contained
from weft.system.tally import Histogram

log = logging.getLogger(__name__)

WINDOW = 0.01
"""Seconds that the first report of a batch waits for others."""
RETRY = 0.5
"""Seconds until a commit that failed is tried again."""


def _nothing() -> None: ...


class Report(msgspec.Struct, frozen=True):
    node: NodeId
    statuses: tuple[tuple[TaskId, TaskStatus], ...]
    accepted: Callable[[], None] = _nothing
    """Called once the report is committed."""


class StatusWriter:
    def __init__(self, store: Store, clock: Callable[[], Nanoseconds]) -> None:
        self._store = store
        self._clock = clock
        self.scheduling_seconds = Histogram()
        """From the creation of each task to its RUNNING."""
        self._reports: list[Report] = []
        self._arrived = asyncio.Event()

    def submit(self, report: Report) -> None:
        self._reports.append(report)
        self._arrived.set()

    async def run(self) -> None:
        """Runs until cancelled. While the store refuses to write, reports wait; they are accepted
        when it writes again. If the reports cannot even be decided on together, one of them is to
        blame: each is committed by itself, and that one is dropped."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(WINDOW)
            reports, self._reports = self._reports, []
            self._arrived.clear()
            try:
                await self._commit(reports)
            except Exception:
                log.exception("statuses.failed reports=%d", len(reports))
                for report in reports:
                    await contained(f"statuses of node {report.node}", self._commit([report]))

    async def _commit(self, reports: Sequence[Report]) -> None:
        begun: list[Task] = []

        def decide(state: ClusterState) -> list[Change]:
            changes = merged(state, reports)
            objects = (change.object for change in changes if isinstance(change, Put))
            begun[:] = (o for o in objects if isinstance(o, Task) and _begins(state, o))
            return changes

        while True:
            try:
                await transact(self._store, decide, independent=True)
                break
            except WeftError as error:
                log.error("statuses.failed reports=%d cause=%s", len(reports), error)
                await asyncio.sleep(RETRY)
        for task in begun:
            self.scheduling_seconds.add((self._clock() - task.meta.created_at) / SECOND)
        for report in reports:
            report.accepted()


def _begins(state: ClusterState, task: Task) -> bool:
    return task.state is TaskState.RUNNING and state.tasks[task.id].state < TaskState.RUNNING


def merged(state: ClusterState, reports: Iterable[Report]) -> list[Change]:
    """One change for each task that the reports move forward."""
    tasks: dict[TaskId, Task] = {}
    for report in reports:
        for id, status in report.statuses:
            task = tasks.get(id) or state.tasks.get(id)
            if task is not None and task.node == report.node and _is_news(task.status, status):
                tasks[id] = task.observed(status)
    return [Put(task) for task in tasks.values()]


def _is_news(old: TaskStatus, new: TaskStatus) -> bool:
    """True for a higher state, or for other details of the same state unless the task has ended."""
    if new.state == old.state:
        return not old.state.is_terminal and new != old
    return new.state > old.state
