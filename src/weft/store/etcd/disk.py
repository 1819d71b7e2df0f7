"""What a member of etcd has on its disk, read past its process: one that was started without a majority answers nobody until there is
one, not even with what it has (etcd-io/etcd#13524; 3.4 has no remedy).

The file is bbolt's: a B+ tree of pages. A commit writes pages that were free and then, in turn, one of the two meta pages; the pages
of a commit are untouched until the one after the next. So what was read is whole if the newest meta page is the same afterwards.

    meta page ─▶ root bucket ─▶ bucket `key`: revision, in order (8 bytes, `_`, 8 bytes; a `t` behind: deleted) ─▶ mvccpb.KeyValue
"""

import asyncio
import mmap
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft.errors import OperationFailed, Unavailable, cause_of
from weft.store.etcd.base import NO_MAJORITY, KeyValue, Range

_PAGE = struct.Struct("<QHHI")
"""id, flags, count of elements, overflow."""
_BRANCH_PAGE, _LEAF_PAGE = 1, 2
_META = struct.Struct("<4I6Q")
"""magic, version, page size, flags; root page, root sequence, free list, high-water mark, transaction, checksum."""
_MAGIC, _VERSION = 0xED0CDAED, 2
_BRANCH = struct.Struct("<IIQ")
"""position from here, size of the key, page."""
_LEAF = struct.Struct("<IIII")
"""flags, position from here, size of the key, of the value."""
_BUCKET = struct.Struct("<QQ")
"""root page (0: the page follows), sequence."""
_REVISION = struct.Struct(">Q")
_DELETED = 18
"""Size of a revision that deletes."""
_TEXT = 2
"""Protobuf's wire type of what has a length."""
_ATTEMPTS = 5


class Snapshot:
    """`store.etcd.base.Reader` of what was committed as far as the member knew."""

    def __init__(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """`pairs` in order of keys."""
        self._revision, self._pairs = revision, pairs
        self._keys = [pair.key for pair in pairs]

    @classmethod
    async def read(cls, data: Path) -> "Snapshot":
        """Of the member with that data directory. Raises `OperationFailed`, and `Unavailable` while it is being written."""
        return await asyncio.get_running_loop().run_in_executor(None, cls.of_file, data / "member" / "snap" / "db")

    @classmethod
    def of_file(cls, path: Path) -> "Snapshot":
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for _ in range(_ATTEMPTS):
                    meta = _newest(mapped)
                    found = _all_pairs(mapped, *meta[1:])
                    if _newest(mapped) == meta:
                        return cls(*found)
        except OSError as error:
            raise OperationFailed(f"cannot read {path}: {cause_of(error)}") from error
        except (LookupError, ValueError, struct.error, RecursionError) as error:
            raise OperationFailed(f"cannot read {path}: {error}") from error
        raise Unavailable(f"cannot read {path}: it is being written")

    async def range(self, key: str, end: str = "", *, limit: int = 0, revision: int = 0, serializable: bool = False) -> Range:
        if not serializable or revision not in (0, self._revision):
            raise Unavailable(NO_MAJORITY)
        first, last = bisect_left(self._keys, key), bisect_left(self._keys, end or key + "\0")
        found = self._pairs[first:last]
        return Range(self._revision, tuple(found[: limit or None]), 0 < limit < len(found))


def _newest(mapped: mmap.mmap) -> tuple[int, int, int]:
    """(transaction, page size, root page) of the last commit. Raises `ValueError` if the file is empty or none of bbolt's."""
    metas, size = [], mmap.PAGESIZE
    for number in (0, 1):
        at = number * size + _PAGE.size
        raw = mapped[at : at + _META.size]
        magic, version, page_size, _, root, _, _, _, transaction, checksum = _META.unpack(raw)
        if (magic, version) == (_MAGIC, _VERSION) and checksum == _fnv1a(raw[:-8]):
            size = page_size
            metas.append((transaction, page_size, root))
    if not metas:
        raise ValueError("it is no database of etcd, or damaged")
    return max(metas)


def _fnv1a(data: bytes) -> int:
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return digest


def _all_pairs(mapped: mmap.mmap, page_size: int, root: int) -> tuple[int, list[KeyValue]]:
    """(revision, the newest pair of each key that was not deleted, in order of keys)."""
    last, newest = 0, dict[str, KeyValue]()
    for revision, begin, end in _leaves(mapped, page_size, _bucket(mapped, page_size, root)):
        last = _REVISION.unpack_from(revision)[0]
        pair = _pair(mapped[begin:end])
        if len(revision) == _DELETED:
            newest.pop(pair.key, None)
        else:
            newest[pair.key] = pair
    return last, [newest[key] for key in sorted(newest)]


def _bucket(mapped: mmap.mmap, page_size: int, root: int) -> int:
    """Where its root page begins, in bytes."""
    for name, at, _ in _leaves(mapped, page_size, root * page_size):
        if name == b"key":
            page, _ = _BUCKET.unpack_from(mapped, at)
            return page * page_size if page else at + _BUCKET.size
    raise ValueError("it has no bucket of keys")


def _leaves(mapped: mmap.mmap, page_size: int, page: int) -> Iterator[tuple[bytes, int, int]]:
    """(key, where the value begins, where it ends) of all below the page that begins there, in order."""
    _, flags, count, _ = _PAGE.unpack_from(mapped, page)
    for at in range(page + _PAGE.size, page + _PAGE.size + count * _LEAF.size, _LEAF.size):
        if flags == _BRANCH_PAGE:
            yield from _leaves(mapped, page_size, _BRANCH.unpack_from(mapped, at)[2] * page_size)
        elif flags == _LEAF_PAGE:
            _, position, key, value = _LEAF.unpack_from(mapped, at)
            begin = at + position + key
            yield mapped[at + position : begin], begin, begin + value
        else:
            raise ValueError(f"page at {page} is damaged")


def _pair(message: bytes) -> KeyValue:
    """Of `mvccpb.KeyValue`, in protobuf's encoding: key 1, create_revision 2, mod_revision 3, version 4, value 5, lease 6."""
    numbers, texts, at = dict[int, int](), dict[int, bytes](), 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, at = _varint(message, at)
        if tag & 7 == _TEXT:
            texts[tag >> 3] = message[at : at + number]
            at += number
        elif tag & 7 == 0:
            numbers[tag >> 3] = number
        else:
            raise ValueError("a key of it is damaged")
    return KeyValue(texts[1].decode(), texts.get(5, b""), numbers.get(2, 0), numbers.get(3, 0), numbers.get(6, 0))


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends)"""
    number = shift = 0
    while message[at] & 0x80:
        number |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | message[at] << shift, at + 1
