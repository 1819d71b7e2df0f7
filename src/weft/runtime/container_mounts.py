"""Makes ready what is mounted into a container: volumes, and directories of the host.

A volume with options is mounted before its first container is made and unmounted after its last one
has ended: the containers' records say which have it, so a daemon that was killed leaves nothing
that the next one does not find. A subpath of a volume is opened by the kernel beneath the volume
and mounted by its descriptor, below the container's own directory, until the OCI runtime has made
the container; whoever exchanges a name for a link meanwhile changes nothing.

Paths of the host are looked at by programs of their own, which can be killed: they may be on a file
server that does not answer.
"""

import asyncio
import errno
import logging
import os
import platform
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from weft.errors import InvalidArgument, OperationFailed, cause_of
from weft.model.volume import MountPoint, volumes_of
from weft.runtime.mount_document import UserMounts, user_mounts
from weft.runtime.mounts import bind, mount_points_below, sharing_of, unmount
from weft.runtime.volume_mounts import HostPath, Sight
from weft.runtime.volumes import LocalVolumes
from weft.system.trees import open_beneath, open_inside, remove_tree

log = logging.getLogger(__name__)

_MISSING = os.strerror(errno.ENOENT).lower()
_SHARED = ("shared", "rshared")
_FOLLOWING = ("slave", "rslave")
_RECURSIVE_READ_ONLY = (5, 12)
"""The first Linux with mount_setattr(2)."""


class ContainerMounts:
    def __init__(self, volumes: LocalVolumes, users: Callable[[str], int]) -> None:
        """`users`: how many containers that have not ended have the volume of that name."""
        self._volumes = volumes
        self._users = users

    async def mount(self, points: Sequence[MountPoint]) -> None:
        """Mounts the volumes, and checks the paths of the host or makes them. Raises
        `InvalidArgument` or `OperationFailed`."""
        for name in sorted(volumes_of(points)):
            await self._volumes.mount(name)
        binds = [point for point in points if point.type == "bind"]
        wanted = [HostPath(point.source, _is_made(point)) for point in binds]
        for point, sight in zip(binds, await self._found(wanted), strict=False):
            _check_bind(point, sight)

    async def _found(self, wanted: Sequence[HostPath]) -> list[Sight]:
        try:
            return await self._volumes.mounts.find(wanted)
        except OperationFailed as error:
            raise _refusal(str(error)) from error

    async def unmount(self, points: Sequence[MountPoint]) -> None:
        """Unmounts the volumes that no other container has. Errors are logged: the next daemon
        tries again."""
        for name in sorted(volumes_of(points)):
            await self._unmount(name)

    async def _unmount(self, name: str) -> None:
        try:
            await self._volumes.unmount(name, lambda: self._users(name) > 0)
        except OperationFailed as error:
            log.warning("volume.unmount volume=%s cause=%s", name, error)

    async def unmount_unused(self) -> None:
        """Unmounts what a daemon left that was killed."""
        async with asyncio.TaskGroup() as group:
            for name in self._volumes.mounted():
                if not self._users(name):
                    log.warning("volume.unmounted volume=%s cause=%r", name, "nobody uses it")
                    group.create_task(self._unmount(name))

    async def populate(self, root: Path, points: Iterable[MountPoint]) -> None:
        """Copies the image's files into the volumes that are empty. `root`: the container's, which
        does not run yet. Raises `InvalidArgument` or `OperationFailed`."""
        for point in points:
            if point.type == "volume" and point.request is None:
                await asyncio.to_thread(_check_is_directory, root, point.destination)
            if point.copies:
                await self._volumes.populate(
                    point.name,
                    root,
                    point.destination,
                    point.subpath,
                    shared=self._users(point.name) > 1,
                )

    async def prepared(self, places: Path, points: Sequence[MountPoint]) -> UserMounts:
        """The mounts for the container's configuration. `places`: the directory where subpaths are
        mounted until `put_away`. Raises `InvalidArgument` or `OperationFailed`."""
        sources = {}
        for number, point in enumerate(points):
            if point.subpath:
                place = places / str(number)
                await asyncio.to_thread(_mount_subpath, Path(point.source), point, place)
                sources[point.destination] = str(place)
        return user_mounts(points, sources, recursive_read_only=recursive_read_only())


def put_away(places: Path) -> None:
    """Unmounts and removes the places of subpaths, if any."""
    if places.exists():
        for place in mount_points_below(places):
            unmount(place)
        remove_tree(places)


def recursive_read_only() -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _RECURSIVE_READ_ONLY


def _is_made(point: MountPoint) -> bool:
    options = point.request.bind if point.request is not None else None
    return options is not None and options.create_mountpoint


def _refusal(cause: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "bind": {cause}')


def _check_bind(point: MountPoint, sight: Sight) -> None:
    if sight.trouble == _MISSING:
        raise _refusal(f"bind source path does not exist: {point.source}")
    if sight.trouble:
        raise _refusal(f"cannot find {point.source}: {sight.trouble}")
    options = point.request.bind if point.request is not None else None
    if options is not None and options.read_only_force_recursive and not recursive_read_only():
        raise InvalidArgument("recursive read-only mounts need Linux 5.12 or later")
    if point.propagation in (*_SHARED, *_FOLLOWING):
        _check_propagation(point, sight.real)


def _check_propagation(point: MountPoint, real: Path) -> None:
    """Raises `InvalidArgument` with Docker's texts."""
    mounted, sharing = sharing_of(real)
    where = f"path {point.source} is mounted on {mounted} but it is not a shared"
    if point.propagation in _SHARED and "shared" not in sharing:
        raise InvalidArgument(f"{where} mount")
    if point.propagation in _FOLLOWING and not sharing & {"shared", "master"}:
        raise InvalidArgument(f"{where} or slave mount")


def _check_is_directory(root: Path, destination: str) -> None:
    """The target of an image's volume. Raises `InvalidArgument` with Docker's text."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_inside(top, os.fsencode(destination), os.O_PATH)
    except OSError:
        return  # the OCI runtime makes the directory, or says why it cannot
    finally:
        os.close(top)
    try:
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            raise InvalidArgument(
                f"cannot mount volume over existing file, file exists {destination}"
            )
    finally:
        os.close(found)


def _mount_subpath(volume: Path, point: MountPoint, place: Path) -> None:
    top = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_beneath(top, os.fsencode(point.subpath), os.O_PATH, links=True)
    except OSError as error:
        cause = "it leads out of the volume" if error.errno == errno.EXDEV else cause_of(error)
        raise InvalidArgument(
            f"cannot mount subpath {point.subpath} of volume {point.name}: {cause}"
        ) from error
    finally:
        os.close(top)
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if stat.S_ISDIR(os.fstat(found).st_mode):
            place.mkdir(mode=0o700)
        else:
            place.touch(mode=0o600)
        bind(found, place)
    except OSError as error:
        raise OperationFailed(
            f"cannot mount subpath {point.subpath} of volume {point.name}: {cause_of(error)}"
        ) from error
    finally:
        os.close(found)
