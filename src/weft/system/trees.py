"""Directory trees that somebody else wrote: an image's layers, a container's root.

Nothing in such a tree may lead out of it, and no shape of the tree may break the code that walks
it. `open_inside` leaves the check to the kernel (openat2(2), Linux 5.6), so that no rename comes
between check and use.
"""

import ctypes
import errno
import os
import secrets
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

_SYS_OPENAT2 = 437
"""The same number on every architecture."""
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_TRIES = 100
"""openat2(2) fails with EAGAIN if something was renamed during a walk over `..`; so it is tried
again."""
_DEPTH = 50
"""How many directories are open at a time while a tree is removed."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


class NotRegularError(OSError):
    """The file to be read exists, but is not a regular file."""

    def __init__(self, mode: int) -> None:
        super().__init__(errno.EINVAL, f"it is {_KINDS[stat.S_IFMT(mode)]}, not a regular file")
        self.is_fifo = stat.S_ISFIFO(mode)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_inside(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """A descriptor of `path`, with the directory `root` (a descriptor) as `/`: neither `..` nor a
    symbolic link, absolute ones included, leads out of it. Raises `OSError`."""
    return _openat2(root, path, flags, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def open_beneath(root: int, path: bytes, flags: int, *, links: bool = False) -> int:
    """As `open_inside`, but a path that leads out is refused: EXDEV. `links`: whether symbolic
    links are followed, as long as they stay inside; else they are refused: ELOOP. Raises
    `OSError`."""
    resolve = _RESOLVE_BENEATH | (_RESOLVE_NO_MAGICLINKS if links else _RESOLVE_NO_SYMLINKS)
    return _openat2(root, path, flags, 0, resolve)


def _openat2(root: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    if b"\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_TRIES):
        fd: int = _libc.syscall(
            _SYS_OPENAT2, root, path or b".", ctypes.byref(how), ctypes.sizeof(how)
        )
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def read_file_inside(root: Path, path: str, limit: int) -> bytes:
    """The content of a regular file, in a tree whose owner may replace the file at any time. Never
    waits for the owner: only regular files are opened, since a FIFO waits for a writer and a device
    may do anything; nor does it wait for a lease on the file. Raises `NotRegularError`, and
    `OSError`, also for more than `limit` bytes."""
    with ExitStack() as cleanup:

        def held(descriptor: int) -> int:
            cleanup.callback(os.close, descriptor)
            return descriptor

        top = held(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        found = held(open_inside(top, os.fsencode(path), os.O_PATH))
        mode = os.fstat(found).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularError(mode)
        # This opens the file that was checked, even if its name now means another one.
        file = held(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        content = bytearray()
        while len(content) <= limit and (part := os.read(file, limit + 1 - len(content))):
            content += part
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return bytes(content)


def remove_tree(path: Path | bytes | str, dir_fd: int | None = None) -> None:
    """Removes a directory and all that is in it. Entries that are missing, or vanish meanwhile, are
    ignored. Symbolic links are removed, not followed. Raises `OSError`.

    The tree may be deeper than the longest path, the number of descriptors, or Python's recursion
    allow: directories that lie too deep are first moved up into `path`."""
    try:
        top = os.open(path, _DIRECTORY, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    try:
        _Removal(top).run()
    finally:
        os.close(top)
    with suppress(FileNotFoundError):
        os.rmdir(path, dir_fd=dir_fd)


class _Removal:
    def __init__(self, top: int) -> None:
        self._top = top
        self._token = secrets.token_hex(16)  # nobody in the tree can have a directory of that name
        self._moved = 0

    def run(self) -> None:
        while below := _emptied_of_files(self._top):
            for name in below:
                self._remove(self._top, name, 1)

    def _remove(self, parent: int, name: str, depth: int) -> None:
        try:
            directory = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            return
        try:
            while below := _emptied_of_files(directory):
                for child in below:
                    if depth < _DEPTH:
                        self._remove(directory, child, depth + 1)
                    else:
                        self._move_up(directory, child)
        finally:
            os.close(directory)
        with suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=parent)

    def _move_up(self, directory: int, name: str) -> None:
        self._moved += 1
        new = f"{self._token}-{self._moved}"
        with suppress(FileNotFoundError):
            os.rename(name, new, src_dir_fd=directory, dst_dir_fd=self._top)


def _emptied_of_files(directory: int) -> list[str]:
    """Removes all that is not a directory; gives the names of the directories that are left."""
    left = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.name)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=directory)
    return left
