"""Answers a DNS question of a container: from the names known here, from another server, or not at
all.

A query to 127.0.0.11 comes here as bytes. The result is the answer in bytes, `Forward` (ask the
host's servers), or None (send nothing: the message was an answer, or too short to answer). No
message from a container raises.

A name of the container's networks is answered with its addresses in random order, TTL 600: an A
query with those of IPv4, an AAAA query with those of IPv6. Without such addresses, and to an MX
query, the answer is empty, not "no such name": otherwise the client would believe that there is no
other record either. All other queries are forwarded.
"""

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Literal, Protocol

import msgspec

from weft.dns import codec
from weft.dns.codec import Message, Question, Record
from weft.dns.zone import Zone
from weft.errors import InvalidArgument
from weft.model.addresses import AnyAddress

TTL = 600
"""Seconds, as in Docker Swarm."""
REVERSE, IPV6_REVERSE = ".in-addr.arpa", ".ip6.arpa"
_NIBBLES = 32

Transport = Literal["udp", "tcp"]


class Forward(msgspec.Struct, frozen=True):
    """The name is not known here: ask another server with these bytes."""

    query: bytes


class Shuffler(Protocol):
    """The part of `random.Random` that is needed."""

    def shuffle(self, x: list[Any], /) -> None: ...


def answer(
    query: bytes, zone: Zone, rng: Shuffler, transport: Transport = "udp"
) -> bytes | Forward | None:
    """The answer to one message of a container."""
    if len(query) < codec.HEADER.size or query[2] & 0x80:
        return None
    try:
        message = codec.decode(query)
    except InvalidArgument:
        return failure(query, codec.FORMERR)
    if message.opcode != 0:
        return failure(query, codec.NOTIMP)
    if len(message.questions) != 1:
        return failure(query, codec.FORMERR)
    records = _records(message.questions[0], zone, rng)
    if records is not None:
        return _reply(message, records, transport)
    return Forward(query) if zone.forwards else failure(query, codec.SERVFAIL)


def failure(query: bytes, rcode: int) -> bytes:
    """The error answer to a query of at least a header's length, whatever else the query holds. The
    answer has the query's question, if there is one."""
    id = int.from_bytes(query[:2], "big")
    recursion = bool(query[2] & 0x01)
    opcode = query[2] >> 3 & 0xF
    try:
        questions = codec.decode(query).questions[:1]
        return codec.encode(_response(id, opcode, recursion, rcode, questions))
    except InvalidArgument:
        return codec.encode(_response(id, opcode, recursion, rcode, ()))


def _records(question: Question, zone: Zone, rng: Shuffler) -> list[Record] | None:
    """The records known here; None if nothing is known here, not even that the name exists."""
    if question.class_ != codec.IN:
        return None
    if question.type == codec.PTR:
        return _pointer(question, zone)
    if question.type not in (codec.A, codec.AAAA, codec.MX):
        return None
    addresses = zone.addresses(question.name)
    if addresses is None:
        # The client is to go on with its search list: with ndots, a name without a dot is not a
        # complete name (D.9.2).
        single = zone.ndots > 0 and "." not in question.name and question.type != codec.MX
        return [] if single and question.name else None
    if question.type == codec.MX:
        return []
    is_a = question.type == codec.A
    shuffled = [*(addresses if is_a else zone.ipv6_addresses(question.name))]
    rng.shuffle(shuffled)
    return [Record(question.name, question.type, TTL, address) for address in shuffled]


def _pointer(question: Question, zone: Zone) -> list[Record] | None:
    address = _asked_address(question.name.lower())
    found = None if address is None else zone.pointer(address)
    return None if found is None else [Record(question.name, codec.PTR, TTL, found)]


def _asked_address(name: str) -> AnyAddress | None:
    """RFC 1035 section 3.5: the octets from the last to the first; RFC 3596 section 2.5: the
    nibbles."""
    try:
        if name.endswith(REVERSE):
            return IPv4Address(".".join(reversed(name.removesuffix(REVERSE).split("."))))
        nibbles = name.removesuffix(IPV6_REVERSE).split(".")
        if name.endswith(IPV6_REVERSE) and len(nibbles) == _NIBBLES:
            digits = "".join(reversed(nibbles))
            return IPv6Address(":".join(digits[i : i + 4] for i in range(0, _NIBBLES, 4)))
    except AddressValueError:
        pass
    return None


def _reply(query: Message, records: list[Record], transport: Transport) -> bytes:
    reply = msgspec.structs.replace(
        _response(query.id, query.opcode, query.recursion_desired, codec.NOERROR, query.questions),
        answers=tuple(records),
        udp_size=None if query.udp_size is None else codec.MAX_UDP,
    )
    limit = codec.MAX_TCP if transport == "tcp" else max(codec.MAX_UDP, query.udp_size or 0)
    return codec.encode(reply, limit)


def _response(
    id: int, opcode: int, recursion: bool, rcode: int, questions: tuple[Question, ...]
) -> Message:
    return Message(
        id=id,
        response=True,
        opcode=opcode,
        recursion_desired=recursion,
        recursion_available=True,
        rcode=rcode,
        questions=questions,
    )
