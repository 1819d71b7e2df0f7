"""The agent of a node: takes assignments, keeps one worker per task, and makes the engine carry the
assignments out.

The agent starts from the last assignment on disk, before it has reached any manager. The agent
comes to the same state whether it was just created, restarted, or killed at any point. The
decisions are made elsewhere (`task_steps`, `network.plan`, `dns`) and put together here. Everything
runs in one task group; state changes only in synchronous functions.

    assignments (uplink) ─▶ take over ─▶ records, workers (tasks) ─▶ engine: containers
                                    └──▶ workloads ─▶ engine: networking
                              statuses ◀── workers
"""

import asyncio
import logging
from pathlib import Path

import msgspec

from weft.agent.adapters import Adapters
from weft.agent.attachments import Attachments
from weft.agent.connections import Connections
from weft.agent.disk import Disk
from weft.agent.engine_state import engine_state
from weft.agent.examination import examine
from weft.agent.logs import TaskLogs
from weft.agent.probes import probe_frames
from weft.agent.quiet import unasked
from weft.agent.reboot import Reboot
from weft.agent.records import Records, TaskRecord
from weft.agent.retirement import FORCED_PATIENCE, Retirement
from weft.agent.streams import Frames, StreamPublisher
from weft.agent.task_files import newly_supplied
from weft.agent.task_steps import RebootVerdict, expired
from weft.agent.tasks import TaskWorker
from weft.agent.uplink import Uplink
from weft.engine.captures import Capture
from weft.engine.engine import Engine
from weft.engine.flows import Flows
from weft.engine.networking import Networking
from weft.engine.pulls import Pulls
from weft.engine.top import Top
from weft.errors import OperationFailed, WeftError, described
from weft.model.assignment import Assignment, AssignmentChange, TaskAssignment
from weft.model.container import Container, ContainerState
from weft.model.finding import Examination
from weft.model.ids import ContainerId, NodeId, TaskId, WorkloadId
from weft.model.node import NodeDescription
from weft.model.registry import RegistryAuth
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.task import TaskState, TaskStatus
from weft.model.workload import TASK_LABEL
from weft.session.messages import (
    CaptureRequest,
    EngineStateFrame,
    EngineStateRequest,
    ExaminationFrame,
    ExaminationRequest,
    FlowsRequest,
    LogsRequest,
    ProbeRequest,
    TopRequest,
    TraceFrame,
    TraceRequest,
)
from weft.system.supervision import contained, lasting

log = logging.getLogger(__name__)


class Agent:
    def __init__(
        self, node: NodeId, data: Path, facts: NodeFacts, engine: Engine, adapters: Adapters
    ) -> None:
        """`data`: a directory for the agent alone, created when needed."""
        self.node = node
        self.facts = facts
        self.engine = engine
        self.networking = Networking(engine, facts)
        self._adapters = adapters
        self.disk = Disk(data)
        self._stored = self.disk.assignment()
        self.assignment = self._stored or Assignment(node=node)
        self._applied = 0
        """Revision of the last assignment of which all was done when the next one came."""
        self.records = Records(self.disk.records)
        self.streams = StreamPublisher(
            {
                LogsRequest: self._logs,
                EngineStateRequest: self._engine_state,
                CaptureRequest: self._capture,
                ExaminationRequest: self._examination,
                TraceRequest: self._trace,
                ProbeRequest: self._probe,
                FlowsRequest: self._flows,
                TopRequest: self._top,
            },
            adapters.managers.open_stream,
        )
        self._reboot = Reboot(engine, self.records, self._wake)
        self.uplink = Uplink(
            adapters, facts, self._statuses, self._change, self._reboot.reached, self.streams
        )
        self.retirement = Retirement(self.uplink, engine, self.records)
        self.connections = Connections(self.networking, self.records, self.assignment)
        self.attachments = Attachments(
            engine, self.networking, self.records, adapters.managers.attach, self.uplink
        )
        self._workers: dict[TaskId, TaskWorker] = {}
        self._pulls = Pulls(engine.images)
        self._group: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Runs until cancelled or closed. Containers and network stay as they are."""
        self._running = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self.attachments.begin()
                group.create_task(self.networking.run())
                if self._stored is not None:
                    self._reboot.look()
                    self._take_over(self._stored)
                else:
                    self.networking.loop.go_without_swarm()
                group.create_task(self._reboot.do_without_manager())
                group.create_task(lasting("uplink", self.uplink.run))
                group.create_task(lasting("streams", self.streams.run))
        finally:
            self.attachments.end()
            self._group = self._running = None
            self._pulls.close()
            self.records.close()

    async def close(self) -> None:
        """Ends `run`."""
        running = self._running
        if running is not None and running is not asyncio.current_task():
            running.cancel()
            await asyncio.wait((running,))

    async def retire(self, force: bool) -> None:
        """Ends all tasks in good order, before the node leaves the swarm for good
        (`retirement.py`). Call this while `run` runs; afterwards no session is begun any more, if a
        manager knows."""
        if self._group is not None:
            await self.retirement.run(
                force, lambda: self.assignment, lambda: self._take_over(self.assignment)
            )

    async def host_stops(self) -> None:
        """Tells a manager that the host is being shut down, so that no node sends new connections
        here. Returns when none come any more; containers are left as they are."""
        if self.uplink.connected and await self.uplink.farewells.say("stopping", FORCED_PATIENCE):
            await unasked(self._accepted)

    def _accepted(self) -> int:
        accepted = self.engine.adapters.network.accepted
        return sum(accepted(container.pid) for container in self._swarm_containers())

    async def leave(self) -> None:
        """Removes containers, networks and files of the swarm, as far as possible, then raises what
        could not be removed. Call this when the node has left the swarm and `run` has ended."""
        errors: list[Exception] = []
        for container in self._swarm_containers():
            try:
                await self.engine.remove(container.id)
            except WeftError as error:
                errors.append(error)
        try:
            self.engine.local.leave_swarm()
            await self.networking.teardown()
        except* WeftError as group:
            errors.extend(group.exceptions)
        self.disk.remove()
        if errors:
            raise ExceptionGroup("cannot leave the swarm clean", errors)

    # --- assignments

    @property
    def applied_revision(self) -> int:
        """Revision of the assignment that the node's network is of."""
        is_done = self._workers and self.networking.loop.is_settled
        return self.assignment.revision if is_done else self._applied

    def _change(self, change: AssignmentChange) -> None:
        """Takes over a change from a manager. The assignment is written to disk first: a container
        of a task that is not in the file would be taken for a stranger's. So new tasks are not
        begun if that fails; all else is done."""
        assignment = self.assignment.after(change)
        try:
            self.disk.keep(assignment)
        except OperationFailed as error:
            log.error("assignment.not_kept revision=%s cause=%s", assignment.revision, error)
            assignment = self._without_new_tasks(assignment, str(error))
        log.info(
            "assignment.taken revision=%s tasks=%d", assignment.revision, len(assignment.tasks)
        )
        self._take_over(assignment)

    def _without_new_tasks(self, assignment: Assignment, cause: str) -> Assignment:
        known = {
            id: task
            for id, task in assignment.tasks.items()
            if self.records.get(id) is not None or self.attachments.holds(id)
        }
        for id in assignment.tasks.keys() - known.keys():
            self.uplink.report(
                id, TaskStatus(TaskState.REJECTED, self.engine.now(), "rejected", cause)
            )
        return msgspec.structs.replace(assignment, tasks=known)

    def _take_over(self, assignment: Assignment) -> None:
        self._applied = self.applied_revision
        assignment = self.retirement.seen(assignment)
        old, self.assignment = self.assignment, assignment
        first = not self._workers
        strangers = (
            {c.config.labels[TASK_LABEL]: c for c in self._swarm_containers()} if first else {}
        )
        for task in assignment.tasks.values():
            if self.records.get(task.id) is None and task.attached is None:
                self._try_to_accept(task, strangers.get(task.id))
        supplied = newly_supplied(old, assignment)
        for id in tuple(self.records.all):
            changed = id in supplied or old.tasks.get(id) != assignment.tasks.get(id)
            self._attend(id, changed)
        for label, container in strangers.items():
            if self.records.get(TaskId(label)) is None:
                self._spawn_removal(container)
        self.connections.take_over(assignment)
        self.attachments.take_over(assignment)
        if first:
            self._answer_again()
        self.retirement.notice()

    def _try_to_accept(self, task: TaskAssignment, found: Container | None) -> None:
        """Accepts a task. A task that cannot be accepted is reported, and holds back no other."""
        try:
            self._accept(task, found)
        except Exception as error:
            log.exception("task.not_accepted task=%s", task.id)
            self.records.forget(task.id)
            cause = f"cannot accept task: {described(error)}"
            self.uplink.report(
                task.id, TaskStatus(TaskState.REJECTED, self.engine.now(), "rejected", cause)
            )

    def _accept(self, task: TaskAssignment, found: Container | None) -> None:
        """Accepts a task that is new here, or whose container is here although its record was
        lost."""
        container = found.id if found is not None else ContainerId(self.engine.new_id())
        status = TaskStatus(TaskState.ACCEPTED, self.engine.now(), "accepted")
        if found is not None and found.state is not ContainerState.CREATED:
            status = TaskStatus(TaskState.STARTING, self.engine.now(), "starting")
        self.records.put(task.id, TaskRecord(container=container, status=status))
        if found is not None and found.config.sandbox_id:
            self.connections.give(task, found.config.sandbox_id)
        self.report(task.id, status)

    def _attend(self, task: TaskId, changed: bool) -> None:
        if task in self._workers:
            if changed:
                self._wake(task)
            return
        self._workers[task] = worker = TaskWorker(self, task)
        assert self._group is not None
        self._group.create_task(self._work(task, worker))

    def _wake(self, task: TaskId) -> None:
        worker = self._workers.get(task)
        if worker is not None:
            worker.wake()

    async def _work(self, task: TaskId, worker: TaskWorker) -> None:
        await lasting(f"task {task}", worker.run)
        del self._workers[task]
        self.connections.forget(task)
        if task in self.assignment.tasks:
            # The task was assigned again while its worker ended.
            self._try_to_accept(self.assignment.tasks[task], None)
            if self.records.get(task) is not None:
                self._attend(task, changed=False)

    def _statuses(self) -> dict[TaskId, TaskStatus]:
        records = self.records.all.items()
        return {task: record.status for task, record in records} | self.attachments.statuses()

    # --- streams

    def _logs(self, request: LogsRequest) -> Frames:
        engine = self.engine
        return TaskLogs(engine.runtime, engine.events.listen, engine.now, request).frames()

    async def _engine_state(self, request: EngineStateRequest) -> Frames:
        version, revision = self.description().engine_version, self.assignment.revision
        yield EngineStateFrame(engine_state(version, revision, self.networking))

    def _capture(self, request: CaptureRequest) -> Frames:
        return Capture(self.networking, self.engine.now, request.wanted).frames()

    def _flows(self, request: FlowsRequest) -> Frames:
        return Flows(self.networking, self.engine.now, request.follow).frames()

    def _top(self, request: TopRequest) -> Frames:
        engine = self.engine
        adapters, names = engine.adapters.network, engine.names
        return Top(self.networking, adapters, names, engine.now, request.wanted).frames()

    async def examine(self, repair: bool) -> Examination:
        return await examine(self.engine, self.networking, self.uplink, self._adapters, repair)

    async def _examination(self, request: ExaminationRequest) -> Frames:
        """Says at once that the node is there, and what its clock shows."""
        yield ExaminationFrame(time=self.engine.now())
        examination = await self.examine(request.repair)
        yield ExaminationFrame(time=self.engine.now(), examination=examination)

    async def _trace(self, request: TraceRequest) -> Frames:
        task = WorkloadId(request.task) if request.task is not None else None
        entry = self.networking.from_container(request.entry, request.container)
        yield TraceFrame(await self.networking.passage(entry, request.flows, task, request.name))

    def _probe(self, request: ProbeRequest) -> Frames:
        return probe_frames(self.engine, self.networking, request.wanted)

    # --- calls from workers

    def report(self, task: TaskId, status: TaskStatus) -> None:
        self.uplink.report(task, status)
        self._reboot.reported()
        self.retirement.notice()

    def verdict(self, container: Container | None) -> RebootVerdict:
        return self._reboot.verdict(container)

    def description(self) -> NodeDescription:
        return self._adapters.description()

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> None:
        await self._pulls.pull(reference, auth)

    async def prune(self) -> None:
        ended = {c.id: c for c in self._swarm_containers() if c.state is ContainerState.EXITED}
        for id in expired({c.id: (c.config.name, c.finished_at) for c in ended.values()}):
            await self.engine.remove(id)

    # ---

    def _answer_again(self) -> None:
        """Answers names in the sandboxes of containers that were running before this daemon started,
        also of those that are not healthy yet; other tasks are connected as they start."""
        assert self._group is not None
        containers = self.engine.containers
        for task, sandbox in self.connections.started():
            container = containers.get(sandbox.container)
            if container is None or container.state is not ContainerState.RUNNING:
                continue
            self._group.create_task(self._answer_names(task, sandbox))

    async def _answer_names(self, task: TaskId, sandbox: Sandbox) -> None:
        await contained(f"names of task {task}", self.networking.answer_again(sandbox))

    def _swarm_containers(self) -> list[Container]:
        return [c for c in self.engine.containers.values() if TASK_LABEL in c.config.labels]

    def _spawn_removal(self, container: Container) -> None:
        assert self._group is not None
        self._group.create_task(self._remove_stranger(container))

    async def _remove_stranger(self, container: Container) -> None:
        """Removes a container whose task is neither assigned nor on record."""
        await contained(f"removal of container {container.id[:12]}", self._remove(container))

    async def _remove(self, container: Container) -> None:
        log.info("container.unknown_task container=%s", container.id)
        try:
            await self.engine.remove(container.id)
        except WeftError as error:
            log.warning("container.remove_failed container=%s cause=%s", container.id, error)
