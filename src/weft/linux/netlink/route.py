"""rtnetlink routes (unicast, one next hop): encodes requests, decodes dumps. Pure functions.
`rtnetlink.h`."""

import socket
import struct
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from weft.linux.netlink.attributes import address, attribute, decode, to_address, to_u32, u32
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, Request
from weft.model.addresses import Address, Subnet
from weft.network.kernel_state import Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
PROTOCOL_KERNEL = 2
PROTOCOL_WEFT = 0x57
"""Marks routes as made by us; in the host's namespace there is no other way to know. Not used in
iproute2's rt_protos."""
_RTN_UNICAST = 1
RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 2, 6, 7, 8
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_RTA_MULTIPATH = 9
_USUAL_METRIC = 1024
"""That of a route of IPv6 for which nobody names one (IP6_RT_PRIO_USER)."""
_LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}
_NEXT_HOP = struct.Struct("=HBBi")
"""Length, flags, weight, index of the interface (struct rtnexthop)."""
_HEADER = struct.Struct("=BBBBBBBBI")
"""Family, destination's and source's prefix length, TOS, table, protocol, scope, type, flags."""


class RouteInfo(NamedTuple):
    table: int
    protocol: int
    destination: Subnet
    device: int | None
    via: Address | None
    source: Address | None
    onlink: bool
    metric: int
    """0 for the usual one."""
    unicast: bool
    kind: int = _RTN_UNICAST
    """`RTN_…`: unicast, local, unreachable, …"""

    def route(self, device: str) -> Route:
        return Route(
            destination=self.destination,
            device=device,
            via=self.via,
            source=self.source,
            table=self.table,
            onlink=self.onlink,
        )


def add_route(device: int, route: Route) -> Request:
    return Request(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        _body(device, route, PROTOCOL_WEFT, _scope(route)),
    )


def remove_route(device: int, route: Route) -> Request:
    """Removes the route, whoever made it and whatever its scope."""
    return Request(RTM_DELROUTE, 0, _body(device, route, 0, _SCOPE_NOWHERE))


def dump_routes() -> tuple[int, bytes]:
    return RTM_GETROUTE, _HEADER.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)


def dump_ipv6_routes() -> tuple[int, bytes]:
    """Those of IPv6. A kernel without IPv6 answers with those of other families, which
    `is_ipv6` tells apart."""
    return RTM_GETROUTE, _HEADER.pack(socket.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)


def is_ipv6(body: bytes) -> bool:
    return body[0] == socket.AF_INET6


def decode_route(body: bytes) -> RouteInfo:
    family, prefix, _, _, table, protocol, _, kind, flags = _HEADER.unpack_from(body)
    found = decode(body, _HEADER.size)
    target = found.get(_RTA_DST, bytes(_LENGTHS.get(family, 4)))
    network = IPv4Network if family == socket.AF_INET else IPv6Network
    metric = to_u32(found[_RTA_PRIORITY]) if _RTA_PRIORITY in found else 0
    is_usual = family == socket.AF_INET6 and metric == _USUAL_METRIC
    return RouteInfo(
        table=to_u32(found[_RTA_TABLE]) if _RTA_TABLE in found else table,
        protocol=protocol,
        destination=network((target, prefix)),
        device=to_u32(found[_RTA_OIF]) if _RTA_OIF in found else None,
        via=to_address(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else None,
        source=to_address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None,
        onlink=bool(flags & _RTNH_F_ONLINK),
        metric=0 if is_usual else metric,
        unicast=kind == _RTN_UNICAST and not flags & _RTM_F_CLONED,
        kind=kind,
    )


def first_hop(body: bytes) -> tuple[int, Address | None] | None:
    """Index of the interface and gateway of the first of several next hops; None for a route that
    has only one."""
    hops = decode(body, _HEADER.size).get(_RTA_MULTIPATH, b"")
    if len(hops) < _NEXT_HOP.size:
        return None
    length, _, _, device = _NEXT_HOP.unpack_from(hops)
    gateway = decode(hops[:length], _NEXT_HOP.size).get(_RTA_GATEWAY)
    return device, to_address(gateway) if gateway is not None else None


def _scope(route: Route) -> int:
    return _SCOPE_UNIVERSE if route.via else _SCOPE_LINK


def _body(device: int, route: Route, protocol: int, scope: int) -> bytes:
    flags = _RTNH_F_ONLINK if route.onlink else 0
    # Table numbers above 255 only fit in the attribute; the header's field is then 0
    # (RT_TABLE_UNSPEC).
    table = route.table if route.table < 256 else 0
    prefix = route.destination.prefixlen
    family = socket.AF_INET if route.destination.version == 4 else socket.AF_INET6
    body = _HEADER.pack(family, prefix, 0, 0, table, protocol, scope, _RTN_UNICAST, flags)
    body += u32(_RTA_TABLE, route.table) + attribute(_RTA_OIF, struct.pack("=i", device))
    body += address(_RTA_DST, route.destination.network_address) if prefix else b""
    body += address(_RTA_GATEWAY, route.via) if route.via else b""
    body += address(_RTA_PREFSRC, route.source) if route.source else b""
    return body
