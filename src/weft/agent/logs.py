"""Publishes the lines of tasks on this host: finds the containers with the labels of the service or
task, and reads them with the runtime's reader. A reader waits while its lines are not sent."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Protocol

from weft.errors import NotFound, OperationFailed, WeftError
from weft.model.container import Container, ContainerState, LogLine, NodeEvent
from weft.model.ids import ContainerId, TaskId
from weft.model.log_details import Details, details
from weft.model.log_options import READABLE
from weft.model.logs import Pieces, Seen, note
from weft.model.meta import Nanoseconds
from weft.model.workload import SERVICE_LABEL, TASK_LABEL
from weft.session.messages import LogLines, LogsRequest
from weft.system.bounded_queue import BoundedQueue

UNSENT = 64 << 10
"""Bytes of lines that wait for the connection, and so the limit of one message. Each task has its
share."""
OVERHEAD = 64
"""Bytes that a line takes in memory beside its text."""

Told = tuple[TaskId, LogLine]


class Logged(Protocol):
    """The part of `runtime.base.Runtime` that is needed here."""

    def containers(self) -> list[Container]: ...

    def logs(
        self,
        id: ContainerId,
        *,
        follow: bool = False,
        since: Nanoseconds = 0,
        until: Nanoseconds = 0,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]: ...


class Listen(Protocol):
    """See `EventLog.listen`."""

    def __call__(
        self, since: Nanoseconds = 0, until: Nanoseconds = 0
    ) -> AsyncIterator[NodeEvent]: ...


class TaskLogs:
    """The lines of this host's tasks, for one request."""

    def __init__(
        self,
        runtime: Logged,
        listen: Listen,
        clock: Callable[[], Nanoseconds],
        request: LogsRequest,
    ) -> None:
        self._runtime = runtime
        self._listen = listen
        self._clock = clock
        self._wanted = request.wanted
        self._seen: Seen = dict(request.seen)
        self._reading: set[ContainerId] = set()
        self._lines: BoundedQueue[Told] = BoundedQueue(UNSENT)
        self._details: dict[TaskId, Details] = {}
        """Of the tasks that were read and have any."""
        self._errors: list[str] = []
        """Why some logs could not be read."""

    async def frames(self) -> AsyncGenerator[LogLines, None]:
        """Yields until all is read; with `follow`, without end. Raises `OperationFailed` at the end
        if some logs could not be read."""
        reading = asyncio.create_task(self._run())
        try:
            while lines := await self._lines.take():
                tasks = {task for task, _ in lines}
                known = {task: self._details[task] for task in tasks if task in self._details}
                yield LogLines(tuple(lines), known)
            await reading
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
        if self._errors:
            raise OperationFailed("; ".join(self._errors))

    async def _run(self) -> None:
        """Runs until all is read and taken; with `follow`, until cancelled."""
        try:
            if self._wanted.follow:
                async with asyncio.TaskGroup() as group:
                    await self._follow(group)
            else:
                for container in self._containers():
                    await self._read(container, self._wanted.tail)
        finally:
            self._lines.close()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        """Reads the present containers, and others as they start. A listener that is too far behind
        is cut off (`EventLog`); then all containers are examined again."""
        while True:
            begun = self._clock()
            self._attend(group, self._containers(), self._wanted.tail)
            async for event in self._listen(begun):
                if event.type == "container" and event.action == "start":
                    self._attend(group, [c for c in self._containers() if c.id == event.id], None)

    def _attend(
        self, group: asyncio.TaskGroup, containers: Iterable[Container], tail: int | None
    ) -> None:
        for container in containers:
            if container.id not in self._reading:
                self._reading.add(container.id)
                group.create_task(self._read(container, tail)).add_done_callback(
                    partial(self._forget, container.id)
                )

    def _forget(self, id: ContainerId, _: object) -> None:
        self._reading.discard(id)

    def _containers(self) -> list[Container]:
        """The wanted containers that were started. Only the agent creates containers with these
        labels."""
        return [
            c
            for c in self._runtime.containers()
            if c.state is not ContainerState.CREATED and self._concerns(c)
        ]

    def _concerns(self, container: Container) -> bool:
        labels = container.config.labels
        return TASK_LABEL in labels and self._wanted.concerns(
            labels.get(SERVICE_LABEL, ""), labels[TASK_LABEL]
        )

    async def _read(self, container: Container, tail: int | None) -> None:
        if container.config.log_driver not in READABLE:
            return
        task = TaskId(container.config.labels[TASK_LABEL])
        last, known = self._seen.get(task, (0, 0))
        try:
            if found := details(container, os.uname().nodename):
                self._details[task] = found
            async with aclosing(
                self._whole_lines(container.id, last, None if known else tail)
            ) as lines:
                async for line in lines:
                    if known and line.timestamp == last:
                        known -= 1
                        continue
                    note(self._seen, task, line)
                    await self._lines.give(task, (task, line), len(line.data) + OVERHEAD)
        except NotFound:
            """The container was removed meanwhile."""
        except WeftError as error:
            self._errors.append(f"task {task}: {error}")

    async def _whole_lines(
        self, id: ContainerId, since: Nanoseconds, tail: int | None
    ) -> AsyncGenerator[LogLine, None]:
        """Yields the whole lines of the wanted streams."""
        wanted, pieces = self._wanted, Pieces()
        reader = self._runtime.logs(
            id, follow=wanted.follow, since=max(wanted.since, since), until=wanted.until, tail=tail
        )
        async with aclosing(reader):
            async for piece in reader:
                line = pieces.add(piece)
                if line is not None and wanted.shows(line):
                    yield line
        for line in filter(wanted.shows, pieces.rest()):
            yield line
