"""Addresses and numbers of the data path (VNI, port, MAC), and how one is derived from another."""

from abc import ABCMeta
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

Vni = Annotated[int, Meta(ge=0, le=2**24 - 1)]
"""VXLAN network identifier, 24 bits (RFC 7348 section 5)."""

Port = Annotated[int, Meta(ge=0, le=65535)]
"""A transport port; 0 where it means "choose one"."""

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Subnet = IPv4Network | IPv6Network

if TYPE_CHECKING:
    AnyAddress = IPv4Address | IPv6Address
else:

    class AnyAddress(metaclass=ABCMeta):  # noqa: B024  # isinstance is all it is for
        """An address of either family, in values that are encoded: for msgspec, a union may have
        only one type that it does not know itself."""

    AnyAddress.register(IPv4Address)
    AnyAddress.register(IPv6Address)

Protocol = Literal["tcp", "udp", "sctp"]

PortKey = tuple[Protocol, Port]
"""A protocol and a port, unique on a host."""

MacAddress = Annotated[str, Meta(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]

FIRST_VNI = 4096
LAST_VNI = 2**24 - 1

DEFAULT_UNDERLAY_MTU = 1500
MIN_UNDERLAY_MTU = 576
"""Every IPv4 host accepts datagrams of this size (RFC 791 section 3.1). A smaller MTU that a host
reports is not used, since all hosts would have to use it."""
VXLAN_OVERHEAD = 50
"""Outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14."""
ESP_OVERHEAD = 26
"""SPI and sequence number 8, IV 8, trailer 2, ICV 8 (RFC 4303, RFC 4106)."""


def mac_for(address: IPv4Address, prefix: str = "02:42") -> MacAddress:
    """The MAC of an endpoint: 02:42 and the four octets of its address, so that each can be read
    from the other."""
    return prefix + "".join(f":{octet:02x}" for octet in address.packed)


def link_local_of(mac: MacAddress) -> IPv6Address:
    """The link-local address that the kernel gives an interface with this MAC (RFC 4291 appendix A,
    EUI-64)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return IPv6Address(b"\xfe\x80" + bytes(6) + octets[:3] + b"\xff\xfe" + octets[3:])


def overlay_mtu(underlay_mtu: int, encrypted: bool = False, icv_bits: int = 64) -> int:
    """MTU of an overlay, such that a full-size packet fits into one underlay packet. 1500 gives
    1450, encrypted 1424, or 1416 with an ICV of 128 bits. Encrypted MTUs are rounded down to a
    multiple of four, to which ESP pads."""
    mtu = underlay_mtu - VXLAN_OVERHEAD
    if encrypted:
        mtu -= ESP_OVERHEAD + (icv_bits - 64) // 8
        mtu -= mtu % 4
    return mtu
