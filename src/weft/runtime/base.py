"""The interface of a container runtime and of an image store.

Containers outlive the daemon: all their state is on disk, and a new `Runtime` on the same directory
finds them all. Errors: `NotFound`, `Conflict` (wrong state), `OperationFailed`; errors about images
name the image.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from weft.errors import WeftError
from weft.model.container import (
    Container,
    ContainerConfig,
    HistoryStep,
    Image,
    LogLine,
    MemoryFile,
    NewImage,
)
from weft.model.ids import ContainerId
from weft.model.inside import Change, PathStat, Usage
from weft.model.meta import Nanoseconds
from weft.model.registry import Distribution, PushStep, RegistryAuth
from weft.model.volume import Volume


class Attached(Protocol):
    """The streams of a container, or of a command in a container."""

    async def read(self) -> tuple[int, bytes]:
        """The next output: (1 stdout or 2 stderr, bytes); (0, b"") at the end. All output of a
        terminal is stream 1."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, rows: int, columns: int) -> None: ...

    def close(self) -> None: ...


class Exec(Protocol):
    """A command in a running container."""

    id: str
    container: ContainerId
    argv: tuple[str, ...]
    tty: bool
    stdin: bool
    privileged: bool
    """Whether the command has all capabilities."""

    @property
    def running(self) -> bool: ...

    @property
    def pid(self) -> int: ...

    @property
    def exit_code(self) -> int | None: ...

    async def start(self) -> Attached:
        """May be called once. Output that comes before the first read is not lost."""
        ...

    async def wait(self) -> int: ...

    async def kill(self) -> None:
        """Ends a running command with all that it has started, except what has detached itself from
        it in both ways: by another session and by the end of its parent. Returns when they have
        ended or the kernel cannot end them."""
        ...

    async def resize(self, rows: int, columns: int) -> None: ...


class Runtime(Protocol):
    def containers(self) -> list[Container]: ...

    def get(self, id: ContainerId) -> Container: ...

    async def create(self, config: ContainerConfig, files: Sequence[MemoryFile] = ()) -> Container:
        """Mounts the root file system and makes the container, whose first process then waits for
        `start`. `files`: those of `file_paths`, in that order; they are written to no disk. All or
        nothing."""
        ...

    async def prepare(self, config: ContainerConfig) -> Container:
        """Makes the record and the root file system. The container itself is made when it is
        started, of the configuration that it has then. All or nothing."""
        ...

    async def configure(self, config: ContainerConfig) -> Container:
        """Gives a container another configuration. Limits hold at once, and so do changes of
        /etc/hosts and /etc/resolv.conf; what else its processes have stays until the next start.
        Raises `Conflict` if another container has the name."""
        ...

    async def start(self, id: ContainerId, files: Sequence[MemoryFile] = ()) -> Container:
        """A prepared or ended container is made (again), for which it needs its `files` again. If
        that fails it stays as it was, but for its `error`, which says why, and its `exit_code`, see
        `start_exit_code`. A running one is no error."""
        ...

    async def not_started(self, id: ContainerId, error: WeftError, exit_code: int) -> None:
        """Notes why a container that does not run could not be started, before it came to
        `start`."""
        ...

    async def stop(self, id: ContainerId, grace: Nanoseconds, signal: str = "") -> Container:
        """Sends the stop signal or `signal`, and SIGKILL after `grace`; returns when the container
        has ended."""
        ...

    async def kill(self, id: ContainerId, signal: str) -> None:
        """SIGKILL and the stop signal also wake a container that is paused."""
        ...

    async def pause(self, id: ContainerId) -> Container:
        """Freezes the processes; a paused container is no error. Raises `Conflict` unless it
        runs."""
        ...

    async def unpause(self, id: ContainerId) -> Container:
        """A container that is not paused is no error."""
        ...

    async def remove(self, id: ContainerId) -> None:
        """Kills a running container; removes its files and mounts. A container that does not exist
        is no error."""
        ...

    async def wait(self, id: ContainerId) -> Container:
        """Returns when the container has ended, at once if it has already."""
        ...

    async def attach(self, id: ContainerId) -> Attached:
        """To the streams of a plain container that does not run: as soon as it is started, and
        before its program is. Raises `Conflict` for another one that does not run."""
        ...

    def logs(
        self,
        id: ContainerId,
        *,
        follow: bool = False,
        since: Nanoseconds = 0,
        until: Nanoseconds = 0,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]: ...

    async def resize(self, id: ContainerId, rows: int, columns: int) -> None: ...

    async def exec(
        self,
        id: ContainerId,
        argv: tuple[str, ...],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: tuple[str, ...] = (),
        user: str = "",
        directory: str = "",
        privileged: bool = False,
    ) -> Exec: ...

    async def top(self, id: ContainerId) -> list[int]:
        """PIDs of the container's processes."""
        ...

    async def close(self) -> None:
        """Releases the daemon's resources; containers go on."""
        ...


class Volumes(Protocol):
    """The volumes of a node. They stay until `remove`, whatever becomes of the daemon."""

    def all(self) -> list[Volume]: ...

    def get(self, name: str) -> Volume:
        """Raises `NotFound`: `get <name>: no such volume`."""
        ...

    def path(self, name: str) -> Path:
        """Where the volume's files are, or are mounted, on this host."""
        ...

    async def create(self, volume: Volume) -> bool:
        """False if there is a volume of that name, which stays as it is. Raises `InvalidArgument`
        for a name that a volume cannot have, or `OperationFailed`, and then there is none."""
        ...

    async def remove(self, name: str) -> None:
        """Removes a volume that no container uses, with its files. Raises `NotFound` or
        `OperationFailed`."""
        ...

    async def size(self, name: str) -> int:
        """Bytes of its files."""
        ...


class Inside(Protocol):
    """Looks into containers from outside. A path is absolute in the container, whatever it begins
    with. Raises `NotFound` with Docker's text for a path or container that does not exist."""

    async def stat(self, id: ContainerId, path: str) -> PathStat:
        """A symbolic link is not followed, unless the path ends in `/` or `/.`."""
        ...

    async def read(
        self, id: ContainerId, path: str
    ) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        """A tar of the file or directory, in pieces. The generator raises `OperationFailed` if it
        cannot go on; close it."""
        ...

    async def write(
        self,
        id: ContainerId,
        path: str,
        content: AsyncIterator[bytes],
        *,
        keep_kinds: bool,
        owned: bool,
    ) -> None:
        """Unpacks a tar, plain or compressed, into the directory `path`. `keep_kinds`: never
        replaces a directory by something else, nor the other way round. `owned`: the container's
        user owns what is made. Raises `InvalidArgument`, `OperationFailed`."""
        ...

    def export(self, id: ContainerId) -> AsyncGenerator[bytes, None]:
        """A tar of all files, without those of mounts."""
        ...

    def layer(self, id: ContainerId) -> AsyncGenerator[bytes, None]:
        """The container's changes to its image's files, as the tar of a layer, in pieces.
        Raises `OperationFailed`; close it."""
        ...

    async def changes(self, id: ContainerId) -> list[Change]: ...

    async def sizes(self, id: ContainerId) -> tuple[int, int]:
        """Bytes that the container has written, and of all its files."""
        ...

    async def usage(self, id: ContainerId) -> Usage | None:
        """None unless the container runs."""
        ...


class Images(Protocol):
    def all(self) -> list[Image]: ...

    def find(self, reference: str) -> Image:
        """Finds by `name[:tag][@digest]`, by id or by a prefix of the id. Raises `NotFound`:
        `No such image: <reference>`."""
        ...

    async def layer_sizes(self) -> dict[str, int]:
        """Bytes of each layer that an image has, by digest."""
        ...

    def pull(self, reference: str, auth: RegistryAuth | None = None) -> AsyncIterator[str]:
        """Fetches the image from its registry; yields lines of progress. Raises `NotFound` or
        `OperationFailed`."""
        ...

    async def distribution(self, reference: str, auth: RegistryAuth | None = None) -> Distribution:
        """What the registry has under that name. Raises as `pull`."""
        ...

    async def log_in(self, server: str, auth: RegistryAuth) -> str:
        """Asks the registry at `server` whether it takes the credentials; returns the identity
        token that it gives in place of the password, if any. Raises `Unauthorized`,
        `OperationFailed`, `InvalidArgument`."""
        ...

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        """Loads a `docker save` or OCI archive; returns the tags (or ids) of its images."""
        ...

    async def tag(self, reference: str, new: str) -> None: ...

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        """Returns what was done: ("Untagged", tag), ("Deleted", id). Raises `Conflict` if a
        container uses the image."""
        ...


class ImageExchange(Protocol):
    """Images on their way out of this host, and new ones that are made here. What is given away is
    what came, byte by byte: layers and configurations keep their digests."""

    async def history(self, reference: str) -> list[tuple[HistoryStep, int]]:
        """How the image was made, oldest step first, each with the bytes of its layer's files.
        Raises `NotFound`, `OperationFailed`."""
        ...

    def save(self, references: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """A `docker save` archive, in pieces. Raises `NotFound` or, before the first piece as well
        as later, `OperationFailed`; close it."""
        ...

    def push(
        self, name: str, tag: str, auth: RegistryAuth | None
    ) -> AsyncGenerator[PushStep, None]:
        """Sends the image to its registry; without `tag`, all tags of that name. Raises `NotFound`,
        `Unauthorized`, `OperationFailed`; close it."""
        ...

    async def make(self, new: NewImage, layer: AsyncIterator[bytes]) -> Image:
        """`layer`: a tar, plain or compressed. Raises `InvalidArgument` if it is none, and
        `OperationFailed`: `cannot <task>: <cause>`."""
        ...
