"""Unpacks one layer's tar into a directory, in the form that overlayfs reads.

The tar is not trusted (`entry_maker.py`). `.wh.name` (OCI image-spec, layer.md, "Whiteouts") becomes
overlayfs' device 0/0, an opaque directory gets `trusted.overlay.opaque`.
"""

import hashlib
import os
import stat
from pathlib import Path

from weft.runtime.compression import CHUNK, Source, Stream, decompressed
from weft.runtime.entry_maker import DIRECTORY, EntryMaker
from weft.runtime.malformed import Malformed
from weft.runtime.outline import OutlineWriter
from weft.runtime.room import Room
from weft.runtime.tar import Entry, Kind, Reader

WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
OPAQUE = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
_TRAILER_MAX = 16 << 20
"""Bytes that may follow the end of a tar: writers pad their last record."""


def unpack(stream: Stream, directory: Path, outline: Path, room: Room) -> tuple[str, int]:
    """Unpacks a tar, plain or compressed, and writes its outline; returns the digest of the plain
    tar and the bytes of its files. Raises `Malformed`; `OperationFailed` or `OSError` if this host
    is the cause; `Stopped`."""
    size = 0
    with OutlineWriter(outline, room) as writer:
        plain = _Hashed(decompressed(stream), room, writer)
        reader = Reader(plain)
        with _Layer(os.open(directory, DIRECTORY), reader, room, writer) as root:
            for entry in reader.entries():
                root.add(entry)
                size += entry.size
        _read_trailer(plain)
    return f"sha256:{plain.digest.hexdigest()}", size


class _Hashed:
    """A stream that computes the digest of the data that is read from it."""

    def __init__(self, source: Source, room: Room, outline: OutlineWriter) -> None:
        self._source = source
        self._room = room
        self._outline = outline
        self.digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._room.take(len(data))
        self.digest.update(data)
        self._outline.take(data)
        return data


def _read_trailer(plain: _Hashed) -> None:
    """Reads to the end, because the digest covers the whole stream."""
    length = 0
    while data := plain.read(CHUNK):
        length += len(data)
        if length > _TRAILER_MAX:
            raise Malformed(f"more than {_TRAILER_MAX} bytes follow the end of its tar")


class _Layer(EntryMaker):
    def __init__(self, root: int, reader: Reader, room: Room, outline: OutlineWriter) -> None:
        super().__init__(root, reader, room)
        self._outline = outline

    def place(self, parent: int, name: bytes, entry: Entry) -> None:
        if name.startswith(WHITEOUT):
            self._hide(parent, name)
            return
        if entry.kind is Kind.FILE and entry.segments is None:
            self._outline.content(self.path_of(name), entry.size)
        self.make(parent, name, entry)

    def check_replaced(self, parent: int, name: bytes, there: os.stat_result, entry: Entry) -> None:
        both = stat.S_ISDIR(there.st_mode) and entry.kind is Kind.DIRECTORY
        if not both and not is_whiteout(there):
            self._outline.spoil()

    def _hide(self, parent: int, name: bytes) -> None:
        """A whiteout hides entries of the layers below. An entry of this layer stays; if it is a
        directory, only the content from the layers below is hidden."""
        if name == OPAQUE:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
            return
        if name.startswith(_WHITEOUT_META):
            return  # metadata of aufs, which Docker ignores too
        hidden = name.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise Malformed("invalid whiteout name")
        self.room.take(0, files=1)
        try:
            os.mknod(hidden, stat.S_IFCHR, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                path = b"/proc/self/fd/%d/%s" % (parent, hidden)
                os.setxattr(path, OPAQUE_XATTR, b"y", follow_symlinks=False)

    def finish_directory(self, fd: int, there: os.stat_result | None) -> None:
        """Where a whiteout hid the directory, the content below stays hidden."""
        if there is not None and is_whiteout(there):
            os.setxattr(fd, OPAQUE_XATTR, b"y")


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
