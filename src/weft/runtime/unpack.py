"""Unpacks one layer's tar into a directory, in the form that overlayfs reads.

The tar is not trusted. The kernel opens every directory that an entry names with the layer's
directory as `/` (`system/trees.py`), and the entry is made in it under a name without a slash, so
no tar can write outside. `.wh.name` (OCI image-spec, layer.md, "Whiteouts") becomes overlayfs'
device 0/0, an opaque directory gets `trusted.overlay.opaque`.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from weft.errors import cause_of
from weft.runtime.compression import CHUNK, Source, Stream, decompressed
from weft.runtime.malformed import Malformed, shown
from weft.runtime.room import Room
from weft.runtime.tar import Entry, Kind, Reader
from weft.system.trees import open_inside, remove_tree

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_OPAQUE_XATTR = "trusted.overlay.opaque"
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
"""Only overlayfs may set these; in an image they would point into other layers."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRAILER_MAX = 16 << 20
"""Bytes that may follow the end of a tar: writers pad their last record."""
_NAME_MAX = 4095
"""PATH_MAX without the terminator."""
_NOT_ITS_FAULT = frozenset((
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
))  # fmt: skip
"""Errors that this host causes. The layer's content causes all other errors of the system."""


def unpack(stream: Stream, directory: Path, room: Room) -> tuple[str, int]:
    """Unpacks a tar, plain or compressed; returns the digest of the plain tar and the bytes of its
    files. Raises `Malformed`; `OperationFailed` or `OSError` if this host is the cause;
    `Stopped`."""
    plain = _Hashed(decompressed(stream), room)
    reader = Reader(plain)
    size = 0
    with _Root(directory, reader, room) as root:
        for entry in reader.entries():
            root.add(entry)
            size += entry.size
    _read_trailer(plain)
    return f"sha256:{plain.digest.hexdigest()}", size


class _Hashed:
    """A stream that computes the digest of the data that is read from it."""

    def __init__(self, source: Source, room: Room) -> None:
        self._source = source
        self._room = room
        self.digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._room.take(len(data))
        self.digest.update(data)
        return data


def _read_trailer(plain: _Hashed) -> None:
    """Reads to the end, because the digest covers the whole stream."""
    length = 0
    while data := plain.read(CHUNK):
        length += len(data)
        if length > _TRAILER_MAX:
            raise Malformed(f"more than {_TRAILER_MAX} bytes follow the end of its tar")


class _Parent(ExitStack):
    """The directory in which entries are made. It keeps the time that it had or that an earlier
    entry set: making an entry in it is not a change that the image describes."""

    def __init__(self, path: bytes, fd: int) -> None:
        super().__init__()
        self.path = path
        self.fd = fd
        self.callback(os.close, fd)
        status = os.fstat(fd)
        self.callback(os.utime, fd, ns=(status.st_atime_ns, status.st_mtime_ns))


class _Root:
    def __init__(self, directory: Path, reader: Reader, room: Room) -> None:
        self._fd = os.open(directory, _DIRECTORY)
        self._reader = reader
        self._room = room
        self._parent: _Parent | None = None
        self._parent_may_be_gone = False

    def __enter__(self) -> "_Root":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_parent()
        os.close(self._fd)

    def add(self, entry: Entry) -> None:
        """Later entries of a layer replace earlier ones."""
        with _blame(entry):
            head, name = _split("name", entry.name)
            if not name:
                return  # the layer's own directory, which Docker ignores too
            parent = self._enter(head)
            if name.startswith(_WHITEOUT):
                self._hide(parent, name)
            else:
                self._make(parent, name, entry)

    # the directory of an entry

    def _enter(self, path: bytes) -> int:
        if self._parent is None or self._parent.path != path or self._parent_may_be_gone:
            self._leave_parent()
            try:
                fd = open_inside(self._fd, path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                fd = self._make_parents(path)
            self._parent = _Parent(path, fd)
        return self._parent.fd

    def _leave_parent(self) -> None:
        if self._parent is not None:
            self._parent.close()
            self._parent = None
        self._parent_may_be_gone = False

    def _make_parents(self, path: bytes) -> int:
        """Goes one step at a time: a path of two thousand names costs two thousand steps."""
        fd = os.dup(self._fd)
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
                return os.open(name, _DIRECTORY, dir_fd=fd)
            except NotADirectoryError:  # O_NOFOLLOW and O_DIRECTORY raise this for a link, too
                return open_inside(self._fd, path, os.O_RDONLY | os.O_DIRECTORY)
        self._room.take(0, files=1)
        with suppress(FileExistsError):  # a dangling link; the error of the next line names it
            os.mkdir(name, dir_fd=fd)
        made = os.open(name, _DIRECTORY, dir_fd=fd)
        os.fchmod(made, 0o755)
        return made

    # making

    def _hide(self, parent: int, name: bytes) -> None:
        """A whiteout hides entries of the layers below. An entry of this layer stays; if it is a
        directory, only the content from the layers below is hidden."""
        if name == _OPAQUE:
            os.setxattr(parent, _OPAQUE_XATTR, b"y")
            return
        if name.startswith(_WHITEOUT_META):
            return  # metadata of aufs, which Docker ignores too
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise Malformed("invalid whiteout name")
        self._room.take(0, files=1)
        try:
            os.mknod(hidden, stat.S_IFCHR, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                os.setxattr(_path(parent, hidden), _OPAQUE_XATTR, b"y", follow_symlinks=False)

    def _make(self, parent: int, name: bytes, entry: Entry) -> None:
        self._room.take(0, files=1)
        there = self._take_away(parent, name, entry.kind)
        match entry.kind:
            case Kind.FILE:
                self._make_file(parent, name, entry)
            case Kind.DIRECTORY:
                if there is None or not stat.S_ISDIR(there.st_mode):
                    os.mkdir(name, 0o700, dir_fd=parent)
                _set_metadata_of_directory(parent, name, entry, opaque=_is_whiteout(there))
            case Kind.HARD_LINK:
                self._link(parent, name, entry)
            case Kind.SYMLINK:
                os.symlink(entry.target, name, dir_fd=parent)
                _set_metadata(parent, name, entry)
            case Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
                kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER_DEVICE else stat.S_IFBLK
                os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
                _set_metadata(parent, name, entry)
            case Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=parent)
                _set_metadata(parent, name, entry)

    def _take_away(self, parent: int, name: bytes, kind: Kind) -> os.stat_result | None:
        """Removes the entry that a new one replaces, and returns the old entry's status. A
        directory does not replace a directory."""
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(there.st_mode):
            os.unlink(name, dir_fd=parent)
        elif kind is not Kind.DIRECTORY:
            remove_tree(name, dir_fd=parent)
        else:
            return there
        self._parent_may_be_gone = True  # its path may contain a link through the removed entry
        return there

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
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            _set_attributes(fd, entry.attributes)
            os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _copy(self, file: IO[bytes], length: int | None = None) -> None:
        """Copies the current entry's content, or `length` bytes of it."""
        left = self._reader.left if length is None else length
        while left:
            data = self._reader.read(min(left, CHUNK))
            left -= len(data)
            while data:
                data = data[file.write(data) :]

    def _link(self, parent: int, name: bytes, entry: Entry) -> None:
        head, target = _split("target", entry.target)
        if not target:
            raise Malformed("it is a hard link to the layer's own directory")
        source = open_inside(self._fd, head, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)


@contextmanager
def _blame(entry: Entry) -> Iterator[None]:
    """Adds the entry's name to errors."""
    try:
        yield
    except Malformed as error:
        raise Malformed(f"entry {shown(entry.name)}: {error}") from error
    except OSError as error:
        if error.errno in _NOT_ITS_FAULT:
            raise
        raise Malformed(
            f"entry {shown(entry.name)} ({entry.kind}) cannot be made: {cause_of(error)}"
        ) from error


def _split(what: str, path: bytes) -> tuple[bytes, bytes]:
    """Directory and name, without `.` and `..`; both empty for the root. Raises `Malformed` if the
    path leaves the root."""
    if len(path) > _NAME_MAX:
        raise Malformed(f"its {what} has {len(path)} bytes")
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise Malformed(f"its {what} leads out of the layer")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts[:-1]), parts[-1] if parts else b""


def _is_whiteout(there: os.stat_result | None) -> bool:
    return there is not None and stat.S_ISCHR(there.st_mode) and there.st_rdev == 0


def _set_metadata_of_directory(parent: int, name: bytes, entry: Entry, opaque: bool) -> None:
    """`opaque`: a whiteout hid the directory, so the content below stays hidden."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        _set_attributes(fd, entry.attributes)
        if opaque:
            os.setxattr(fd, _OPAQUE_XATTR, b"y")
        os.utime(fd, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(fd)


def _set_metadata(parent: int, name: bytes, entry: Entry) -> None:
    """For entries that cannot be opened. Nobody else changes the directory, so the name is still
    valid."""
    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(name, entry.mode, dir_fd=parent)
    _set_attributes(_path(parent, name), entry.attributes)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)


def _path(parent: int, name: bytes) -> bytes:
    """A path for system calls that accept no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (parent, name)


def _set_attributes(target: int | bytes, attributes: tuple[tuple[bytes, bytes], ...]) -> None:
    """Call after chown(2), which removes capabilities. Attributes that the file system does not
    support are skipped, as in Docker."""
    for key, value in attributes:
        if not key.startswith(_OVERLAY_XATTRS):
            try:
                os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
