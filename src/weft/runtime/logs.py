"""A container's log as conmon writes it (the format of Kubernetes' CRI), read back line by line.

2026-11-24T00:05:31.123456789+00:00 stdout F text        a line; P instead of F: a part of one that was too long or unfinished
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from weft.model.container import LogLine
from weft.model.meta import SECOND, Nanoseconds
from weft.runtime.inotify import FileWatch

_STREAMS = {b"stdout": 1, b"stderr": 2}
_LINES_AT_ONCE = 1000
"""Between two looks at the rest of the program."""


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    follow: bool = False
    since: Nanoseconds = 0
    until: Nanoseconds = 0
    tail: int | None = None

    def wants(self, line: LogLine) -> bool:
        return line.timestamp >= self.since and (not self.until or line.timestamp <= self.until)


async def read_log(path: Path, query: LogQuery, ended: Callable[[], Awaitable[object]]) -> AsyncGenerator[LogLine, None]:
    """What is in the log; with `follow` also what comes, until `ended` returns or a line is later than `until`."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with closing(_Tail(path, file)) as log:
        past = (line for line in log.lines() if query.wants(line))
        chosen = last_lines(past, query.tail) if query.tail is not None else past
        for number, line in enumerate(chosen):
            yield line
            if number % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        if query.follow:
            async for line in _follow(log, query, ended):
                yield line


def last_lines(pieces: Iterable[LogLine], count: int) -> list[LogLine]:
    """With all of their pieces: conmon cuts a line wherever a read ends, so every eight kilobytes of a talkative program."""
    begun: dict[int, int] = {}
    newest, kept = 0, deque[tuple[int, LogLine]]()
    for piece in pieces:
        if piece.stream not in begun:
            newest += 1
        number = begun.setdefault(piece.stream, newest)
        if piece.data.endswith(b"\n"):
            del begun[piece.stream]
        kept.append((number, piece))
        while kept and kept[0][0] <= newest - count:
            kept.popleft()
    return [piece for number, piece in kept if number > newest - count]


async def _follow(log: "_Tail", query: LogQuery, ended: Callable[[], Awaitable[object]]) -> AsyncGenerator[LogLine, None]:
    """Looks, then waits; once more after the end, for what was written just before it."""
    over = asyncio.ensure_future(ended())
    try:
        finished = False
        while not finished:
            finished = over.done()
            log.watch()
            for line in log.lines():
                if query.until and line.timestamp > query.until:
                    return
                if query.wants(line):
                    yield line
            if not finished:
                await log.changed(over)
    finally:
        over.cancel()


class _Tail:
    """A file that grows, and that conmon replaces by a new one when it is full."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._watch: FileWatch | None = None

    def lines(self) -> Iterator[LogLine]:
        """The whole lines since the last call."""
        while True:
            position = self._file.tell()
            raw = self._file.readline()
            if not raw.endswith(b"\n"):
                self._file.seek(position)
                if not self._replaced():
                    return
                continue
            line = parse_line(raw)
            if line is not None:
                yield line

    def _replaced(self) -> bool:
        """Goes on to the file that is now at the path, if it is another one."""
        try:
            if self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino:
                return False
            file = self._path.open("rb")
        except FileNotFoundError:
            return False
        self.close()
        self._file, self._watch = file, FileWatch(self._path)
        return True

    def watch(self) -> None:
        """From now on `changed` knows."""
        if self._watch is None:
            self._watch = FileWatch(self._path)

    async def changed(self, or_done: "asyncio.Future[object]") -> None:
        """Returns when the file was written to or replaced since the last call, or the future is done."""
        self.watch()
        assert self._watch is not None
        change = asyncio.ensure_future(self._watch.changed())
        try:
            await asyncio.wait((change, or_done), return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()

    def close(self) -> None:
        self._file.close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None


def parse_line(line: bytes) -> LogLine | None:
    """None for a line that is not of this format, as a crash may leave behind."""
    fields = line.rstrip(b"\n").split(b" ", 3)
    if len(fields) != 4 or fields[1] not in _STREAMS or not line.endswith(b"\n"):
        return None
    try:
        timestamp = parse_timestamp(fields[0].decode())
    except ValueError:
        return None
    return LogLine(_STREAMS[fields[1]], timestamp, fields[3] + (b"\n" if fields[2] == b"F" else b""))


def parse_timestamp(text: str) -> Nanoseconds:
    """RFC 3339 with up to nine digits of a second. Raises `ValueError`."""
    whole, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] or ("" if rest else "Z")
    if not rest:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()) * SECOND
    seconds = int(datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).timestamp())
    return seconds * SECOND + int(digits.ljust(9, "0")[:9])
