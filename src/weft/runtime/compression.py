"""Compressed streams: gzip, bzip2, xz and zstd, recognised by their first bytes as in Docker.

A stream is a sequence of members, each complete in itself: parallel compressors write many. Every
step produces a bounded number of bytes, and a decoder's memory is bounded. So the reader decides
how much is ever produced from a stream that expands without end.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from weft.runtime.malformed import Malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 1 << 18
_WINDOW_BITS = 27
"""Limits one decoder to 128 MiB of memory: `xz -9` needs 65 MiB, and zstd(1) allows no more without
`--long`."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class Stream(Source, Protocol):
    def seek(self, position: int, /) -> int: ...


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes:
        """The bytes after the member, once its end is reached."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's decoder with the interface of the others: it keeps input that it has not processed."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


def _xz() -> _Decoder:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=1 << _WINDOW_BITS)


def _zstd() -> _Decoder:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_BITS})


_SKIPPED = tuple(bytes((number, 0x2A, 0x4D, 0x18)) for number in range(0x50, 0x60))
"""First bytes of zstd frames without content (RFC 8878, 3.1.2): some writers begin with one."""
_FORMATS: tuple[tuple[str, tuple[bytes, ...], Callable[[], _Decoder]], ...] = (
    ("gzip", (b"\x1f\x8b\x08",), _Gzip),
    ("bzip2", (b"BZh",), bz2.BZ2Decompressor),
    ("xz", (b"\xfd7zXZ\x00",), _xz),
    ("zstd", (b"\x28\xb5\x2f\xfd", *_SKIPPED), _zstd),
)
_DAMAGED = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, ValueError, EOFError)
"""Errors of the decoders; bzip2's is an `OSError`."""
_MAGIC = 6
"""Bytes that distinguish all formats."""


def decompressed(stream: Stream) -> Source:
    """`stream` itself if it is plain, otherwise its decompressed content. `stream` must be at its
    beginning and support `seek`."""
    beginning = stream.read(_MAGIC)
    stream.seek(0)
    for name, magic, decoder in _FORMATS:
        if beginning.startswith(magic):
            return _Decompressed(stream, name, decoder)
    return stream


class _Decompressed:
    def __init__(self, stream: Stream, name: str, decoder: Callable[[], _Decoder]) -> None:
        self._stream = stream
        self._name = name
        self._new = decoder
        self._member: _Decoder | None = decoder()
        self._input = b""
        self._output = b""
        self._given = 0
        """Bytes of the output that have been read: readers of headers take few at a time."""

    def read(self, size: int, /) -> bytes:
        """Raises `Malformed`."""
        if self._given == len(self._output):
            self._output, self._given = self._next_output(), 0
        data = self._output[self._given : self._given + size]
        self._given += len(data)
        return data

    def _next_output(self) -> bytes:
        while self._member is not None or self._begins_another():
            assert self._member is not None
            if not self._input and self._member.needs_input:
                self._input = self._stream.read(CHUNK)
                if not self._input:
                    raise Malformed(f"its {self._name} data ends in the middle")
            output = self._decode(self._member)
            if self._member.eof:
                self._input, self._member = self._member.unused_data, None
            if output:
                return output
        return b""

    def _begins_another(self) -> bool:
        """Zeros are allowed between members and at the end: gzip(1) and xz(1) allow padding."""
        following = self._input.lstrip(b"\0")
        while not following:
            data = self._stream.read(CHUNK)
            if not data:
                return False
            following = data.lstrip(b"\0")
        self._input, self._member = following, self._new()
        return True

    def _decode(self, member: _Decoder) -> bytes:
        data, self._input = self._input, b""
        try:
            return member.decompress(data, CHUNK)
        except _DAMAGED as error:
            raise Malformed(f"its {self._name} data is damaged: {error}") from error
