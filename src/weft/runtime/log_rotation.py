"""Keeps the files of a running container's log: asks conmon for a new file when one is full, gives
each its second name at once, compresses the complete ones.

The kernel tells of the next write only (inotify, one-shot), and then the size is looked at after a
pause: a busy container costs the daemon a few looks per second, an idle one nothing.
"""

import asyncio
import logging

from weft.runtime.inotify import Watches
from weft.runtime.log_files import LogFiles, Segment

log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.05, 1.0
"""Seconds between two looks at a log that is written to."""
_FASTEST = 256 << 20
"""Bytes per second that conmon does not exceed."""
_ASKED = 0.005
"""Seconds until conmon has begun the file that it was asked for."""


class Rotation:
    def __init__(self, files: LogFiles, watches: Watches, container: str) -> None:
        self._files = files
        self._watches = watches
        self._container = container
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0
        """Number of the file after which one was asked for."""
        self._compressing: asyncio.Task[None] | None = None
        self._is_closed = False
        self._look()

    def _look(self) -> None:
        self._timer = None
        if self._is_closed:
            return
        try:
            segment = self._files.hold()
            if segment is None:
                self._again(_LONGEST)
                return
            self._compress()
            self._arrange(segment)
        except OSError as error:
            log.warning("log.rotation container=%s cause=%s", self._container, error)
            self._again(_LONGEST)

    def _arrange(self, segment: Segment) -> None:
        """Asks for a new file if this one is full; arranges the next look."""
        if self._asked < segment.number and self._files.is_due(segment):
            self._asked = segment.number
            if self._files.ask_for_new():
                self._again(_ASKED)
                return
        size = segment.path.stat().st_size
        self._watches.once(self._files.path, self._written)
        if self._files.path.stat().st_size != size:
            self._written()

    def _written(self) -> None:
        """Something was written. The file cannot be full before the pause is over."""
        if self._timer is None:
            size = self._size()
            left = max(0, self._files.policy.max_size - size) / _FASTEST
            self._again(min(max(left, _SHORTEST), _LONGEST))

    def _size(self) -> int:
        try:
            return self._files.path.stat().st_size
        except OSError:
            return 0

    def _again(self, pause: float) -> None:
        if not self._is_closed and self._timer is None:
            self._timer = self._loop.call_later(pause, self._look)

    def _compress(self) -> None:
        if self._compressing is None and self._files.to_compress():
            self._compressing = self._loop.create_task(self._compress_all())

    async def _compress_all(self) -> None:
        try:
            while not self._is_closed and (segments := self._files.to_compress()):
                await asyncio.to_thread(self._files.compress, segments[0])
        except OSError as error:
            log.warning("log.compress container=%s cause=%s", self._container, error)
        finally:
            self._compressing = None

    async def close(self) -> None:
        """The container has ended, or the daemon ends. Names the last file."""
        if not self._is_closed:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()
            try:
                self._files.hold()
            except OSError as error:
                log.warning("log.rotation container=%s cause=%s", self._container, error)
        if self._compressing is not None:
            await asyncio.wait((self._compressing,))
