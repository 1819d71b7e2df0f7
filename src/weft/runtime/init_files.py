"""Two files that Docker adds to the root of every container unless the image has them: programs
recognise a container by the first, and read the mounted file systems in the second.

Source: moby 28.5, daemon/initlayer/setup_unix.go. The image is not trusted: the kernel keeps every
path inside the root.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from weft.system.trees import open_inside

MARK = "/.dockerenv"
MOUNTS, MOUNTS_TARGET = "/etc/mtab", "/proc/mounts"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_init_files(root: Path) -> None:
    """For a root that nobody else changes yet. An image that has something else in their place
    keeps it. Raises `OSError`."""
    with _descriptor(os.open(root, _DIRECTORY | os.O_CLOEXEC)) as top:
        with suppress(FileExistsError):
            os.close(os.open(MARK.lstrip("/"), _NEW, 0o755, dir_fd=top))
        with suppress(FileExistsError, NotADirectoryError), _directory(top, "etc") as etc:
            os.symlink(MOUNTS_TARGET, MOUNTS.rpartition("/")[2], dir_fd=etc)


@contextmanager
def _directory(top: int, name: str) -> Iterator[int]:
    try:
        found = open_inside(top, os.fsencode(name), _DIRECTORY)
    except FileNotFoundError:
        os.mkdir(name, dir_fd=top)
        os.chmod(name, 0o755, dir_fd=top)
        found = open_inside(top, os.fsencode(name), _DIRECTORY)
    with _descriptor(found):
        yield found


@contextmanager
def _descriptor(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
