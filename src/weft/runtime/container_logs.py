"""The logs of this host's containers: where each is kept, what keeps its files in order while the
container runs, and how it is read."""

import asyncio
from collections.abc import AsyncGenerator

from weft.errors import InvalidArgument
from weft.model.container import ContainerConfig, LogLine
from weft.model.ids import ContainerId
from weft.model.log_options import FilePolicy, file_policy
from weft.model.numbers import decimal
from weft.runtime.box import Box
from weft.runtime.inotify import Watches
from weft.runtime.log_files import LogFiles
from weft.runtime.log_rotation import Rotation
from weft.runtime.logs import LogQuery, read_log
from weft.runtime.record import Directory

_COUNTS_PER_FILE = (2, 1, 10)
"""The first conmon that counts anew with each file."""


class ContainerLogs:
    def __init__(self) -> None:
        self._counts_all = False
        self._watches: Watches | None = None
        self._rotations: dict[ContainerId, Rotation] = {}

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
        itself."""
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

    async def leave(self, id: ContainerId) -> None:
        """The container has ended. Returns when nothing is done to its files any more."""
        rotation = self._rotations.pop(id, None)
        if rotation is not None:
            await rotation.close()

    def read(self, box: Box, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        return read_log(self.files(box.directory, box.container.config), query, box.ended.wait)

    async def close(self) -> None:
        await asyncio.gather(*map(self.leave, list(self._rotations)))
        if self._watches is not None:
            self._watches.close()
            self._watches = None
