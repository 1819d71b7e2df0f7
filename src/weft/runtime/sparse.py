"""Sparse files in a tar: the archive has the content of some segments, and the rest is zeros.

The map of segments has four forms: GNU's binary map in the header and the blocks after it, and
three forms in pax records or before the content (GNU tar's manual, "Storing Sparse Files").
"""

import re
import struct
from collections.abc import Callable, Iterator

import msgspec

from weft.runtime.malformed import Malformed, shown

_MAP_MAX = 1 << 20
"""Bytes of a map in any form: the limit of Go's archive/tar."""
_BLOCK = 512
_PAIR = struct.Struct("12s12s")
_NUMBER = re.compile(rb"[0-9]{1,19}")
_LARGEST = 2**63 - 1


class Segments(msgspec.Struct, frozen=True):
    size: int
    """Bytes of the whole file."""
    places: tuple[tuple[int, int], ...]
    """Offset and length of each segment, in order; the sum of the lengths is the content's size."""


def gnu_map(header: bytes, next_block: Callable[[], bytes], content: int) -> Segments:
    """Four pairs in the header, then blocks of 21 pairs; each block has a flag whether another
    follows."""
    pairs = list(_pairs(header[386:482]))
    more, blocks = header[482], 0
    while more:
        blocks += 1
        if blocks * _BLOCK > _MAP_MAX:
            raise Malformed(f"the map of a sparse file has more than {_MAP_MAX} bytes")
        block = next_block()
        pairs += _pairs(block[:504])
        more = block[504]
    return _checked(_octal(header[483:495]), pairs, content)


def listed_map(size: int, numbers: tuple[bytes, ...], content: int) -> Segments:
    """Pax 0.0 and 0.1: alternating offsets and lengths."""
    values = [_decimal(text) for text in numbers]
    if len(values) % 2:
        raise Malformed("the map of a sparse file has an offset without a length")
    return _checked(size, list(zip(values[::2], values[1::2], strict=True)), content)


def leading_map(size: int, next_block: Callable[[], bytes], left: Callable[[], int]) -> Segments:
    """Pax 1.0: the number of segments, then offsets and lengths, one per line, in whole blocks
    before the content."""
    lines = _lines(next_block)
    count = _decimal(next(lines))
    if count > _MAP_MAX // 4:
        raise Malformed(f"the map of a sparse file has {count} segments")
    pairs = [(_decimal(next(lines)), _decimal(next(lines))) for _ in range(count)]
    return _checked(size, pairs, left())


def _lines(next_block: Callable[[], bytes]) -> Iterator[bytes]:
    text = b""
    for _ in range(_MAP_MAX // _BLOCK):
        text += next_block()
        *lines, text = text.split(b"\n")
        yield from lines
        if len(text) > _BLOCK:
            break
    raise Malformed(f"the map of a sparse file has no end within {_MAP_MAX} bytes")


def _checked(size: int, pairs: list[tuple[int, int]], content: int) -> Segments:
    end = total = 0
    for offset, length in pairs:
        if offset < end or offset + length > size:
            raise Malformed(f"the map of a sparse file is wrong at {offset}, {length}")
        end = offset + length
        total += length
    if total != content:
        raise Malformed(f"a sparse file has {content} bytes of content, and a map of {total}")
    return Segments(size, tuple(pairs))


def _pairs(area: bytes) -> Iterator[tuple[int, int]]:
    """Yields pairs until an empty one."""
    for offset, length in _PAIR.iter_unpack(area):
        if not offset.strip(b"\0 "):
            return
        yield _octal(offset), _octal(length)


def _octal(field: bytes) -> int:
    """Octal digits, or a binary number if the first bit is set; never negative."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << 95) - 1)
    else:
        text = field.strip(b"\0 ")
        if text.strip(b"01234567"):
            raise Malformed(f"the map of a sparse file has no number: {shown(text)}")
        value = int(text or b"0", 8)
    if value > _LARGEST:
        raise Malformed("the map of a sparse file has a number out of range")
    return value


def _decimal(text: bytes) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > _LARGEST:
        raise Malformed(f"the map of a sparse file has no number: {shown(text)}")
    return int(text)
