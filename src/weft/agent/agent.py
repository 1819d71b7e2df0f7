"""The agent of a node: takes assignments, keeps one worker per task, and makes network, names and containers follow.

It starts from the last assignment on disk, before any manager is reached, and comes to the same state whether it was just made,
restarted, or killed in the middle of anything. All decisions are elsewhere: `task_steps`, `network.plan`, `dns`; here they are put
together. Everything runs in one task group; state changes only in synchronous functions.

    assignments (uplink) ─▶ take over ─▶ records, workers (tasks) ─▶ runtime
                                    └──▶ network loop ─▶ kernel
                              statuses ◀── workers
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from weft.agent.adapters import Adapters
from weft.agent.logs import LogPublisher
from weft.agent.records import RecordBook, Records, TaskRecord
from weft.agent.task_steps import Fate, expired
from weft.agent.tasks import TaskWorker
from weft.agent.uplink import Uplink
from weft.agent.workloads import TASK_LABEL, Workloads
from weft.dns.zone import NameCache, Zone, zone_for
from weft.engine.encryption import Encryption
from weft.engine.events import EventLog
from weft.engine.forwarder import NameServers
from weft.engine.network import NetworkLoop
from weft.engine.pulls import Pulls
from weft.engine.resolver import Resolvers
from weft.errors import OperationFailed, WeftError, described
from weft.model.assignment import Assignment, AssignmentChange, TaskAssignment
from weft.model.container import Container, ContainerState
from weft.model.ids import CONTAINER_ID_BYTES, ContainerId, NodeId, TaskId, hex_id
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.task import TaskState, TaskStatus
from weft.model.workload import Resident
from weft.network.diff import diff
from weft.network.plan import Planner
from weft.network.sandbox import hides_gateway
from weft.system.supervision import contained, lasting
from weft.system.value_file import ValueFile

log = logging.getLogger(__name__)

ATTACHMENT_TIMEOUT = 30.0
"""Seconds that a task waits for its networks and the node's addresses on them; the original's."""
REOPEN_PAUSE = 1.0
UNLIST_TIMEOUT = 2.0
"""Seconds that a task's stop signal waits for this node's rules to leave the task out."""
ALONE = 5.0
"""Seconds until a host that has rebooted does without a manager. After that its tasks are as they were, but may have been given up."""
SETTLE = 1.0
"""Seconds that a manager is let wait for the ends that are yet to be noticed."""


class Agent:
    def __init__(self, node: NodeId, data: Path, facts: NodeFacts, adapters: Adapters) -> None:
        """`data`: a directory of its own, made when needed."""
        self.node = node
        self.facts = facts
        self.adapters = adapters
        self.events = EventLog(adapters.clock)
        self._assignment_file = ValueFile(data / "assignment.msgpack", Assignment, durable=True)
        self._record_file = ValueFile(data / "tasks.msgpack", RecordBook)
        self._stored = self._assignment_file.read()
        self.assignment = self._stored or Assignment(node=node)
        self.records = Records(self._record_file)
        self.encryption = Encryption(adapters.esp, adapters.no_esp, facts, self._desire)
        self.network = NetworkLoop(adapters.kernel, facts, Planner().plan, diff, adapters.flush_flows)
        self.logs = LogPublisher(
            adapters.runtime, lambda since=0, until=0: self.events.listen(since, until), adapters.clock, adapters.publish
        )
        self.uplink = Uplink(
            adapters, facts, self._statuses, self._change, self._reached, self.logs.ask
        )  # fmt: skip
        self._names = NameCache()
        self._workloads = Workloads()
        self._resolvers = Resolvers(
            adapters.open_resolver, adapters.open_socket, self._namespace_file, self._zone, self._name_servers
        )  # fmt: skip
        self._workers: dict[TaskId, TaskWorker] = {}
        self._connected: set[TaskId] = set()
        self._releasing: set[TaskId] = set()
        self._pulls = Pulls(adapters.images)
        self._ended: set[TaskId] = set()
        """Whose containers were over when the agent began."""
        self._fate = Fate.OPEN
        self._reported = asyncio.Event()
        self._taken_over = asyncio.Event()
        """Set, and replaced, at each new assignment."""
        self._group: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def sandboxes(self) -> tuple[Sandbox, ...]:
        """Those that are in use."""
        return tuple(
            r.sandbox for task, r in self.records.all.items() if r.sandbox is not None and task not in self._releasing
        )  # fmt: skip

    @property
    def residents(self) -> list[Resident]:
        return self._workloads.residents(self.assignment.tasks, self.sandboxes)

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """All of this node, those of other people included."""
        return {c.id: c for c in self.adapters.runtime.containers()}

    async def run(self) -> None:
        """Until cancelled, or closed. Containers and network stay as they are."""
        self._running = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(lasting("network", self.network.run))
                group.create_task(lasting("encryption", self.encryption.run))
                if self._stored is not None:
                    self._ended = self._found_ended()
                    self._take_over(self._stored)
                group.create_task(self._do_without_manager())
                group.create_task(lasting("uplink", self.uplink.run))
                group.create_task(lasting("logs", self.logs.run))
        finally:
            self._group = self._running = None
            self._resolvers.close_all()
            self._pulls.close()
            self.records.close()

    async def close(self) -> None:
        """Ends `run`."""
        running = self._running
        if running is not None and running is not asyncio.current_task():
            running.cancel()
            await asyncio.wait((running,))

    async def leave(self) -> None:
        """The node is no longer part of the swarm, and `run` has ended: removes containers, networks and files of the swarm, as
        much as can be; then raises what could not be removed."""
        errors: list[Exception] = []
        for container in self._swarm_containers():
            try:
                await self._remove(container)
            except WeftError as error:
                errors.append(error)
        try:
            await self.network.teardown()
        except* WeftError as group:
            errors.extend(group.exceptions)
        try:
            await self.encryption.teardown()
        except WeftError as error:
            errors.append(error)
        self._assignment_file.remove()
        self._record_file.remove()
        if errors:
            raise ExceptionGroup("cannot leave the swarm clean", errors)

    # --- after a reboot

    def _found_ended(self) -> set[TaskId]:
        running = {c.id for c in self.containers.values() if c.state is ContainerState.RUNNING}
        started = (TaskState.STARTING, TaskState.RUNNING)
        return {t for t, r in self.records.all.items() if r.status.state in started and r.container not in running}

    async def _do_without_manager(self) -> None:
        await asyncio.sleep(ALONE)
        if self._fate is Fate.OPEN:
            self._decide(Fate.REVIVED)

    async def _reached(self) -> None:
        """A manager is there. It hears of the ends first."""
        if self._fate is Fate.OPEN:
            self._decide(Fate.OVER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while self._fate is Fate.OVER and any(self._is_ending(task) for task in self._ended):
                    self._reported.clear()
                    await self._reported.wait()
        self._ended.clear()

    def _is_ending(self, task: TaskId) -> bool:
        record = self.records.get(task)
        return record is not None and not record.status.state.is_terminal

    def _decide(self, fate: Fate) -> None:
        self._fate = fate
        log.info("agent.fate fate=%s ended=%d", fate.name, len(self._ended))
        for task in self._ended:
            if (worker := self._workers.get(task)) is not None:
                worker.wake()

    # --- assignments

    def _change(self, change: AssignmentChange) -> None:
        """From a manager. On disk first: a container of a task that is not in the file would be taken for a stranger's. So what cannot
        be written there is not begun; all else is done."""
        assignment = self.assignment.after(change)
        try:
            self._assignment_file.write(assignment)
        except OperationFailed as error:
            log.error("assignment.not_kept revision=%s cause=%s", assignment.revision, error)
            assignment = self._without_new_tasks(assignment, str(error))
        log.info("assignment.taken revision=%s tasks=%d", assignment.revision, len(assignment.tasks))
        self._take_over(assignment)

    def _without_new_tasks(self, assignment: Assignment, cause: str) -> Assignment:
        known = {id: task for id, task in assignment.tasks.items() if self.records.get(id) is not None}
        for id in assignment.tasks.keys() - known.keys():
            self.uplink.report(id, TaskStatus(TaskState.REJECTED, self.adapters.clock(), "rejected", cause))
        return msgspec.structs.replace(assignment, tasks=known)

    def _take_over(self, assignment: Assignment) -> None:
        old, self.assignment = self.assignment, assignment
        first = not self._workers
        strangers = {c.config.labels[TASK_LABEL]: c for c in self._swarm_containers()} if first else {}
        for task in assignment.tasks.values():
            if self.records.get(task.id) is None:
                self._try_to_accept(task, strangers.get(task.id))
        for id in tuple(self.records.all):
            self._attend(id, changed=old.tasks.get(id) != assignment.tasks.get(id))
        for label, container in strangers.items():
            if self.records.get(TaskId(label)) is None:
                self._spawn_removal(container)
        self._desire()
        if first:
            self._reopen_resolvers()
        self._taken_over.set()
        self._taken_over = asyncio.Event()

    def _try_to_accept(self, task: TaskAssignment, found: Container | None) -> None:
        """One task that cannot be accepted is reported, and holds back no other."""
        try:
            self._accept(task, found)
        except Exception as error:
            log.exception("task.not_accepted task=%s", task.id)
            self.records.forget(task.id)
            cause = f"cannot accept task: {described(error)}"
            self.uplink.report(task.id, TaskStatus(TaskState.REJECTED, self.adapters.clock(), "rejected", cause))

    def _accept(self, task: TaskAssignment, found: Container | None) -> None:
        """A task that is new here; or one whose container is here although the record of it was lost."""
        container = found.id if found is not None else ContainerId(hex_id(self.adapters.entropy(CONTAINER_ID_BYTES)))
        status = TaskStatus(TaskState.ACCEPTED, self.adapters.clock(), "accepted")
        if found is not None and found.state is not ContainerState.CREATED:
            status = TaskStatus(TaskState.STARTING, self.adapters.clock(), "starting")
        self.records.put(task.id, TaskRecord(container=container, status=status))
        if found is not None and found.config.sandbox_id:
            self.records.give(self._workloads.of(task), self.facts, found.config.sandbox_id)
        self.report(task.id, status)

    def _attend(self, task: TaskId, changed: bool) -> None:
        worker = self._workers.get(task)
        if worker is not None:
            if changed:
                worker.wake()
            return
        self._workers[task] = worker = TaskWorker(self, task)
        assert self._group is not None
        self._group.create_task(self._work(task, worker))

    async def _work(self, task: TaskId, worker: TaskWorker) -> None:
        await lasting(f"task {task}", worker.run)
        del self._workers[task]
        self._connected.discard(task)
        self._releasing.discard(task)
        if task in self.assignment.tasks:
            # Assigned again in the moment in which it was forgotten.
            self._try_to_accept(self.assignment.tasks[task], None)
            if self.records.get(task) is not None:
                self._attend(task, changed=False)

    def _statuses(self) -> dict[TaskId, TaskStatus]:
        return {task: record.status for task, record in self.records.all.items()}

    # --- what a worker asks for

    def report(self, task: TaskId, status: TaskStatus) -> None:
        self.uplink.report(task, status)
        self._reported.set()

    def fate(self, container: Container | None) -> Fate:
        return self._fate if container is not None and container.was_lost else Fate.OVER

    async def pull(self, reference: str) -> None:
        await self._pulls.pull(reference)

    def is_connected(self, task: TaskId) -> bool:
        assigned = self.assignment.tasks.get(task)
        return task in self._connected or (assigned is not None and assigned.spec.host_network)

    async def connect(self, task: TaskAssignment) -> None:
        await self._networks_known(task)
        cause = hides_gateway(self._workloads.of(task), self.assignment.networks, self.facts)
        if cause is not None:
            raise OperationFailed(cause)
        record = self.records.all[task.id]
        sandbox = record.sandbox or self._new_sandbox(task)
        await self.records.saved()
        self._desire()
        await self._encryption_ready(sandbox)
        await self.network.ready(sandbox)
        await self._resolvers.open(sandbox)
        self._connected.add(task.id)
        self._tell_networks("connect", task.id, sandbox)

    def _new_sandbox(self, task: TaskAssignment) -> Sandbox:
        return self.records.give(self._workloads.of(task), self.facts, hex_id(self.adapters.entropy(CONTAINER_ID_BYTES)))

    async def release(self, task: TaskId) -> None:
        sandbox = self.records.all[task].sandbox
        if sandbox is None:
            return
        self._releasing.add(task)
        self._connected.discard(task)
        self._resolvers.close(sandbox)
        self._desire()
        await self.network.gone(sandbox)
        self._tell_networks("disconnect", task, sandbox)

    async def unlisted(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNLIST_TIMEOUT):
                await self.network.settled()

    async def prune(self) -> None:
        ended = {c.id: c for c in self._swarm_containers() if c.state is ContainerState.EXITED}
        for id in expired({c.id: (c.config.name, c.finished_at) for c in ended.values()}):
            await self._remove(ended[id])

    # ---

    def _desire(self) -> None:
        overlays = self.encryption.desire(self.assignment)
        if overlays is None:
            self.network.postpone()
        else:
            self.network.desire(overlays, self.residents)

    async def _encryption_ready(self, sandbox: Sandbox) -> None:
        for network in sandbox.ports:
            view = self.assignment.networks.get(network)
            if view is not None and view.definition.encrypted:
                await self.encryption.ready(view.definition.name)

    async def _networks_known(self, task: TaskAssignment) -> None:
        try:
            async with asyncio.timeout(ATTACHMENT_TIMEOUT):
                while not self._are_known(task):
                    await self._taken_over.wait()
        except TimeoutError:
            raise OperationFailed("node is missing network attachments, ip addresses may be exhausted") from None

    def _are_known(self, task: TaskAssignment) -> bool:
        """An address of the node's own it needs on the ingress network only, for answers to come back by; a task on another network
        works without a load balancer beside it."""
        views = [self.assignment.networks.get(a.network) for a in task.attachments]
        return all(v is not None and (not v.definition.ingress or v.load_balancer(self.node) is not None) for v in views)

    def _reopen_resolvers(self) -> None:
        """For containers that were running before this daemon; tasks on their way up get theirs on that way."""
        assert self._group is not None
        for task, record in self.records.all.items():
            if record.sandbox is not None and record.status.state == TaskState.RUNNING:
                reopening = self._reopen_resolver(task, record.sandbox)
                self._group.create_task(contained(f"names of task {task}", reopening))

    async def _reopen_resolver(self, task: TaskId, sandbox: Sandbox) -> None:
        while sandbox in self.sandboxes:
            try:
                await self.network.ready(sandbox)
                await self._resolvers.open(sandbox)
                return
            except WeftError as error:
                log.warning("resolver.reopen_failed task=%s cause=%s", task, error)
                await asyncio.sleep(REOPEN_PAUSE)

    def _zone(self, sandbox: Sandbox) -> Zone:
        task = self.assignment.tasks.get(TaskId(sandbox.workload))
        return zone_for(self.assignment, self._workloads.of(task) if task is not None else None, self._names)

    def _namespace_file(self, sandbox: Sandbox) -> Path:
        return self.adapters.namespaces / sandbox.key

    def _name_servers(self, sandbox: Sandbox) -> NameServers:
        task = self.assignment.tasks.get(TaskId(sandbox.workload))
        own = task.spec.container.dns_servers if task is not None else ()
        return NameServers(own, self._namespace_file(sandbox)) if own else NameServers(self.adapters.host_resolver().servers)

    def _swarm_containers(self) -> list[Container]:
        return [c for c in self.adapters.runtime.containers() if TASK_LABEL in c.config.labels]

    def _spawn_removal(self, container: Container) -> None:
        assert self._group is not None
        removal = self._remove_stranger(container)
        self._group.create_task(contained(f"removal of container {container.id[:12]}", removal))

    async def _remove_stranger(self, container: Container) -> None:
        """A container of a task that the manager does not speak of, and this node has no record of."""
        log.info("container.unknown_task container=%s", container.id)
        try:
            await self._remove(container)
        except WeftError as error:
            log.warning("container.remove_failed container=%s cause=%s", container.id, error)

    async def _remove(self, container: Container) -> None:
        await self.adapters.runtime.remove(container.id)
        self.events.container("destroy", container)

    def _tell_networks(self, action: str, task: TaskId, sandbox: Sandbox) -> None:
        for id in sandbox.ports:
            view = self.assignment.networks.get(id)
            name = view.definition.name if view is not None else ""
            self.events.record("network", action, id, {"container": sandbox.container, "name": name, "type": "overlay"})
