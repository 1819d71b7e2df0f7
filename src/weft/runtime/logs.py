"""A container's log as conmon writes it (the format of Kubernetes' CRI), read back line by line,
over all its files.

2026-11-24T00:05:31.123456789+00:00 stdout F text

is a whole line; P instead of F marks a part of a line that was too long or unfinished.
"""

import asyncio
import os
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from functools import lru_cache
from typing import BinaryIO

import msgspec

from weft.model.container import LogLine
from weft.model.meta import SECOND, Nanoseconds
from weft.runtime.inotify import FileWatch
from weft.runtime.log_files import LogFiles, Segment

_STREAMS = {b"stdout": 1, b"stderr": 2}
_LINES_AT_ONCE = 200
"""Lines between two returns to the event loop: two milliseconds."""
_BLOCK = 64 << 10
"""Bytes per read from the end of a log."""


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    follow: bool = False
    since: Nanoseconds = 0
    until: Nanoseconds = 0
    tail: int | None = None

    def wants(self, line: LogLine) -> bool:
        return line.timestamp >= self.since and (not self.until or line.timestamp <= self.until)


async def read_log(
    files: LogFiles, query: LogQuery, ended: Callable[[], Awaitable[object]]
) -> AsyncGenerator[LogLine, None]:
    """The lines in the log; with `follow` also new lines, until `ended` returns or a line is later
    than `until`."""
    try:
        tail = _Tail(files)
    except FileNotFoundError:
        return
    with closing(tail) as log:
        skipped, lines = await _skipped(log, query), Lines()
        async for line in _gently(log.lines()):
            if query.wants(line) and (skipped <= 0 or lines.number(line) > skipped):
                yield line
        if query.follow:
            async for line in _follow(log, query, ended):
                yield line


async def _gently(lines: Iterable[LogLine]) -> AsyncGenerator[LogLine, None]:
    """Lets the event loop run regularly, even while no line matches."""
    for count, line in enumerate(lines, 1):
        yield line
        if count % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)


class Lines:
    """Numbers lines from 1 in the order in which they begin; all pieces of a line have the same
    number. conmon cuts a line wherever a read ends, so a busy program's lines every eight
    kilobytes."""

    def __init__(self) -> None:
        self.newest = 0
        self._begun: dict[int, int] = {}
        """Number of the unfinished line, by stream."""

    def number(self, piece: LogLine) -> int:
        if piece.stream not in self._begun:
            self.newest += 1
        number = self._begun.setdefault(piece.stream, self.newest)
        if piece.data.endswith(b"\n"):
            del self._begun[piece.stream]
        return number


async def _skipped(log: "_Tail", query: LogQuery) -> int:
    """Moves the log to the place where reading begins, and returns the number of lines from there
    that come before the wanted `tail`. The place has a margin of three line ends: on two streams
    two lines may have begun earlier although their ends were counted, and one more end may be half
    written. If a line on one stream stayed open for longer while the other stream went on, only the
    line's last pieces are found."""
    if query.tail is None:
        return 0
    if not query.since and not query.until:
        await log.go_near_end(query.tail + 3)
    start, lines = log.place(), Lines()
    async for line in _gently(log.lines()):
        if query.wants(line):
            lines.number(line)
    log.go_to(start)
    return lines.newest - query.tail


async def _follow(
    log: "_Tail", query: LogQuery, ended: Callable[[], Awaitable[object]]
) -> AsyncGenerator[LogLine, None]:
    """Reads, then waits for changes; reads once more after the end, for lines written just before
    it."""
    over = asyncio.ensure_future(ended())
    try:
        finished = False
        while not finished:
            finished = over.done()
            log.watch()
            async for line in _gently(log.lines()):
                if query.until and line.timestamp > query.until:
                    return
                if query.wants(line):
                    yield line
            if not finished:
                await log.changed(over)
    finally:
        over.cancel()


class _Tail:
    """The files of a log, read from one to the next. The last one grows, and conmon puts a new file
    in its place when it is full. Files that are removed while they wait to be read are passed
    over."""

    def __init__(self, files: LogFiles) -> None:
        """Raises `FileNotFoundError` if there is no log."""
        self._files = files
        self._watch: FileWatch | None = None
        self._segment, self._file = self._opened(files.segments())

    @staticmethod
    def _opened(segments: list[Segment]) -> tuple[Segment, BinaryIO]:
        """The first of the files that is still there."""
        for segment in segments:
            with suppress(FileNotFoundError):
                return segment, segment.open()
        raise FileNotFoundError

    def _switch(self, segment: Segment, file: BinaryIO) -> None:
        """A follower watches the new file before its first read, so that no write is missed."""
        is_watched = self._watch is not None
        self.close()
        self._segment, self._file = segment, file
        if is_watched:
            self.watch()

    def place(self) -> tuple[int, int]:
        return self._segment.number, self._file.tell()

    def go_to(self, place: tuple[int, int]) -> None:
        number, position = place
        if self._segment.number != number:
            self._switch(*self._opened(self._files.since(number)))
        self._file.seek(position if self._segment.number == number else 0)

    async def go_near_end(self, ends: int) -> None:
        """Goes to the last records that contain `ends` line ends; to the beginning if there are
        fewer."""
        for segment in reversed(self._files.segments()):
            try:
                file = segment.open()
            except FileNotFoundError:
                return
            self._switch(segment, file)
            position, ends = await (
                self._all_ends(ends) if segment.is_compressed else self._last_ends(ends)
            )
            self._file.seek(position)
            if not ends:
                return

    async def _all_ends(self, ends: int) -> tuple[int, int]:
        """As `_last_ends`, for a file that can be read from its beginning only."""
        found = 0
        for count, record in enumerate(iter(self._record, b""), 1):
            found += _ends_line(record)
            if count % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return 0, max(0, ends - found)

    async def _last_ends(self, ends: int) -> tuple[int, int]:
        """(start of the last records that contain `ends` line ends, how many ends are missing)."""
        position, rest = self._file.seek(0, os.SEEK_END), b""
        while position:
            step = min(_BLOCK, position)
            position = self._file.seek(position - step)
            first, *records = (self._file.read(step) + rest).split(b"\n")
            start = position + len(first) + sum(len(record) + 1 for record in records)
            for record in reversed(records):
                start -= len(record)
                ends -= _ends_line(record)
                if not ends:
                    return start, 0
                start -= 1
            rest = first
            await asyncio.sleep(0)
        return 0, ends

    def lines(self) -> Iterator[LogLine]:
        """The complete lines since the last call."""
        is_complete = False
        while True:
            position = self._file.tell()
            raw = self._record()
            if raw.endswith(b"\n"):
                line = parse_line(raw)
                if line is not None:
                    yield line
            elif is_complete:
                # Nothing is written to the file any more, and now it was read to its end.
                if not self._go_on():
                    return
                is_complete = False
            else:
                self._file.seek(position)
                is_complete = self._files.after(self._segment) is not None
                if not is_complete:
                    return

    def _record(self) -> bytes:
        """The next record; nothing at the end, and where a compressed file is damaged: the other
        files are read all the same."""
        try:
            return self._file.readline()
        except (EOFError, OSError, zlib.error):
            if not self._segment.is_compressed:
                raise
            return b""

    def _go_on(self) -> bool:
        """Switches to the next file."""
        while (following := self._files.after(self._segment)) is not None:
            with suppress(FileNotFoundError):
                self._switch(following, following.open())
                return True
        return False

    def watch(self) -> None:
        """Begins to watch the file, so that `changed` misses no change from now on."""
        if self._watch is None:
            self._watch = FileWatch(self._files.path)

    async def changed(self, or_done: "asyncio.Future[object]") -> None:
        """Returns when the file was written to or replaced since the last call, or the future is
        done."""
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


def _ends_line(record: bytes) -> bool:
    fields = record.split(b" ", 3)
    return len(fields) == 4 and fields[1] in _STREAMS and fields[2] == b"F"


def parse_line(line: bytes) -> LogLine | None:
    """None for a line in another format, such as a crash may leave."""
    fields = line.rstrip(b"\n").split(b" ", 3)
    if len(fields) != 4 or fields[1] not in _STREAMS or not line.endswith(b"\n"):
        return None
    try:
        timestamp = parse_timestamp(fields[0].decode())
    except ValueError:
        return None
    return LogLine(
        _STREAMS[fields[1]], timestamp, fields[3] + (b"\n" if fields[2] == b"F" else b"")
    )


def parse_timestamp(text: str) -> Nanoseconds:
    """Parses RFC 3339 with up to nine decimals. Raises `ValueError`."""
    whole, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] or ("" if rest else "Z")
    if not rest:
        return _seconds(text) * SECOND
    return _seconds(whole + zone) * SECOND + int(digits.ljust(9, "0")[:9])


@lru_cache(64)
def _seconds(text: str) -> int:
    """Cached because thousands of lines share one second."""
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
