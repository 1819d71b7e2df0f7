"""How a node ends its part in the swarm, when it leaves for good. Each step waits for the one before
it, but only so long: neither a manager out of reach nor a container that will not stop keeps a node
from leaving.

    "leaving"   a manager drains the node. The node waits until its own tasks are told to stop: the
                same change tells all other nodes to send them no new connections
    stop        the tasks end as they always do: this node's rules first, then a moment, then the
                stop signal and the grace period, in which established connections are served
    "left"      when all ends are reported: the node is down, and can be removed
    teardown    of networks and files, by the caller

A manager that leaves has to be forced: that says nothing about a hurry. But a forced leave waits
for no manager that this node has no session with."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from weft.agent.records import Records
from weft.agent.uplink import Uplink
from weft.engine.engine import Engine
from weft.model.assignment import Assignment
from weft.model.meta import SECOND
from weft.model.task import TaskState

PATIENCE, FORCED_PATIENCE = 3.0, 1.0
"""Seconds that each farewell waits for a manager."""
TOLD, FORCED_TOLD = 15.0, 2.0
"""Seconds that the tasks' end waits for the manager's decision. A service that is updated
start-first gets its replacement before that."""
LONGEST_GRACE = 60.0
"""Seconds that a node which leaves grants its tasks, if they may take even longer."""
BESIDE_GRACE = 15.0
"""Seconds for all that a task's end needs besides its grace period."""


class Retirement:
    """One node's way out."""

    def __init__(self, uplink: Uplink, engine: Engine, records: Records) -> None:
        self._uplink, self._engine, self._records = uplink, engine, records
        self._news = asyncio.Event()
        self.stops_all = False
        """Whether the node stops its tasks, whatever its assignment says."""

    def notice(self) -> None:
        """An assignment or the state of a task has changed."""
        self._news.set()

    def seen(self, assignment: Assignment) -> Assignment:
        """The assignment as this node sees it: once it retires, all tasks are to stop."""
        if not self.stops_all:
            return assignment
        tasks = {
            id: task
            if task.desired > TaskState.RUNNING
            else msgspec.structs.replace(task, desired=TaskState.SHUTDOWN)
            for id, task in assignment.tasks.items()
        }
        return msgspec.structs.replace(assignment, tasks=tasks)

    async def run(
        self, force: bool, assignment: Callable[[], Assignment], stop: Callable[[], None]
    ) -> None:
        """`stop` takes over the assignment once more: from then on `seen` stops all tasks."""
        uplink, patience, told = self._uplink, PATIENCE, TOLD
        if force:
            patience, told = FORCED_PATIENCE if uplink.connected else 0.0, FORCED_TOLD
        taken = await uplink.farewells.say("leaving", patience)
        if taken:
            await self._until(lambda: _all_told(assignment()), told)
        self.stops_all = True
        stop()
        await self._until(self._all_ended, self._grace() + BESIDE_GRACE)
        if taken:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await uplink.all_accepted()
            await uplink.farewells.say("left", patience)

    def _grace(self) -> float:
        """Seconds."""
        found = (self._engine.container(record.container) for record in self._records.all.values())
        longest = max((c.stop_grace_period for c in found if c is not None), default=0)
        return min(longest / SECOND, LONGEST_GRACE)

    def _all_ended(self) -> bool:
        return all(record.status.state.is_terminal for record in self._records.all.values())

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._news.clear()
                    await self._news.wait()


def _all_told(assignment: Assignment) -> bool:
    """Places of the node's own containers are the node's to end."""
    tasks = (task for task in assignment.tasks.values() if task.attached is None)
    return all(task.desired > TaskState.RUNNING for task in tasks)
