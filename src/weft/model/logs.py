"""A request for the logs of a service or a task, and log lines on their way: whole, and with their
task."""

import msgspec

from weft.model.container import LogLine
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.log_details import Details
from weft.model.meta import Nanoseconds


class LogsWanted(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """For one service or one task."""

    service: ServiceId | None = None
    task: TaskId | None = None
    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    """Also send later lines, including those of tasks that start later."""
    since: Nanoseconds = 0
    until: Nanoseconds = 0
    """0: no limit, also for `since`."""
    tail: int | None = None
    """Number of last lines of each task, both streams together; None for all."""

    def concerns(self, service: str, task: str) -> bool:
        return service == self.service if self.service is not None else task == self.task

    def shows(self, line: LogLine) -> bool:
        return self.stdout if line.stream == 1 else self.stderr


MAX_LINE = 16 << 10
"""Bytes. Docker cuts longer lines too."""

Seen = dict[TaskId, tuple[Nanoseconds, int]]
"""For each task the timestamp of its last known line, and the number of known lines with that
timestamp. Lines that were read at once share a timestamp."""


def note(seen: Seen, task: TaskId, line: LogLine) -> None:
    """Records that the line is known."""
    last, known = seen.get(task, (0, 0))
    seen[task] = (line.timestamp, known + 1 if line.timestamp == last else 1)


class TaskLog(msgspec.Struct, frozen=True):
    """A log line with its task, service and node."""

    node: NodeId
    service: ServiceId
    task: TaskId
    line: LogLine
    details: Details = ()
    """What the log options of the task ask to be said about its container."""


class Pieces:
    """Joins lines that were written in pieces, for those that take whole lines only. Long lines are
    cut."""

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

    @property
    def is_empty(self) -> bool:
        """Whether no line is unfinished."""
        return not self._begun

    def rest(self) -> list[LogLine]:
        """The last lines, which had no newline, with one added."""
        return [
            LogLine(line.stream, line.timestamp, line.data + b"\n") for line in self._begun.values()
        ]
