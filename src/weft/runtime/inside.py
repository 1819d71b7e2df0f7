"""Looks into containers from outside: `runtime.base.Inside` for a real host.

A running container is seen as its processes see it, with its mounts; an ended one, or one that has
not been started, on its overlay and with its volumes and directories of the host
(`container_view.py`), which are mounted for as long as somebody looks.
Threads do all slow work: a container's files may be on a disk, or a server, that does not answer.
Files that are copied into a container are all on the host's disk before the first of them is made.
"""

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from errno import ENAMETOOLONG
from pathlib import Path
from typing import TypeVar

from weft.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    OperationFailed,
    WeftError,
    cause_of,
    clip,
)
from weft.model.container import ContainerState, Image
from weft.model.ids import ContainerId
from weft.model.inside import Change, PathStat, Usage
from weft.model.meta import Nanoseconds
from weft.runtime.box import Box, ImageFiles
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.container_root import ContainerRoot, Wanted, wanted
from weft.runtime.container_view import innermost, is_seen, open_view
from weft.runtime.copy_in import READ_ONLY, READ_ONLY_VOLUME, unpack_into
from weft.runtime.copy_out import archive, export
from weft.runtime.mounts import mount_overlay, unmount
from weft.runtime.receive import receive
from weft.runtime.room import Room
from weft.runtime.threads import Threads
from weft.runtime.upper import changes, size_of
from weft.runtime.upper_layer import layer
from weft.runtime.usage import read_usage
from weft.runtime.users import find_user, read_accounts

T = TypeVar("T")
_THREADS = 4
_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class ConmonInside:
    def __init__(
        self, runtime: ConmonRuntime, images: ImageFiles, clock: Callable[[], Nanoseconds]
    ) -> None:
        self._runtime = runtime
        self._images = images
        self._clock = clock
        self._threads = Threads("inside", _THREADS)

    # files

    async def stat(self, id: ContainerId, path: str) -> PathStat:
        place = wanted(path)
        async with self._root(id, place) as root:
            return await self._run(id, path, root.stat, place)

    async def read(
        self, id: ContainerId, path: str
    ) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        place = wanted(path)
        pieces = self._pieces(id, place)
        try:
            await anext(pieces)  # the root is open, or this raises
            async with self._root(id, place) as root:
                return await self._run(id, path, root.stat, place), pieces
        except BaseException:
            await pieces.aclose()
            raise

    async def write(
        self,
        id: ContainerId,
        path: str,
        content: AsyncIterator[bytes],
        *,
        keep_kinds: bool,
        owned: bool,
    ) -> None:
        place = wanted(path)
        box = self._runtime.box(id)
        async with self._root(id, place) as root:
            await self._run(id, path, root.stat, Wanted(place.path, place.base, True, False))
            await self._run(id, path, _check_writable, box, root, place.path)
            owner = await self._owner(box, root) if owned else None
        stop = threading.Event()
        file = box.directory.path / f"copy-{secrets.token_hex(8)}.tar"
        try:
            await receive(content, file, self._threads, stop, "copy to the container")
            async with self._root(id, place) as root:
                await self._run(
                    id, path, _unpack, file, stop, root, place, keep_kinds, owner, stop=stop
                )
        finally:
            await self._threads.finish(file.unlink, missing_ok=True)

    async def _owner(self, box: Box, root: ContainerRoot) -> tuple[int, int]:
        spec = box.container.config.spec
        name = spec.user or self._images.find(box.container.image).config.user
        accounts = await asyncio.to_thread(read_accounts, Path(f"/proc/self/fd/{root.fd}"))
        user = find_user(accounts, name)
        return user.uid, user.gid

    async def export(self, id: ContainerId) -> AsyncGenerator[bytes, None]:
        async with self._root(id, overlay_only=True) as root:
            async for piece in self._each(id, "/", export(root)):
                yield piece

    async def _pieces(self, id: ContainerId, place: Wanted) -> AsyncGenerator[bytes, None]:
        """First an empty piece, when the root is open."""
        async with self._root(id, place) as root:
            yield b""
            async for piece in self._each(id, os.fsdecode(place.path), archive(root, place)):
                yield piece

    async def _each(
        self, id: ContainerId, path: str, pieces: Iterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        try:
            while piece := await self._run(id, path, next, pieces, b""):
                yield piece
        finally:
            await self._threads.finish(_close, pieces)

    # what has changed, and how much is used

    async def layer(self, id: ContainerId) -> AsyncGenerator[bytes, None]:
        async for piece in self._each(id, "/", layer(self._runtime.box(id).directory.upper)):
            yield piece

    async def changes(self, id: ContainerId) -> list[Change]:
        box = self._runtime.box(id)
        layers = self._images.layer_directories(self._image(box))
        return await self._run(id, "/", changes, box.directory.upper, layers)

    async def sizes(self, id: ContainerId) -> tuple[int, int]:
        box = self._runtime.box(id)
        written = await self._run(id, "/", size_of, box.directory.upper)
        try:
            return written, written + self._image(box).size
        except NotFound:
            return written, written

    async def usage(self, id: ContainerId) -> Usage | None:
        box = self._runtime.box(id)
        if not box.is_running:
            return None
        config = box.container.config
        own = config.namespace is not None
        found = await asyncio.to_thread(
            read_usage, config.group, box.container.pid, self._clock(), own_network=own
        )
        return found if box.is_running else None

    def _image(self, box: Box) -> Image:
        return self._images.find(box.container.image)

    # a container's root

    @asynccontextmanager
    async def _root(
        self, id: ContainerId, place: Wanted | None = None, overlay_only: bool = False
    ) -> AsyncIterator[ContainerRoot]:
        box = self._runtime.box(id)
        async with box.lock:
            if box.removed:
                raise NotFound(f"No such container: {id}")
            is_view = not overlay_only and _is_unmounted(box)
            try:
                if is_view and any(map(is_seen, box.container.config.mount_points)):
                    root = await self._open_view(box)
                else:
                    root = self._open(box, overlay_only)
            except OSError as error:
                raise OperationFailed(
                    f"cannot open the files of container {id[:12]}: {cause_of(error)}"
                ) from error
        try:
            if place is not None and not box.is_running:
                path = os.fsdecode(place.path)
                await self._run(id, path, _refuse_mounts, box, root, place.path, is_view)
            yield root
        finally:
            root.close()

    async def _open_view(self, box: Box) -> ContainerRoot:
        """With the mounts that a container has which does not run. The caller holds the box's lock.
        Raises `OSError`, `InvalidArgument`, `OperationFailed`."""
        mounts, points = self._runtime.mounts, box.container.config.mount_points
        root = None
        box.is_looked_into = True
        try:
            await mounts.mount(points)
            root = await self._threads.finish(self._view, box)
        except BaseException:
            if root is not None:
                root.close()
            raise
        finally:
            box.is_looked_into = False
            await asyncio.shield(mounts.unmount(points))
        return root

    def _view(self, box: Box) -> ContainerRoot:
        config, directory = box.container.config, box.directory
        self._mount_overlay(box)
        try:
            fd = open_view(directory.merged, config.mount_points, config.spec.read_only)
        finally:  # what is open stays usable
            unmount(directory.merged)
        return ContainerRoot(fd)

    def _mount_overlay(self, box: Box) -> None:
        directory = box.directory
        layers = self._images.layer_directories(self._image(box))
        mount_overlay(layers, directory.upper, directory.work, directory.merged)

    def _open(self, box: Box, overlay_only: bool) -> ContainerRoot:
        """Raises `OSError`, `OperationFailed`."""
        directory, container = box.directory, box.container
        if box.is_running and not overlay_only:
            with ExitStack() as cleanup:
                fd = os.open(f"/proc/{container.pid}/root", _OPEN)
                cleanup.callback(os.close, fd)
                if box.record.init is None or not box.record.init.lives:
                    raise OperationFailed(f"container {container.id[:12]} has just ended")
                cleanup.pop_all()
            return ContainerRoot(fd)
        if box.is_running or not _is_unmounted(box):
            return open_overlay(directory.merged)
        self._mount_overlay(box)
        try:
            return open_overlay(directory.merged)
        finally:  # what is open stays usable
            unmount(directory.merged)

    async def _run(
        self,
        id: ContainerId,
        path: str,
        function: Callable[..., T],
        *arguments: object,
        stop: threading.Event | None = None,
    ) -> T:
        """Translates errors of the system."""
        try:
            return await self._threads.run(stop or threading.Event(), function, *arguments)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(
                f"Could not find the file {path} in container {self._name(id)}"
            ) from error
        except OSError as error:
            raise not_copied(path, self._name(id), error) from error

    def _name(self, id: ContainerId) -> str:
        return self._runtime.get(id).config.name


def open_overlay(merged: Path) -> ContainerRoot:
    """Only names the directory."""
    return ContainerRoot(os.open(merged, _OPEN))


def _is_unmounted(box: Box) -> bool:
    """Whether nothing of the container is mounted: it has ended, or was never made."""
    return box.container.state is ContainerState.EXITED or box.is_prepared


def _refuse_mounts(box: Box, root: ContainerRoot, path: bytes, is_view: bool) -> None:
    """Raises `Conflict` for what is mounted only while the container runs."""
    config, real = box.container.config, root.resolved(path)
    mount = innermost(config.mount_points, real, root.resolved)
    if mount is not None and not (is_view and is_seen(mount)):
        raise Conflict(
            f"cannot copy {os.fsdecode(real)} of container {config.name}: {mount.destination} is"
            " mounted only while the container runs"
        )


def _check_writable(box: Box, root: ContainerRoot, path: bytes) -> None:
    """Raises `InvalidArgument` with Docker's texts."""
    config = box.container.config
    mount = innermost(config.mount_points, root.resolved(path), root.resolved)
    if mount is not None and mount.read_only:
        raise InvalidArgument(READ_ONLY_VOLUME)
    if mount is None and config.spec.read_only:
        raise InvalidArgument(READ_ONLY)


def _unpack(
    file: Path,
    stop: threading.Event,
    root: ContainerRoot,
    place: Wanted,
    keep_kinds: bool,
    owner: tuple[int, int] | None,
) -> None:
    room = Room(file.parent, stop.is_set)
    with file.open("rb") as stream:
        unpack_into(root, place, stream, room, keep_kinds=keep_kinds, owner=owner)


def _close(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


def not_copied(path: str, container: str, error: OSError) -> WeftError:
    """A path that no file can have is the client's fault."""
    kind = InvalidArgument if error.errno == ENAMETOOLONG else OperationFailed
    return kind(f"cannot copy {clip(path)} of container {container}: {cause_of(error)}")
