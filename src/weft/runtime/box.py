"""One container in memory: its record, its processes, and the events that others wait for."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from weft.errors import Conflict
from weft.model.container import (
    END_NOT_SEEN,
    Container,
    ContainerConfig,
    ContainerState,
    Image,
)
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.runtime.base import Images
from weft.runtime.record import Directory, Record
from weft.system.process import Process, ProcessId

log = logging.getLogger(__name__)

LOST = 255
"""Exit code of a container whose end was not observed: the host was rebooted or conmon killed."""


class ImageFiles(Images, Protocol):
    """An image store on this host's disk."""

    def layer_directories(self, image: Image) -> list[Path]:
        """Layers, bottom first."""
        ...

    def set_users(self, users: Callable[[str], list[ContainerId]]) -> None:
        """`users` returns the containers that were made from an image id; an image with containers
        is not removed."""
        ...


class Box:
    """One container in memory."""

    def __init__(self, directory: Directory, record: Record) -> None:
        self.directory = directory
        self.record = record
        self.lock = asyncio.Lock()
        """Held to make, start or remove the container, and to release its resources after its
        end."""
        self.ended = asyncio.Event()
        self.removed = False
        self.host_was_down = False
        """The container ended with the host; conmon's exit code does not count."""
        self.conmon: Process | None = None
        self.init: Process | None = None
        self.watcher: asyncio.Task[None] | None = None

    @property
    def container(self) -> Container:
        return self.record.container

    @property
    def is_running(self) -> bool:
        return self.container.state is ContainerState.RUNNING

    def write(self, **changes: Any) -> None:
        """Writes a new record; for fields of `container` use `write_container`."""
        self.record = msgspec.structs.replace(self.record, **changes)
        self.directory.write(self.record)

    def write_container(self, **changes: Any) -> None:
        self.write(container=msgspec.structs.replace(self.container, **changes))

    def close_processes(self) -> None:
        """The daemon looks at them no more."""
        for process in (self.conmon, self.init):
            if process is not None:
                process.close()
        self.conmon = self.init = None

    def ended_container(self, moment: Nanoseconds) -> Container:
        """The container after its end, as conmon wrote it down."""
        code = None if self.host_was_down else self.directory.exit_code
        return msgspec.structs.replace(
            self.container,
            state=ContainerState.EXITED,
            pid=0,
            exit_code=LOST if code is None else code,
            finished_at=moment,
            oom_killed=self.directory.out_of_memory,
            error=END_NOT_SEEN if code is None else self.container.error,
        )


def check_free(config: ContainerConfig, others: Iterable[Container]) -> None:
    """Raises `Conflict` with Docker's text if a container has the id or the name."""
    for other in others:
        if config.id == other.id or config.name == other.config.name:
            raise Conflict(
                f'Conflict. The container name "/{config.name}" is already in use by container'
                f' "{other.id}". You have to remove (or rename) that container to be able to reuse'
                " that name."
            )


def opened(id: ProcessId | None) -> Process | None:
    """None if the process has ended."""
    if id is None or not id.lives:
        return None
    try:
        process = Process(id.pid)
    except ProcessLookupError:
        return None
    if id.lives:
        return process
    process.close()
    return None
