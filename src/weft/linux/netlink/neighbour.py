"""rtnetlink neighbours and forwarding entries: encodes requests, decodes dumps. Pure functions.
`include/uapi/linux/neighbour.h`.

Both are RTM_*NEIGH messages. With family AF_INET or AF_INET6, an entry gives the MAC of an address. With
AF_BRIDGE and NTF_SELF, an entry gives the host to which a VXLAN device sends frames for a MAC; with
AF_BRIDGE and NTF_MASTER, the port by which a bridge sends them. There may be tens of thousands, so
encoding is written for speed.
"""

import struct
import sys
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.linux.netlink.attributes import attribute, decode, mac_bytes, to_address, to_mac
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, Request
from weft.model.addresses import Address, MacAddress

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
NUD_PERMANENT, NUD_NOARP = 0x80, 0x40
"""NUD_NOARP marks a static entry of a bridge; NUD_PERMANENT marks the MAC of a port itself."""
_NTF_SELF, _NTF_MASTER = 2, 4
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_HEADER = struct.Struct("=BxxxiHBB")
"""Family, index of the interface, state, flags, type."""
_WHOLE = struct.Struct("=BxxxiHBBHH4sHH6sxx")
"""Header, destination attribute (8 bytes), link-layer attribute (10 bytes and padding)."""
_AT_PORT = struct.Struct("=BxxxiHBBHH6sxx")
"""The same for an entry without a destination."""
_UPSERT = NLM_F_CREATE | NLM_F_REPLACE


class NeighbourInfo(NamedTuple):
    family: int
    device: int
    state: int
    bridge: int
    """Index of the bridge that has the entry; 0 for an entry of the device itself."""
    destination: bytes
    """Packed address; empty in entries without one (frames that a bridge delivers itself)."""
    mac: MacAddress | None

    @property
    def permanent(self) -> bool:
        return bool(self.state & NUD_PERMANENT)

    @property
    def at_port(self) -> bool:
        """Whether this is a static entry of a bridge."""
        return bool(self.bridge and self.state & NUD_NOARP)

    @property
    def address(self) -> Address:
        return to_address(self.destination)


def add_neighbour(device: int, address: Address, mac: MacAddress) -> Request:
    return Request(RTM_NEWNEIGH, _UPSERT, _neighbour(device, address, mac))


def remove_neighbour(device: int, address: Address, mac: MacAddress) -> Request:
    return Request(RTM_DELNEIGH, 0, _neighbour(device, address, mac))


def add_forwarding(device: int, mac: MacAddress, vtep: IPv4Address | None) -> Request:
    """`vtep` None: the bridge delivers frames by the port `device`."""
    return Request(RTM_NEWNEIGH, _UPSERT, _forwarding(device, mac, vtep))


def remove_forwarding(device: int, mac: MacAddress, vtep: IPv4Address | None) -> Request:
    return Request(RTM_DELNEIGH, 0, _forwarding(device, mac, vtep))


def dump_neighbours() -> tuple[int, bytes]:
    """Of both families."""
    return RTM_GETNEIGH, _HEADER.pack(AF_UNSPEC, 0, 0, 0, 0)


def dump_forwarding() -> tuple[int, bytes]:
    return RTM_GETNEIGH, _HEADER.pack(AF_BRIDGE, 0, 0, 0, 0)


def decode_neighbour(body: bytes) -> NeighbourInfo:
    family, device, state, _, _ = _HEADER.unpack_from(body)
    found = decode(body, _HEADER.size)
    hardware = found.get(_NDA_LLADDR, b"")
    mac = to_mac(hardware) if len(hardware) == 6 else None
    bridge = int.from_bytes(found.get(_NDA_MASTER, b""), sys.byteorder)
    return NeighbourInfo(family, device, state, bridge, found.get(_NDA_DST, b""), mac)


def _neighbour(device: int, address: Address, mac: MacAddress) -> bytes:
    if isinstance(address, IPv4Address):
        return _body(AF_INET, device, 0, address, mac)
    head = _HEADER.pack(AF_INET6, device, NUD_PERMANENT, 0, 0)
    return head + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac_bytes(mac))


def _body(family: int, device: int, flags: int, destination: IPv4Address, mac: MacAddress) -> bytes:
    return _WHOLE.pack(
        family,
        device,
        NUD_PERMANENT,
        flags,
        0,
        8,
        _NDA_DST,
        destination.packed,
        10,
        _NDA_LLADDR,
        mac_bytes(mac),
    )


def _forwarding(device: int, mac: MacAddress, vtep: IPv4Address | None) -> bytes:
    if vtep is not None:
        return _body(AF_BRIDGE, device, _NTF_SELF, vtep, mac)
    return _AT_PORT.pack(
        AF_BRIDGE, device, NUD_NOARP, _NTF_MASTER, 0, 10, _NDA_LLADDR, mac_bytes(mac)
    )
