"""One container in memory: its record, its processes, and the events that others wait for."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from weft.errors import Conflict, NotFound, WeftError
from weft.model.container import (
    END_NOT_SEEN,
    Container,
    ContainerConfig,
    ContainerState,
    Image,
)
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.model.signals import signal_number
from weft.model.start_failure import start_exit_code
from weft.runtime.base import Images
from weft.runtime.record import Directory, Record
from weft.runtime.spec import new_container
from weft.runtime.streams import ContainerStreams, PendingStreams
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
        self.has_mounts = True
        """Whether the container's volumes are mounted for it, or about to be."""
        self.is_looked_into = False
        """Whether its volumes are mounted for one who opens its files while it does not run."""
        self.attaching: list[PendingStreams] = []
        """Clients that wait for the container's start."""
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

    @property
    def is_prepared(self) -> bool:
        """Whether there is only a record and a file system: the OCI container is made at the
        start."""
        return self.record.init is None and self.container.state is ContainerState.CREATED

    @property
    def uses_mounts(self) -> bool:
        return self.is_looked_into or (self.has_mounts and not self.ended.is_set())

    def has_other_limits(self, config: ContainerConfig) -> bool:
        own = self.container.config
        return (own.limits, own.further) != (config.limits, config.further)

    def check_not_removed(self) -> None:
        if self.removed:
            raise NotFound(f"No such container: {self.container.id}")

    def write_resources(self, config: ContainerConfig, swap: int) -> Path:
        """See `Directory.write_resources`."""
        return self.directory.write_resources(self.container, config, swap)

    def check_running(self) -> None:
        if not self.is_running:
            raise Conflict(f"container {self.container.id} is not running")

    def check_not_paused(self, what: str) -> None:
        """Raises `Conflict` with Docker's text."""
        if self.container.paused:
            name = self.container.config.name
            raise Conflict(f"Container {name} is paused, unpause the container before {what}")

    def write(self, **changes: Any) -> None:
        """Writes a new record; for fields of `container` use `write_container`."""
        self.record = msgspec.structs.replace(self.record, **changes)
        self.directory.write(self.record)

    def write_container(self, **changes: Any) -> None:
        self.write(container=msgspec.structs.replace(self.container, **changes))

    def configure(self, config: ContainerConfig, swap: int) -> None:
        """`swap`: see `Container.memory_swap`. Raises `OperationFailed`."""
        if self.is_running:
            self.directory.renew_names(self.container.config, config)
        self.write_container(config=config, memory_swap=swap)

    def begin_anew(self) -> None:
        """Before the container is made once more. A daemon that is killed then leaves a prepared
        one, if it is plain."""
        container = msgspec.structs.replace(
            self.container,
            state=ContainerState.CREATED,
            exit_code=0,
            error="",
            oom_killed=False,
            finished_at=0,
        )
        self.write(container=container, init=None if container.is_plain else self.record.init)

    def not_started(self, error: BaseException, exit_code: int | None = None) -> None:
        """See `Runtime.not_started`. A start that was called off changes no exit code."""
        if isinstance(error, WeftError):
            code = start_exit_code(str(error)) if exit_code is None else exit_code
            self.write_container(error=str(error), exit_code=code)

    def attach(self) -> ContainerStreams | PendingStreams:
        """Raises `Conflict` if a task's container does not run."""
        if self.is_running or not self.container.is_plain:
            return ContainerStreams(self.directory.path)
        client = PendingStreams(self.directory.path)
        self.attaching.append(client)
        return client

    def connect_clients(self) -> None:
        """Before the program begins, so that they see all its output."""
        clients, self.attaching = self.attaching, []
        for client in clients:
            try:
                client.connect()
            except Conflict as error:  # conmon has ended
                log.warning("container.attach container=%s cause=%s", self.container.id[:12], error)

    def close_clients(self) -> None:
        """The container will not be started any more."""
        for client in self.attaching:
            client.close()

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
            paused=False,
            pid=0,
            exit_code=LOST if code is None else code,
            finished_at=moment,
            oom_killed=self.directory.out_of_memory,
            error=END_NOT_SEEN if code is None else self.container.error,
        )


def new_box(
    directory: Directory, config: ContainerConfig, image: Image, moment: Nanoseconds, swap: int
) -> Box:
    """A container that is to be made. `swap`: see `Container.memory_swap`. Raises
    `InvalidArgument`."""
    container = new_container(config, image, moment, str(directory.log), swap)
    stop_signal = config.spec.stop_signal or image.config.stop_signal or "SIGTERM"
    signal_number(stop_signal)
    return Box(directory, Record(container=container, stop_signal=stop_signal))


def check_name_free(config: ContainerConfig, others: Iterable[Container]) -> None:
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
