"""The marked packet of a probe: how it is made, and how interfaces know it again.

TCP: a SYN with a sequence number of ours, from a port on which nobody listens. The server's kernel
answers with SYN and ACK, which has that number too; the sender's kernel, which knows nothing of the
connection, answers with RST, and the half-open connection is gone. `accept` of the server never
returns: the program notices nothing.

UDP: there is no such handshake, and a program would get the datagram. So its checksum is wrong: every
hop passes it on, and the receiving kernel drops it before the program.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.model.capture import Instruction, records
from weft.model.probe import MOST_PROBES, Departure, Mark, Sighting
from weft.model.trace import Packet

_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")
_ETHERNET, _IP_LENGTH = 14, 20
_TUNNEL = _IP_LENGTH + 8 + 8 + _ETHERNET
"""Bytes of a VXLAN datagram before the packet in it, without its own Ethernet header (RFC 7348)."""
_PROTOCOLS = {"tcp": 6, "udp": 17}
_NAMES = {number: name for name, number in _PROTOCOLS.items()} | {1: "icmp", 50: "esp"}
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_DONT_FRAGMENT, _TTL, _WINDOW = 0x4000, 64, 64240
_WORDS = b" weft trace"
"""Of a UDP probe, behind its number: for people who look at packets."""

_LOAD_WORD, _SUBTRACT, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x14, 0x54, 0x15, 0x06
_KEPT = 128
"""Bytes of a packet that are kept: the headers of a tunnel and of what is in it."""


def packets(mark: Mark, departure: Departure) -> Iterator[bytes]:
    """With their IP headers, of which the kernel fills in the checksum."""
    for index in range(mark.count):
        body = (
            _tcp(mark, departure, index) if mark.protocol == "tcp" else _udp(mark, departure, index)
        )
        yield _IP.pack(
            0x45, 0, _IP_LENGTH + len(body), 0, _DONT_FRAGMENT, _TTL, _PROTOCOLS[mark.protocol], 0,
            departure.source.packed, departure.destination.packed,
        ) + body  # fmt: skip


def _tcp(mark: Mark, departure: Departure, index: int) -> bytes:
    fields = (mark.port + index, departure.port, mark.number + index, 0, 5 << 4, _SYN, _WINDOW)
    summed = _checksum(departure, mark.protocol, _TCP.pack(*fields, 0, 0))
    return _TCP.pack(*fields, summed, 0)


def _udp(mark: Mark, departure: Departure, index: int) -> bytes:
    payload = (mark.number + index).to_bytes(4, "big") + _WORDS
    fields = (mark.port + index, departure.port, _UDP.size + len(payload))
    right = _checksum(departure, mark.protocol, _UDP.pack(*fields, 0) + payload)
    wrong = right ^ 0x5555
    return _UDP.pack(*fields, wrong or 0x5555 ^ 0x0F0F) + payload


def _checksum(departure: Departure, protocol: str, body: bytes) -> int:
    """RFC 1071, over the pseudo header (RFC 793, section 3.1) and the body."""
    pseudo = struct.pack(
        "!4s4sBBH", departure.source.packed, departure.destination.packed,
        0, _PROTOCOLS[protocol], len(body),
    )  # fmt: skip
    data = pseudo + body + bytes(len(body) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- at an interface


def marked_filter(mark: Mark) -> tuple[Instruction, ...]:
    """Takes what may be a packet of the probe or its answer, plain or in a VXLAN datagram. Where a
    packet is shorter than what is looked at, the kernel does not take it."""
    inside = _ETHERNET + _IP_LENGTH
    fields = ((inside + 4, 0), (inside + 8, 1)) if mark.protocol == "tcp" else ((inside + 8, 0),)
    looks = [(at + deeper, ahead) for deeper in (0, _TUNNEL) for at, ahead in fields]
    program: list[Instruction] = []
    for left, (at, ahead) in zip(range(len(looks) - 1, -1, -1), looks, strict=True):
        program += [
            (_LOAD_WORD, 0, 0, at),
            (_SUBTRACT, 0, 0, ahead),
            (_AND, 0, 0, -MOST_PROBES & 0xFFFFFFFF),
            (_JUMP_EQUAL, left * 4 + 1, 0, mark.number),
        ]
    return (*program, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _KEPT))


class _Known(NamedTuple):
    number: int
    answer: bool
    refused: bool = False


def sightings(data: bytes, mark: Mark, spot: int) -> Iterator[Sighting]:
    """Those among the records of a capture."""
    for time, _, _, frame in records(data):
        known = _known(frame, _ETHERNET, mark) or _known(frame, _ETHERNET + _TUNNEL, mark)
        if known is not None:
            yield Sighting(
                spot=spot, number=known.number, answer=known.answer, refused=known.refused,
                time=time, packet=_headers(frame, _ETHERNET),
            )  # fmt: skip


def _known(frame: bytes, at: int, mark: Mark) -> _Known | None:
    """What the packet at this place is, if it is one of the probe."""
    transport = at + _IP_LENGTH
    size = _TCP.size if mark.protocol == "tcp" else _UDP.size + 4
    if len(frame) < transport + size or frame[at] != 0x45:
        return None
    if frame[at + 9] != _PROTOCOLS[mark.protocol]:
        return None
    if mark.protocol == "udp":
        number = int.from_bytes(frame[transport + 8 : transport + 12], "big") - mark.number
        return _Known(number, False) if 0 <= number < mark.count else None
    _, _, sequence, acknowledged, _, flags, *_ = _TCP.unpack_from(frame, transport)
    if flags & _ACK:
        number = (acknowledged - 1 - mark.number) & 0xFFFFFFFF
        return _Known(number, True, bool(flags & _RST)) if number < mark.count else None
    number = sequence - mark.number
    return _Known(number, False) if flags & _SYN and 0 <= number < mark.count else None


def _headers(frame: bytes, at: int) -> Packet:
    protocol = _NAMES.get(frame[at + 9], str(frame[at + 9]))
    transport = at + (frame[at] & 0x0F) * 4
    source, target = struct.unpack_from("!HH", frame, transport)
    return Packet(
        protocol,
        IPv4Address(frame[at + 12 : at + 16]),
        source,
        IPv4Address(frame[at + 16 : at + 20]),
        target,
    )
