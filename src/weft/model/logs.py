"""What somebody wants to read of the logs of a service or a task, and a line of one as the swarm
knows it."""

import msgspec

from weft.model.container import LogLine
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds


class LogsWanted(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Of one service or of one task."""

    service: ServiceId | None = None
    task: TaskId | None = None
    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    """Also what comes, and what tasks write that begin later."""
    since: Nanoseconds = 0
    until: Nanoseconds = 0
    """0: no limit; as for `since`."""
    tail: int | None = None
    """So many last lines of each task, of both streams together; None for all."""

    def concerns(self, service: str, task: str) -> bool:
        return service == self.service if self.service is not None else task == self.task

    def shows(self, line: LogLine) -> bool:
        return self.stdout if line.stream == 1 else self.stderr


Seen = dict[TaskId, tuple[Nanoseconds, int]]
"""Of the last line that is known of a task: its moment, and how many lines of that moment are. What
was read at once has one moment."""


def note(seen: Seen, task: TaskId, line: LogLine) -> None:
    """The line is known now."""
    last, known = seen.get(task, (0, 0))
    seen[task] = (line.timestamp, known + 1 if line.timestamp == last else 1)


class TaskLog(msgspec.Struct, frozen=True):
    """A line, and whose it is."""

    node: NodeId
    service: ServiceId
    task: TaskId
    line: LogLine
