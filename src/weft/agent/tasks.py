"""Carries out the steps of one task. `task_steps.next_step` decides, `TaskWorker` acts. The results
of a step are on disk and in the runtime, not in here, so a new worker can replace one that was
cancelled at any point.

A task that is to stop goes in the order of every goodbye (docs/goodbyes.md): no new connections
anywhere, the stop signal, the grace period for established ones, and only then its network.

Errors: a failure that keeps a task from running ends the task, with the cause in its status. A step
that keeps a task from ending is tried again until it works. A task's end is reported only when its
container has ended and its sandbox is out of the kernel: from then on the manager may give the
task's addresses to another task."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import msgspec

from weft.agent.connections import Connections
from weft.agent.quiet import unasked
from weft.agent.records import Records, TaskRecord
from weft.agent.task_files import lacks_auth, missing, pull_auth, task_files
from weft.agent.task_steps import (
    RebootVerdict,
    Step,
    TaskView,
    failed_before,
    next_step,
    outcome,
    unhealthy_text,
)
from weft.agent.workloads import filled_workload
from weft.engine.container_config import container_config
from weft.engine.engine import Engine
from weft.errors import WeftError, described
from weft.model.assignment import Assignment, TaskAssignment
from weft.model.container import Container, ContainerConfig, ContainerState, MemoryFile
from weft.model.ids import TaskId
from weft.model.node import NodeDescription
from weft.model.registry import RegistryAuth
from weft.model.task import ContainerStatus, TaskState, TaskStatus

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds before a step that keeps a task from ending is tried again."""
RELEASE_TIMEOUT = 10.0
"""Seconds that a task's end waits for the kernel to forget its sandbox; after that the end is
reported all the same."""

T = TypeVar("T")


class Host(Protocol):
    """The agent, as far as a worker needs it."""

    engine: Engine
    records: Records
    connections: Connections

    @property
    def assignment(self) -> Assignment: ...

    def description(self) -> NodeDescription: ...

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> None:
        """Raises `NotFound` or `OperationFailed`."""
        ...

    def report(self, task: TaskId, status: TaskStatus) -> None: ...

    def verdict(self, container: Container | None) -> RebootVerdict: ...

    async def prune(self) -> None:
        """Removes ended containers, except the newest of each slot."""
        ...


class TaskWorker:
    def __init__(self, host: Host, task: TaskId) -> None:
        self._host = host
        self._task = task
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """The assignment of the task, or the reboot verdict, has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Runs until the task is no longer assigned and nothing of it is left."""
        while True:
            self._changed.clear()
            step = next_step(self._view())
            if step is Step.FORGET:
                self._host.records.forget(self._task)
                return
            await self._try(step)

    async def _try(self, step: Step) -> None:
        try:
            await self._do(step)
        except Exception as error:
            cause = described(error)
            log.warning("task.step_failed task=%s step=%s cause=%s", self._task, step.name, cause,
                        exc_info=None if isinstance(error, WeftError) else error)  # fmt: skip
            if step in (Step.WATCH, Step.STOP, Step.DELETE, Step.FINISH):
                await asyncio.sleep(RETRY)
            elif self._view().desired <= TaskState.RUNNING:
                await self._give_up(cause)

    async def _do(self, step: Step) -> None:
        match step:
            case Step.WAIT:
                await self._changed.wait()
            case Step.REPORT_PREPARING:
                self._report(TaskState.PREPARING, "preparing")
            case Step.PULL:
                auth = pull_auth(self._assigned, self._host.assignment)
                image = self._assigned.spec.container.image
                await self._unless_changed(self._host.pull(image, auth))
            case Step.CONNECT:
                await self._unless_changed(self._host.connections.connect(self._assigned))
            case Step.AWAIT_DATA:
                await self._await_data()
            case Step.CREATE:
                await self._create()
            case Step.REPORT_READY:
                self._report(TaskState.READY, "prepared")
            case Step.REPORT_STARTING:
                self._report(TaskState.STARTING, "starting")
            case Step.START:
                await self._start()
            case Step.REPORT_RUNNING:
                self._report(TaskState.RUNNING, "started")
            case Step.REPORT_UNHEALTHY:
                self._report_unhealthy()
            case Step.WATCH:
                await self._watch()
            case Step.STOP:
                await self._stop()
            case Step.DELETE:
                await self._delete()
            case Step.FINISH:
                await self._finish(*outcome(self._view(), self._container()))

    # --- steps

    async def _create(self) -> None:
        engine, record, node = self._host.engine, self._record, self._host.description()
        config = container_config(
            filled_workload(self._assigned, node),
            record.container,
            record.sandbox,
            self._host.assignment,
            engine.host(node.hostname),
        )
        await self._host.records.saved()
        await engine.create(config, self._files(config))

    async def _start(self) -> None:
        """A container that has ended is made again, with the files in memory that ended with it."""
        container = self._container()
        is_over = container is not None and container.state is ContainerState.EXITED
        files = self._files(container.config) if container is not None and is_over else ()
        await self._host.engine.start(self._record.container, files)

    def _files(self, config: ContainerConfig) -> tuple[MemoryFile, ...]:
        host = self._host
        return task_files(self._assigned, config.spec, host.description(), host.assignment)

    async def _await_data(self) -> None:
        cause = f"waits for {', '.join(self._missing())}: no manager has sent the data yet"
        if cause != self._record.status.err:
            self._report_again(cause)
        await self._changed.wait()
        if not self._missing():
            self._report_again("")

    def _missing(self) -> list[str]:
        assigned = self._host.assignment.tasks.get(self._task)
        if assigned is None:
            return []
        found = missing(assigned, self._host.assignment)
        if self._lacks_auth() and not self._has_image():
            found.append(f"credentials for the registry {assigned.private_registry}")
        return found

    def _has_image(self) -> bool:
        assigned = self._host.assignment.tasks.get(self._task)
        return assigned is not None and self._host.engine.has_image(assigned.spec.container.image)

    def _lacks_auth(self) -> bool:
        assigned = self._host.assignment.tasks.get(self._task)
        return assigned is not None and lacks_auth(assigned, self._host.assignment)

    def _report_again(self, err: str) -> None:
        """Reports the state as it was, with another error."""
        last = self._record.status
        self._report(last.state, last.message, err)

    async def _watch(self) -> None:
        ended = await self._unless_changed(self._ended_or_turned())
        if ended is not None:
            self._host.engine.died(ended)

    async def _ended_or_turned(self) -> Container | None:
        """The container's end; None if its health has turned first."""
        engine, container = self._host.engine, self._container()
        if container is None:
            return None
        health = engine.health.of(container)
        ending = asyncio.ensure_future(engine.wait(container.id))
        turning = asyncio.ensure_future(
            engine.health.turned(container, health.status if health is not None else None)
        )
        try:
            await asyncio.wait((ending, turning), return_when=asyncio.FIRST_COMPLETED)
            return ending.result() if ending.done() else None
        finally:
            ending.cancel()
            turning.cancel()
            await asyncio.wait((ending, turning))

    async def _stop(self) -> None:
        container = self._container()
        if container is None:
            return
        if self._record.sandbox is not None:
            if self._record.status.unhealthy_since:
                await self._host.connections.excluded(self._task)
            await self._host.connections.unlisted()
            accepted = self._host.engine.adapters.network.accepted
            await unasked(lambda: accepted(container.pid))
            await self._host.connections.close(self._task)
        await self._host.engine.stop(container)

    async def _delete(self) -> None:
        await self._host.engine.remove(self._record.container)

    async def _finish(self, state: TaskState, message: str, err: str) -> None:
        """Ends a task whose container has ended: releases the sandbox, writes the record, and then
        reports."""
        container = self._container()
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                await self._host.connections.release(self._task)
        except TimeoutError:
            log.warning("sandbox.release_slow task=%s seconds=%s", self._task, RELEASE_TIMEOUT)
        status = self._status(state, message, err, container)
        self._host.records.put(
            self._task, msgspec.structs.replace(self._record, sandbox=None, status=status)
        )
        await self._host.records.saved()
        self._host.report(self._task, status)
        self._log(status)
        await self._host.prune()

    async def _give_up(self, cause: str) -> None:
        """Ends a task that cannot go on: removes its container unless that has ended, and its
        sandbox."""
        state = failed_before(self._record.status.state)
        while True:
            try:
                container = self._container()
                if container is not None and container.state is not ContainerState.EXITED:
                    await self._delete()
                return await self._finish(state, "", cause)
            except Exception as error:
                log.warning("task.cleanup_failed task=%s cause=%r", self._task, error)
                await asyncio.sleep(RETRY)

    # --- present state

    @property
    def _record(self) -> TaskRecord:
        record = self._host.records.get(self._task)
        assert record is not None, "a worker's task has a record until it is forgotten"
        return record

    @property
    def _assigned(self) -> TaskAssignment:
        return self._host.assignment.tasks[self._task]

    def _container(self) -> Container | None:
        return self._host.engine.container(self._record.container)

    def _view(self) -> TaskView:
        assigned = self._host.assignment.tasks.get(self._task)
        container, record = self._container(), self._record
        health = None if container is None else self._host.engine.health.of(container)
        return TaskView(
            state=record.status.state,
            desired=TaskState.REMOVE if assigned is None else assigned.desired,
            assigned=assigned is not None,
            container=None if container is None else container.state,
            image=self._has_image(),
            connected=self._host.connections.is_connected(self._task),
            verdict=self._host.verdict(container),
            health=None if health is None else health.status,
            unhealthy=record.status.err if record.status.unhealthy_since else "",
            supplied=assigned is None or not missing(assigned, self._host.assignment),
            authorized=not self._lacks_auth(),
        )

    def _log(self, status: TaskStatus) -> None:
        """Logs a status with the ids that the docker command shows. A task that is no longer
        assigned has no service."""
        assigned = self._host.assignment.tasks.get(self._task)
        values = (self._task, assigned.service if assigned else "", status.state.name.lower())
        container = status.container.id[:12] if status.container else ""
        log.info(
            "task.state task=%s service=%s state=%s container=%s cause=%r",
            *values,
            container,
            status.err,
        )

    # --- reports

    def _report_unhealthy(self) -> None:
        """Keeps the state, and with it the task's addresses, until the container has ended."""
        container = self._container()
        health = None if container is None else self._host.engine.health.of(container)
        err = unhealthy_text("" if health is None else health.last_output)
        status = self._status(self._record.status.state, "", err, container)
        self._publish(msgspec.structs.replace(status, unhealthy_since=status.timestamp))

    def _report(self, state: TaskState, message: str, err: str = "") -> None:
        self._publish(self._status(state, message, err, self._container()))

    def _publish(self, status: TaskStatus) -> None:
        self._host.records.put(self._task, msgspec.structs.replace(self._record, status=status))
        self._host.report(self._task, status)
        self._log(status)

    def _status(
        self, state: TaskState, message: str, err: str, container: Container | None
    ) -> TaskStatus:
        last = self._record.status
        shown = last.container
        if container is not None:
            shown = ContainerStatus(container.id, container.pid, container.exit_code)
        assigned = self._host.assignment.tasks.get(self._task)
        ports = assigned.ports if assigned is not None and state == TaskState.RUNNING else ()
        return TaskStatus(
            state,
            self._host.engine.now(),
            message or last.message,
            err,
            shown,
            tuple(p for p in ports if p.mode == "host"),
            last.unhealthy_since,
        )

    async def _unless_changed(self, action: Coroutine[Any, Any, T]) -> T | None:
        """The action's result; None, with the action cancelled, if the worker is woken
        meanwhile."""
        doing = asyncio.ensure_future(action)
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((doing, changed), return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            changed.cancel()
            await asyncio.wait((doing, changed))
