"""A packet as one line, with names in place of addresses:

18:04:59.590477 node1/webapp.1/eth0 out  tcp webapp.1:39120 > db:5432 [S] 74
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from weft.lens.capture.order import Timed
from weft.model.capture import Record, records
from weft.model.meta import Nanoseconds

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ETHERNET, _IP = 14, 20
_FRAGMENT_OFFSET = 0x1FFF
_FLAGS = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x10, "."))
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 50: "esp", 132: "sctp"}
_ICMP = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_WITH_PORTS = ("tcp", "udp", "sctp")

Names = Mapping[str, str]
"""By IPv4 address."""


Seen = tuple[str, Record]
"""A packet, and where: `node1/webapp.1/eth0`."""


def read(place: str, data: bytes, ahead: Nanoseconds) -> Sequence[Timed[Seen]]:
    """A place's packets. Raises `InvalidArgument` for records that are none."""
    return [(max(0, record[0] - ahead), (place, record)) for record in records(data)]


def line(time: Nanoseconds, packet: Seen, names: Names) -> str:
    place, (_, length, sent, data) = packet
    second = datetime.fromtimestamp(time // 10**9).strftime("%H:%M:%S")
    micros = time % 10**9 // 1000
    way = "out" if sent else "in "
    return f"{second}.{micros:06d} {place:<28} {way}  {described(data, names)} {length}"


def described(frame: bytes, names: Names) -> str:
    """What an Ethernet frame carries, as far as its first bytes tell."""
    if len(frame) < _ETHERNET:
        return "cut short"
    (kind,) = struct.unpack_from(">H", frame, 12)
    rest = frame[_ETHERNET:]
    if kind == _ARP and len(rest) >= 28:
        return _arp(rest, names)
    if kind == _IPV4 and len(rest) >= _IP:
        return _ipv4(rest, names)
    if kind == _IPV6 and len(rest) >= 40:
        return f"ip6 {IPv6Address(rest[8:24])} > {IPv6Address(rest[24:40])}"
    return f"ethertype {kind:#06x}"


def _arp(data: bytes, names: Names) -> str:
    (operation,) = struct.unpack_from(">H", data, 6)
    asker, asked = _name(data[14:18], names), _name(data[24:28], names)
    if operation == 1:
        return f"arp who has {asked}? tell {asker}"
    return f"arp {asker} is at {data[8:14].hex(':')}"


def _ipv4(data: bytes, names: Names) -> str:
    start = 4 * (data[0] & 0xF)
    protocol = _PROTOCOLS.get(data[9], f"protocol {data[9]}")
    source, destination = _name(data[12:16], names), _name(data[16:20], names)
    (fragment,) = struct.unpack_from(">H", data, 6)
    inner = data[start:]
    if fragment & _FRAGMENT_OFFSET:
        return f"{protocol} {source} > {destination} fragment"
    if protocol in _WITH_PORTS and len(inner) >= 4:
        ports = struct.unpack_from(">HH", inner)
        said = f"{protocol} {source}:{ports[0]} > {destination}:{ports[1]}"
        return f"{said} [{_flags(inner[13])}]" if protocol == "tcp" and len(inner) > 13 else said
    if protocol == "icmp" and inner:
        return f"icmp {source} > {destination} {_ICMP.get(inner[0], f'type {inner[0]}')}"
    if protocol == "esp" and len(inner) >= 4:
        return f"esp {source} > {destination} spi {inner[:4].hex()}"
    return f"{protocol} {source} > {destination}"


def _flags(flags: int) -> str:
    return "".join(letter for bit, letter in _FLAGS if flags & bit)


def _name(address: bytes, names: Names) -> str:
    text = str(IPv4Address(address))
    return names.get(text, text)
