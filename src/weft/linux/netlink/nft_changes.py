"""Changes of an nftables table as nf_tables messages: elements, and the one rule of a service's
chain. Pure functions.

The messages are what nft itself would send for the text of `network/render`; the tests compare the
tables that result. Everything else is written as text, in whole tables (`weft.linux.nft`), which
nft compiles. For changes nft would take a hundred times as long as the kernel, because it first
reads the table's content.

Numbers: `include/uapi/linux/netfilter/nf_tables.h`. Numbers in attributes are big-endian. In an
element with several fields, each field is padded to four bytes.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from weft.linux.netlink.attributes import attribute, decode, decode_list, mac_bytes, text
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_EXCL, Request
from weft.linux.netlink.nftables import FAMILY_NUMBERS, SUBSYSTEM
from weft.network.kernel_state import Entry, Field, SetType, Table, Value
from weft.network.render.changes import (
    AddElements,
    Change,
    Changes,
    RemoveChain,
    RemoveElements,
    SetTurn,
)
from weft.network.render.services import SEED, Turn

_NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSETELEM, _GETSETELEM, _DELSETELEM = (
    3,
    5,
    6,
    8,
    12,
    13,
    14,
)
_NLM_F_APPEND = 0x800
_NESTED = 0x8000
_TABLE, _NAME = 1, 2
"""Attributes of rules and of elements: the table, and the chain or set."""
_CHAIN_NAME = 3
_RULE_EXPRESSIONS, _RULE_USERDATA = 4, 7
_COMMENT = 0
"""Kind of user data (libnftnl's `udata.h`)."""
_ELEMENTS, _ELEMENT_KEY, _ELEMENT_DATA = 3, 1, 2
_ITEM = 1
"""Attribute of an item in any list."""
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_VERDICTS = {"jump": -3, "goto": -4}
_VERDICT: tuple[Field, ...] = ("verdict",)
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
_MOST = 256
"""Most elements in a message: the length of an attribute has 16 bits."""

_FIRST, _SECOND, _THIRD = 1, 9, 10
"""Registers: the first one of sixteen bytes, and two quarters of it by their names as 4-byte
registers."""
_TO_SPARE = 5
"""From the register of a hash to that in which nft puts what it hashes."""
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_L4PROTO = 16
_SOURCE_ADDRESS, _DESTINATION_ADDRESS, _DESTINATION_PORT = 12, 16, 2
"""Offsets in the headers of packets."""
_INCREMENTAL = 0
_JENKINS = 0
_DNAT, _IPV4 = 1, 2


def requests(table: Table, changes: Changes) -> list[Request]:
    """The messages of one transaction, in the order in which the kernel takes them."""
    head = _head(table)
    return [
        Request(SUBSYSTEM << 8 | kind, flags, head + body)
        for change in changes
        for kind, flags, body in _messages(change, table.start)
    ]


def _head(table: Table) -> bytes:
    return struct.pack("!BBH", FAMILY_NUMBERS[table.family], 0, 0) + text(_TABLE, table.name)


def _messages(change: Change, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Message kind, flags, and the body after the table's name."""
    match change:
        case SetTurn(turn):
            yield _NEWCHAIN, NLM_F_CREATE, text(_CHAIN_NAME, turn.chain)
            yield _DELRULE, 0, text(_NAME, turn.chain)
            yield _NEWRULE, NLM_F_CREATE | _NLM_F_APPEND, _rule(turn, start)
        case RemoveChain(chain):
            yield _DELCHAIN, 0, text(_CHAIN_NAME, chain)
        case RemoveElements(name, type_, keys):
            for some in _portions([_element(_packed(type_.key, key)) for key in keys]):
                yield _DELSETELEM, 0, text(_NAME, name) + some
        case AddElements(name, type_, entries):
            packed = [
                _element(_packed(type_.key, key), _data(type_.value, value))
                for key, value in entries
            ]
            for some in _portions(packed):
                yield _NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, text(_NAME, name) + some


# --- elements


def dump_elements(table: Table, name: str) -> tuple[int, bytes]:
    """A request to dump a set's elements."""
    return SUBSYSTEM << 8 | _GETSETELEM, _head(table) + text(_NAME, name)


def decode_elements(body: bytes) -> dict[bytes, bytes]:
    """The elements, in the format of `octets`."""
    found = {}
    for each in decode_list(decode(body, 4).get(_ELEMENTS, b"")):
        parts = decode(each)
        key = decode(parts.get(_ELEMENT_KEY, b"")).get(_DATA_VALUE, b"")
        data = decode(parts.get(_ELEMENT_DATA, b""))
        verdict = decode(data.get(_DATA_VERDICT, b""))
        found[key] = (
            data.get(_DATA_VALUE, b"")
            + verdict.get(_VERDICT_CODE, b"")
            + verdict.get(_VERDICT_CHAIN, b"")
        )
    return found


def octets(type_: SetType, key: Entry, value: Entry) -> tuple[bytes, bytes]:
    """An element's key, and the value to which it leads."""
    if type_.value == _VERDICT:
        code, chain = _verdict(value)
        return _packed(type_.key, key), code + chain
    return _packed(type_.key, key), _packed(type_.value, value) if value else b""


def _portions(elements: list[bytes]) -> Iterator[bytes]:
    for first in range(0, len(elements), _MOST):
        yield _nested(_ELEMENTS, *elements[first : first + _MOST])


def _element(key: bytes, data: bytes = b"") -> bytes:
    parts = [_nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))]
    if data:
        parts.append(_nested(_ELEMENT_DATA, data))
    return _nested(_ITEM, *parts)


def _data(fields: tuple[Field, ...], entry: Entry) -> bytes:
    if not fields:
        return b""
    if fields == _VERDICT:
        code, chain = _verdict(entry)
        return _nested(
            _DATA_VERDICT, attribute(_VERDICT_CODE, code), attribute(_VERDICT_CHAIN, chain)
        )
    return attribute(_DATA_VALUE, _packed(fields, entry))


def _verdict(entry: Entry) -> tuple[bytes, bytes]:
    """Code and chain of a verdict like `jump x`."""
    word, chain = str(entry[0]).split()
    return struct.pack("!i", _VERDICTS[word]), chain.encode() + b"\0"


def _packed(fields: tuple[Field, ...], entry: Entry) -> bytes:
    if len(fields) == 1:
        return _octets(fields[0], entry[0])
    octets = (_octets(field, value) for field, value in zip(fields, entry, strict=True))
    return b"".join(each + bytes(-len(each) % 4) for each in octets)


def _octets(field: Field, value: Value) -> bytes:
    match field, value:
        case "ipv4_addr", IPv4Address():
            return value.packed
        case "ipv6_addr" | "ipv6_bits", IPv6Address():
            return value.packed
        case "inet_proto", str():
            return bytes((_PROTOCOLS[value],))
        case "inet_service", int():
            return struct.pack("!H", value)
        case "ether_addr", str():
            return mac_bytes(value)
        case "mark" | "slot", int():
            return struct.pack("=I", value)
    raise ValueError(f"cannot encode {value!r} as {field}")


# --- the rule of a service's chain


def _rule(turn: Turn, start: int) -> bytes:
    """`turn.rule(start)`, as nft would compile it."""
    comment = turn.service.encode() + b"\0"
    expressions = (
        *_destination(turn),
        *(_hashed(turn) if turn.by_client else _counted(turn, start)),
        _expression("lookup", (1, turn.slots), (2, _FIRST), (3, _FIRST)),
        _translation(turn),
    )
    user_data = bytes((_COMMENT, len(comment))) + comment
    rule = _nested(_RULE_EXPRESSIONS, *expressions) + attribute(_RULE_USERDATA, user_data)
    return text(_NAME, turn.chain) + rule


def _slot(turn: Turn) -> int:
    """The register of the slot's number, behind the destination."""
    return _THIRD if turn.at_one else _SECOND


def _destination(turn: Turn) -> Iterator[bytes]:
    """Loads the destination address into the first register; if the turn has a protocol, the
    destination port instead or behind it, only for packets of that protocol."""
    if turn.protocol is None:
        yield _expression(
            "payload", (1, _FIRST), (2, _NETWORK_HEADER), (3, _DESTINATION_ADDRESS), (4, 4)
        )
        return
    yield _expression("meta", (1, _FIRST), (2, _META_L4PROTO))
    yield _expression(
        "cmp", (1, _FIRST), (2, 0), (3, attribute(_DATA_VALUE, bytes((_PROTOCOLS[turn.protocol],))))
    )
    if turn.at_one:
        yield _expression(
            "payload", (1, _FIRST), (2, _NETWORK_HEADER), (3, _DESTINATION_ADDRESS), (4, 4)
        )
    port = _SECOND if turn.at_one else _FIRST
    yield _expression("payload", (1, port), (2, _TRANSPORT_HEADER), (3, _DESTINATION_PORT), (4, 2))


def _counted(turn: Turn, start: int) -> Iterator[bytes]:
    """Loads the number of the next slot."""
    offset, mask = turn.offset(start)
    yield _expression("numgen", (1, _slot(turn)), (2, turn.size), (3, _INCREMENTAL), (4, offset))
    yield _masked(_slot(turn), mask)


def _hashed(turn: Turn) -> Iterator[bytes]:
    """Loads the number of the client's slot."""
    slot, spare = _slot(turn), _slot(turn) + _TO_SPARE
    yield _expression("payload", (1, spare), (2, _NETWORK_HEADER), (3, _SOURCE_ADDRESS), (4, 4))
    yield _expression(
        "hash", (1, spare), (2, slot), (3, 4), (4, turn.size), (5, SEED), (6, 0), (7, _JENKINS)
    )


def _masked(register: int, mask: int) -> bytes:
    both = (attribute(_DATA_VALUE, struct.pack("=I", value)) for value in (mask, 0))
    return _expression(
        "bitwise", (1, register), (2, register), (3, 4), *zip((4, 5), both, strict=True)
    )


def _translation(turn: Turn) -> bytes:
    port = [(5, _SECOND)] if turn.protocol else []
    return _expression("nat", (1, _DNAT), (2, _IPV4), (3, _FIRST), *port)


def _expression(name: str, *attributes: tuple[int, int | str | bytes]) -> bytes:
    """Numbers are encoded as big-endian; bytes are nested attributes."""
    encoded = (
        _nested(kind, value)
        if isinstance(value, bytes)
        else text(kind, value)
        if isinstance(value, str)
        else attribute(kind, struct.pack("!I", value))
        for kind, value in attributes
    )
    return _nested(_ITEM, text(1, name), _nested(2, *encoded))


def _nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))
