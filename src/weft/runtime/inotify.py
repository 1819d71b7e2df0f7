"""inotify(7) for single files: tells when a file is written to, replaced or removed."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from weft.errors import OperationFailed

_IN_MODIFY, _IN_ATTRIB, _IN_MOVE_SELF, _IN_DELETE_SELF = 0x2, 0x4, 0x800, 0x400
_CHANGES = _IN_MODIFY | _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF
_IN_ONESHOT = 0x80000000
_EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, length of the name that follows (inotify(7))."""
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    def __init__(self, path: Path) -> None:
        """Raises `OperationFailed`."""
        self._fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(path), _CHANGES) < 0:
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


class Watches:
    """Tells of the next change of many files, with one instance of inotify: a user may have 128."""

    def __init__(self) -> None:
        """Raises `OperationFailed`."""
        self._fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._fd < 0:
            raise OperationFailed(f"cannot watch files: {os.strerror(ctypes.get_errno())}")
        self._calls: dict[int, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._on_events)

    def once(self, path: Path, call: Callable[[], None]) -> None:
        """Calls `call` when the file has changed, once; another call for the same file replaces it.
        Raises `OSError`."""
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(path), _CHANGES | _IN_ONESHOT)
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
        self._calls[watch] = call

    def _on_events(self) -> None:
        data, position = os.read(self._fd, 1 << 16), 0
        while position < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            call = self._calls.pop(watch, None)
            if call is not None:
                call()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
