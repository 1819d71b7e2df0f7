"""rtnetlink links: encodes requests to make, change and remove interfaces, decodes dumps. Pure
functions.

One request makes both ends of a veth; the other end may be in another namespace. A VXLAN device is
made by a request that names the device's namespace; its UDP socket stays in the namespace of the
request. Numbers: `include/uapi/linux/if_link.h`, `rtnetlink.h`.
"""

import struct
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.linux.base import LinkTraffic
from weft.linux.netlink.attributes import (
    attribute,
    decode,
    ipv4,
    mac,
    nested,
    text,
    to_mac,
    to_text,
    to_u16_network,
    to_u32,
    u8,
    u16_network,
    u32,
)
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_EXCL, Request
from weft.model.addresses import MacAddress
from weft.network.kernel_state import BridgePort, Link, Vxlan

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFF_UP = 1
IFF_NOARP = 0x80
LOOPBACK_INDEX = 1
"""The same in every namespace."""

(
    _IFLA_ADDRESS,
    _IFLA_IFNAME,
    _IFLA_MTU,
    _IFLA_MASTER,
    _IFLA_LINKINFO,
    _IFLA_NET_NS_FD,
    _IFLA_EXT_MASK,
) = 1, 3, 4, 10, 18, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
(
    _VXLAN_ID,
    _VXLAN_LOCAL,
    _VXLAN_LEARNING,
    _VXLAN_PROXY,
    _VXLAN_L2MISS,
    _VXLAN_L3MISS,
    _VXLAN_PORT,
) = 1, 4, 7, 11, 13, 14, 15
_IFLA_LINK, _IFLA_LINK_NETNSID = 5, 37
_BRPORT = {"isolated": 33, "learning": 8, "flood": 9, "locked": 39, "hairpin": 4}
"""IFLA_BRPORT_…, by field of `BridgePort`."""
_SKIP_STATISTICS = 8
_IFLA_STATS64 = 23
_STATISTICS = struct.Struct("=8Q")
"""The beginning of `struct rtnl_link_stats64`, the fields of `LinkTraffic`."""
_HEADER = struct.Struct("=BxHiII")
"""Family, type of hardware, index, flags, mask of flags to change."""


class LinkInfo(NamedTuple):
    """An interface as the kernel describes it."""

    device: int
    """Index of the interface."""
    name: str
    up: bool
    mtu: int
    mac: MacAddress | None
    kind: str
    """`veth`, `bridge`, `vxlan`…; empty for hardware and lo."""
    master: int | None
    """Index of its bridge."""
    port: BridgePort
    vxlan: Vxlan | None
    other: int | None = None
    """Index of a veth's other end, in that end's namespace."""
    elsewhere: int | None = None
    """Number of the namespace of a veth's other end, or of a tunnel's socket, as the interface's
    namespace knows it; None if it is the same one."""


def add_veth(link: Link, peer: Link, peer_namespace: int) -> Request:
    """`peer_namespace`: a descriptor of the namespace for the other end."""
    other = (
        _header()
        + _name_mtu_mac(peer)
        + attribute(_IFLA_NET_NS_FD, struct.pack("=i", peer_namespace))
    )
    info = nested(
        _IFLA_LINKINFO,
        text(_IFLA_INFO_KIND, "veth"),
        nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other)),
    )
    return _create(_name_mtu_mac(link) + info)


def add_bridge(link: Link) -> Request:
    return _create(_name_mtu_mac(link) + nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge")))


def add_vxlan(link: Link, kind: Vxlan, namespace: int) -> Request:
    """To be sent in the namespace for the UDP socket. `namespace`: a descriptor of the namespace
    for the device."""
    data = nested(
        _IFLA_INFO_DATA,
        u32(_VXLAN_ID, kind.vni),
        ipv4(_VXLAN_LOCAL, kind.local),
        u16_network(_VXLAN_PORT, kind.port),
        u8(_VXLAN_LEARNING, 0),
        u8(_VXLAN_PROXY, 1),
        u8(_VXLAN_L2MISS, 1),
        u8(_VXLAN_L3MISS, 1),
    )
    target = attribute(_IFLA_NET_NS_FD, struct.pack("=i", namespace))
    return _create(
        _name_mtu_mac(link) + target + nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vxlan"), data)
    )


def set_no_arp(name: str) -> Request:
    return Request(
        RTM_NEWLINK, 0, _header(flags=IFF_NOARP, change=IFF_NOARP) + text(_IFLA_IFNAME, name)
    )


def remove_link(name: str) -> Request:
    return Request(RTM_DELLINK, 0, _header() + text(_IFLA_IFNAME, name))


def set_link(
    name: str,
    mtu: int | None = None,
    mac_address: MacAddress | None = None,
    master: int | None = None,
    up: bool | None = None,
) -> Request:
    """Changes the settings that are not None. `master` is an index; 0 takes the link out of its
    bridge."""
    body = _header(flags=IFF_UP if up else 0, change=0 if up is None else IFF_UP) + text(
        _IFLA_IFNAME, name
    )
    body += u32(_IFLA_MTU, mtu) if mtu is not None else b""
    body += mac(_IFLA_ADDRESS, mac_address) if mac_address is not None else b""
    body += u32(_IFLA_MASTER, master) if master is not None else b""
    return Request(RTM_NEWLINK, 0, body)


def set_port(name: str, port: BridgePort) -> Request:
    """The link must be a bridge's port already."""
    settings = nested(
        _IFLA_INFO_SLAVE_DATA, *(u8(key, getattr(port, name)) for name, key in _BRPORT.items())
    )
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_SLAVE_KIND, "bridge"), settings)
    return Request(RTM_NEWLINK, 0, _header() + text(_IFLA_IFNAME, name) + info)


def loopback_up() -> Request:
    return Request(RTM_NEWLINK, 0, _header(device=LOOPBACK_INDEX, flags=IFF_UP, change=IFF_UP))


def get_link(name: str) -> Request:
    return Request(
        RTM_GETLINK, 0, _header() + text(_IFLA_IFNAME, name) + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
    )


def dump_links() -> tuple[int, bytes]:
    return RTM_GETLINK, _header() + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)


def decode_link(body: bytes) -> LinkInfo:
    _, _, index, flags, _ = _HEADER.unpack_from(body)
    found = decode(body, _HEADER.size)
    info = decode(found.get(_IFLA_LINKINFO, b""))
    kind = to_text(info.get(_IFLA_INFO_KIND, b""))
    address = found.get(_IFLA_ADDRESS, b"")
    port = BridgePort()
    if to_text(info.get(_IFLA_INFO_SLAVE_KIND, b"")) == "bridge":
        settings = decode(info.get(_IFLA_INFO_SLAVE_DATA, b""))
        port = BridgePort(
            **{name: any(settings[key]) for name, key in _BRPORT.items() if key in settings}
        )
    return LinkInfo(
        device=index,
        name=to_text(found.get(_IFLA_IFNAME, b"")),
        up=bool(flags & IFF_UP),
        mtu=to_u32(found[_IFLA_MTU]) if _IFLA_MTU in found else 0,
        mac=to_mac(address) if len(address) == 6 else None,
        kind=kind,
        master=to_u32(found[_IFLA_MASTER]) if _IFLA_MASTER in found else None,
        port=port,
        vxlan=_decode_vxlan(info.get(_IFLA_INFO_DATA, b"")) if kind == "vxlan" else None,
        other=to_u32(found[_IFLA_LINK]) if kind == "veth" and _IFLA_LINK in found else None,
        elsewhere=to_u32(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else None,
    )


def dump_statistics() -> tuple[int, bytes]:
    """With what the devices have counted, for `decode_statistics`."""
    return RTM_GETLINK, _header()


def decode_statistics(body: bytes) -> tuple[str, str, LinkTraffic] | None:
    """The device's name and kind, and what it has carried."""
    found = decode(body, _HEADER.size)
    kind = to_text(decode(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b""))
    counted = found.get(_IFLA_STATS64, b"")
    if len(counted) < _STATISTICS.size:
        return None
    name = to_text(found.get(_IFLA_IFNAME, b""))
    return name, kind, LinkTraffic(*_STATISTICS.unpack_from(counted))


def _decode_vxlan(data: bytes) -> Vxlan:
    found = decode(data)
    return Vxlan(
        vni=to_u32(found.get(_VXLAN_ID, bytes(4))),
        local=IPv4Address(found.get(_VXLAN_LOCAL, bytes(4))),
        port=to_u16_network(found.get(_VXLAN_PORT, bytes(2))),
    )


def _create(attributes: bytes) -> Request:
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _header() + attributes)


def _header(device: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _HEADER.pack(0, 0, device, flags, change)


def _name_mtu_mac(link: Link) -> bytes:
    body = text(_IFLA_IFNAME, link.name) + u32(_IFLA_MTU, link.mtu)
    return body + mac(_IFLA_ADDRESS, link.mac) if link.mac is not None else body
