"""Reads what a packet meets in the namespaces of this host (`network/trace/host.py`), when somebody
asks for a packet's way. Nothing is changed.

Of every namespace the interfaces are read, so that both ends of each veth and the socket of each
tunnel are known; of those that a packet passes, all the rest. Unlike `reader.py`, this also shows
what others have made in the host's namespace, and what the kernel itself adds.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

import msgspec

from weft.linux import netns, sysctl
from weft.linux.foreign_rules import dropping
from weft.linux.handles import Handle, Handles
from weft.linux.listeners import listeners
from weft.linux.netlink import address, link, neighbour, nftables, nsid, route, rule
from weft.linux.netlink.link import LinkInfo
from weft.linux.tables import Tables
from weft.model.addresses import Address, Interface, Subnet
from weft.network.kernel_state import HOST, Bridge, Route, Rule, Table, Tap, Veth, Vxlan
from weft.network.ownership import owns_table
from weft.network.render.table import text
from weft.network.trace.host import Device, Listener, Space
from weft.network.trace.nft import parse

_KINDS: Mapping[str, Veth | Bridge | Tap] = {"veth": Veth(), "bridge": Bridge(), "tun": Tap()}
_UNREACHABLE = (route.RTN_BLACKHOLE, route.RTN_UNREACHABLE, route.RTN_PROHIBIT)
_KEYS = (
    "net.ipv4.ip_forward", "net.ipv4.tcp_fwmark_accept", "net.ipv6.conf.all.forwarding",
)  # fmt: skip
_DEVICE_KEYS = ("rp_filter", "src_valid_mark", "route_localnet", "arp_ignore")
_BUILT_IN_RULES = 3


class Outlines:
    """The interfaces of all namespaces, without addresses."""

    def __init__(self, handles: Handles) -> None:
        self._handles = {handle.name: handle for handle in handles}
        self._links = {
            handle.name: {info.device: info for info in _links(handle)}
            for handle in self._handles.values()
        }
        self._numbers: dict[tuple[str, str], int] = {}
        """By two namespaces: the number by which the first knows the second."""

    def spaces(self) -> dict[str, Space]:
        return {
            name: Space(
                name=name,
                whole=False,
                devices={i.name: self._device(name, i, links) for i in links.values()},
            )
            for name, links in self._links.items()
        }

    def _device(self, space: str, info: LinkInfo, links: Mapping[int, LinkInfo]) -> Device:
        master = links.get(info.master) if info.master is not None else None
        return Device(
            space=space,
            name=info.name,
            kind=self._kind(space, info),
            mtu=info.mtu,
            mac=info.mac,
            up=info.up,
            master=master.name if master is not None else None,
            port=info.port,
            peer=self._peer(space, info) if info.kind == "veth" else None,
        )

    def _kind(self, space: str, info: LinkInfo) -> Veth | Bridge | Vxlan | Tap | None:
        if info.vxlan is None:
            return _KINDS.get(info.kind)
        if info.elsewhere is None:
            return msgspec.structs.replace(info.vxlan, socket=space)
        there = (n for n in self._handles if self._number(space, n) == info.elsewhere)
        return msgspec.structs.replace(info.vxlan, socket=next(there, ""))

    def _peer(self, space: str, info: LinkInfo) -> tuple[str, str] | None:
        """Where the index of the other end is an interface whose other end is this one, and the
        namespace has the right number."""
        for name in (space,) if info.elsewhere is None else self._links:
            found = self._links[name].get(info.other or 0)
            if found is None or found.other != info.device:
                continue
            if info.elsewhere in (None, self._number(space, name)):
                return name, found.name
        return None

    def _number(self, here: str, there: str) -> int:
        if (here, there) not in self._numbers:
            request = nsid.get_nsid(self._handles[there].descriptor)
            answer = self._handles[here].route.ask(request)
            self._numbers[here, there] = nsid.decode_nsid(answer)
        return self._numbers[here, there]


async def read_space(handle: Handle, outline: Space, tables: Tables) -> Space:
    """The whole of one namespace. Raises OSError, or ValueError for rules that are not
    understood."""
    names = {info.device: info.name for info in _links(handle)}
    rules, odd = _rules(handle)
    applied, unsure = await _tables(handle, tables)
    changed = frozenset(key for key, table in applied.items() if not table.body)
    values, listening = await netns.on_thread(
        netns.inside(handle.descriptor, lambda: _inside(list(outline.devices)))
    )
    addresses = _addresses(handle)
    forwarding = list(_forwarding(handle, names))
    return msgspec.structs.replace(
        outline,
        whole=True,
        devices={
            device.name: msgspec.structs.replace(
                device, addresses=tuple(addresses.get(device.name, ()))
            )
            for device in outline.devices.values()
        },
        local=tuple(_local(handle)),
        neighbours=_neighbours(handle, names),
        tunnels={(name, mac): vtep for name, mac, vtep in forwarding if vtep is not None},
        ports={
            (master, mac): name
            for name, mac, vtep in forwarding
            if vtep is None and (master := outline.devices[name].master) is not None
        },
        routes=tuple(_routes(handle, names)),
        rules=tuple(rules),
        sysctls=values,
        tables={k: parse(text(table)) for k, table in applied.items() if k not in changed},
        changed=changed,
        unsure=unsure,
        foreign=(*await _foreign_tables(handle, tables), *odd),
        bound=frozenset(outline.devices),
        listeners=listening,
    )


async def _tables(
    handle: Handle, tables: Tables
) -> tuple[dict[tuple[str, str], Table], tuple[str, ...]]:
    """Our tables; of those that cannot be compared with the kernel's, what we last wrote. Then the
    names of these."""
    found, unsure = await tables.read(handle), []
    for key, table in found.items():
        last = tables.written(handle, nftables.TableName(*key)) if table.unknown else None
        if last is not None:
            found[key] = last
            unsure.append(" ".join(key))
    return found, tuple(unsure)


def _links(handle: Handle) -> Iterator[LinkInfo]:
    return map(link.decode_link, handle.route.dump(*link.dump_links()))


def _addresses(handle: Handle) -> dict[str, list[Interface]]:
    """By interface, in the kernel's order."""
    names = {info.device: info.name for info in _links(handle)}
    found: dict[str, list[Interface]] = {}
    bodies = filter(address.is_ipv6, handle.route.dump(*address.dump_ipv6_addresses()))
    own = handle.route.dump(*address.dump_addresses())
    for info in map(address.decode_address, (*own, *bodies)):
        if info.device in names:
            found.setdefault(names[info.device], []).append(info.address)
    return found


def _neighbours(handle: Handle, names: Mapping[int, str]) -> dict[tuple[str, Address], str]:
    dumped = handle.route.dump(*neighbour.dump_neighbours())
    return {
        (names[entry.device], entry.address): entry.mac
        for entry in map(neighbour.decode_neighbour, dumped)
        if entry.permanent and entry.mac and entry.device in names
    }


def _forwarding(
    handle: Handle, names: Mapping[int, str]
) -> Iterator[tuple[str, str, IPv4Address | None]]:
    dumped = handle.route.dump(*neighbour.dump_forwarding())
    for entry in map(neighbour.decode_neighbour, dumped):
        if entry.device not in names or not entry.mac:
            continue
        if entry.permanent and len(entry.destination) == 4:
            yield names[entry.device], entry.mac, IPv4Address(entry.destination)
        elif entry.at_port:
            yield names[entry.device], entry.mac, None


def _all_routes(handle: Handle) -> Iterator[bytes]:
    yield from handle.route.dump(*route.dump_routes())
    yield from filter(route.is_ipv6, handle.route.dump(*route.dump_ipv6_routes()))


def _local(handle: Handle) -> Iterator[Subnet]:
    for body in _all_routes(handle):
        info = route.decode_route(body)
        if info.kind == route.RTN_LOCAL:
            yield info.destination


def _routes(handle: Handle, names: Mapping[int, str]) -> Iterator[Route]:
    """The best first. Of several next hops, the first; the kernel may choose another."""
    found = []
    for body in _all_routes(handle):
        info, hop = route.decode_route(body), route.first_hop(body)
        if hop is not None:
            info = info._replace(device=hop[0], via=hop[1])
        name = names.get(info.device) if info.device is not None else None
        if info.kind in _UNREACHABLE:
            found.append((info.metric, info.route("")))
        elif info.unicast and name is not None:
            found.append((info.metric, info.route(name)))
    return (way for _, way in sorted(found, key=lambda entry: entry[0]))


def _rules(handle: Handle) -> tuple[list[Rule], list[str]]:
    """The rules, and what is to be said of others that cannot be followed."""
    decoded = [rule.decode_rule(body) for body in handle.route.dump(*rule.dump_rules())]
    known = [found for found in decoded if found is not None]
    odd = len(decoded) - len(known) - _BUILT_IN_RULES
    return known, [f"{odd} rules of policy routing"] if odd > 0 else []


async def _foreign_tables(handle: Handle, tables: Tables) -> list[str]:
    """With the chains that may drop a packet."""
    if handle.name != HOST:
        return []
    dumped = handle.filter.dump(*nftables.dump_tables())
    names = [name for name in map(nftables.decode_table, dumped) if not owns_table(name.name)]
    listings = await tables.frames(handle, names)
    found = []
    for name in names:
        chains = ", ".join(dropping(listings.get(name, "")))
        drops = f", where packets are dropped in chain {chains}" if chains else ""
        found.append(f"nft table {name.family} {name.name}{drops}")
    return found


def _inside(devices: Iterable[str]) -> tuple[dict[str, str], frozenset[Listener]]:
    """The kernel's parameters, and who listens. Runs in the namespace."""
    keys = [*_KEYS]
    for device in ("all", *devices):
        name = device.replace(".", "/")
        keys += [f"net.ipv4.conf.{name}.{key}" for key in _DEVICE_KEYS]
    values = {key: value for key in keys if (value := sysctl.read(key)) is not None}
    return values, listeners()
