"""Looks for files in a container's root, whose owner may change anything at any time.

Every path is resolved by the kernel with the container's root as `/` (`system/trees.py`), and what
is found is held by a descriptor that only names it (O_PATH): nothing is opened, so no FIFO can make
the daemon wait and no device is touched. /proc, /sys and /dev count as missing, as in Docker: they
belong to the kernel, and reading or writing there is not copying a file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.inside import PathStat
from weft.system.trees import open_inside

_SYSTEM = ("proc", "sys", "sys/fs/cgroup", "dev", "dev/pts", "dev/shm", "dev/mqueue")
_LINKS_MAX = 255
"""Symbolic links on the way to a file: moby's limit."""


class Wanted(msgspec.Struct, frozen=True):
    """A path as the user wrote it, understood."""

    path: bytes
    """From the root, without `.`, `..` and slashes at its ends; empty for the root."""
    base: str
    """The name of the file, as Go's `filepath.Base` gives it: `.` and `/` may be names."""
    follows: bool
    """Whether the path ends in a way that only a directory can have: then a symbolic link is
    followed."""
    is_content: bool
    """`dir/.` means what is in the directory."""


def wanted(text: str) -> Wanted:
    """Raises `InvalidArgument`."""
    if not text:
        raise InvalidArgument("bad parameter: 'path' cannot be empty")
    if "\0" in text:
        raise InvalidArgument(f"invalid path {clip(text)!r}: it has a NUL in it")
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    is_content = text == "." or text.endswith("/.")
    return Wanted(
        path=os.fsencode("/".join(parts)),
        base="." if is_content else parts[-1] if parts else "/",
        follows=is_content or text.endswith("/") or not parts,
        is_content=is_content,
    )


class ContainerRoot:
    def __init__(self, fd: int) -> None:
        """`fd`: a descriptor of the root, which this closes."""
        self.fd = fd
        own = os.fstat(fd).st_dev
        self._hidden = frozenset(self._system_devices()) - {own}

    @classmethod
    def of_directory(cls, directory: Path) -> "ContainerRoot":
        """Raises `OSError`."""
        return cls(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def _system_devices(self) -> Iterator[int]:
        for path in _SYSTEM:
            with suppress(OSError):
                fd = open_inside(self.fd, path.encode(), os.O_PATH)
                yield os.fstat(fd).st_dev
                os.close(fd)

    def close(self) -> None:
        os.close(self.fd)

    def is_hidden(self, status: os.stat_result) -> bool:
        """Whether a file belongs to /proc, /sys or /dev."""
        return status.st_dev in self._hidden

    @contextmanager
    def found(self, path: bytes, follow: bool) -> Iterator[tuple[int, os.stat_result]]:
        """A descriptor that names the file, and its status. Raises `OSError`."""
        fd = open_inside(self.fd, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        try:
            status = os.fstat(fd)
            if self.is_hidden(status):
                raise FileNotFoundError
            yield fd, status
        finally:
            os.close(fd)

    def stat(self, path: Wanted) -> PathStat:
        """Raises `OSError`."""
        with self.found(path.path, path.follows) as (_, status):
            is_link = stat.S_ISLNK(status.st_mode)
        return PathStat(
            name=path.base,
            size=status.st_size,
            mode=status.st_mode,
            mtime=status.st_mtime_ns,
            link_target=os.fsdecode(self.resolved(path.path)) if is_link else "",
        )

    def resolved(self, path: bytes) -> bytes:
        """The absolute path without symbolic links, as far as it exists. Raises `OSError`."""
        done: list[bytes] = []
        left = path.split(b"/")[::-1]
        links = 0
        while left:
            part = left.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                done = done[:-1]
                continue
            target = self._link_target(b"/".join((*done, part)))
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _LINKS_MAX:
                raise OSError(40, "too many links")
            done = [] if target.startswith(b"/") else done
            left += target.split(b"/")[::-1]
        return b"/" + b"/".join(done)

    def _link_target(self, path: bytes) -> bytes | None:
        """None if the path is no symbolic link, or does not exist."""
        try:
            fd = open_inside(self.fd, path, os.O_PATH | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return None
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)
