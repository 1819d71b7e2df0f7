"""The logs of this host's containers: where each is kept, what keeps its files in order while the
container runs, and how it is read."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator

from weft.errors import InvalidArgument, OperationFailed, WeftError
from weft.model.container import Container, ContainerConfig, LogLine
from weft.model.ids import ContainerId
from weft.model.log_options import FilePolicy, file_policy
from weft.model.numbers import decimal
from weft.model.syslog import syslog_target
from weft.runtime.box import Box
from weft.runtime.inotify import Watches
from weft.runtime.log_files import LogFiles
from weft.runtime.log_forwarding import Forwarder
from weft.runtime.log_rotation import Rotation
from weft.runtime.log_sinks import JournalSink, Sink, SyslogSink
from weft.runtime.logs import LogQuery, read_log
from weft.runtime.record import Directory
from weft.system.journal import JOURNAL

log = logging.getLogger(__name__)

_COUNTS_PER_FILE = (2, 1, 10)
"""The first conmon that counts anew with each file."""


class ContainerLogs:
    def __init__(self) -> None:
        self._counts_all = False
        self._watches: Watches | None = None
        self._rotations: dict[ContainerId, Rotation] = {}
        self._forwarders: dict[ContainerId, Forwarder] = {}

    def load(self, conmon: str) -> None:
        """`conmon`: name and version, `conmon 2.1.6`."""
        numbers = conmon.rpartition(" ")[2].split(".")
        version = tuple(decimal(number) or 0 for number in numbers)
        self._counts_all = version < _COUNTS_PER_FILE

    def files(self, directory: Directory, config: ContainerConfig) -> LogFiles:
        try:
            policy = file_policy(config.log_driver, config.log_options)
        except InvalidArgument:
            policy = FilePolicy()
        return LogFiles(directory.log, policy, counts_all=self._counts_all)

    def conmon_begins(self, directory: Directory, config: ContainerConfig) -> int:
        """To be called before a conmon is started: bytes after which it is to begin a new file by
        itself. Raises `OperationFailed` if this host cannot take the lines."""
        if config.log_driver == "journald" and not JOURNAL.exists():
            raise OperationFailed("journald is not enabled on this host")
        files = self.files(directory, config)
        files.conmon_begins()
        return files.bound

    def attend(self, box: Box) -> None:
        """Keeps the files in order from now on."""
        files = self.files(box.directory, box.container.config)
        if files.are_many:
            if self._watches is None:
                self._watches = Watches()
            id = box.container.id
            self._rotations[id] = Rotation(files, self._watches, id[:12])
        self._forward(box, files)

    def _forward(self, box: Box, files: LogFiles) -> None:
        """The forwarder of the container's last life, which may still have lines to send, hands its
        place over."""
        id = box.container.id
        try:
            sink = _sink(box.container)
        except WeftError as error:
            log.error("log.forward container=%s cause=%s", id[:12], error)
            return
        if sink is not None:
            before = self._forwarders.pop(id, None)
            self._forwarders[id] = Forwarder(files, sink, box.ended.wait, id[:12], before)

    async def leave(self, id: ContainerId) -> None:
        """The container has ended. Returns when nothing is done to its files any more."""
        rotation = self._rotations.pop(id, None)
        if rotation is not None:
            await rotation.close()

    async def forget(self, id: ContainerId) -> None:
        """The container has ended and its files are to be removed."""
        await self.leave(id)
        forwarder = self._forwarders.pop(id, None)
        if forwarder is not None:
            await forwarder.finish()

    def read(self, box: Box, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        return read_log(self.files(box.directory, box.container.config), query, box.ended.wait)

    async def close(self) -> None:
        await asyncio.gather(*map(self.leave, list(self._rotations)))
        await asyncio.gather(*(forwarder.stop() for forwarder in self._forwarders.values()))
        if self._watches is not None:
            self._watches.close()
            self._watches = None


def _sink(container: Container) -> Sink | None:
    """Where the lines go beside the disk. Raises `InvalidArgument`."""
    host = os.uname().nodename
    match container.config.log_driver:
        case "journald":
            return JournalSink(container, host)
        case "syslog":
            return SyslogSink(syslog_target(container.config.log_options), container, host)
    return None
