"""Copies the files that an image has at the target of a mount into a new volume, as Docker does:
owners, modes, times, extended attributes, symbolic and hard links, holes, devices.

Blocks: call it in a thread. Another container may have the volume and change it meanwhile. So the
kernel resolves each directory below the two descriptors and follows no link, each entry is made new
in a directory that is open, and nothing that exists is opened or changed.
"""

import errno
import os
import stat
import threading
from contextlib import ExitStack, suppress

from weft.errors import OperationFailed, cause_of
from weft.system.trees import open_beneath, open_inside

_CHUNK = 8 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP)
_NOT_COPIED = ("security.selinux",)
"""Attributes that belong to the place and not to the file."""


class StoppedError(OperationFailed):
    """The work was given up, because nobody waits for it."""


def open_directory(root: int, path: str) -> int | None:
    """A descriptor of the directory at `path` of a container; None if it is missing or something
    else. Raises `OSError`."""
    try:
        return open_inside(root, os.fsencode(path), _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_empty(directory: int) -> bool:
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def copy_tree(source: int, target: int, stop: threading.Event) -> None:
    """Copies the content of a directory, and its owner, mode and attributes, to an empty one.
    Raises `OperationFailed`; then what had been copied is removed."""
    copy = _Copy(source, target, stop)
    try:
        copy.run()
    except BaseException as error:
        copy.undo()
        if not isinstance(error, OSError):
            raise
        where = os.fsdecode(copy.place) or "."
        raise OperationFailed(f"cannot copy {where}: {cause_of(error)}") from error


class _Copy:
    def __init__(self, source: int, target: int, stop: threading.Event) -> None:
        self._source, self._target, self._stop = source, target, stop
        self._linked: dict[tuple[int, int], bytes] = {}
        """For files with several names: where the first was copied to."""
        self._made: list[tuple[bytes, bool]] = []
        """Paths in the order in which they were made, and whether they are directories."""
        self.place = b""
        """The path, in the tree, of what is being copied."""

    def run(self) -> None:
        open_, done = [b""], []
        while open_:
            path = open_.pop()
            done.append(path)
            open_ += self._copy_directory(path)
        for path in reversed(done):  # making entries changes the time of a directory
            self._copy_times(path)

    def undo(self) -> None:
        """Removes what was made; directories to which somebody else has added something stay."""
        for path, is_directory in reversed(self._made):
            with suppress(OSError):
                parent = open_beneath(self._target, os.path.dirname(path) or b".", _DIRECTORY)
                try:
                    remove = os.rmdir if is_directory else os.unlink
                    remove(os.path.basename(path), dir_fd=parent)
                finally:
                    os.close(parent)

    def _copy_directory(self, path: bytes) -> list[bytes]:
        """The paths of the directories in it, which were made and are empty."""
        below = []
        self.place = path
        with ExitStack() as cleanup:
            here = open_beneath(self._source, path or b".", _DIRECTORY)
            cleanup.callback(os.close, here)
            there = open_beneath(self._target, path or b".", _DIRECTORY)
            cleanup.callback(os.close, there)
            _copy_owner_and_mode(os.fstat(here), there)
            _copy_attributes(f"/proc/self/fd/{here}", f"/proc/self/fd/{there}", follow=True)
            for text in sorted(os.listdir(here)):
                name = os.fsencode(text)
                self.place = os.path.join(path, name)
                self._check()
                if self._copy_entry(here, there, name):
                    below.append(self.place)
        return below

    def _copy_entry(self, here: int, there: int, name: bytes) -> bool:
        """Returns whether it is a directory."""
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=there)
            self._made.append((self.place, True))
            return True
        self._made.append((self.place, False))
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and key in self._linked:
            self._link(self._linked[key], there, name)
            return False
        if kind == stat.S_IFREG:
            self._copy_file(here, there, name)
        else:
            self._copy_special(here, there, name, found)
        if found.st_nlink > 1:
            self._linked[key] = self.place
        return False

    def _link(self, first: bytes, there: int, name: bytes) -> None:
        made = open_beneath(self._target, first, os.O_PATH | os.O_NOFOLLOW)
        try:
            os.link(f"/proc/self/fd/{made}", name, dst_dir_fd=there, follow_symlinks=True)
        finally:
            os.close(made)

    def _copy_file(self, here: int, there: int, name: bytes) -> None:
        with ExitStack() as cleanup:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            old = os.open(name, flags, dir_fd=here)
            cleanup.callback(os.close, old)
            new = os.open(name, _NEW, 0o600, dir_fd=there)
            cleanup.callback(os.close, new)
            found = os.fstat(old)
            self._copy_content(old, new, found.st_size)
            _copy_owner_and_mode(found, new)
            _copy_attributes(f"/proc/self/fd/{old}", f"/proc/self/fd/{new}", follow=True)
            os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _copy_content(self, old: int, new: int, size: int) -> None:
        """Copies the parts that are not holes."""
        os.ftruncate(new, size)
        position = 0
        while position < size:
            try:
                position = os.lseek(old, position, os.SEEK_DATA)
                end = os.lseek(old, position, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            os.lseek(old, position, os.SEEK_SET)
            os.lseek(new, position, os.SEEK_SET)
            while position < end:
                self._check()
                sent = os.sendfile(new, old, None, min(_CHUNK, end - position))
                if not sent:
                    return
                position += sent

    def _copy_special(self, here: int, there: int, name: bytes, found: os.stat_result) -> None:
        """A symbolic link, device, FIFO or socket."""
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=there)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=there, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=there)
            try:  # mknod(2) left out what the umask hides
                os.chmod(f"/proc/self/fd/{made}", stat.S_IMODE(found.st_mode))
            finally:
                os.close(made)
        _copy_attributes(_named(here, name), _named(there, name), follow=False)
        moments = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=moments, dir_fd=there, follow_symlinks=False)

    def _copy_times(self, path: bytes) -> None:
        with ExitStack() as cleanup:
            here = open_beneath(self._source, path or b".", _DIRECTORY)
            cleanup.callback(os.close, here)
            there = open_beneath(self._target, path or b".", _DIRECTORY)
            cleanup.callback(os.close, there)
            found = os.fstat(here)
            os.utime(there, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError("cannot copy the image's files: given up")


def _named(directory: int, name: bytes) -> str:
    return f"/proc/self/fd/{directory}/{os.fsdecode(name)}"


def _copy_owner_and_mode(found: os.stat_result, made: int) -> None:
    """The owner first: a change of the owner clears set-user-ID."""
    os.fchown(made, found.st_uid, found.st_gid)
    os.fchmod(made, stat.S_IMODE(found.st_mode))


def _copy_attributes(old: str, new: str, *, follow: bool) -> None:
    """Leaves out the attributes that the volume's file system does not have."""
    try:
        names = os.listxattr(old, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return
        raise
    for name in names:
        if name not in _NOT_COPIED:
            try:
                value = os.getxattr(old, name, follow_symlinks=follow)
                os.setxattr(new, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (*_UNSUPPORTED, errno.ENODATA):
                    raise


def tree_size(directory: int) -> int:
    """Bytes of the files in a directory; several names of one file count once. What vanishes
    meanwhile, and what lies deeper than the longest path, does not count."""
    sizes, open_ = dict[tuple[int, int], int](), [b"."]
    while open_:
        path = open_.pop()
        with suppress(OSError):
            open_ += _measure(directory, path, sizes)
    return sum(sizes.values())


def _measure(root: int, path: bytes, sizes: dict[tuple[int, int], int]) -> list[bytes]:
    """Adds the sizes of the files in one directory; returns the paths of the directories in it."""
    below = []
    here = open_beneath(root, path, _DIRECTORY)
    try:
        for name in map(os.fsencode, os.listdir(here)):
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                below.append(os.path.join(path, name))
            else:
                sizes[found.st_dev, found.st_ino] = found.st_size
    finally:
        os.close(here)
    return below
