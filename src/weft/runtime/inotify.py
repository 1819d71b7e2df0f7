"""inotify(7) for one file: wakes a waiter when the file is written to, replaced or removed."""

import asyncio
import ctypes
import os
from pathlib import Path

from weft.errors import OperationFailed

_IN_MODIFY, _IN_ATTRIB, _IN_MOVE_SELF, _IN_DELETE_SELF = 0x2, 0x4, 0x800, 0x400
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    def __init__(self, path: Path) -> None:
        """Raises `OperationFailed`."""
        self._fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        mask = _IN_MODIFY | _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF
        if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(path), mask) < 0:
            reason = os.strerror(ctypes.get_errno())
            self.close()
            raise OperationFailed(f"cannot watch {path}: {reason}")
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._on_event)

    async def changed(self) -> None:
        """Returns when the file has changed since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def _on_event(self) -> None:
        os.read(self._fd, 4096)
        self._changed.set()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
