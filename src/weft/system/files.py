"""Files that are replaced whole: a daemon killed at any instant finds the old content or the new,
and so does a host that lost power.

The content is written beside the file, flushed to the disk, renamed over the file, and the
directory flushed. Without the first flush a file system may put the rename on the disk before the
data, and the file is empty after a loss of power.
"""

import ctypes
import os
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def replace_file(path: Path, content: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replaces `path` by a file of that content and of exactly that mode, whatever the umask.
    `durable`: on the disk when this returns, at the price of waiting for the disk. Raises
    `OSError`; the old file is still there then, and nothing beside it."""
    draft = path.with_name(
        f".{path.name}.new"
    )  # always the same name: what a crash leaves is written over by the next
    try:
        with open(
            os.open(
                draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            ),
            "wb",
        ) as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def make_directory(path: Path, mode: int) -> None:
    """Makes a directory of exactly that mode, whatever the umask; parents that are missing get
    0700. One that exists keeps its content and gets the mode. Raises `OSError`."""
    make_missing(path.parent, 0o700)
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)


def make_missing(path: Path, mode: int) -> None:
    """Makes a directory and those of its parents that are missing, each of exactly that mode,
    whatever the umask. What exists is left as it is. Raises `OSError`."""
    missing = list(takewhile(lambda directory: not directory.exists(), (path, *path.parents)))
    for directory in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            directory.mkdir(mode=0o700)
            directory.chmod(mode)


def sync_directory(directory: Path) -> None:
    """Names in a directory are on the disk when the directory is."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file_system(directory: Path) -> None:
    """All that was written to the file system of `directory` is on the disk when this returns: many
    files at the price of one. Raises `OSError`."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(handle)
