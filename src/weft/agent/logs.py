"""Publishes the logs of tasks on this host to the manager that asks for them, on a connection of
its own.

    PublishLogs (uplink) ─▶ LogPublisher ─▶ a connection to the manager ─▶ LogLines … LogsEnd
                                  └──────▶ TaskLogs: the containers with the labels of the service
                                           or task, and the runtime's reader

A manager that reads slowly makes the sender wait, and the sender makes the readers wait. When the
manager closes the connection, all of it ends."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Protocol

from weft.agent.workloads import SERVICE_LABEL, TASK_LABEL
from weft.errors import NotFound, WeftError
from weft.model.container import Container, ContainerState, LogLine, NodeEvent
from weft.model.ids import ContainerId, TaskId
from weft.model.logs import LogsWanted, Seen, note
from weft.model.meta import Nanoseconds
from weft.session.base import LogSink, Publish
from weft.session.messages import LogLines, LogsEnd, PublishLogs
from weft.system.bounded_queue import BoundedQueue

log = logging.getLogger(__name__)

MOST = 64
"""Connections at a time. Requests beyond that are not answered."""
UNSENT = 64 << 10
"""Bytes of lines that wait for the connection, and so the limit of one message."""
OVERHEAD = 64
"""Bytes that a line takes in memory beside its text."""
MAX_LINE = 16 << 10
"""Bytes. Docker Swarm cuts longer lines too."""

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


class LogPublisher:
    def __init__(
        self, runtime: Logged, listen: Listen, clock: Callable[[], Nanoseconds], connect: Publish
    ) -> None:
        self._runtime = runtime
        self._listen = listen
        self._clock = clock
        self._connect = connect
        self._asked: asyncio.Queue[PublishLogs] = asyncio.Queue()
        self._count = 0
        """The number of unfinished requests, waiting ones included."""

    def ask(self, message: PublishLogs) -> None:
        if self._count >= MOST:
            log.warning(
                "logs.too_many manager=%s subscription=%s", message.manager, message.subscription
            )
            return
        self._count += 1
        self._asked.put_nowait(message)

    async def run(self) -> None:
        """Runs until cancelled. A connection outlives the session on which it was asked for."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._publish(await self._asked.get()))

    async def _publish(self, message: PublishLogs) -> None:
        try:
            sink = await self._connect(message.manager, message.subscription)
            logs = TaskLogs(
                self._runtime, self._listen, self._clock, message.wanted, dict(message.seen)
            )
            log.info(
                "logs.publishing manager=%s subscription=%s", message.manager, message.subscription
            )
            await _carry(logs, sink)
            log.info(
                "logs.published manager=%s subscription=%s", message.manager, message.subscription
            )
        except WeftError as cause:
            log.info(
                "logs.not_published manager=%s subscription=%s cause=%s",
                message.manager,
                message.subscription,
                cause,
            )
        except Exception:
            log.exception(
                "logs.failed manager=%s subscription=%s", message.manager, message.subscription
            )
        finally:
            self._count -= 1


async def _carry(logs: "TaskLogs", sink: LogSink) -> None:
    """Runs until the manager closes the connection. Only the manager may close it first, or the
    last messages could be lost."""
    tasks = [asyncio.create_task(work) for work in (sink.closed(), logs.run(), _send(logs, sink))]
    try:
        waiting = set(tasks)
        while tasks[0] in waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await sink.close()


async def _send(logs: "TaskLogs", sink: LogSink) -> None:
    while lines := await logs.next():
        await sink.send(LogLines(tuple(lines)))
    await sink.send(LogsEnd(tuple(logs.errors)))


class TaskLogs:
    """The lines of this host's tasks. `seen`: lines that are not wanted again."""

    def __init__(
        self,
        runtime: Logged,
        listen: Listen,
        clock: Callable[[], Nanoseconds],
        wanted: LogsWanted,
        seen: Seen,
    ) -> None:
        self._runtime = runtime
        self._listen = listen
        self._clock = clock
        self._wanted = wanted
        self._seen = seen
        self._reading: set[ContainerId] = set()
        self._lines: BoundedQueue[Told] = BoundedQueue(UNSENT)
        self.errors: list[str] = []
        """Why some logs could not be read."""

    async def next(self) -> list[Told]:
        """The next lines; an empty list at the end."""
        return await self._lines.take()

    async def run(self) -> None:
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
        if container.config.log_driver == "none":
            return
        task = TaskId(container.config.labels[TASK_LABEL])
        last, known = self._seen.get(task, (0, 0))
        try:
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
            self.errors.append(f"task {task}: {error}")

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


class Pieces:
    """Joins lines that were written in pieces, because each line is shown with its task's name
    before it, and the streams of many tasks are mixed. Long lines are cut."""

    def __init__(self) -> None:
        self._begun: dict[int, LogLine] = {}
        """Unfinished lines by stream."""

    def add(self, piece: LogLine) -> LogLine | None:
        begun = self._begun.pop(piece.stream, None)
        line = (
            LogLine(piece.stream, piece.timestamp, begun.data + piece.data)
            if begun is not None
            else piece
        )
        if line.data.endswith(b"\n") or len(line.data) >= MAX_LINE:
            return line
        self._begun[piece.stream] = line
        return None

    def rest(self) -> list[LogLine]:
        """The last lines, which had no newline, with one added."""
        return [
            LogLine(line.stream, line.timestamp, line.data + b"\n") for line in self._begun.values()
        ]
