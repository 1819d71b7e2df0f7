"""Decodes and encodes DNS messages (RFC 1035 section 4, RFC 6891 for EDNS0).

Decoding takes bytes from any sender, so it checks every offset, and a compression pointer must
point backwards: no message can make the reader loop, or read beyond the message. Every defect of a
message raises `MalformedMessage`. Names are text without the final dot, in the case they came in; a
dot or backslash inside a label is written with a backslash, as in RFC 1035 section 5.1. Encoding
compresses names. An answer that does not fit ends after the last record that fits (TC set). This
module decides nothing.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

import msgspec

from weft.errors import InvalidArgument

A, PTR, MX, AAAA, OPT, ANY = 1, 12, 15, 28, 41, 255
"""Record types."""
IN = 1
"""The only class for which names exist here."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
"""Response codes."""

MAX_UDP = 512
"""Bytes of a UDP answer for a client that does not announce EDNS0 (RFC 1035 section 4.2.1)."""
MAX_TCP = 65535
MAX_NAME = 255
MAX_LABEL = 63

HEADER = struct.Struct("!6H")
_QUESTION_TAIL = struct.Struct("!2H")
_RECORD_TAIL = struct.Struct("!2HIH")
_POINTER = 0xC000

_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = (
    0x8000,
    0x0400,
    0x0200,
    0x0100,
    0x0080,
)


class MalformedMessage(InvalidArgument):
    """The bytes are not a DNS message; the text says where and why."""


class Question(msgspec.Struct, frozen=True):
    name: str
    type: int
    class_: int = IN


RecordData = IPv4Address | IPv6Address | str | bytes
"""The data of an A, AAAA or PTR record; the raw bytes for any other type."""


class Record(msgspec.Struct, frozen=True):
    name: str
    type: int
    ttl: int
    """Seconds."""
    data: RecordData
    class_: int = IN


class Message(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    response: bool = False
    opcode: int = 0
    authoritative: bool = False
    truncated: bool = False
    recursion_desired: bool = False
    recursion_available: bool = False
    rcode: int = NOERROR
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    udp_size: int | None = None
    """The UDP size that the sender announces by EDNS0, in bytes; None if there is no EDNS0."""


# --- bytes to values


def decode(data: bytes) -> Message:
    """The header, the questions, the answers, and EDNS0 from the additional records. Raises
    `MalformedMessage`."""
    if len(data) < HEADER.size:
        raise MalformedMessage(f"cannot read message: {len(data)} bytes are less than a header")
    id, flags, questions, answers, authorities, additional = HEADER.unpack_from(data)
    asked, offset = [], HEADER.size
    for _ in range(questions):
        question, offset = _read_question(data, offset)
        asked.append(question)
    answered = []
    for _ in range(answers):
        record, offset = _read_record(data, offset)
        answered.append(record)
    size = None
    for _ in range(authorities + additional):
        record, offset = _read_record(data, offset)
        if record.type == OPT:
            size = record.class_
    return Message(
        id=id,
        response=bool(flags & _RESPONSE),
        opcode=flags >> 11 & 0xF,
        authoritative=bool(flags & _AUTHORITATIVE),
        truncated=bool(flags & _TRUNCATED),
        recursion_desired=bool(flags & _RECURSION_DESIRED),
        recursion_available=bool(flags & _RECURSION_AVAILABLE),
        rcode=flags & 0xF,
        questions=tuple(asked),
        answers=tuple(answered),
        udp_size=size,
    )


def _read_question(data: bytes, offset: int) -> tuple[Question, int]:
    name, offset = read_name(data, offset)
    if offset + _QUESTION_TAIL.size > len(data):
        raise MalformedMessage(f"cannot read question at byte {offset}: the message ends")
    type_, class_ = _QUESTION_TAIL.unpack_from(data, offset)
    return Question(name, type_, class_), offset + _QUESTION_TAIL.size


def _read_record(data: bytes, offset: int) -> tuple[Record, int]:
    name, offset = read_name(data, offset)
    start = offset + _RECORD_TAIL.size
    if start > len(data):
        raise MalformedMessage(f"cannot read record at byte {offset}: the message ends")
    type_, class_, ttl, length = _RECORD_TAIL.unpack_from(data, offset)
    end = start + length
    if end > len(data):
        raise MalformedMessage(
            f"cannot read record at byte {offset}: {length} bytes of data, {len(data) - start} are"
            " there"
        )
    return Record(name, type_, ttl, _read_data(data, type_, start, end), class_), end


def _read_data(data: bytes, type_: int, start: int, end: int) -> RecordData:
    length = end - start
    if type_ == A and length == 4:
        return IPv4Address(data[start:end])
    if type_ == AAAA and length == 16:
        return IPv6Address(data[start:end])
    if type_ == PTR:
        return _name_until(data, start, end)
    if type_ in (A, AAAA):
        raise MalformedMessage(f"cannot read record of type {type_}: {length} bytes of data")
    return data[start:end]


def _name_until(data: bytes, start: int, end: int) -> str:
    name, after = read_name(data, start)
    if after != end:
        raise MalformedMessage(
            f"cannot read name at byte {start}: it ends at {after}, its record at {end}"
        )
    return name


def read_name(data: bytes, offset: int) -> tuple[str, int]:
    """(name, offset behind it). A pointer must point before its own place, so a chain of pointers
    ends."""
    labels: list[str] = []
    limit, behind, length = offset, 0, 1
    while True:
        if offset >= len(data):
            raise MalformedMessage(f"cannot read name at byte {offset}: the message ends")
        size = data[offset]
        if size >= 0xC0:
            if offset + 2 > len(data):
                raise MalformedMessage(f"cannot read pointer at byte {offset}: the message ends")
            target = (size & 0x3F) << 8 | data[offset + 1]
            if target >= limit:
                raise MalformedMessage(
                    f"cannot follow pointer at byte {offset}: {target} is not before it"
                )
            behind = behind or offset + 2
            limit = offset = target
            continue
        if size > MAX_LABEL:
            raise MalformedMessage(f"cannot read label at byte {offset}: unknown type {size:#x}")
        offset += 1
        if size == 0:
            return ".".join(labels), behind or offset
        length += size + 1
        if length > MAX_NAME or offset + size > len(data):
            raise MalformedMessage(f"cannot read label at byte {offset}: {size} bytes are too many")
        labels.append(_label(data[offset : offset + size]))
        offset += size


def _label(raw: bytes) -> str:
    text = raw.decode("latin-1")
    return text.replace("\\", "\\\\").replace(".", "\\.") if "." in text or "\\" in text else text


# --- values to bytes


def encode(message: Message, limit: int = MAX_TCP) -> bytes:
    """At most `limit` bytes: answers that do not fit are left out and TC is set. Raises
    `InvalidArgument` for an invalid name."""
    tail = (
        b"" if message.udp_size is None else b"\0" + _RECORD_TAIL.pack(OPT, message.udp_size, 0, 0)
    )
    out = bytearray(HEADER.size)
    known: dict[str, int] = {}
    for question in message.questions:
        write_name(out, question.name, known)
        out += _QUESTION_TAIL.pack(question.type, question.class_)
    written, truncated = 0, message.truncated
    for record in message.answers:
        end = len(out)
        _write_record(out, record, known)
        if len(out) + len(tail) > limit:
            del out[end:]
            truncated = True
            break
        written += 1
    out += tail
    flags = _flags(message) | (_TRUNCATED if truncated else 0)
    HEADER.pack_into(
        out, 0, message.id, flags, len(message.questions), written, 0, 1 if tail else 0
    )
    return bytes(out)


def _flags(m: Message) -> int:
    flags = (m.opcode & 0xF) << 11 | m.rcode & 0xF
    flags |= _RESPONSE if m.response else 0
    flags |= _AUTHORITATIVE if m.authoritative else 0
    flags |= _RECURSION_DESIRED if m.recursion_desired else 0
    return flags | (_RECURSION_AVAILABLE if m.recursion_available else 0)


def _write_record(out: bytearray, record: Record, known: dict[str, int]) -> None:
    write_name(out, record.name, known)
    out += _RECORD_TAIL.pack(record.type, record.class_, record.ttl, 0)
    start = len(out)
    match record.data:
        case IPv4Address() | IPv6Address() as address:
            out += address.packed
        case str() as name:
            write_name(out, name, known)
        case bytes() as raw:
            out += raw
    out[start - 2 : start] = (len(out) - start).to_bytes(2, "big")


def write_name(out: bytearray, name: str, known: dict[str, int]) -> None:
    """Appends a name, with a pointer to its longest tail in `known`, and adds its own tails to
    `known`."""
    length = 1
    rest = name.rstrip(".") if not name.endswith("\\.") else name
    while rest:
        at = known.get(rest)
        if at is not None:
            out += (_POINTER | at).to_bytes(2, "big")
            return
        if len(out) < _POINTER ^ 0xFFFF:
            known[rest] = len(out)
        raw, rest = _first_label(rest)
        length += len(raw) + 1
        if not 0 < len(raw) <= MAX_LABEL or length > MAX_NAME:
            raise InvalidArgument(
                f"cannot encode name {name!r}: label of {len(raw)} bytes, {length} in all"
            )
        out.append(len(raw))
        out += raw
    out.append(0)


def _first_label(name: str) -> tuple[bytes, str]:
    """(the first label's bytes, the rest of the name)"""
    if "\\" not in name:
        head, _, rest = name.partition(".")
        return _raw(head, name), rest
    label, position = [], 0
    while position < len(name) and name[position] != ".":
        position += name[position] == "\\"
        label.append(name[position : position + 1])
        position += 1
    return _raw("".join(label), name), name[position + 1 :]


def _raw(label: str, name: str) -> bytes:
    try:
        return label.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"cannot encode name {name!r}: not of single-byte characters"
        ) from None
