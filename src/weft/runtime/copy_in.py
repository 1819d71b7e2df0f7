"""Unpacks a tar that a user sends into a directory of a container. The container may be running, and
change the directory meanwhile: see `entry_maker.py`."""

import errno
import os
import stat

from weft.errors import InvalidArgument, OperationFailed, cause_of
from weft.runtime.compression import CHUNK, Stream, decompressed
from weft.runtime.container_root import ContainerRoot, Wanted
from weft.runtime.entry_maker import EntryMaker
from weft.runtime.malformed import Malformed, shown
from weft.runtime.room import Room
from weft.runtime.tar import Entry, Kind, Reader

READ_ONLY = "container rootfs is marked read-only"
READ_ONLY_VOLUME = "mounted volume is marked read-only"


def unpack_into(
    root: ContainerRoot,
    path: Wanted,
    stream: Stream,
    room: Room,
    *,
    keep_kinds: bool = False,
    owner: tuple[int, int] | None = None,
) -> None:
    """`keep_kinds`: refuses to replace a directory by something else and the other way round.
    `owner`: of everything that is made, in place of what the tar says. Raises `InvalidArgument`,
    `OperationFailed`, `Stopped`; `FileNotFoundError` if the path does not exist."""
    with root.found(path.path, follow=True) as (_, status):
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidArgument("extraction point is not a directory")
    plain = decompressed(stream)
    reader = Reader(plain)
    top = os.dup(root.fd)
    try:
        with _Files(root, top, reader, room, path.path, keep_kinds, owner) as maker:
            for entry in reader.entries():
                maker.add(entry)
        while plain.read(CHUNK):
            room.take(0)
    except Malformed as error:
        raise InvalidArgument(f"cannot copy to the container: {error}") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise InvalidArgument(READ_ONLY) from error
        raise OperationFailed(f"cannot copy to the container: {cause_of(error)}") from error


class _Files(EntryMaker):
    tree = "directory"

    def __init__(
        self,
        root: ContainerRoot,
        top: int,
        reader: Reader,
        room: Room,
        base: bytes,
        keep_kinds: bool,
        owner: tuple[int, int] | None,
    ) -> None:
        super().__init__(top, reader, room, base)
        self._root = root
        self._place = base
        self._keep_kinds = keep_kinds
        self._owner = owner

    def keeps_time(self, path: bytes) -> bool:
        return path != self._place

    def check_parent(self, parent: int) -> None:
        if self._root.is_hidden(os.fstat(parent)):
            raise PermissionError(errno.EPERM, "it is in /proc, /sys or /dev")

    def check_replaced(self, parent: int, name: bytes, there: os.stat_result, entry: Entry) -> None:
        was, becomes = stat.S_ISDIR(there.st_mode), entry.kind is Kind.DIRECTORY
        if self._keep_kinds and was and not becomes:
            raise Malformed(
                f"cannot overwrite directory {shown(name)} with non-directory {shown(entry.name)}"
            )
        if self._keep_kinds and becomes and not was:
            raise Malformed(
                f"cannot overwrite non-directory {shown(name)} with directory {shown(entry.name)}"
            )

    def remove_directory(self, parent: int, name: bytes) -> None:
        """Only an empty one. Below others there may be what the container does not own: a mount of
        the host's files."""
        os.rmdir(name, dir_fd=parent)

    def owner(self, entry: Entry) -> tuple[int, int]:
        return self._owner or super().owner(entry)
