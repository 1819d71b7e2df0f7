"""Compares an actual kernel state with the desired one. The result is an ordered list of
operations, which print as ip, bridge and nft commands.

Order: removals first (rules before routes before links before namespaces, so that nothing dangles),
then namespaces, links, their settings, addresses, "up", and the entries on links that are up; then
tables. Peers that are gone come last, so that no rule still sends a packet to one: it would wait
for an answer to ARP, and the client would hear that the host is unreachable. Entries that the
kernel can replace in place (routes, neighbours, forwarding entries, tables) are not removed first,
so that no packet meets a gap.

A link of a different kind is made anew, with everything that the kernel drops together with a link.
Fields that are None in the desired state are not compared. This module never reads the kernel, and
equal states give no operations. An object that is the same in both states is skipped: a planner
returns the same object for unchanged parts.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from weft.model.addresses import Interface
from weft.network import operations as op
from weft.network.kernel_state import (
    HOST,
    Bridge,
    BridgePort,
    ForwardingEntry,
    KernelState,
    Link,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Tap,
    Veth,
    Vxlan,
)
from weft.network.operations import Operation
from weft.network.render.changes import Comparison

Place = tuple[str, str]
"""Namespace and interface."""


def diff(actual: KernelState, desired: KernelState) -> list[Operation]:
    """Operations that lead from `actual` to `desired`, to be applied in order. A missing host
    namespace counts as an empty one."""
    old = {HOST: Namespace(name=HOST), **actual.namespaces}
    new = {HOST: Namespace(name=HOST), **desired.namespaces}
    gone = [name for name in old if name not in new]
    links = _Links(old, new)
    changed = [
        (old.get(name) or Namespace(name=name), want)
        for name, want in new.items()
        if old.get(name) is not want or name in links.spaces
    ]
    pairs = [
        pair
        for pair in changed
        if pair[1].name in links.spaces or not _differ_in_tables_only(*pair)
    ]
    steps: list[Operation] = []
    for have, want in changed:
        steps += (
            op.RemoveTable(want.name, *key)
            for key in sorted(have.tables.keys() - want.tables.keys())
        )
    for have, want in pairs:
        steps += _removals(have, want, links)
    for have, want in pairs:
        steps += _unwanted_links(have, want, links)
    for name in gone:
        steps += _take_down(old[name])
    steps += [op.AddNamespace(name) for name in new if name not in old]
    for have, want in pairs:
        steps += _general_sysctls(have, want)
    steps += links.creation()
    for stage in (_settings, _device_sysctls, _addresses, _up, _entries, _routes):
        for have, want in pairs:
            steps += stage(have, want, links)
    comparison = Comparison()
    for have, want in changed:
        steps += _tables(have, want, links, comparison)
    for have, want in pairs:
        steps += _lost_peers(have, want, links)
    return steps


def _differ_in_tables_only(have: Namespace, want: Namespace) -> bool:
    """A fast check by identity: the other parts are the same objects."""
    return (
        have.links is want.links
        and have.neighbours is want.neighbours
        and have.forwarding is want.forwarding
        and have.routes is want.routes
        and have.rules is want.rules
        and have.sysctls is want.sysctls
    )


class _Links:
    """The links to make, and the old links to remove."""

    def __init__(self, old: Mapping[str, Namespace], new: Mapping[str, Namespace]) -> None:
        self.new = new
        self.made: set[Place] = set()
        """Links to make: nothing of an old link of that name counts."""
        self.doomed: list[Place] = []
        """Links to remove because they are made anew."""
        for space, namespace in new.items():
            before = old.get(space)
            if before is None or before.links is not namespace.links:
                self._compare(old, namespace)
        self.spaces = {space for space, _ in self.made}
        """Namespaces in which links are made."""

    def _compare(self, old: Mapping[str, Namespace], namespace: Namespace) -> None:
        """A veth that differs only at its far end is found from there: both ends name each
        other."""
        for name, link in namespace.links.items():
            ends = [(namespace.name, name), *_far_end(link)]
            found = [_link(old, place) for place in ends]
            if not all(
                _alike(have, _link(self.new, place))
                for have, place in zip(found, ends, strict=True)
            ):
                self.doomed += [
                    place
                    for have, place in zip(found, ends, strict=True)
                    if have and place not in self.made
                ]
                self.made.update(ends)

    def creation(self) -> Iterable[Operation]:
        """Bridges first, for human readers; then tunnels and taps; then each veth once."""
        wanted = [
            (place, link)
            for place in self._in_order()
            if (link := _link(self.new, place)) is not None
        ]
        yield from (
            op.AddLink(space, link) for (space, _), link in wanted if isinstance(link.kind, Bridge)
        )
        yield from (
            op.AddLink(space, link)
            for (space, _), link in wanted
            if isinstance(link.kind, Vxlan | Tap)
        )
        done: set[Place] = set()
        for (space, name), link in wanted:
            if isinstance(link.kind, Veth) and (space, name) not in done:
                far = _far_end(link)
                done.update(far)
                yield op.AddLink(space, link, _link(self.new, far[0]) if far else None)

    def _in_order(self) -> Iterable[Place]:
        for space in self.new:
            if space in self.spaces:
                yield from (
                    (space, name) for name in self.new[space].links if (space, name) in self.made
                )

    def kept(self, have: Namespace, want: Namespace, device: str) -> bool:
        """Whether the device exists before and after, so that its entries stay. True also for a
        device that is not ours."""
        ours = device in have.links or device in want.links
        return not ours or (
            device in have.links and device in want.links and (want.name, device) not in self.made
        )


def _link(namespaces: Mapping[str, Namespace], place: Place) -> Link | None:
    namespace = namespaces.get(place[0])
    return namespace.links.get(place[1]) if namespace else None


def _far_end(link: Link) -> list[Place]:
    kind = link.kind
    if isinstance(kind, Veth) and kind.peer_namespace is not None and kind.peer is not None:
        return [(kind.peer_namespace, kind.peer)]
    return []


def _alike(have: Link | None, want: Link | None) -> bool:
    """Whether the link can stay, with other settings at most. A veth's peer is compared if both
    states know the peer. A tunnel's socket is compared if it is known to be outside the host's
    namespace: the tunnel would go with that other namespace."""
    if have is None or want is None or type(have.kind) is not type(want.kind):
        return False
    if isinstance(have.kind, Veth) and isinstance(want.kind, Veth):
        return have.kind.peer is None or have.kind == want.kind
    if isinstance(have.kind, Vxlan) and isinstance(want.kind, Vxlan):
        may_be_there = have.kind.socket in (HOST, want.kind.socket)
        return (
            may_be_there
            and msgspec.structs.replace(have.kind, socket=want.kind.socket) == want.kind
        )
    return have.kind == want.kind


# --- removals


def _removals(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    """Removes entries that nothing replaces, on links that stay, except peers. Entries on other
    links go with the link."""
    name = want.name
    yield from (op.RemoveRule(name, rule) for rule in _ordered(have.rules - want.rules))
    for route in _unreplaced(have.routes, want.routes, lambda r: (r.destination, r.table)):
        if links.kept(have, want, route.device):
            yield op.RemoveRoute(name, route)
    for device, link in want.links.items():
        if links.kept(have, want, device):
            stale = have.links[device].addresses - link.addresses
            yield from (op.RemoveAddress(name, device, each) for each in sorted(stale, key=_bits))


def _lost_peers(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    name = want.name
    for neighbour in _unreplaced(have.neighbours, want.neighbours, lambda n: (n.device, n.address)):
        if links.kept(have, want, neighbour.device):
            yield op.RemoveNeighbour(name, neighbour)
    for entry in _unreplaced(have.forwarding, want.forwarding, lambda f: (f.device, f.mac)):
        if links.kept(have, want, entry.device):
            yield op.RemoveForwarding(name, entry)


E = TypeVar("E", Route, Neighbour, ForwardingEntry)
S = TypeVar("S", Route, Neighbour, ForwardingEntry, Rule)


def _unreplaced(old: frozenset[E], new: frozenset[E], key: Callable[[E], Any]) -> list[E]:
    gone = old - new
    if not gone:
        return []
    replaced = {key(entry) for entry in new - old}
    return _ordered(entry for entry in gone if key(entry) not in replaced)


def _unwanted_links(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    name = want.name
    yield from (op.RemoveLink(name, link) for link in have.links if link not in want.links)
    yield from (
        op.RemoveLink(space, link) for space, link in dict.fromkeys(links.doomed) if space == name
    )


def _take_down(have: Namespace) -> Iterable[Operation]:
    """The kernel destroys a namespace with some delay. A VNI must be free at once, so tunnels are
    removed first."""
    yield from (
        op.RemoveLink(have.name, link.name)
        for link in have.links.values()
        if isinstance(link.kind, Vxlan)
    )
    yield op.RemoveNamespace(have.name)


# --- additions


def _general_sysctls(have: Namespace, want: Namespace) -> Iterable[Operation]:
    """Set before any link is made: a new link takes over the namespace's defaults."""
    for key, value in want.sysctls.items():
        if device_of(key) is None and have.sysctls.get(key) != value:
            yield op.SetSysctl(want.name, key, value)


def _device_sysctls(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    for key, value in want.sysctls.items():
        device = device_of(key)
        if device is not None and (
            have.sysctls.get(key) != value or not links.kept(have, want, device)
        ):
            yield op.SetSysctl(want.name, key, value)


def device_of(key: str) -> str | None:
    """The interface of a sysctl `net.ipv4.conf.<device>.<name>` (or `neigh`), else None."""
    words = key.split(".")
    return (
        words[3]
        if len(words) == 5 and words[2] in ("conf", "neigh") and words[3] not in ("all", "default")
        else None
    )


def _settings(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    space = want.name
    for name, link in want.links.items():
        fresh = (space, name) in links.made
        old = None if fresh else have.links.get(name)
        moved = link.master is not None if fresh else _changes_bridge(have, want, links, name)
        change = op.SetLink(
            namespace=space,
            name=name,
            mtu=link.mtu if old and old.mtu != link.mtu else None,
            mac=link.mac if old and old.mac != link.mac else None,
            master=(link.master or "") if moved else None,
        )
        if change != op.SetLink(namespace=space, name=name):
            yield change
        port = old.port if old is not None and not moved else BridgePort()
        if link.port != port:
            yield op.SetLink(namespace=space, name=name, port=link.port)


def _addresses(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    for name, link in want.links.items():
        old = have.links[name].addresses if links.kept(have, want, name) else frozenset()
        missing = sorted(link.addresses - old, key=lambda a: (a.network.prefixlen == 32, _bits(a)))
        yield from (op.AddAddress(want.name, name, address) for address in missing)


def _bits(address: Interface) -> tuple[int, int, int]:
    """Addresses of IPv4 first."""
    return address.version, int(address.ip), address.network.prefixlen


def _up(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    for name, link in want.links.items():
        was = have.links[name].up if links.kept(have, want, name) else False
        if link.up != was:
            yield op.SetLink(namespace=want.name, name=name, up=link.up)


def _entries(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    """The kernel drops a link's permanent neighbours with its MAC or its last address
    (`neigh_changeaddr`, `inetdev_destroy`). When a port leaves its bridge, the kernel drops the
    bridge's entries for that port (`br_fdb_delete_by_port`). Both are added again."""
    name = want.name
    kept = ((d, have.links[d], link) for d, link in want.links.items() if links.kept(have, want, d))
    shaken = {
        d
        for d, old, new in kept
        if _changes_mac(old, new) or (old.addresses and not old.addresses & new.addresses)
    }
    lost = frozenset(neighbour for neighbour in have.neighbours if neighbour.device in shaken)
    missing = _missing(have, want, links, have.neighbours - lost, want.neighbours)
    yield from (op.AddNeighbour(name, entry) for entry in missing)
    left = frozenset(
        e
        for e in have.forwarding
        if e.vtep is None and _changes_bridge(have, want, links, e.device)
    )
    paths = _missing(have, want, links, have.forwarding - left, want.forwarding)
    yield from (op.AddForwarding(name, entry) for entry in paths)


def _changes_bridge(have: Namespace, want: Namespace, links: _Links, name: str) -> bool:
    """Whether a link that stays moves to another bridge, or to a bridge that is made anew."""
    old, link = have.links.get(name), want.links.get(name)
    master = link.master if link is not None else None
    return (old.master if old else None) != master or (
        master is not None and (want.name, master) in links.made
    )


def _changes_mac(old: Link, new: Link) -> bool:
    return new.mac is not None and new.mac != old.mac


def _routes(have: Namespace, want: Namespace, links: _Links) -> Iterable[Operation]:
    """Specific routes first: a default route's gateway may be reached by another route. The kernel
    drops a removed address's routes, so they are added again."""
    name = want.name
    shaken = {
        d
        for d, link in want.links.items()
        if links.kept(have, want, d) and have.links[d].addresses - link.addresses
    }
    lost = frozenset(route for route in have.routes if route.device in shaken)
    missing = _missing(have, want, links, have.routes - lost, want.routes)
    yield from (op.AddRoute(name, route) for route in missing)
    yield from (op.AddRule(name, rule) for rule in _ordered(want.rules - have.rules))


def _tables(
    have: Namespace, want: Namespace, links: _Links, comparison: Comparison
) -> Iterable[Operation]:
    """A netdev chain goes with its device, so the tables of that family are loaded again whenever a
    link is made."""
    remade = any((want.name, name) in links.made for name in want.links)
    for key, table in want.tables.items():
        old = have.tables.get(key)
        changes = (
            None
            if old is None or (remade and table.family == "netdev")
            else comparison.changes(old, table)
        )
        if changes is None:
            yield op.ReplaceTable(want.name, table)
        elif changes:
            yield op.ChangeTable(want.name, table, changes)


def _missing(
    have: Namespace, want: Namespace, links: _Links, old: frozenset[E], new: frozenset[E]
) -> list[E]:
    lost = {device for device in want.links if not links.kept(have, want, device)}
    if not lost:
        return _ordered(new - old)
    return _ordered(entry for entry in new if entry not in old or entry.device in lost)


def _ordered(entries: Iterable[S]) -> list[S]:
    """A stable order, for people and tests."""
    return sorted(entries, key=_rank)


def _rank(entry: Route | Neighbour | ForwardingEntry | Rule) -> tuple[Any, ...]:
    """Numbers and strings only: comparing addresses is slow, and there are ten thousand of them."""
    if isinstance(entry, Neighbour):
        return entry.device, entry.address.version, int(entry.address)
    if isinstance(entry, ForwardingEntry):
        return entry.device, entry.mac, int(entry.vtep or 0)
    if isinstance(entry, Route):
        return (
            entry.table,
            entry.destination.version,
            -entry.destination.prefixlen,
            int(entry.destination.network_address),
            str(entry),
        )
    return entry.priority, entry.source_ports or (0, 0), str(entry)
