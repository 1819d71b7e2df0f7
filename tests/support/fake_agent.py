"""An agent without a host: it joins, keeps a session, and says of every task that it runs or has
stopped, as it is told.

It speaks to a manager in the same process and follows the protocol of `session/messages.py`: the
assignment is kept as the differences say, reports are numbered and repeated in a new session until
they are accepted.
"""

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address

from weft.errors import WeftError
from weft.model.assignment import Assignment, AssignmentChange, TaskAssignment
from weft.model.ids import ClusterId, ContainerId, NodeId, TaskId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import NodeDescription
from weft.model.service import Resources
from weft.model.task import ContainerStatus, TaskState, TaskStatus
from weft.session.base import AdmissionRequest, Identity, Manager, ManagerSession, SessionClosed
from weft.session.fake import MemoryAgentSession, session_pair
from weft.session.messages import (
    AssignmentUpdate,
    FromManager,
    Goodbye,
    Heartbeat,
    Hello,
    StatusAccepted,
    StatusUpdate,
    Welcome,
)

Behaviour = Callable[[TaskAssignment], TaskState]
"""What becomes of a task."""

RESOURCES = Resources(nano_cpus=2_000_000_000, memory=4 << 30)


def obedient(task: TaskAssignment) -> TaskState:
    """Runs what is meant to run, waits with what is to wait, stops the rest at once."""
    if task.desired == TaskState.RUNNING:
        return TaskState.RUNNING
    return TaskState.READY if task.desired < TaskState.RUNNING else TaskState.SHUTDOWN


async def admitted(
    manager: Manager, token: str, hostname: str, address: IPv4Address, csr: str = ""
) -> Identity:
    """Joins a swarm. Without a certificate request that is one, only where nobody checks it."""
    request = AdmissionRequest(token=token, csr=csr, hostname=hostname, data_path_address=address)
    answer = await manager.admit(request, str(address))
    return Identity(answer.node, answer.role, answer.cluster)


class FakeAgent:
    def __init__(
        self,
        manager: Manager,
        identity: Identity,
        hostname: str,
        address: IPv4Address,
        clock: Callable[[], Nanoseconds],
        behaviour: Behaviour = obedient,
        routes: tuple[str, ...] = (),
    ) -> None:
        self.manager = manager
        self._clock = clock
        self._behaviour = behaviour
        self._number = 0
        self._reports: dict[int, StatusUpdate] = {}
        self.identity = identity
        self.hello = Hello(
            node=identity.node,
            description=NodeDescription(hostname=hostname, resources=RESOURCES),
            data_path_address=str(address),
            routes=routes,
        )
        self.source = str(address)
        """IP address that its sessions come from."""
        self.assignment = Assignment(node=identity.node)
        self.states: dict[TaskId, TaskState] = {}
        """Of the tasks in the assignment, as reported."""
        self.changes: list[AssignmentChange] = []
        """All that were received."""
        self.farewell = ""
        """Why the last session ended."""
        self.reading = asyncio.Event()
        """Cleared, it stops reading what the manager sends; its heartbeats go on."""
        self.reading.set()
        self.beating = asyncio.Event()
        """Cleared, it sends no heartbeats."""
        self.beating.set()

    @property
    def node(self) -> NodeId:
        return self.identity.node

    @property
    def cluster(self) -> ClusterId:
        return self.identity.cluster

    async def run(self) -> None:
        """One session after another until it is cancelled, which the manager sees as silence; ends
        when it is sent away."""
        while "part of the swarm" not in self.farewell and "removed" not in self.farewell:
            await self.session()
            await asyncio.sleep(0.1)

    async def session(self) -> None:
        """One session, until it ends; `farewell` says why."""
        ours, theirs = session_pair(self.identity, self.source)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve(ours))
                group.create_task(self._talk(theirs))
        except* SessionClosed:
            self.farewell = theirs.closing.reason

    async def _serve(self, session: ManagerSession) -> None:
        """What the session listener does."""
        try:
            await self.manager.serve(session)
        except WeftError as cause:
            await session.close(str(cause))

    async def _talk(self, session: MemoryAgentSession) -> None:
        await session.send(self.hello)
        welcome = await session.receive()
        if isinstance(welcome, Goodbye):
            raise SessionClosed(welcome.reason)
        assert isinstance(welcome, Welcome)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(session, welcome.heartbeat / SECOND))
            for report in self._reports.values():
                await session.send(report)
            while True:
                await self.reading.wait()
                await self._take(session, await session.receive())

    async def _beat(self, session: MemoryAgentSession, period: float) -> None:
        while True:
            await asyncio.sleep(period)
            await self.beating.wait()
            await session.send(Heartbeat())

    async def _take(self, session: MemoryAgentSession, message: FromManager) -> None:
        match message:
            case AssignmentUpdate(change=change):
                self.changes.append(change)
                self.assignment = self.assignment.after(change)
                await self.report(session)
            case StatusAccepted(number=number):
                self._reports.pop(number, None)
            case Goodbye(reason=reason):
                raise SessionClosed(reason)

    async def report(self, session: MemoryAgentSession) -> None:
        """Says what is new about the tasks of the assignment."""
        tasks = self.assignment.tasks
        wanted = {id: self._behaviour(task) for id, task in tasks.items()}
        news = tuple(
            (id, self._status(id, state))
            for id, state in wanted.items()
            if self.states.get(id) != state
        )
        self.states = wanted
        if news:
            self._number += 1
            self._reports[self._number] = StatusUpdate(self._number, news)
            await session.send(self._reports[self._number])

    def _status(self, id: TaskId, state: TaskState) -> TaskStatus:
        return TaskStatus(
            state,
            self._clock(),
            state.name.lower(),
            container=ContainerStatus(ContainerId(f"{id:0>64}"), 1),
        )
