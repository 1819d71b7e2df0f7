"""Goes through a directory tree that a container may change meanwhile, without recursion and without
keeping more than one descriptor for each directory on the way."""

import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

DEPTH_MAX = 256
"""Directories below each other."""


class Found(NamedTuple):
    fd: int
    """Names the entry (O_PATH), for as long as the iteration stands at it."""
    status: os.stat_result
    name: bytes
    """Begins with the names of the directories on the way."""


class Walk:
    """Iterate over it; `enter` a directory that is found to see its entries next."""

    def __init__(self, top: int, prefix: bytes = b"") -> None:
        """`top`: a descriptor that names the directory. `prefix`: begins every name. Raises
        `OSError`."""
        self._levels = [_Level(top, prefix)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for level in self._levels:
            level.close()

    def __iter__(self) -> Iterator[Found]:
        """Raises `OSError`."""
        while self._levels:
            found = self._levels[-1].next()
            if found is None:
                self._levels.pop().close()
                continue
            try:
                yield found
            finally:
                os.close(found.fd)

    @property
    def depth(self) -> int:
        return len(self._levels)

    def enter(self, directory: Found) -> None:
        """Raises `OSError`, also if the directory lies too deep."""
        if len(self._levels) >= DEPTH_MAX:
            raise OSError(errno.ELOOP, f"more than {DEPTH_MAX} directories below each other")
        self._levels.append(_Level(directory.fd, directory.name + b"/"))


class _Level:
    """The entries of one directory, one by one: there may be millions."""

    def __init__(self, found: int, prefix: bytes) -> None:
        self._prefix = prefix
        self._fd = os.open(
            f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
        )
        try:
            self._entries = os.scandir(self._fd)
        except BaseException:
            os.close(self._fd)
            raise

    def next(self) -> Found | None:
        """None at the end. Entries that vanish meanwhile are passed over."""
        for entry in self._entries:
            try:
                fd = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            except FileNotFoundError:
                continue
            return Found(fd, os.fstat(fd), self._prefix + os.fsencode(entry.name))
        return None

    def close(self) -> None:
        self._entries.close()
        os.close(self._fd)
