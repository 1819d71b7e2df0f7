"""Tars as nobody's library would write them: every field of a header is the writer's to choose."""

import struct
from typing import NamedTuple

BLOCK = 512
END = b"\0" * 2 * BLOCK
_CHECKSUM = slice(148, 156)


class Item(NamedTuple):
    """An entry. Numbers are written as octal digits; bytes in the place of a number are written as
    they are."""

    name: bytes = b"file"
    content: bytes = b""
    type: bytes = b"0"
    target: bytes = b""
    mode: int | bytes = 0o644
    uid: int | bytes = 0
    gid: int | bytes = 0
    size: int | bytes | None = None
    """Of the content, if it is not said."""
    mtime: int | bytes = 1_600_000_000
    major: int | bytes = 0
    minor: int | bytes = 0
    magic: bytes = b"ustar\x0000"
    prefix: bytes = b""
    pax: tuple[tuple[bytes, bytes], ...] = ()
    """Records in a header before it."""
    long_name: bytes | None = None
    """GNU's L."""
    long_target: bytes | None = None
    """GNU's K."""
    checksum: bytes | None = None
    raw: tuple[tuple[int, bytes], ...] = ()
    """Bytes at offsets of the header, the last to be put there."""


def tar(*items: Item, end: bytes = END) -> bytes:
    return b"".join(map(entry, items)) + end


def entry(item: Item) -> bytes:
    before = b""
    if item.pax:
        before += entry(Item(b"PaxHeaders/x", records(*item.pax), b"x"))
    if item.long_name is not None:
        before += entry(Item(b"././@LongLink", item.long_name + b"\0", b"L"))
    if item.long_target is not None:
        before += entry(Item(b"././@LongLink", item.long_target + b"\0", b"K"))
    return before + header(item) + padded(item.content)


def header(item: Item) -> bytes:
    size = len(item.content) if item.size is None else item.size
    block = bytearray(
        struct.pack(
            "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
            item.name,
            number(item.mode, 8),
            number(item.uid, 8),
            number(item.gid, 8),
            number(size, 12),
            number(item.mtime, 12),
            b" " * 8,
            item.type,
            item.target,
            item.magic,
            b"",
            b"",
            number(item.major, 8),
            number(item.minor, 8),
            item.prefix,
        )
    )
    for offset, data in item.raw:
        block[offset : offset + len(data)] = data
    block = block[:BLOCK]
    block[_CHECKSUM] = b" " * 8
    block[_CHECKSUM] = (
        b"%06o\0 " % sum(block) if item.checksum is None else item.checksum[:8].ljust(8, b"\0")
    )
    return bytes(block)


def number(value: int | bytes, length: int) -> bytes:
    """Octal; in base 256 if it has no room or is negative, as GNU does it."""
    if isinstance(value, bytes):
        return value[:length]
    if 0 <= value < 8 ** (length - 1):
        return b"%0*o\0" % (length - 1, value)
    bits = 8 * length - 1
    low = value & ((1 << bits) - 1)
    return (low | 1 << bits).to_bytes(length, "big")


def records(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"".join(record(key, value) for key, value in pairs)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % BLOCK)
