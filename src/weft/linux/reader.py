"""Reads one namespace: turns what the kernel dumps into the values that `diff` compares.

In a namespace of ours, everything is shown that a `Namespace` can express. In the host's namespace,
only what `network/ownership.py` names is shown, and in its main routing table only the routes that
carry our protocol number.
"""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple, TypeVar

from weft.linux import netns, sysctl
from weft.linux.handles import Handle
from weft.linux.netlink import address, link, neighbour, route, rule
from weft.linux.netlink.link import LinkInfo
from weft.linux.netlink.neighbour import NeighbourInfo
from weft.linux.netlink.route import RouteInfo
from weft.model.addresses import Interface
from weft.network.kernel_state import (
    HOST,
    Bridge,
    ForwardingEntry,
    Link,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Table,
    Tap,
    Veth,
    Vxlan,
)
from weft.network.ownership import owns_bridge, owns_link, owns_routing_table, owns_rule

T = TypeVar("T")

_KINDS: Mapping[str, Veth | Bridge | Vxlan | Tap] = {
    "veth": Veth(), "bridge": Bridge(), "tun": Tap(), "vxlan": Vxlan(0, IPv4Address(0), 0),
}  # fmt: skip
"""The kinds of links that we may have made, by the kernel's name. (Both kinds of tun(4) are called
tun.)"""
_LOCAL_TABLE = 255
"""The kernel's own table: every local and broadcast address."""


class Reading(NamedTuple):
    namespace: Namespace
    permanent: frozenset[tuple[int, bytes]]
    """Index of device and packed address of every permanent neighbour, for the watch."""


async def read_namespace(
    handle: Handle, keys: Iterable[str], tables: Mapping[tuple[str, str], Table]
) -> Reading:
    """`keys`: the sysctls to read. Raises NetlinkError."""
    host = handle.name == HOST
    links = {info.device: info for info in _dump(handle, link.dump_links(), link.decode_link)}
    shown = {index: info for index, info in links.items() if _is_shown(info, host)}
    neighbours = [
        n
        for n in _dump(handle, neighbour.dump_neighbours(), neighbour.decode_neighbour)
        if n.permanent
    ]
    forwarding = _dump(handle, neighbour.dump_forwarding(), neighbour.decode_neighbour)
    namespace = Namespace(
        name=handle.name,
        links=_links(shown, links, _addresses(handle)),
        neighbours=frozenset(
            Neighbour(shown[n.device].name, n.address, n.mac)
            for n in neighbours
            if n.device in shown and n.mac
        ),
        forwarding=frozenset(_forwarding(shown, forwarding)),
        routes=frozenset(_routes(handle, links, host)),
        rules=frozenset(_rules(handle, host)),
        sysctls=await _sysctls(handle, sorted(keys)),
        tables=tables,
    )
    return Reading(namespace, frozenset((n.device, n.destination) for n in neighbours))


def _dump(handle: Handle, request: tuple[int, bytes], decode: Callable[[bytes], T]) -> list[T]:
    return [decode(body) for body in handle.route.dump(*request)]


def _is_shown(info: LinkInfo, host: bool) -> bool:
    if info.kind not in _KINDS:
        return False
    return not host or owns_link(info.name) or (info.kind == "bridge" and owns_bridge(info.mac))


def _addresses(handle: Handle) -> dict[int, set[Interface]]:
    """Without the link-local ones of IPv6: the kernel makes these itself."""
    found: dict[int, set[Interface]] = {}
    own = _dump(handle, address.dump_addresses(), address.decode_address)
    bodies = filter(address.is_ipv6, handle.route.dump(*address.dump_ipv6_addresses()))
    for info in (*own, *map(address.decode_address, bodies)):
        if info.address.version == 4 or not info.address.is_link_local:
            found.setdefault(info.device, set()).add(info.address)
    return found


def _links(
    shown: Mapping[int, LinkInfo],
    links: Mapping[int, LinkInfo],
    addresses: Mapping[int, set[Interface]],
) -> dict[str, Link]:
    return {
        info.name: Link(
            name=info.name,
            kind=info.vxlan or _KINDS[info.kind],
            mtu=info.mtu,
            mac=info.mac,
            master=links[info.master].name
            if info.master is not None and info.master in links
            else None,
            addresses=frozenset(addresses.get(index, ())),
            up=info.up,
            port=info.port,
        )
        for index, info in shown.items()
    }


def _forwarding(
    shown: Mapping[int, LinkInfo], entries: Iterable[NeighbourInfo]
) -> Iterable[ForwardingEntry]:
    for entry in entries:
        if entry.device not in shown or not entry.mac:
            continue
        if entry.permanent and len(entry.destination) == 4:
            vtep = IPv4Address(entry.destination)
            yield ForwardingEntry(shown[entry.device].name, entry.mac, vtep)
        elif entry.at_port:
            yield ForwardingEntry(shown[entry.device].name, entry.mac)


def _routes(handle: Handle, links: Mapping[int, LinkInfo], host: bool) -> Iterable[Route]:
    own = _dump(handle, route.dump_routes(), route.decode_route)
    bodies = filter(route.is_ipv6, handle.route.dump(*route.dump_ipv6_routes()))
    for info in (*own, *map(route.decode_route, bodies)):
        device = links.get(info.device) if info.device is not None else None
        if (
            device is not None
            and info.unicast
            and not info.metric
            and _is_our_route(info, device, host)
        ):
            yield info.route(device.name)


def _is_our_route(info: RouteInfo, device: LinkInfo, host: bool) -> bool:
    if info.table == _LOCAL_TABLE or info.protocol == route.PROTOCOL_KERNEL:
        return False
    return (
        not host
        or owns_routing_table(info.table)
        or (owns_link(device.name) and info.protocol == route.PROTOCOL_WEFT)
    )


def _rules(handle: Handle, host: bool) -> Iterable[Rule]:
    for found in _dump(handle, rule.dump_rules(), rule.decode_rule):
        if found is not None and (
            not host or owns_rule(found.priority, found.mark, found.input_device)
        ):
            yield found


async def _sysctls(handle: Handle, keys: list[str]) -> dict[str, str]:
    """Parameters that do not exist are left out, unless their absence has a meaning."""
    if not keys:
        return {}

    def read() -> dict[str, str]:
        found = {key: sysctl.read(key) or sysctl.when_absent(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    return await netns.on_thread(netns.inside(handle.descriptor, read))
