"""The outline of an unpacked layer: all bytes of the layer's tar but the content of its files, in
their order. With the files, which are on the disk anyway, it gives back the tar, byte by byte; so a
layer can be saved and pushed under the digest that its image's configuration names.

The file is the size of the tar in eight bytes (0: the tar cannot be made again), then a gzip stream
of records:

    0, length (8 bytes), bytes               as they were in the tar
    1, size (8 bytes), length (2), name      the content of a file: its size, and its path in the layer

A tar cannot be made again if one of its entries has replaced another one: the first one's content
is gone. Docker refuses such layers, and no tool makes them.
"""

import gzip
import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from weft.errors import OperationFailed
from weft.runtime.compression import CHUNK
from weft.runtime.entry_maker import DIRECTORY
from weft.runtime.room import Room
from weft.system.trees import open_inside

_SIZE = struct.Struct(">Q")
_RAW, _FILE = struct.Struct(">BQ"), struct.Struct(">BQH")
_BYTES, _CONTENT = 0, 1
_LONGEST = 2**63 - 1
_TOGETHER = 1 << 16
"""Bytes that one record gathers."""


class OutlineWriter:
    """Writes the outline of a tar while the tar is read."""

    def __init__(self, path: Path, room: Room) -> None:
        """Raises `OSError`."""
        self._file = path.open("wb")
        self._file.write(_SIZE.pack(0))
        self._stream = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1, mtime=0)
        self._room = room
        self._gathered = bytearray()
        self._content_left = 0
        self._size = 0
        self._is_whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The size is written last: without it the outline counts as one of no use."""
        with self._file:
            if kind is None and self._is_whole:
                self._flush()
                self._stream.close()
                self._file.seek(0)
                self._file.write(_SIZE.pack(self._size))

    def take(self, data: bytes) -> None:
        """The next bytes of the tar. Raises `OSError`, `OperationFailed`."""
        self._size += len(data)
        skipped = min(len(data), self._content_left)
        self._content_left -= skipped
        if self._is_whole and skipped < len(data):
            self._gathered += memoryview(data)[skipped:]
            if len(self._gathered) >= _TOGETHER:
                self._flush()

    def content(self, path: bytes, size: int) -> None:
        """The next `size` bytes are the content of the layer's file `path`."""
        if size > _LONGEST:
            self.spoil()  # no tar is so long: it will end in the middle
        elif self._is_whole and size:
            self._flush()
            self._stream.write(_FILE.pack(_CONTENT, size, len(path)) + path)
            self._content_left = size

    def spoil(self) -> None:
        """The tar cannot be made again."""
        self._is_whole = False
        self._gathered.clear()

    def _flush(self) -> None:
        if self._gathered:
            before = self._file.tell()
            self._stream.write(_RAW.pack(_BYTES, len(self._gathered)))
            self._stream.write(self._gathered)
            self._gathered.clear()
            self._room.take(self._file.tell() - before)


def archive_size(outline: Path) -> int:
    """Bytes of the tar; 0 if it cannot be made again, or nothing is known of it."""
    try:
        with outline.open("rb") as file:
            return int(_SIZE.unpack(file.read(_SIZE.size))[0])
    except (OSError, struct.error):
        return 0


def archive(digest: str, outline: Path, layer: Path) -> Iterator[bytes]:
    """The layer's tar, in pieces. Raises `OperationFailed` at the end if its digest is another one,
    and earlier, as well as `OSError`, if something is missing."""
    found = hashlib.sha256()
    try:
        for piece in _pieces(outline, layer):
            found.update(piece)
            yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise OperationFailed(f"the outline of layer {digest} is damaged: {error}") from error
    if f"sha256:{found.hexdigest()}" != digest:
        raise OperationFailed(f"the files of layer {digest} are no longer those of its archive")


def _pieces(outline: Path, layer: Path) -> Iterator[bytes]:
    with ExitStack() as cleanup:
        file = cleanup.enter_context(outline.open("rb"))
        file.seek(_SIZE.size)
        stream = cast(BinaryIO, cleanup.enter_context(gzip.GzipFile(fileobj=file, mode="rb")))
        root = os.open(layer, DIRECTORY)
        cleanup.callback(os.close, root)
        while kind := stream.read(1):
            if kind[0] == _BYTES:
                yield from _exactly(stream, _SIZE.unpack(stream.read(_SIZE.size))[0])
            else:
                size, length = struct.unpack(">QH", stream.read(10))
                yield from _content(root, stream.read(length), size)


def _content(root: int, path: bytes, size: int) -> Iterator[bytes]:
    fd = open_inside(root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OperationFailed(f"{os.fsdecode(path)!r} is no longer a regular file")
        yield from _exactly(cast(BinaryIO, file), size)


def _exactly(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        data = stream.read(min(size, CHUNK))
        if not data:
            raise OperationFailed("a file of the layer, or its outline, is shorter than it was")
        size -= len(data)
        yield data
