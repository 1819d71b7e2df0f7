"""Writes packets as pcapng, which Wireshark, tshark and tcpdump read: one interface description for
each place where packets were seen, and the names of addresses.

Format: draft-ietf-opsawg-pcapng. A block is its type, its total length, a body padded to four
bytes, and the total length again. Numbers have the byte order of the section header; here it is
little-endian.
"""

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import BinaryIO

from weft.lens.capture.order import Timed
from weft.model.capture import records
from weft.model.meta import Nanoseconds

_SECTION, _INTERFACE, _NAMES, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 4, 5, 6
_ETHERNET = 1
_BYTE_ORDER = 0x1A2B3C4D
_NAME_IPV4 = 1
_APPLICATION = 4
_IF_NAME, _IF_RESOLUTION = 2, 9
_FLAGS, _INBOUND, _OUTBOUND = 2, 1, 2
_IF_DROPPED = 5
_NANOSECONDS = b"\x09"

_PACKET_HEAD = struct.Struct("<7I")
"""Of an enhanced packet block: type, length, interface, time in two halves, bytes kept, bytes on
the wire."""
_LOW = 0xFFFFFFFF


Option = tuple[int, bytes]


class Writer:
    """The blocks of one capture. `flush` after each batch lets a reader follow."""

    def __init__(self, out: BinaryIO, application: str, snaplen: int) -> None:
        self._out = out
        self._snaplen = snaplen
        self._interfaces: dict[str, int] = {}
        self._ends: dict[tuple[int, int], tuple[int, bytes]] = {}
        """By a packet's bytes and direction: its block's length, and what follows its data."""
        head = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
        self._write(_SECTION, head, [(_APPLICATION, application.encode())])

    def names(self, names: Iterable[tuple[str, str]]) -> None:
        """IPv4 addresses and their names."""
        body = b"".join(
            _padded_record(_NAME_IPV4, IPv4Address(address).packed + name.encode() + b"\0")
            for address, name in names
        )
        if body:
            self._write(_NAMES, body + struct.pack("<HH", 0, 0), [])

    def read(self, place: str, data: bytes, ahead: Nanoseconds) -> Sequence[Timed[bytes]]:
        """The blocks of a place's packets, to be written in any order. Raises `InvalidArgument` for
        records that are none."""
        interface = self._interfaces.get(place)
        if interface is None:
            interface = self._describe(place)
        pack, ends = _PACKET_HEAD.pack, self._ends
        found = list[Timed[bytes]]()
        for told, length, sent, packet in records(data):
            time, kept = max(0, told - ahead), len(packet)
            size, end = ends.get((kept, sent)) or self._end(kept, sent)
            head = pack(_PACKET, size, interface, time >> 32, time & _LOW, kept, length)
            found.append((time, head + packet + end))
        return found

    def write(self, packets: Iterable[Timed[bytes]]) -> None:
        self._out.write(b"".join([block for _, block in packets]))

    def lost(self, place: str, packets: int, time: int) -> None:
        """How many packets of an interface were dropped in all."""
        high, low = divmod(time, 2**32)
        number = self._interfaces[place] if place in self._interfaces else self._describe(place)
        head = struct.pack("<III", number, high, low)
        self._write(_STATISTICS, head, [(_IF_DROPPED, struct.pack("<Q", packets))])

    def flush(self) -> None:
        self._out.flush()

    def _describe(self, place: str) -> int:
        head = struct.pack("<HHI", _ETHERNET, 0, self._snaplen)
        self._write(_INTERFACE, head, [(_IF_NAME, place.encode()), (_IF_RESOLUTION, _NANOSECONDS)])
        return self._interfaces.setdefault(place, len(self._interfaces))

    def _end(self, kept: int, sent: int) -> tuple[int, bytes]:
        padding = -kept % 4
        flags = struct.pack("<HHIHH", _FLAGS, 4, _OUTBOUND if sent else _INBOUND, 0, 0)
        size = _PACKET_HEAD.size + kept + padding + len(flags) + 4
        end = size, bytes(padding) + flags + size.to_bytes(4, "little")
        return self._ends.setdefault((kept, sent), end)

    def _write(self, kind: int, body: bytes, options: Sequence[Option]) -> None:
        if options:
            body += b"".join(_padded_record(*option) for option in options)
            body += struct.pack("<HH", 0, 0)
        length = struct.pack("<I", len(body) + 12)
        self._out.write(struct.pack("<I", kind) + length + body + length)


def _padded_record(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
