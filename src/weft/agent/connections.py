"""Connects tasks to their networks: gives each task a sandbox, and tells the engine of all of
them."""

import asyncio
import contextlib
from collections.abc import Iterator

from weft.agent.records import Records
from weft.agent.workloads import Workloads
from weft.engine.networking import Networking
from weft.errors import OperationFailed
from weft.model.assignment import Assignment, TaskAssignment
from weft.model.ids import TaskId
from weft.model.sandbox import Sandbox
from weft.model.task import TaskState
from weft.model.workload import Resident

ATTACHMENT_TIMEOUT = 30.0
"""Seconds that a task waits for its networks and the node's addresses on them, as in Docker
Swarm."""
_STARTED = (TaskState.STARTING, TaskState.RUNNING)
UNLIST_TIMEOUT = 2.0
"""Seconds that a task's stop signal waits for this node's rules to exclude the task."""


class Connections:
    def __init__(self, networking: Networking, records: Records, assignment: Assignment) -> None:
        self._networking = networking
        self._records = records
        self._assignment = assignment
        self._closed: set[TaskId] = set()
        self._workloads = Workloads(self._closed)
        self._connected: set[TaskId] = set()
        self._releasing: set[TaskId] = set()
        self._taken_over = asyncio.Event()
        """Set, and replaced, at each new assignment."""

    @property
    def sandboxes(self) -> tuple[Sandbox, ...]:
        """The sandboxes in use."""
        held = ((task, record.sandbox) for task, record in self._records.all.items())
        return tuple(
            sandbox for task, sandbox in held if sandbox is not None and task not in self._releasing
        )

    @property
    def residents(self) -> list[Resident]:
        return self._workloads.residents(self._assignment.tasks, self.sandboxes)

    def take_over(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._desire()
        self._taken_over.set()
        self._taken_over = asyncio.Event()

    def is_connected(self, task: TaskId) -> bool:
        assigned = self._assignment.tasks.get(task)
        return task in self._connected or (assigned is not None and assigned.spec.host_network)

    async def connect(self, task: TaskAssignment) -> None:
        """Gives the task its sandbox and returns when the sandbox works. Raises `Exhausted` or
        `OperationFailed`."""
        await self._networks_known(task)
        self._networking.check(self._workloads.of(task))
        sandbox = self._records.all[task.id].sandbox or self.give(task, self._networking.new_id())
        await self._records.saved()
        self._desire()
        await self._networking.connect(sandbox)
        self._connected.add(task.id)

    def give(self, task: TaskAssignment, id: str) -> Sandbox:
        """Gives the task a sandbox with that id, and records it. Raises `Exhausted`."""
        workload, others = self._workloads.of(task), self._networking.plain_sandboxes()
        return self._records.give(workload, self._networking.facts, id, others)

    async def release(self, task: TaskId) -> None:
        """Releases the task's sandbox. Returns when nothing of the sandbox is left in the
        kernel."""
        sandbox = self._records.all[task].sandbox
        if sandbox is None:
            return
        self._releasing.add(task)
        self._connected.discard(task)
        self._desire()
        await self._networking.release(sandbox)

    def forget(self, task: TaskId) -> None:
        """Forgets a task that has no record any more."""
        self._connected.discard(task)
        self._releasing.discard(task)
        self._closed.discard(task)

    async def excluded(self, task: TaskId) -> None:
        """Waits until the manager has told this node to send the task no new connections, or until
        `UNLIST_TIMEOUT` has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNLIST_TIMEOUT):
                while self._serves(task):
                    await self._taken_over.wait()

    def _serves(self, task: TaskId) -> bool:
        views = self._assignment.networks.values()
        return any(task in v.endpoints and v.endpoints[task].serving for v in views)

    async def unlisted(self) -> None:
        """Waits until this node's own rules send new connections only to the backends in the
        assignment, or until `UNLIST_TIMEOUT` has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNLIST_TIMEOUT):
                await self._networking.loop.settled()

    async def close(self, task: TaskId) -> None:
        """Lets no new connections reach the container by the mesh, or tries for `UNLIST_TIMEOUT`.

        The rules of a host that is behind still send some. Once the program has closed its port,
        the kernel would refuse them, and the client would give up. A SYN without an answer is sent
        again after a second, and then goes to another task, because the host forgets unanswered
        flows to this one when its own rules change."""
        self._closed.add(task)
        self._desire()
        await self.unlisted()

    def started(self) -> Iterator[tuple[TaskId, Sandbox]]:
        """Sandboxes of tasks whose containers have been started."""
        for task, record in self._records.all.items():
            if record.sandbox is not None and record.status.state in _STARTED:
                yield task, record.sandbox

    def _desire(self) -> None:
        self._networking.desire(self._assignment, self.residents)

    async def _networks_known(self, task: TaskAssignment) -> None:
        try:
            async with asyncio.timeout(ATTACHMENT_TIMEOUT):
                while not self._are_known(task):
                    await self._taken_over.wait()
        except TimeoutError:
            raise OperationFailed(
                "node is missing network attachments, ip addresses may be exhausted"
            ) from None

    def _are_known(self, task: TaskAssignment) -> bool:
        """Whether the task's networks are known. The node needs an address of its own only on the
        ingress network, as the way back for answers; a task on another network works without a load
        balancer on this node."""
        views = [self._assignment.networks.get(a.network) for a in task.attachments]
        node = self._assignment.node
        return all(
            v is not None and (not v.definition.ingress or v.load_balancer(node) is not None)
            for v in views
        )
