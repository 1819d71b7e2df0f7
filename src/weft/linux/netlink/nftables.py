"""The few nf_tables messages that show cheaply whether rules changed, and whose: generation, names
of tables, notifications.

Rules themselves are written as text through `weft.linux.nft`. Numbers:
`include/uapi/linux/netfilter/nf_tables.h`.
"""

import struct
from typing import NamedTuple

from weft.linux.netlink.attributes import attribute, decode, to_text
from weft.linux.netlink.message import Request

SUBSYSTEM = 10
NOTIFICATIONS = 7
"""Multicast group."""
_GETTABLE, _NEWGEN, _GETGEN = 1, 15, 16
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
FAMILY_NUMBERS = {name: number for number, name in _FAMILIES.items()}
_GENERIC = struct.pack("=BBH", 0, 0, 0)
"""nfgenmsg: family (all), version, resource id."""
_NAME = 1
"""Every nf_tables object carries the name of its table in attribute 1."""
_BATCH_BEGIN, _BATCH_END = 16, 17
_BATCH_GENERATION = 1
_BATCH = struct.pack("!BBH", 0, 0, SUBSYSTEM)


class TableName(NamedTuple):
    family: str
    name: str


def get_generation() -> Request:
    return Request(SUBSYSTEM << 8 | _GETGEN, 0, _GENERIC)


def decode_generation(body: bytes) -> int:
    """The generation, which grows by one with every committed transaction in the namespace."""
    number: int = struct.unpack("!I", decode(body, 4)[_NAME])[0]
    return number


def begin(generation: int) -> Request:
    """Begins a transaction that is only valid in this generation; in another one, the kernel
    refuses it with ERESTART."""
    return Request(
        _BATCH_BEGIN, 0, _BATCH + attribute(_BATCH_GENERATION, struct.pack("!I", generation))
    )


def end() -> Request:
    return Request(_BATCH_END, 0, _BATCH)


def after(generation: int) -> int:
    """The generation after one more transaction; never 0."""
    return generation + 1 & 0xFFFFFFFF or 1


def dump_tables() -> tuple[int, bytes]:
    return SUBSYSTEM << 8 | _GETTABLE, _GENERIC


def decode_table(body: bytes) -> TableName:
    """The table's name, also in a notification about any part of a table."""
    return TableName(_FAMILIES.get(body[0], str(body[0])), to_text(decode(body, 4).get(_NAME, b"")))


def is_generation(type_: int) -> bool:
    return type_ == SUBSYSTEM << 8 | _NEWGEN
