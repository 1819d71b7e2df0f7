"""Makes a tar of files in a container, piece by piece, while the container may change them.

A file is named by a descriptor first, and opened only if it is a regular file: so a FIFO that
nobody writes, a device, or a link that takes the file's place meanwhile does no harm. Everything
that is kept meanwhile is bounded, whatever the container has: the depth of its directories, the
number of its hard links, the size of its files. A file that grows is cut off at the size that its
header says; one that shrinks ends the tar with an error.
"""

import errno
import os
import stat
from collections.abc import Iterator

from weft.runtime.container_root import ContainerRoot, Wanted
from weft.runtime.tar_headers import TRAILER, can_be_archived, hard_link, header, padding
from weft.runtime.walk import Walk

PIECE = 256 * 1024
"""Bytes."""
LINKS_MAX = 100_000
"""Files with several names that are remembered. Further ones are copied once for each name."""
_CAPABILITY = "security.capability"


def archive(root: ContainerRoot, path: Wanted) -> Iterator[bytes]:
    """The file or directory, under the last name of the path. Raises `OSError`."""
    yield from in_pieces(_Archive(root).all(path))
    yield TRAILER


def export(root: ContainerRoot) -> Iterator[bytes]:
    """Everything. Raises `OSError`."""
    yield from in_pieces(_Archive(root).everything())
    yield TRAILER


def in_pieces(parts: Iterator[bytes]) -> Iterator[bytes]:
    """None of them is empty: each costs its reader a change of threads."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class Entries:
    """Makes the entries of one tar."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], bytes] = {}
        """The first name of each file that has several."""

    def entry(self, fd: int, status: os.stat_result, name: bytes) -> Iterator[bytes]:
        if stat.S_ISLNK(status.st_mode):
            yield header(name, status, os.readlink(b"", dir_fd=fd))
        elif not stat.S_ISREG(status.st_mode):
            yield header(name, status)
        elif (first := self._first_name(status, name)) is not None:
            yield hard_link(name, status, first)
        else:
            yield from _file(fd, name)

    def _first_name(self, status: os.stat_result, name: bytes) -> bytes | None:
        """None for a file that is not in the tar yet."""
        if status.st_nlink < 2:
            return None
        key = (status.st_dev, status.st_ino)
        if key not in self._names and len(self._names) < LINKS_MAX:
            self._names[key] = name
            return None
        return self._names.get(key)


class _Archive:
    def __init__(self, root: ContainerRoot) -> None:
        self._root = root
        self._entries = Entries()

    def all(self, path: Wanted) -> Iterator[bytes]:
        with self._root.found(path.path, path.follows) as (fd, status):
            name = b"." if path.is_content or not path.path else os.fsencode(path.base)
            yield from self._entries.entry(fd, status, name)
            if stat.S_ISDIR(status.st_mode):
                yield from self._content(fd, b"" if name == b"." else name + b"/")

    def everything(self) -> Iterator[bytes]:
        with self._root.found(b"", follow=True) as (fd, _):
            yield from self._content(fd, b"")

    def _content(self, top: int, prefix: bytes) -> Iterator[bytes]:
        with Walk(top, prefix) as walk:
            for found in walk:
                is_directory = stat.S_ISDIR(found.status.st_mode)
                is_hidden = self._root.is_hidden(found.status)
                if can_be_archived(found.status) and (is_directory or not is_hidden):
                    yield from self._entries.entry(*found)
                if is_directory and not is_hidden:
                    walk.enter(found)


def _file(found: int, name: bytes) -> Iterator[bytes]:
    """This opens the file that was looked at, even if its name now means another one, and waits for
    no lease on it."""
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        try:
            capability = os.getxattr(fd, _CAPABILITY)
        except OSError:  # it has none, or the file system has no attributes
            capability = b""
        yield header(name, status, capability=capability)
        left = status.st_size
        while left:
            data = os.read(fd, min(left, PIECE))
            if not data:
                raise OSError(errno.EIO, f"{os.fsdecode(name)} has shrunk while it was read")
            left -= len(data)
            yield data
        yield padding(status.st_size)
    finally:
        os.close(fd)
