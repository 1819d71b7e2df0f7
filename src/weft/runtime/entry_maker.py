"""Makes a tar's entries in a directory tree: an image's layer, or files that a user copies into a
container. Neither the tar nor the tree is trusted.

The kernel opens every directory that an entry names with the tree's root as `/` (`system/trees.py`),
and the entry is made in it under a name without a slash. So no tar can write outside of the tree.
A running container may change the tree meanwhile: what is opened is what was checked, since both go
by descriptors, and no step follows a symbolic link that was not there to be followed.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import IO, Self

from weft.errors import cause_of
from weft.runtime.compression import CHUNK
from weft.runtime.malformed import Malformed, shown
from weft.runtime.room import Room
from weft.runtime.tar import Entry, Kind, Reader
from weft.system.trees import open_inside, remove_tree

OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
"""Only overlayfs may set these: they point into other layers."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_MAX = 4095
"""PATH_MAX without the terminator."""
NOT_ITS_FAULT = frozenset((
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
))  # fmt: skip
"""Errors that this host causes. The content of the tar causes all other errors of the system."""
_FORMATS = {
    Kind.CHARACTER_DEVICE: stat.S_IFCHR, Kind.BLOCK_DEVICE: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO,
}  # fmt: skip


class Parent(ExitStack):
    """The directory in which entries are made. With `keeps_time` it keeps the time that it had or
    that an earlier entry set: making an entry in it is not a change that the tar describes."""

    def __init__(self, path: bytes, fd: int, keeps_time: bool) -> None:
        super().__init__()
        self.path = path
        self.fd = fd
        self.callback(os.close, fd)
        status = os.fstat(fd)
        if keeps_time:
            self.callback(os.utime, fd, ns=(status.st_atime_ns, status.st_mtime_ns))


class EntryMaker:
    """Subclasses say what is special about their trees by overriding the methods that come first."""

    tree = "layer"
    """What the tree is, for errors."""

    def __init__(self, root: int, reader: Reader, room: Room, base: bytes = b"") -> None:
        """`root`: a descriptor of the tree's root, which the maker closes. `base`: names are
        relative to this directory of the tree."""
        self.fd = root
        self._base = base
        self._reader = reader
        self.room = room
        self._parent: Parent | None = None
        self._parent_may_be_gone = False

    # for subclasses

    def place(self, parent: int, name: bytes, entry: Entry) -> None:
        self.make(parent, name, entry)

    def keeps_time(self, path: bytes) -> bool:
        return True

    def check_parent(self, parent: int) -> None:
        """Raises `OSError` if nothing may be made in this directory."""

    def check_replaced(self, parent: int, name: bytes, there: os.stat_result, entry: Entry) -> None:
        """Raises `Malformed` if the entry may not replace what is there."""

    def owner(self, entry: Entry) -> tuple[int, int]:
        return entry.uid, entry.gid

    def finish_directory(self, fd: int, there: os.stat_result | None) -> None:
        """`there`: what the directory replaced, if anything."""

    # ---

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave_parent()
        os.close(self.fd)

    def add(self, entry: Entry) -> None:
        """Later entries replace earlier ones."""
        with _blame(entry):
            head, name = self._split("name", entry.name)
            if not name:
                return  # the tree's own directory, which Docker ignores too
            self.place(self._enter(self._below(head)), name, entry)

    def path_of(self, name: bytes) -> bytes:
        """Path in the tree of an entry of the directory that was entered last."""
        assert self._parent is not None
        return self._parent.path + b"/" + name if self._parent.path else name

    def _below(self, path: bytes) -> bytes:
        return b"/".join(part for part in (self._base, path) if part)

    # the directory of an entry

    def _enter(self, path: bytes) -> int:
        if self._parent is None or self._parent.path != path or self._parent_may_be_gone:
            self._leave_parent()
            try:
                fd = open_inside(self.fd, path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                fd = self._make_parents(path)
            self._parent = Parent(path, fd, self.keeps_time(path))
            self.check_parent(fd)
        return self._parent.fd

    def _leave_parent(self) -> None:
        if self._parent is not None:
            self._parent.close()
            self._parent = None
        self._parent_may_be_gone = False

    def _make_parents(self, path: bytes) -> int:
        """Goes one step at a time: a path of two thousand names costs two thousand steps."""
        fd = os.dup(self.fd)
        try:
            done = b""
            for name in path.split(b"/"):
                done += name
                below = self._enter_or_make(fd, name, done)
                os.close(fd)
                fd = below
                done += b"/"
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _enter_or_make(self, fd: int, name: bytes, path: bytes) -> int:
        with suppress(FileNotFoundError):
            try:
                return os.open(name, DIRECTORY, dir_fd=fd)
            except NotADirectoryError:  # O_NOFOLLOW and ODIRECTORY raise this for a link, too
                return open_inside(self.fd, path, os.O_RDONLY | os.O_DIRECTORY)
        self.room.take(0, files=1)
        with suppress(FileExistsError):  # a dangling link; the error of the next line names it
            os.mkdir(name, dir_fd=fd)
        made = os.open(name, DIRECTORY, dir_fd=fd)
        os.fchmod(made, 0o755)
        return made

    # making

    def make(self, parent: int, name: bytes, entry: Entry) -> None:
        self.room.take(0, files=1)
        there = self._take_away(parent, name, entry)
        match entry.kind:
            case Kind.FILE:
                self._make_file(parent, name, entry)
            case Kind.DIRECTORY:
                self._make_directory(parent, name, entry, there)
            case Kind.HARD_LINK:
                self._link(parent, name, entry)
            case Kind.SYMLINK:
                os.symlink(entry.target, name, dir_fd=parent)
                uid, gid = self.owner(entry)
                os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
                set_attributes(_path(parent, name), entry.attributes)
                times = (entry.mtime, entry.mtime)
                os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            case _:
                format = _FORMATS[entry.kind]
                os.mknod(name, format | 0o600, os.makedev(*entry.device), dir_fd=parent)
                self._finish_special(parent, name, entry, format)

    def _take_away(self, parent: int, name: bytes, entry: Entry) -> os.stat_result | None:
        """Removes what a new entry replaces, and returns its status. A directory does not replace a
        directory."""
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        self.check_replaced(parent, name, there, entry)
        if not stat.S_ISDIR(there.st_mode):
            os.unlink(name, dir_fd=parent)
        elif entry.kind is not Kind.DIRECTORY:
            self.remove_directory(parent, name)
        else:
            return there
        self._parent_may_be_gone = True  # its path may contain a link through the removed entry
        return there

    def remove_directory(self, parent: int, name: bytes) -> None:
        remove_tree(name, dir_fd=parent)

    def _make_file(self, parent: int, name: bytes, entry: Entry) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        with open(fd, "wb", buffering=0) as file:
            if entry.segments is None:
                self._copy(file)
            else:
                for offset, length in entry.segments.places:
                    file.seek(offset)
                    self._copy(file, length)
                file.truncate(entry.segments.size)
            self._set_metadata(fd, entry)

    def _copy(self, file: IO[bytes], length: int | None = None) -> None:
        """Copies the current entry's content, or `length` bytes of it."""
        left = self._reader.left if length is None else length
        while left:
            data = self._reader.read(min(left, CHUNK))
            left -= len(data)
            while data:
                data = data[file.write(data) :]

    def _make_directory(
        self, parent: int, name: bytes, entry: Entry, there: os.stat_result | None
    ) -> None:
        if there is None or not stat.S_ISDIR(there.st_mode):
            os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, DIRECTORY, dir_fd=parent)
        try:
            self.check_parent(fd)
            os.fchown(fd, *self.owner(entry))
            os.fchmod(fd, entry.mode)
            set_attributes(fd, entry.attributes)
            self.finish_directory(fd, there)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _finish_special(self, parent: int, name: bytes, entry: Entry, format: int) -> None:
        """For devices and FIFOs, which must not be opened: a descriptor that only names them."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != format:
                raise Malformed("something else has taken its place")
            self._set_metadata(b"/proc/self/fd/%d" % fd, entry)
        finally:
            os.close(fd)

    def _set_metadata(self, target: int | bytes, entry: Entry) -> None:
        """Attributes last but for the time: chown(2) removes capabilities."""
        os.chown(target, *self.owner(entry))
        os.chmod(target, entry.mode)
        set_attributes(target, entry.attributes, follow=True)
        os.utime(target, ns=(entry.mtime, entry.mtime))

    def _link(self, parent: int, name: bytes, entry: Entry) -> None:
        head, target = self._split("target", entry.target)
        if not target:
            raise Malformed(f"it is a hard link to the {self.tree}'s own directory")
        source = open_inside(self.fd, self._below(head), os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _split(self, what: str, path: bytes) -> tuple[bytes, bytes]:
        """Directory and name, without `.` and `..`; both empty for the root. Raises `Malformed` if
        the path leaves the root."""
        if len(path) > _NAME_MAX:
            raise Malformed(f"its {what} has {len(path)} bytes")
        parts: list[bytes] = []
        for part in path.split(b"/"):
            if part == b"..":
                if not parts:
                    raise Malformed(f"its {what} leads out of the {self.tree}")
                parts.pop()
            elif part not in (b"", b"."):
                parts.append(part)
        return b"/".join(parts[:-1]), parts[-1] if parts else b""


@contextmanager
def _blame(entry: Entry) -> Iterator[None]:
    """Adds the entry's name to errors."""
    try:
        yield
    except Malformed as error:
        raise Malformed(f"entry {shown(entry.name)}: {error}") from error
    except OSError as error:
        if error.errno in NOT_ITS_FAULT:
            raise
        raise Malformed(
            f"entry {shown(entry.name)} ({entry.kind}) cannot be made: {cause_of(error)}"
        ) from error


def _path(parent: int, name: bytes) -> bytes:
    """A path for system calls that accept no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (parent, name)


def set_attributes(
    target: int | bytes, attributes: tuple[tuple[bytes, bytes], ...], follow: bool = False
) -> None:
    """Call after chown(2), which removes capabilities. Attributes that the file system does not
    support are skipped, as in Docker."""
    for key, value in attributes:
        if not key.startswith(OVERLAY_XATTRS):
            try:
                os.setxattr(target, key, value, follow_symlinks=follow or isinstance(target, int))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
