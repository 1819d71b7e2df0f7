"""Places of this node's own containers on networks of the swarm (`engine.attacher.Attacher`).

    request  ─▶ a manager grants it: a task without a service ─▶ assignment: the network is known here
    the engine's book says which container has the place ─▶ RUNNING
    nobody has it, and no request is about to: ─▶ COMPLETE; the managers may give the address again

While there is no session, nothing is given up: the managers keep what they have not heard the end
of. A container that is started again meanwhile has the place that it had, without asking, as tasks
go on without managers. The next assignment confirms the place, or takes it away.

The book and the assignment are compared whenever one of them changes, so that nothing depends on a
single message: a place whose request was given up, or that a killed daemon did not get to use, is
ended; and a container whose place the managers have given up is taken off the network."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from weft.agent.records import Records
from weft.agent.uplink import Uplink
from weft.engine.attacher import Granted
from weft.engine.engine import Engine
from weft.engine.networking import Networking
from weft.errors import NotFound, Unavailable, WeftError
from weft.model.assignment import Assignment, NetworkDefinition, TaskAssignment
from weft.model.attached import AttachedContainer, AttachmentGrant, AttachmentWanted
from weft.model.ids import SWARM_ID_BYTES, AttachmentId, TaskId, swarm_id
from weft.model.local_sandbox import LocalSandbox
from weft.model.network_lookup import find_network
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
ALONE_TIMEOUT = 5.0
"""Seconds that a manager may take to answer while this node finds none."""
RETRY = 1.0


class Attachments:
    def __init__(
        self,
        engine: Engine,
        networking: Networking,
        records: Records,
        ask: Ask,
        uplink: Uplink,
    ) -> None:
        self._engine = engine
        self._networking = networking
        self._records = records
        self._ask = ask
        self._uplink = uplink
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
        kept = self._kept(wanted)
        if kept is not None:
            log.info("attachment.kept task=%s container=%s", kept.id, wanted.container.container)
            await self._networking.protected(kept.network)
            return kept
        entropy = self._engine.adapters.origin.entropy
        id = AttachmentId(swarm_id(entropy(SWARM_ID_BYTES)))
        self._busy.add(id)
        try:
            request = AttachmentRequest(id=TaskId(id), wanted=wanted, ended=self._ended())
            grant = await self._granted(request)
            await self._until_known(TaskId(id), grant)
            await self._networking.protected(grant.network)
        except BaseException:
            self.decided([id])
            raise
        return Granted(id, grant.network, grant.name, grant.address)

    def _kept(self, wanted: AttachmentWanted) -> Granted | None:
        """The place that the container had before, if the managers cannot have given it to another
        container; the caller's from now on. Other places of the container on the network are given
        up."""
        network = self._known_network(wanted.network)
        if network is None:
            return None
        container, held = wanted.container, self._engine.local.overlays.held()
        for id, task in self._places().items():
            if id in held or id in self._busy or not task.attachments or task.attached is None:
                continue
            place, last = task.attachments[0], task.attached
            if (place.network, last.container) != (network.id, container.container):
                continue
            is_same = last.aliases == container.aliases
            if is_same and wanted.address in (None, place.address.ip) and self._is_resting(task):
                self._busy.add(id)
                return Granted(id, network.id, network.name, place.address)
            self._say(task, TaskState.COMPLETE, "detached")
        return None

    def _known_network(self, reference: str) -> NetworkDefinition | None:
        """None if this node does not know it. Raises `InvalidArgument` for an ambiguous
        reference."""
        views = self._assignment.networks.values() if self._assignment is not None else ()
        try:
            return find_network([view.definition for view in views], reference)
        except NotFound:
            return None

    def _is_resting(self, task: TaskAssignment) -> bool:
        """Whether nobody has the place, and the managers have not been told, nor could be."""
        last = self._said.get(task.id)
        is_told = last is not None and last.state.is_terminal
        return not self._uplink.connected and not is_told and task.desired <= TaskState.RUNNING

    async def _granted(self, request: AttachmentRequest) -> AttachmentGrant:
        """Raises `Unavailable` soon if this node has found no manager already."""
        if self._uplink.connected or not self._uplink.error:
            return await self._ask(request)
        try:
            async with asyncio.timeout(ALONE_TIMEOUT):
                return await self._ask(request)
        except TimeoutError:
            raise Unavailable(f"no manager answers: {self._uplink.error}") from None

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
        places = self._places()
        for gone in self._said.keys() - places.keys():
            del self._said[gone]
            self._names.pop(gone, None)
        for place, task in places.items():
            if place not in self._busy:
                self._settle(place, task, held.get(place))
        for place in held.keys() - places.keys() - self._busy:
            self._engine.local.lose(place)

    # ---

    def _places(self) -> dict[AttachmentId, TaskAssignment]:
        """All that this node was assigned."""
        tasks = self._assignment.tasks if self._assignment is not None else {}
        return {AttachmentId(id): t for id, t in tasks.items() if t.attached is not None}

    def _settle(self, id: AttachmentId, task: TaskAssignment, holder: LocalSandbox | None) -> None:
        if holder is None:
            if not self._is_resting(task):
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
        self._uplink.report(task.id, status)

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
