"""Volumes of the driver `local`: `runtime.base.Volumes` for a real host.

<root>/volumes/<name>/   0701: only root makes or replaces anything here
        volume.json      the volume's labels and options, 0600: options may have a password in them
        _data            the files; for a volume with options, the place where they are mounted
        copying          exists while the image's files are copied into the volume: what a killed
                         daemon leaves of that is removed before the volume is used again
<root>/volumes/.new-*    a volume that is being made, .gone-*: being removed; both are cleared by
                         `load`

A directory becomes a volume by a rename, and stops being one by a rename, so a daemon that is
killed leaves a whole volume or none.

A volume whose volume.json is damaged stays as it is, is listed, and cannot be used: with its
options unknown, a database might begin anew on an empty directory. A directory that has `_data` and
no volume.json, as a backup may have put it there, becomes a volume without options.
"""

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from weft.errors import Damaged, InvalidArgument, NotFound, OperationFailed, cause_of
from weft.model.volume import Volume, check_name
from weft.runtime.copy_up import copy_tree, is_empty, open_directory, tree_size
from weft.runtime.mounts import is_mount_point, make_private, mount_points_below
from weft.runtime.threads import Threads
from weft.runtime.volume_mounts import VolumeMounts
from weft.system.files import make_directory, replace_file, sync_directory, sync_file_system
from weft.system.trees import remove_tree

log = logging.getLogger(__name__)

T = TypeVar("T")

_DATA, _RECORD, _COPYING = "_data", "volume.json", "copying"
_NEW, _GONE = ".new-", ".gone-"


class _Place(NamedTuple):
    """Where to copy from and to."""

    root: Path
    """A container's."""
    path: str
    """In the container."""
    data: Path
    """A volume's."""
    subpath: str
    """In the volume."""


class LocalVolumes:
    def __init__(self, root: Path, mounts: VolumeMounts | None = None) -> None:
        """`root` survives a reboot. Call `load` before any other method."""
        self._root = root.resolve() / "volumes"
        self.mounts = mounts or VolumeMounts()
        self._volumes: dict[str, Volume] = {}
        self._damage: dict[str, str] = {}
        """Why a volume cannot be used, by name."""
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._threads = Threads("volume", 4)

    # finding existing volumes

    def load(self) -> None:
        """Finds the volumes of the previous daemon and removes half made ones. Raises
        `OperationFailed` if the directory cannot be made or read."""
        try:
            make_directory(self._root, 0o701)
            make_private(self._root)
            for path in sorted(self._root.iterdir()):
                self._load(path)
        except OSError as error:
            raise OperationFailed(
                f"cannot read volumes in {self._root}: {cause_of(error)}"
            ) from error

    def _load(self, path: Path) -> None:
        if path.name.startswith((_NEW, _GONE)):
            self._threads.begin(_clear, path)
            return
        try:
            if path.is_symlink() or not path.is_dir():
                raise ValueError("it is not a directory")
            check_name(path.name)
            self._volumes[path.name] = self._read(path)
        except Damaged as error:
            log.error("volume.damaged volume=%s cause=%s", path.name, error)
            self._damage[path.name] = str(error)
            self._volumes[path.name] = Volume(name=path.name)
        except (ValueError, InvalidArgument) as error:
            log.warning("volume.skipped path=%s cause=%s", path, error)

    def _read(self, path: Path) -> Volume:
        """Raises `Damaged`, and `ValueError` for what is no volume."""
        record = path / _RECORD
        try:
            volume = msgspec.json.decode(record.read_bytes(), type=Volume)
            if volume.name != path.name:
                raise ValueError(f"it is the record of volume {volume.name!r}")
            return volume
        except FileNotFoundError:
            return self._rebuilt(path)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise Damaged(
                f"cannot read {record}: {cause_of(error)}. Restore the file, or remove the volume"
                f" (its files are in {path / _DATA})"
            ) from error

    def _rebuilt(self, path: Path) -> Volume:
        if not (path / _DATA).is_dir():
            raise ValueError(f"it has neither {_RECORD} nor {_DATA}")
        volume = Volume(name=path.name, created_at=path.stat().st_ctime_ns)
        log.warning("volume.rebuilt volume=%s cause=%s is missing", path.name, path / _RECORD)
        self._write(path, volume)
        return volume

    def _write(self, path: Path, volume: Volume) -> None:
        replace_file(path / _RECORD, msgspec.json.encode(volume), 0o600)

    # making and removing

    def all(self) -> list[Volume]:
        return list(self._volumes.values())

    def get(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    def path(self, name: str) -> Path:
        return self._root / name / _DATA

    async def create(self, volume: Volume) -> bool:
        check_name(volume.name)

        async def create() -> bool:
            if volume.name in self._volumes:
                return False
            await self._threads.finish(self._make, volume)
            self._volumes[volume.name] = volume
            log.info("volume.created volume=%s", volume.name)
            return True

        return await self._locked(volume.name, create)

    def _make(self, volume: Volume) -> None:
        draft = self._root / f"{_NEW}{secrets.token_hex(8)}"
        try:
            make_directory(draft, 0o701)
            make_directory(draft / _DATA, 0o755)
            self._write(draft, volume)
            draft.rename(self._root / volume.name)
            sync_directory(self._root)
        except OSError as error:
            _clear(draft)
            raise OperationFailed(
                f"error while creating volume root path '{self._root / volume.name}':"
                f" {cause_of(error)}"
            ) from error

    async def remove(self, name: str) -> None:
        async def remove() -> Path:
            self.get(name)
            await self.mounts.unmount(self.path(name))
            gone = await self._threads.finish(self._discard, name)
            del self._volumes[name]
            self._damage.pop(name, None)
            return gone

        gone = await self._locked(name, remove)
        await self._threads.finish(_clear, gone)
        log.info("volume.removed volume=%s", name)

    def _discard(self, name: str) -> Path:
        """Takes the volume's directory away. What somebody else has mounted in it is not removed
        with it."""
        mounted = mount_points_below(self._root / name)
        if mounted:
            raise OperationFailed(f"remove {name}: {mounted[0]} is mounted: unmount it first")
        gone = self._root / f"{_GONE}{secrets.token_hex(8)}"
        try:
            (self._root / name).rename(gone)
            sync_directory(self._root)
        except OSError as error:
            raise OperationFailed(f"remove {name}: {cause_of(error)}") from error
        return gone

    async def size(self, name: str) -> int:
        return await self._threads.finish(_size, self.path(name))

    # use

    async def mount(self, name: str) -> None:
        """Makes the volume ready for a container; does nothing if it is. Raises `OperationFailed`
        if that fails or takes too long."""

        async def mount() -> None:
            volume = self._usable(name)
            if volume.needs_mount:
                await self.mounts.mount(volume, self.path(name))
            if (self._root / name / _COPYING).exists():
                await self._threads.finish(self._forget_copy, name)

        await self._locked(name, mount)

    def _forget_copy(self, name: str) -> None:
        """Removes what a killed daemon had copied. Nobody has used the volume since."""
        log.warning("volume.emptied volume=%s cause=%r", name, "copying was not finished")
        try:
            _empty(self.path(name))
            (self._root / name / _COPYING).unlink()
        except OSError as error:
            raise OperationFailed(f"cannot empty volume {name}: {cause_of(error)}") from error

    def _usable(self, name: str) -> Volume:
        volume = self.get(name)
        if name in self._damage:
            raise Damaged(f"cannot use volume {name}: {self._damage[name]}")
        return volume

    async def unmount(self, name: str, is_used: Callable[[], bool]) -> None:
        """Undoes `mount`, unless the volume `is_used`, which is asked when nobody else is at work
        on it. Raises `OperationFailed`."""

        async def unmount() -> None:
            if name in self._volumes and not is_used():
                await self.mounts.unmount(self.path(name))

        await self._locked(name, unmount)

    def mounted(self) -> list[str]:
        """Names of the volumes with options that are mounted."""
        return [
            volume.name
            for volume in self._volumes.values()
            if volume.needs_mount and is_mount_point(self.path(volume.name))
        ]

    async def populate(
        self, name: str, root: Path, path: str, subpath: str, *, shared: bool
    ) -> None:
        """Copies the directory `path` of the container's root into the volume, or its `subpath`,
        if that is empty. `shared`: another container has the volume already. Raises
        `OperationFailed`, and then nothing was copied."""

        async def populate() -> None:
            self._usable(name)
            stop = threading.Event()
            place = _Place(root, path, self.path(name), subpath)
            await self._threads.run(stop, self._populate, name, place, shared, stop)

        await self._locked(name, populate)

    def _populate(self, name: str, place: "_Place", shared: bool, stop: threading.Event) -> None:
        mark = self._root / name / _COPYING
        try:
            with ExitStack() as cleanup:
                source = _held(cleanup, place.root, place.path)
                target = _held(cleanup, place.data, place.subpath or ".")
                if source is None or target is None or not is_empty(target):
                    return
                if not shared:
                    replace_file(mark, b"")
                try:
                    copy_tree(source, target, stop)
                    if not is_empty(source):
                        sync_file_system(place.data)
                finally:
                    mark.unlink(missing_ok=True)
        except (OSError, OperationFailed) as error:
            raise OperationFailed(f"failed to populate volume {name}: {cause_of(error)}") from error

    async def close(self) -> None:
        await self.mounts.close()

    async def _locked(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """One thing at a time is done with a volume."""
        lock, waiting = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = lock, waiting + 1
        try:
            async with lock:
                return await work()
        finally:
            lock, waiting = self._locks[name]
            if waiting == 1:
                del self._locks[name]
            else:
                self._locks[name] = lock, waiting - 1


def _opened(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _held(cleanup: ExitStack, root: Path, path: str) -> int | None:
    """A descriptor of a directory in a tree, until the clean-up; None if it is no directory."""
    top = _opened(root)
    cleanup.callback(os.close, top)
    found = open_directory(top, path)
    if found is not None:
        cleanup.callback(os.close, found)
    return found


def _size(path: Path) -> int:
    try:
        descriptor = _opened(path)
    except OSError as error:
        raise OperationFailed(f"cannot measure {path}: {cause_of(error)}") from error
    try:
        return tree_size(descriptor)
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    """Removes a directory that is no volume. What cannot be removed now is tried again by the next
    daemon."""
    try:
        remove_tree(path)
    except OSError as error:
        log.warning("volume.not_cleared path=%s cause=%s", path, cause_of(error))


def _empty(path: Path) -> None:
    """Removes the content of a directory. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(directory):
            try:
                os.unlink(name, dir_fd=directory)
            except IsADirectoryError:
                remove_tree(name, dir_fd=directory)
    finally:
        os.close(directory)
