"""rtnetlink addresses of interfaces: encodes requests, decodes dumps. Pure functions.
`include/uapi/linux/if_addr.h`."""

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import NamedTuple

from weft.linux.netlink import attributes
from weft.linux.netlink.attributes import decode, ipv4, to_address, to_text
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, Request
from weft.model.addresses import Interface

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_BROADCAST = 1, 2, 3, 4
_HEADER = struct.Struct("=BBBBI")
"""Family, prefix length, flags, scope, index of the interface."""
_SCOPE_UNIVERSE, _SCOPE_HOST = 0, 254
_NO_DAD, _PERMANENT = 0x02, 0x80
"""Flags. We know who has our addresses: nobody is to be asked for a second whether it is free
(RFC 4862 section 5.4)."""


class AddressInfo(NamedTuple):
    device: int
    address: Interface
    label: str
    """The interface's name, unless somebody gave the address another label; empty for IPv6."""
    is_permanent: bool = True
    """False for an address that a router has announced."""


def add_address(device: int, address: Interface) -> Request:
    body = _body(device, address)
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        body += ipv4(_IFA_BROADCAST, address.network.broadcast_address)
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def remove_address(device: int, address: Interface) -> Request:
    return Request(RTM_DELADDR, 0, _body(device, address))


def dump_addresses() -> tuple[int, bytes]:
    return RTM_GETADDR, _HEADER.pack(socket.AF_INET, 0, 0, 0, 0)


def dump_ipv6_addresses() -> tuple[int, bytes]:
    """Those of IPv6. A kernel without IPv6 answers with those of other families, which
    `is_ipv6` tells apart."""
    return RTM_GETADDR, _HEADER.pack(socket.AF_INET6, 0, 0, 0, 0)


def is_ipv6(body: bytes) -> bool:
    return body[0] == socket.AF_INET6


def decode_address(body: bytes) -> AddressInfo:
    _, prefix, flags, _, device = _HEADER.unpack_from(body)
    found = decode(body, _HEADER.size)
    local = to_address(found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, bytes(4)))
    own = (
        IPv4Interface((local, prefix))
        if isinstance(local, IPv4Address)
        else IPv6Interface((local, prefix))
    )
    return AddressInfo(device, own, to_text(found.get(_IFA_LABEL, b"")), bool(flags & _PERMANENT))


def _body(device: int, address: Interface) -> bytes:
    scope = _SCOPE_HOST if address.is_loopback else _SCOPE_UNIVERSE
    family, flags = (socket.AF_INET, 0) if address.version == 4 else (socket.AF_INET6, _NO_DAD)
    header = _HEADER.pack(family, address.network.prefixlen, flags, scope, device)
    both = (attributes.address(kind, address.ip) for kind in (_IFA_LOCAL, _IFA_ADDRESS))
    return header + b"".join(both)
