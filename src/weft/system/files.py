"""Files that are replaced whole: a daemon killed at any instant, or a host that lost power, finds
the old content or the new.

The content is written to a second file in the same directory and flushed to the disk. That file is
renamed over the old one, and the directory is flushed. Without the first flush a file system may
put the rename on the disk before the data; the file is then empty after a loss of power.
"""

import ctypes
import os
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def replace_file(path: Path, content: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replaces `path` by a file of that content and of exactly that mode, whatever the umask.
    `durable`: the content is on the disk when this returns, at the price of waiting for the disk.
    Raises `OSError`; then the old file is still there, and no second file beside it."""
    # Always the same name: the next call overwrites what a crash left.
    draft = path.with_name(f".{path.name}.new")
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
    """Makes a directory of exactly that mode, whatever the umask; missing parents get 0700. An
    existing directory keeps its content and gets the mode. Raises `OSError`."""
    make_missing(path.parent, 0o700)
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)


def make_missing(path: Path, mode: int) -> None:
    """Makes a directory and its missing parents, each of exactly that mode, whatever the umask.
    Existing directories stay as they are. Raises `OSError`."""
    missing = list(takewhile(lambda directory: not directory.exists(), (path, *path.parents)))
    for directory in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            directory.mkdir(mode=0o700)
            directory.chmod(mode)


def sync_directory(directory: Path) -> None:
    """Flushes a directory: then the names in it are on the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file_system(directory: Path) -> None:
    """Flushes the whole file system of `directory`, which puts many files on the disk at the price
    of one. Raises `OSError`."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(handle)
