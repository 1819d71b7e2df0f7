"""Passes the lines of a running container on to a sink: the drivers `journald` and `syslog`.

conmon writes the lines to files as for any container, and they are read from there. So lines wait
on disk while the sink takes none or the daemon does not run, up to the size of the files; then the
oldest are lost. The place up to which lines were sent is kept on disk; a daemon that is killed
sends the lines of its last second again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec

from weft.model.container import LogLine
from weft.model.logs import Pieces
from weft.model.meta import Nanoseconds
from weft.runtime.log_files import LogFiles
from weft.runtime.log_sinks import Sink
from weft.runtime.logs import LogQuery, read_log
from weft.system.files import replace_file

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
"""Seconds between two attempts to send a line."""
_SAVED_EVERY = 1.0
"""Seconds."""
_LAST_WORDS = 2.0
"""Seconds that the lines of a container which is removed may take to be sent."""


class Place(msgspec.Struct, frozen=True):
    """The timestamp of the last record that was sent, and how many records with that timestamp
    were: those of one read have the same."""

    timestamp: Nanoseconds = 0
    known: int = 0

    def after(self, record: LogLine) -> "Place":
        is_same = record.timestamp == self.timestamp
        return Place(record.timestamp, self.known + 1 if is_same else 1)


class Forwarder:
    def __init__(
        self,
        files: LogFiles,
        sink: Sink,
        ended: Callable[[], Awaitable[object]],
        container: str,
        before: "Forwarder | None" = None,
    ) -> None:
        """`before`: a forwarder of the same log, which is stopped first."""
        self._files = files
        self._sink = sink
        self._ended = ended
        self._container = container
        self._file = files.path.with_name("forwarded")
        self._place = self._saved = Place()
        self._before = before
        self._next_save = 0.0
        self._task = asyncio.create_task(self._run(), name=f"log of {container}")

    async def _run(self) -> None:
        try:
            if self._before is not None:
                await self._before.stop()
                self._before = None
            self._place = self._saved = read_place(self._file)
            await self._forward()
        finally:
            self._save()
            self._sink.close()

    async def _forward(self) -> None:
        begun, seen, pieces = self._place, self._place, Pieces()
        known = begun.known
        query = LogQuery(follow=True, since=begun.timestamp)
        async with aclosing(read_log(self._files, query, self._ended)) as records:
            async for record in records:
                if known and record.timestamp == begun.timestamp:
                    known -= 1
                    continue
                seen = seen.after(record)
                line = pieces.add(record)
                if line is not None:
                    await self._send(line)
                if pieces.is_empty:
                    self._place = seen
                    self._save_sometimes()
        for line in pieces.rest():
            await self._send(line)
        self._place = seen

    async def _send(self, line: LogLine) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._sink.send(line)
                return
            except (OSError, TimeoutError) as error:
                if pause == _FIRST_PAUSE and not isinstance(error, BlockingIOError):
                    log.warning("log.forward container=%s cause=%s", self._container, error)
                self._save()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _save_sometimes(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_save:
            self._next_save = now + _SAVED_EVERY
            self._save()

    def _save(self) -> None:
        if self._place == self._saved:
            return
        try:
            replace_file(self._file, msgspec.json.encode(self._place), 0o600, durable=False)
            self._saved = self._place
        except OSError as error:
            log.warning("log.forward container=%s cause=%s", self._container, error)

    async def finish(self) -> None:
        """Returns when all lines of the container, which has ended, are sent; gives up soon."""
        await asyncio.wait((self._task,), timeout=_LAST_WORDS)
        await self.stop()

    async def stop(self) -> None:
        """Lines that were not sent yet stay on disk for another forwarder."""
        self._task.cancel()
        await asyncio.wait((self._task,))


def read_place(file: Path) -> Place:
    """The beginning, if nothing was sent yet or the file is damaged."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Place)
    except (OSError, msgspec.DecodeError):
        return Place()
