"""The space that an image may take while it is pulled or loaded.

The disk limits an image, not a ratio of compression: honest images, too, contain files of zeros
that shrink to a thousandth. The disk must not be full afterwards, because everything else on this
host, the swarm's state first, needs to write there as well.
"""

import os
from collections.abc import Callable
from pathlib import Path

from weft.errors import OperationFailed

_KEPT_SHARE = 20
"""The share of bytes and inodes of a file system that stays free, a twentieth; at most `_KEPT_MAX`
bytes."""
_KEPT_MAX = 1 << 30
_STEP = 16 << 20
"""Bytes between two checks of the file system."""
_STEP_FILES = 1000


class Stopped(Exception):
    """No caller waits for the result any longer."""


class Room:
    """Counts the data that is read from an image and written for it. An image may take, in total,
    no more than was free at the beginning. So an image without end is stopped even if it replaces
    its own files again and again."""

    def __init__(self, directory: Path, stopped: Callable[[], bool] = lambda: False) -> None:
        """`directory`: a directory on the file system that is written to. `stopped`: whether to
        give up. Raises `OSError`."""
        self._directory = directory
        self._stopped = stopped
        self._bytes, self._files = self._free()
        self._taken_bytes = self._taken_files = 0
        self._next_bytes, self._next_files = _STEP, _STEP_FILES

    def take(self, size: int, files: int = 0) -> None:
        """Call before so many bytes and files are written. Raises `OperationFailed` if they exceed
        the limit, and `Stopped`."""
        if self._stopped():
            raise Stopped
        self._taken_bytes += size
        self._taken_files += files
        if self._taken_bytes > self._bytes or self._taken_files > self._files:
            self._refuse()
        if self._taken_bytes >= self._next_bytes or self._taken_files >= self._next_files:
            self._next_bytes = self._taken_bytes + _STEP
            self._next_files = self._taken_files + _STEP_FILES
            self.look()

    def look(self) -> None:
        """Checks the space: other processes write, too. Raises `OperationFailed` if nothing is
        left."""
        if min(self._free()) <= 0:
            self._refuse()

    def _free(self) -> tuple[int, int]:
        """Free bytes and inodes beyond those that are kept free."""
        status = os.statvfs(self._directory)
        size = status.f_blocks * status.f_frsize
        free = status.f_bavail * status.f_frsize - min(size // _KEPT_SHARE, _KEPT_MAX)
        if not status.f_files:  # btrfs creates inodes on demand
            return free, free
        return free, status.f_favail - status.f_files // _KEPT_SHARE

    def _refuse(self) -> None:
        status = os.statvfs(self._directory)
        raise OperationFailed(
            f"it needs more room than there is on the file system of {self._directory}:"
            f" {status.f_bavail * status.f_frsize >> 20} MiB and {status.f_favail} inodes are free,"
            f" and a twentieth of all, or {_KEPT_MAX >> 30} GiB, is kept"
        )
