"""Places of this node's own containers on networks of the swarm (`engine.attacher.Attacher`).

    request  ─▶ a manager grants it: a task without a service ─▶ assignment: the network is known here
    the engine's book says which container has the place ─▶ RUNNING
    nobody has it, and no request is about to: ─▶ COMPLETE; the managers may give the address again

The book and the assignment are compared whenever one of them changes, so that nothing depends on a
single message: a place whose request was given up, or that a killed daemon did not get to use, is
ended; and a container whose place the managers have given up is taken off the network."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from weft.agent.records import Records
from weft.engine.attacher import Granted
from weft.engine.engine import Engine
from weft.engine.networking import Networking
from weft.errors import Unavailable, WeftError
from weft.model.assignment import Assignment, TaskAssignment
from weft.model.attached import AttachedContainer, AttachmentGrant, AttachmentWanted
from weft.model.ids import SWARM_ID_BYTES, AttachmentId, TaskId, swarm_id
from weft.model.local_sandbox import LocalSandbox
from weft.model.sandbox import Sandbox
from weft.model.task import ContainerStatus, TaskState, TaskStatus
from weft.session.base import AttachmentRequest
from weft.session.messages import MAX_STATUSES
from weft.system.supervision import contained

log = logging.getLogger(__name__)

Ask = Callable[[AttachmentRequest], Awaitable[AttachmentGrant]]
"""Asks the managers. Raises a `WeftError`; `Unavailable` within a bounded time."""
KNOWN_TIMEOUT = 20.0
"""Seconds from a manager's grant until this node has been told of the network."""
RETRY = 1.0


class Attachments:
    def __init__(
        self,
        engine: Engine,
        networking: Networking,
        records: Records,
        ask: Ask,
        report: Callable[[TaskId, TaskStatus], None],
    ) -> None:
        self._engine = engine
        self._networking = networking
        self._records = records
        self._ask = ask
        self._report = report
        self._assignment: Assignment | None = None
        """None until this daemon knows what the node was assigned."""
        self._busy: set[AttachmentId] = set()
        """Places that belong to requests."""
        self._said: dict[TaskId, TaskStatus] = {}
        self._names: dict[TaskId, str] = {}
        """Names of containers that a manager was told since they were granted."""
        self._renaming: dict[TaskId, asyncio.Task[None]] = {}
        self._taken_over = asyncio.Event()
        """Set, and replaced, at each new assignment."""

    def begin(self) -> None:
        """Containers may be attached from now on."""
        self._engine.local.overlays.attacher = self

    def end(self) -> None:
        if self._engine.local.overlays.attacher is self:
            self._engine.local.overlays.attacher = None
        self._assignment = None
        for task in tuple(self._renaming.values()):
            task.cancel()

    def statuses(self) -> dict[TaskId, TaskStatus]:
        """Those that were reported, of places that are assigned."""
        return dict(self._said)

    def holds(self, task: TaskId) -> bool:
        """Whether a container has the place."""
        return AttachmentId(task) in self._engine.local.overlays.held()

    def take_over(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._taken_over.set()
        self._taken_over = asyncio.Event()
        self.look()

    # --- Attacher

    async def attach(self, wanted: AttachmentWanted) -> Granted:
        entropy = self._engine.adapters.origin.entropy
        id = AttachmentId(swarm_id(entropy(SWARM_ID_BYTES)))
        self._busy.add(id)
        try:
            request = AttachmentRequest(id=TaskId(id), wanted=wanted, ended=self._ended())
            grant = await self._ask(request)
            await self._until_known(TaskId(id), grant)
            await self._networking.protected(grant.network)
        except BaseException:
            self.decided([id])
            raise
        return Granted(id, grant.network, grant.name, grant.address)

    def hold(self, ids: Iterable[AttachmentId]) -> None:
        self._busy.update(ids)

    def decided(self, ids: Iterable[AttachmentId]) -> None:
        self._busy.difference_update(ids)
        self.look()

    def sandboxes(self) -> list[Sandbox]:
        records = self._records.all.values()
        return [record.sandbox for record in records if record.sandbox is not None]

    def look(self) -> None:
        """Compares the book with the assignment."""
        if self._assignment is None:
            return
        held = self._engine.local.overlays.held()
        places = {id: t for id, t in self._assignment.tasks.items() if t.attached is not None}
        for gone in self._said.keys() - places.keys():
            del self._said[gone]
            self._names.pop(gone, None)
        for id, task in places.items():
            place = AttachmentId(id)
            if place not in self._busy:
                self._settle(place, task, held.get(place))
        for place in held.keys() - places.keys() - self._busy:
            self._engine.local.lose(place)

    # ---

    def _settle(self, id: AttachmentId, task: TaskAssignment, holder: LocalSandbox | None) -> None:
        if holder is None:
            self._say(task, TaskState.COMPLETE, "detached")
        elif task.desired > TaskState.RUNNING or not task.attachments:
            self._engine.local.lose(id)
        else:
            self._say(task, TaskState.RUNNING, "attached")
            self._compare_names(task, holder)

    def _say(self, task: TaskAssignment, state: TaskState, message: str) -> None:
        last = self._said.get(task.id)
        if task.attached is None or (last is not None and last.state >= state):
            return
        container = ContainerStatus(task.attached.container)
        status = TaskStatus(state, self._engine.now(), message, container=container)
        self._said[task.id] = status
        self._report(task.id, status)

    def _ended(self) -> tuple[tuple[TaskId, TaskStatus], ...]:
        found = ((id, status) for id, status in self._said.items() if status.state.is_terminal)
        return tuple(found)[-MAX_STATUSES:]

    async def _until_known(self, id: TaskId, grant: AttachmentGrant) -> None:
        try:
            async with asyncio.timeout(KNOWN_TIMEOUT):
                while not self._is_known(id, grant):
                    await self._taken_over.wait()
        except TimeoutError:
            raise Unavailable(
                f"no manager has told this node of the network within {KNOWN_TIMEOUT:g} s"
            ) from None

    def _is_known(self, id: TaskId, grant: AttachmentGrant) -> bool:
        known = self._assignment
        return known is not None and id in known.tasks and grant.network in known.networks

    # --- names

    def _compare_names(self, task: TaskAssignment, holder: LocalSandbox) -> None:
        attached = task.attached
        if attached is None or task.id in self._renaming:
            return
        if self._names.get(task.id, attached.name) != holder.name:
            work = contained(f"name of {holder.name}", self._tell_name(task, attached, holder.name))
            self._renaming[task.id] = made = asyncio.get_running_loop().create_task(work)
            made.add_done_callback(lambda _: self._told_name(task.id))

    def _told_name(self, task: TaskId) -> None:
        """The container may have got yet another name meanwhile."""
        self._renaming.pop(task, None)
        self.look()

    async def _tell_name(
        self, task: TaskAssignment, attached: AttachedContainer, name: str
    ) -> None:
        container = msgspec.structs.replace(attached, name=name)
        wanted = AttachmentWanted(network=task.attachments[0].network, container=container)
        try:
            await self._ask(AttachmentRequest(id=task.id, wanted=wanted))
            self._names[task.id] = name
        except WeftError as error:
            log.warning("attachment.not_renamed task=%s name=%s cause=%s", task.id, name, error)
            await asyncio.sleep(RETRY)
