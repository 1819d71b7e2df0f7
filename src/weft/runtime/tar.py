"""Reads a tar of POSIX 1003.1 (ustar, pax) or GNU in one pass, and trusts nothing in it.

An entry is one header, the blocks before it about the same entry (pax records, GNU long names), and
its content. All numbers and names are checked before the reader yields an entry, everything that it
keeps about an entry is bounded, and nothing recurses. Where a tar can be read in two ways, this
file follows Go's archive/tar, which Docker uses.
"""

import re
import struct
from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec

from weft.model.meta import SECOND, Nanoseconds
from weft.runtime.compression import CHUNK, Source
from weft.runtime.malformed import Malformed, shown
from weft.runtime.sparse import Segments, gnu_map, leading_map, listed_map

BLOCK = 512
_ABOUT_MAX = 1 << 20
"""Bytes about one entry: Go's maxSpecialFileSize."""
_ABOUT = (b"x", b"g", b"L", b"K")
"""Types of blocks before an entry: the entry's pax records, the archive's pax records, a long name,
a long link target."""
_LAST_ID = 2**32 - 2
"""chown(2) reads 2**32 - 1 as "do not change"."""
_LAST_TIME: Nanoseconds = 2**63 - 1
_MAJORS, _MINORS = 1 << 12, 1 << 20
_XATTR = b"SCHILY.xattr."
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12s")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_MOMENT = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")


class Kind(StrEnum):
    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    DIRECTORY = "directory"
    FIFO = "FIFO"


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE,
    b"1": Kind.HARD_LINK, b"2": Kind.SYMLINK, b"3": Kind.CHARACTER_DEVICE, b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip
"""By type flag; S is GNU's sparse file."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    name: bytes
    """The name as written: it may be absolute, empty, or contain `..`, but no NUL."""
    kind: Kind
    target: bytes = b""
    """The target of a link."""
    mode: int = 0
    """Permissions, set-user-id, set-group-id and sticky."""
    uid: int = 0
    gid: int = 0
    mtime: Nanoseconds = 0
    device: tuple[int, int] = (0, 0)
    """Major, minor."""
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    """Extended attributes: name, value."""
    size: int = 0
    """Bytes of content in the archive; only files have content."""
    offset: int = 0
    """Offset of the content in the archive."""
    segments: Segments | None = None
    """For a sparse file: the places of its content."""


class Reader:
    """Iterate over `reader.entries()`; `reader.read` returns the content of the current entry."""

    def __init__(self, source: Source, skip: Callable[[int], None] | None = None) -> None:
        """`skip`: skips a number of bytes of `source` without reading them; raises `Malformed` if
        `source` has fewer."""
        self._source = source
        self._skip = skip or self._read_over
        self.left = 0
        """Bytes of the current entry's content that have not been read."""
        self._position = 0
        self._padding = 0

    def entries(self) -> Iterator[Entry]:
        """Raises `Malformed`."""
        about = _About()
        while (block := self._next_header()) is not None:
            header = _Header(block)
            if header.type in _ABOUT:
                self._begin_content(header.number("size", 124, 12))
                about.add(header.type, self._all_content())
                continue
            entry = self._entry(header, block, about)
            about = _About()
            yield entry
            self._pass(self.left + self._padding)
            self.left = self._padding = 0
        if not about.empty:
            raise Malformed("it ends between the name of an entry and the entry")

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the current entry's content; empty at its end."""
        if not self.left:
            return b""
        data = self._source.read(min(size, self.left))
        if not data:
            raise Malformed("it ends in the middle of an entry")
        self._position += len(data)
        self.left -= len(data)
        return data

    def _next_header(self) -> bytes | None:
        """None at the end: a block of zeros, or no block at all."""
        block = b""
        while len(block) < BLOCK and (data := self._source.read(BLOCK - len(block))):
            block += data
        self._position += len(block)
        if block and len(block) < BLOCK:
            raise Malformed("it ends in the middle of a header")
        return block if block.strip(b"\0") else None

    def _entry(self, header: "_Header", block: bytes, about: "_About") -> Entry:
        name = about.text(b"path", b"L") or header.name
        kind = _KINDS.get(header.type)
        if kind is None:
            raise Malformed(f"entry {shown(name)} has the unknown type {header.type!r}")
        size = about.number(b"size", _LAST_TIME)
        if size is None:
            size = header.number("size", 124, 12)
        has_content = kind is Kind.FILE
        self._begin_content(size if has_content else 0)
        segments = self._segments(header, block, about) if has_content else None
        name = about.text(b"GNU.sparse.name") or name
        if has_content and name.endswith(b"/"):
            kind = Kind.DIRECTORY  # the notation of tars from before POSIX
        return Entry(
            name=name,
            kind=kind,
            target=about.text(b"linkpath", b"K") or header.text(157, 100),
            mode=header.number("mode", 100, 8) & 0o7777,
            uid=_id(name, "owner", about.number(b"uid"), header, 108),
            gid=_id(name, "group", about.number(b"gid"), header, 116),
            mtime=_bounded(about.moment, header),
            device=_device(name, kind, header),
            attributes=about.attributes,
            size=self.left,
            offset=self._position,
            segments=segments,
        )

    def _segments(self, header: "_Header", block: bytes, about: "_About") -> Segments | None:
        if header.type == b"S":
            return gnu_map(block, self._raw_block, self.left)
        if about.text(b"GNU.sparse.major") == b"1" and about.text(b"GNU.sparse.minor") == b"0":
            return leading_map(about.sparse_size, self._content_block, lambda: self.left)
        if about.sparse:
            return listed_map(about.sparse_size, about.sparse, self.left)
        return None

    def _raw_block(self) -> bytes:
        """A block that continues a header."""
        block = b""
        while len(block) < BLOCK:
            data = self._source.read(BLOCK - len(block))
            if not data:
                raise Malformed("it ends in the middle of a header")
            block += data
        self._position += BLOCK
        return block

    def _content_block(self) -> bytes:
        """The next block of the current entry's content."""
        block = b""
        while len(block) < BLOCK:
            data = self.read(BLOCK - len(block))
            if not data:
                raise Malformed("the map of a sparse file ends in the middle")
            block += data
        return block

    def _begin_content(self, size: int) -> None:
        self.left, self._padding = size, -size % BLOCK

    def _all_content(self) -> bytes:
        if self.left > _ABOUT_MAX:
            raise Malformed(f"what it says about one entry has {self.left} bytes")
        parts = []
        while data := self.read(CHUNK):
            parts.append(data)
        self._pass(self._padding)
        return b"".join(parts)

    def _pass(self, size: int) -> None:
        self._skip(size)
        self._position += size

    def _read_over(self, size: int) -> None:
        while size:
            data = self._source.read(min(size, CHUNK))
            if not data:
                raise Malformed("it ends in the middle of an entry")
            size -= len(data)


class _Header:
    def __init__(self, block: bytes) -> None:
        fields = _HEADER.unpack(block)
        self._block = block
        self.type: bytes = fields[7]
        self.name = self.text(0, 100)
        self._check_sum(block, fields[6])
        prefix = self._prefix(block)
        if prefix:
            self.name = prefix + b"/" + self.name

    def _check_sum(self, block: bytes, field: bytes) -> None:
        """The sum of the header's bytes, with spaces in place of the sum itself; some old tars use
        signed bytes."""
        digits = field.strip(b"\0 ")
        said = -1 if digits.strip(b"01234567") else int(digits or b"0", 8)
        unsigned = sum(block) - sum(field) + 8 * 0x20
        if said == unsigned:
            return
        signed = unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
        if said != signed:
            raise Malformed("it is not a tar, or damaged: a header's checksum is wrong")

    def _prefix(self, block: bytes) -> bytes:
        """The beginning of a long name: POSIX has one, GNU uses the place for other data, and star
        has a shorter one."""
        if block[257:263] != b"ustar\0":
            return b""
        return self.text(345, 131 if block[508:512] == b"tar\0" else 155)

    def text(self, offset: int, length: int) -> bytes:
        return self._block[offset : offset + length].partition(b"\0")[0]

    def number(self, what: str, offset: int, length: int) -> int:
        """Raises `Malformed` if the field is no number or negative."""
        value = self.signed(what, offset, length)
        if value < 0:
            raise Malformed(f"the {what} of entry {shown(self.name)} is negative: {value}")
        return value

    def signed(self, what: str, offset: int, length: int) -> int:
        """Octal digits; or, if the first bit is set, two's complement in the other bits."""
        field = self._block[offset : offset + length]
        if field[0] & 0x80:
            bits = 8 * length - 1
            value = int.from_bytes(field, "big") & ((1 << bits) - 1)
            return value - (1 << bits) if value >> (bits - 1) else value
        text = field.lstrip(b" \0").partition(b"\0")[0].strip(b" ")
        if text.strip(b"01234567"):
            raise Malformed(f"the {what} of entry {shown(self.name)} is no number: {shown(text)}")
        return int(text or b"0", 8)


class _About:
    """The blocks before an entry."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self.sparse: tuple[bytes, ...] = ()
        """Alternating offsets and lengths, as in pax 0.0 and 0.1."""
        self.empty = True

    def add(self, type_: bytes, content: bytes) -> None:
        self.empty = False
        if type_ == b"x":
            records = list(_records(content))
            self._records.update(records)
            self.sparse = _listed(records)
        elif type_ != b"g":  # Docker ignores records about all entries
            self._records[type_] = content.partition(b"\0")[0]
        self.empty = type_ == b"g" and not self._records

    def text(self, *keys: bytes) -> bytes:
        """The first key's value that exists; empty if none does."""
        if not self._records:
            return b""  # the case of most entries
        return next((self._records[key] for key in keys if self._records.get(key)), b"")

    def number(self, key: bytes, largest: int = _LAST_ID) -> int | None:
        text = self.text(key)
        if not text:
            return None
        if not _DECIMAL.fullmatch(text) or int(text) > largest:
            raise Malformed(f"pax record {shown(key)} is no number up to {largest}: {shown(text)}")
        return int(text)

    @property
    def sparse_size(self) -> int:
        """Bytes of the whole sparse file."""
        keys = (b"GNU.sparse.realsize", b"GNU.sparse.size")
        sizes = [size for key in keys if (size := self.number(key, _LAST_TIME)) is not None]
        if not sizes:
            raise Malformed("a sparse file does not say its size")
        return sizes[0]

    @property
    def moment(self) -> Nanoseconds | None:
        text = self.text(b"mtime")
        if not text:
            return None
        match = _MOMENT.fullmatch(text)
        if match is None:
            raise Malformed(f"pax record 'mtime' is no moment: {shown(text)}")
        fraction = int((match[3] or b"").ljust(9, b"0")[:9])
        value = int(match[2]) * SECOND + fraction
        return -value if match[1] else value

    @property
    def attributes(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(
            (key.removeprefix(_XATTR), value)
            for key, value in self._records.items()
            if key.startswith(_XATTR)
        )


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`<length> <key>=<value>\\n`, where the length is that of the whole record."""
    start = 0
    while start < len(content):
        space = content.find(b" ", start, start + 21)
        digits = content[start:space] if space > 0 else b""
        end = start + int(digits) if _DECIMAL.fullmatch(digits) else 0
        if end <= space or end > len(content) or content[end - 1 : end] != b"\n":
            raise Malformed(f"its pax records are damaged at {shown(content[start : start + 40])}")
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        binary = key.startswith(_XATTR)  # only values of attributes may contain any byte
        if not key or not equals or b"\0" in key or (b"\0" in value and not binary):
            raise Malformed(f"pax record {shown(key)} is not allowed: {shown(value)}")
        yield key, value
        start = end


def _listed(records: list[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """A sparse file's map in the form of pax 0.1 (one record) or 0.0 (one record per number)."""
    for key, value in records:
        if key == b"GNU.sparse.map" and value:
            return tuple(value.split(b","))
    places = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
    numbers = [(places.index(key), value) for key, value in records if key in places]
    if any(place != index % 2 for index, (place, _) in enumerate(numbers)):
        raise Malformed("the map of a sparse file is out of order")
    return tuple(value for _, value in numbers)


def _id(name: bytes, what: str, said: int | None, header: _Header, offset: int) -> int:
    number = header.number(what, offset, 8) if said is None else said
    if number > _LAST_ID:
        raise Malformed(f"the {what} of entry {shown(name)} is out of range: {number}")
    return number


def _bounded(said: Nanoseconds | None, header: _Header) -> Nanoseconds:
    """A time that no file system can store becomes 1970, as in Docker."""
    moment = header.signed("mtime", 136, 12) * SECOND if said is None else said
    return moment if 0 <= moment <= _LAST_TIME else 0


def _device(name: bytes, kind: Kind, header: _Header) -> tuple[int, int]:
    if kind not in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        return 0, 0
    major, minor = header.number("device", 329, 8), header.number("device", 337, 8)
    if major >= _MAJORS or minor >= _MINORS:
        raise Malformed(f"entry {shown(name)} is a device that cannot be: {major}, {minor}")
    return major, minor
