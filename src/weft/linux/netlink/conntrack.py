"""What the kernel tells of a tracked connection: nfnetlink's messages of connection tracking, bytes
to values. Pure functions. `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address

from weft.linux.netlink.attributes import decode
from weft.linux.netlink.message import Message
from weft.model.flows import Sides, State, Tracked, TrackedChange, Traffic

SUBSYSTEM = 1
GET, DELETE = SUBSYSTEM << 8 | 1, SUBSYSTEM << 8 | 2
_NEW = SUBSYSTEM << 8
EVENTS = (1, 2, 3)
"""Multicast groups: new, changed and destroyed connections."""
GENERIC = struct.pack("=BBH", socket.AF_INET, 0, 0)
TUPLE_ORIG, TUPLE_REPLY, STATUS, ID, ZONE = 1, 2, 3, 12, 18
TUPLE_IP, TUPLE_PROTO = 1, 2
IP_V4_SRC, _IP_V4_DST, IP_V6_SRC = 1, 2, 3
PROTO_NUM, _PROTO_SRC_PORT, PROTO_DST_PORT, _PROTO_ICMP_ID = 1, 2, 3, 4
SEEN_REPLY, TRANSLATED = 1 << 1, 1 << 4 | 1 << 5
"""Bits of the status, which is big-endian: a packet has come back; source or destination was
translated."""
_PROTOINFO, _TIMEOUT, _COUNTERS_ORIG, _COUNTERS_REPLY = 4, 7, 9, 10
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_PACKETS, _BYTES = 1, 2
_CLOSE = 8
_CLOSING = frozenset((4, 5, 6, 7))
"""FIN_WAIT to TIME_WAIT of `enum tcp_conntrack`."""

_address = lru_cache(1 << 14)(IPv4Address)


def decode_change(message: Message) -> TrackedChange | None:
    """A notification; None if it is of another family or kind."""
    if message.type not in (_NEW, DELETE) or message.body[:1] != GENERIC[:1]:
        return None
    tracked = decode_tracked(message.body, ended=message.type == DELETE)
    return None if tracked is None else TrackedChange(tracked, message.type == DELETE)


def decode_tracked(body: bytes, ended: bool = False) -> Tracked | None:
    """`ended`: the kernel forgets the connection. None for what is not of IPv4."""
    found = decode(body, len(GENERIC))
    asked = _sides(found.get(TUPLE_ORIG, b""))
    reply = _sides(found.get(TUPLE_REPLY, b""))
    if asked is None or reply is None:
        return None
    protocol, (source, source_port, target, target_port) = asked
    back = reply[1]
    return Tracked(
        protocol,
        Sides(_address(source), source_port, _address(target), target_port),
        _carried(protocol, back),
        _state(protocol, found, ended),
        _traffic(found.get(_COUNTERS_ORIG)),
        _traffic(found.get(_COUNTERS_REPLY)),
    )


def _sides(tuple_: bytes) -> tuple[int, tuple[bytes, int, bytes, int]] | None:
    parts = decode(tuple_)
    address, proto = decode(parts.get(TUPLE_IP, b"")), decode(parts.get(TUPLE_PROTO, b""))
    source, target = address.get(IP_V4_SRC), address.get(_IP_V4_DST)
    number = proto.get(PROTO_NUM)
    if source is None or target is None or not number:
        return None
    port = proto.get(_PROTO_SRC_PORT) or proto.get(_PROTO_ICMP_ID, b"")
    there = proto.get(PROTO_DST_PORT, b"")
    return number[0], (
        source,
        int.from_bytes(port, "big"),
        target,
        int.from_bytes(there, "big"),
    )


def _carried(protocol: int, back: tuple[bytes, int, bytes, int]) -> Sides:
    """The opposite of the answer. ICMP's identifier is the same both ways."""
    source, source_port, target, target_port = back
    if protocol == socket.IPPROTO_ICMP:
        source_port, target_port = target_port, source_port
    return Sides(_address(target), target_port, _address(source), source_port)


def _state(protocol: int, found: Mapping[int, bytes], ended: bool) -> State:
    answered = int.from_bytes(found.get(STATUS, b""), "big") & SEEN_REPLY
    if protocol != socket.IPPROTO_TCP:
        return "open" if answered else "unanswered"
    if not answered:
        return "refused" if ended and _was_refused(found) else "unanswered"
    info = decode(decode(found.get(_PROTOINFO, b"")).get(_PROTOINFO_TCP, b""))
    state = info.get(_TCP_STATE, b"\0")[0]
    if state == _CLOSE:
        return "reset"
    return "closing" if state in _CLOSING else "open"


def _was_refused(found: Mapping[int, bytes]) -> bool:
    """The kernel forgets a connection at once whose only answer is a reset: then a packet has come
    back, or where packets are not counted, time is left."""
    back = _traffic(found.get(_COUNTERS_REPLY))
    if back is not None:
        return back.packets > 0
    return int.from_bytes(found.get(_TIMEOUT, b""), "big") > 0


def _traffic(counters: bytes | None) -> Traffic | None:
    if counters is None:
        return None
    found = decode(counters)
    packets, octets = found.get(_PACKETS, b""), found.get(_BYTES, b"")
    return Traffic(int.from_bytes(packets, "big"), int.from_bytes(octets, "big"))
