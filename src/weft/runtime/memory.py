"""The files of a container that are nowhere but in memory: secrets and configs.

They are written into a file system of the container's own, which is mounted in the container's
directory only while the container is being made. The OCI runtime binds each file into the container,
read-only. Then the daemon takes its own mount away: from there on only the container's mount
namespace holds the file system, and the kernel forgets it with the container, whatever becomes of
the daemon.

It is a ramfs: unlike a tmpfs it is never written to swap. It has no limit of size, and needs none:
nobody can write to it any more when the container gets it. systemd keeps its credentials likewise.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.model.container import MemoryFile
from weft.runtime.mounts import mount_memory, protect_memory, unmount
from weft.system.files import make_directory

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def mounted(place: Path, files: Sequence[MemoryFile]) -> Iterator[None]:
    """Keeps the files at `place` while the container is made, named by their numbers. Raises
    `OperationFailed`."""
    try:
        if files:
            _put(place, files)
        yield
    finally:
        unmount(place)


def _put(place: Path, files: Sequence[MemoryFile]) -> None:
    try:
        make_directory(place, 0o700)
        mount_memory(place)
        for number, file in enumerate(files):
            _write(place / str(number), file)
        protect_memory(place)
    except OSError as error:
        raise OperationFailed(
            f"cannot keep secrets and configs in memory at {place}: {cause_of(error)}"
        ) from None


def _write(path: Path, file: MemoryFile) -> None:
    with open(os.open(path, _NEW, 0o600), "wb") as written:
        written.write(file.data)
        os.fchown(written.fileno(), file.uid, file.gid)
        os.fchmod(written.fileno(), file.mode)
