"""The files of one container's log: the one that conmon writes and the ones before it.

    log                 conmon writes here
    log.<n>.<counted>     the n-th file; the newest is the same file as `log`, under a second name
    log.<n>.gz          the n-th file, compressed

conmon begins a new file on a message in its control FIFO, or when it has written `bound` bytes. It
puts the new file in the place of the old one, which would be gone. So the daemon gives each file a
second name as soon as it sees the file (`hold`). Nothing is renamed or copied, and a daemon that is
killed at any moment leaves files that the next one understands.

If conmon began two files before the daemon has seen the first, the first would be lost. So a file is
asked for only while conmon is far from `bound`. conmon before 2.1.10 counts all bytes since it last
began a file by itself, whatever files it was asked for between; `counted` is what it had counted when
the file began.
"""

import gzip
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from weft.model.log_options import FilePolicy
from weft.model.numbers import decimal

SLACK = 64 << 20
"""Bytes by which a file may exceed `max_size` while the daemon does not run. conmon may write half
of them between a look at its files and the next: 0.2 s at the 150 MB/s that were measured. With a
thousandth of them left, which is more than one record, conmon has begun a file by itself."""
_MOST_BYTES = 1 << 62
_REOPEN = b"2 0 0\n"
"""conmon's control message to begin a new log file (REOPEN_LOGS_EVENT); a message has three
numbers."""


class Segment(NamedTuple):
    """One file of a log. A later file has a higher number."""

    number: int
    path: Path
    counted: int = 0
    """What conmon had counted when the file began; negative if the file is older than conmon."""

    @property
    def is_compressed(self) -> bool:
        return self.path.suffix == ".gz"

    def open(self) -> BinaryIO:
        if self.is_compressed:
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        return self.path.open("rb")


class LogFiles:
    def __init__(
        self, path: Path, policy: FilePolicy, *, counts_all: bool = False, slack: int = SLACK
    ) -> None:
        """`path`: what conmon writes. `counts_all`: conmon is older than 2.1.10."""
        self.path = path
        self.policy = policy
        self._counts_all = counts_all
        self._slack = slack

    @property
    def are_many(self) -> bool:
        """With one file, conmon alone bounds the log: nothing is kept of an earlier file."""
        return self.policy.max_file > 1

    @property
    def bound(self) -> int:
        """Bytes after which conmon begins a new file by itself; it takes 63 bits."""
        size = min(self.policy.max_size, _MOST_BYTES)
        return size + (self._slack if self.are_many else 0)

    def segments(self) -> list[Segment]:
        """All files, the oldest first; the last is the one being written."""
        if not self.are_many:
            with suppress(FileNotFoundError):
                return [Segment(self.path.stat().st_ino, self.path)]
            return []
        self.hold()
        return self._numbered()

    def since(self, number: int) -> list[Segment]:
        """The file of that number and those after it."""
        segments = self.segments()
        return [s for s in segments if s.number >= number] if self.are_many else segments

    def after(self, segment: Segment) -> Segment | None:
        """The next file; None if the segment is the one being written."""
        for other in self.segments():
            if other.number > segment.number or (
                not self.are_many and other.number != segment.number
            ):
                return other
        return None

    def hold(self) -> Segment | None:
        """Gives the file being written its second name, removes the files that are too many, and
        returns the file being written. Raises `OSError`."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return None
        known = [segment for segment in self._numbered() if not segment.is_compressed]
        newest = known[-1] if known else None
        if newest is not None and newest.path.stat().st_ino == now.st_ino:
            return newest
        number = max((segment.number for segment in self._numbered()), default=0) + 1
        segment = self._named(number, 0 if newest is None else self._counted_by_next(newest))
        os.link(self.path, segment.path)
        self._trim(number)
        return segment

    def _counted_by_next(self, complete: Segment) -> int:
        counted = complete.counted + complete.path.stat().st_size
        return counted if self._counts_all and counted < self.bound - self._slack // 1000 else 0

    def is_due(self, segment: Segment) -> bool:
        """Whether a new file may and should be asked for."""
        size = segment.path.stat().st_size
        return (
            size >= self.policy.max_size and segment.counted + size < self.bound - self._slack // 2
        )

    def ask_for_new(self) -> bool:
        """Asks conmon to begin a new file. False if conmon is gone or does not read: then its own
        bound holds."""
        try:
            fd = os.open(self.path.parent / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.write(fd, _REOPEN) == len(_REOPEN)
        except OSError:
            return False
        finally:
            os.close(fd)

    def conmon_begins(self) -> None:
        """To be called before another conmon continues the log: it counts from 0."""
        if not self.are_many or not self._counts_all:
            return
        segment = self.hold()
        if segment is not None:
            size = segment.path.stat().st_size
            segment.path.rename(self._named(segment.number, -size).path)

    def to_compress(self) -> list[Segment]:
        """The complete files that are not compressed yet."""
        if not self.policy.compress:
            return []
        return [segment for segment in self._numbered()[:-1] if not segment.is_compressed]

    def compress(self, segment: Segment) -> None:
        """Blocks. The file stays readable under one of its names. Raises `OSError`."""
        target = self._compressed(segment.number)
        partial = _partial(target)
        try:
            with segment.path.open("rb") as source, partial.open("wb") as raw:
                with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6) as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
                raw.flush()
                os.fsync(raw.fileno())
            partial.replace(target)
            segment.path.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)

    def _trim(self, newest: int) -> None:
        for segment in self._numbered():
            if segment.number <= newest - self.policy.max_file:
                segment.path.unlink(missing_ok=True)
                _partial(self._compressed(segment.number)).unlink(missing_ok=True)

    def _numbered(self) -> list[Segment]:
        """A file that was compressed, but not removed yet, counts as compressed."""
        found: dict[int, Segment] = {}
        for path in self.path.parent.glob(f"{self.path.name}.*.*"):
            first, _, last = path.name.removeprefix(f"{self.path.name}.").partition(".")
            number, count = decimal(first), decimal(last.removeprefix("-"))
            if number is None or not (last == "gz" or count is not None):
                continue
            if last == "gz":
                found[number] = Segment(number, path)
            else:
                found.setdefault(number, Segment(number, path, int(last)))
        return [found[number] for number in sorted(found)]

    def _named(self, number: int, count: int) -> Segment:
        return Segment(number, self.path.with_name(f"{self.path.name}.{number}.{count}"), count)

    def _compressed(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}.gz")


def _partial(target: Path) -> Path:
    """Where a file is compressed to; one that a killed daemon has left is removed with its
    source."""
    return target.with_name(f"{target.name}.tmp")
