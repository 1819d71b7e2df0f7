"""rtnetlink addresses (IPv4) of interfaces: encodes requests, decodes dumps. Pure functions.
`include/uapi/linux/if_addr.h`."""

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface
from typing import NamedTuple

from weft.linux.netlink.attributes import decode, ipv4, to_text
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, Request

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_BROADCAST = 1, 2, 3, 4
_HEADER = struct.Struct("=BBBBI")
"""Family, prefix length, flags, scope, index of the interface."""
_SCOPE_UNIVERSE, _SCOPE_HOST = 0, 254


class AddressInfo(NamedTuple):
    device: int
    address: IPv4Interface
    label: str
    """The interface's name, unless somebody gave the address another label."""


def add_address(device: int, address: IPv4Interface) -> Request:
    body = _body(device, address)
    if address.network.prefixlen < 31:
        body += ipv4(_IFA_BROADCAST, address.network.broadcast_address)
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def remove_address(device: int, address: IPv4Interface) -> Request:
    return Request(RTM_DELADDR, 0, _body(device, address))


def dump_addresses() -> tuple[int, bytes]:
    return RTM_GETADDR, _HEADER.pack(socket.AF_INET, 0, 0, 0, 0)


def decode_address(body: bytes) -> AddressInfo:
    _, prefix, _, _, device = _HEADER.unpack_from(body)
    found = decode(body, _HEADER.size)
    local = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, bytes(4))
    return AddressInfo(
        device, IPv4Interface((IPv4Address(local), prefix)), to_text(found.get(_IFA_LABEL, b""))
    )


def _body(device: int, address: IPv4Interface) -> bytes:
    scope = _SCOPE_HOST if address.is_loopback else _SCOPE_UNIVERSE
    header = _HEADER.pack(socket.AF_INET, address.network.prefixlen, 0, scope, device)
    return header + ipv4(_IFA_LOCAL, address.ip) + ipv4(_IFA_ADDRESS, address.ip)
