"""The IP layer of one namespace: routing, the netfilter hooks with their chains, connection
tracking and address translation.

Functions on a `FakeNamespace` and a `Flight`, in the order in which Linux does these things. Where
a packet's way ends, they raise `End`; they report each step to `note`. fake_underlay.py brings the
packet to the next device and beyond.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from weft.linux.fake_namespace import Device, FakeNamespace
from weft.network.kernel_state import MAIN_TABLE, Route, Rule
from weft.network.nft import DSTNAT, SRCNAT
from weft.network.trace.conntrack import Connection, Packet
from weft.network.trace.nft import Chain, Flight, Ruleset, run

ANY = IPv4Address(0)
CONNTRACK_PRIORITY = -200
MAIN_PRIORITY = 32766
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
LOOPBACK = "lo"

Note = Callable[[str], None]


class End(Exception):
    """The packet's way ends here; `str()` says why."""


class Hop(NamedTuple):
    """The result of a route lookup: a device and a neighbour."""

    device: str
    neighbour: IPv4Address
    source: IPv4Address
    """Source address of the host's own packets that have none."""
    table: int


# --- hooks


def hook(space: FakeNamespace, name: str, flight: Flight, note: Note) -> None:
    """Runs the chains of a hook (prerouting, input, forward, output or postrouting) in order of
    priority. Connection tracking runs between the raw chains and the rest, address translation at
    the end."""
    chains = sorted(_chains(space, "ip", name), key=lambda c: c[1].priority)
    for rules, chain in chains:
        if chain.priority < CONNTRACK_PRIORITY:
            _call(rules, chain, flight, note)
    if name in ("prerouting", "output"):
        _track(space, flight)
    for rules, chain in chains:
        if chain.priority > CONNTRACK_PRIORITY and chain.kind != "nat":
            _call(rules, chain, flight, note)
    if name != "forward":
        _translate(space, name, [entry for entry in chains if entry[1].kind == "nat"], flight, note)


def ingress(space: FakeNamespace, port: Device, flight: Flight, note: Note) -> None:
    """Runs a bridge's prerouting chains. Rules about ARP are not evaluated: ARP is not a packet
    here."""
    flight.input = port.name
    for rules, chain in _chains(space, "bridge", "prerouting"):
        _call(rules, chain, flight, note)


def egress(space: FakeNamespace, flight: Flight, note: Note) -> None:
    """Runs the netdev egress chains of the device by which the packet leaves."""
    device = space.devices[flight.output]
    bound = any(device in devices for devices in space.bound.values())
    for rules, chain in _chains(space, "netdev", "egress"):
        if bound and chain.device == device.name:
            before = flight.ether_destination
            _call(rules, chain, flight, note)
            if flight.ether_destination != before:
                note(f"{chain.name}: frame to {flight.ether_destination}")


def confirm(space: FakeNamespace, flight: Flight) -> None:
    """Confirms the connection of a packet that got through its last hook: conntrack knows it from
    now on."""
    if flight.tracked and not space.connections.confirm(flight.tracked.connection):
        raise End("dropped: another connection has the same answer")


def _chains(space: FakeNamespace, family: str, hook: str) -> list[tuple[Ruleset, Chain]]:
    rulesets = [
        space.ruleset(key) for key in space.tables if key[0] == family and key not in space.damaged
    ]
    return [(rules, chain) for rules in rulesets for chain in rules.on(hook)]


def _call(rules: Ruleset, chain: Chain, flight: Flight, note: Note) -> None:
    mark = flight.mark
    verdict = run(rules, chain, flight)
    if flight.mark != mark:
        note(f"{chain.name}: mark {flight.mark:#x}")
    if verdict.word == "drop" or verdict.word.startswith("reject"):
        raise End(f"{verdict.word} by {verdict.chain}")


def _track(space: FakeNamespace, flight: Flight) -> None:
    """Finds the packet's connection. A packet on its way through `lo` was seen already and keeps
    its connection."""
    if flight.tracked is None and not flight.untracked:
        flight.tracked = space.connections.find(flight.packet, flight.zone)


# --- address translation


def _translate(
    space: FakeNamespace, hook: str, chains: list[tuple[Ruleset, Chain]], flight: Flight, note: Note
) -> None:
    if flight.tracked is None:
        return
    connection = flight.tracked.connection
    what = "destination" if hook in ("prerouting", "output") else "source"
    if flight.tracked.state == "new" and what not in connection.translated and chains:
        connection.translated.add(what)
        for rules, chain in chains:
            assert chain.priority == (DSTNAT if what == "destination" else SRCNAT), (
                f"{chain.name} is called out of turn"
            )
            verdict = run(rules, chain, flight)
            if _choose(space, connection, verdict.word, flight):
                note(f"{verdict.chain}: {verdict.word}")
                break
        if what == "source":
            space.connections.make_unique(connection)
    wire, packet = flight.tracked.wire, flight.packet
    if what == "destination":
        flight.packet = packet._replace(
            destination=wire.destination, destination_port=wire.destination_port
        )
    else:
        flight.packet = packet._replace(source=wire.source, source_port=wire.source_port)
    if flight.packet != packet and flight.tracked.is_reply:
        note(f"answer of a translated connection: its {what} back")


def _choose(space: FakeNamespace, connection: Connection, word: str, flight: Flight) -> bool:
    """Applies a verdict that is a translation; False if it is none."""
    if word.startswith("dnat "):
        address, _, port = word.removeprefix("dnat ").partition(":")
        connection.send_to(IPv4Address(address), int(port) if port else None)
    elif word.startswith("snat ip to "):
        connection.send_from(IPv4Address(word.removeprefix("snat ip to ")))
    elif word == "masquerade":
        connection.send_from(space.devices[flight.output].addresses[0].ip)
    else:
        return False
    return True


# --- routing


def look_up(space: FakeNamespace, packet: Packet, mark: int, input: str = LOOPBACK) -> Hop | None:
    """The route to the packet's destination. `input`: the device by which it came in; `lo` for the
    host's own packets."""
    destination = packet.destination
    if space.is_local(destination):
        return Hop(LOOPBACK, destination, destination, 255)
    number = PROTOCOLS.get(packet.protocol)
    for rule in sorted(
        (*space.rules, Rule(priority=MAIN_PRIORITY, table=MAIN_TABLE)), key=lambda r: r.priority
    ):
        fits = (
            mark & rule.mask == rule.mark
            and rule.input_device in (None, input)
            and rule.protocol in (None, number)
            and _is_within(packet.source_port, rule.source_ports)
        )
        route = _longest(space, rule.table, destination) if fits else None
        if route is not None:
            source = route.source or _own_address(space, route.device, route.via or destination)
            return Hop(route.device, route.via or destination, source, route.table)
    return None


def check_source(space: FakeNamespace, packet: Packet, mark: int, input: str) -> None:
    """Drops what Linux does not accept from a device: loopback addresses, and, where rp_filter is
    set, senders that fail its check."""
    if input == LOOPBACK:
        return
    if (packet.source.is_loopback or packet.destination.is_loopback) and not _setting(
        space, input, "route_localnet"
    ):
        raise End(f"dropped: martian {packet.source} > {packet.destination} by {input}")
    if not _setting(space, input, "rp_filter"):
        return
    seen = mark if _setting(space, input, "src_valid_mark") else 0
    way = look_up(space, packet.reversed(), seen)
    strict = _setting(space, input, "rp_filter") == 1
    if way is None or (strict and way.device != input):
        raise End(f"dropped: reverse path of {packet.source} is not {input}")


def _setting(space: FakeNamespace, device: str, name: str) -> int:
    """The larger value of the device and of `all`, as the kernel does for the parameters used
    here."""
    return max(int(space.sysctl(f"net.ipv4.conf.{where}.{name}") or 0) for where in ("all", device))


def answers_arp(space: FakeNamespace, device: str, address: IPv4Address) -> bool:
    own = any(address == a.ip for a in space.devices[device].addresses)
    return own or (
        not _setting(space, device, "arp_ignore")
        and not address.is_loopback
        and space.is_local(address)
    )


def _is_within(port: int, range: tuple[int, int] | None) -> bool:
    return range is None or range[0] <= port <= range[1]


def _longest(space: FakeNamespace, table: int, destination: IPv4Address) -> Route | None:
    connected = (
        Route(destination=a.network, device=d.name, source=a.ip)
        for d in space.devices.values()
        if d.up
        for a in d.addresses
        if a.network.prefixlen < 32
    )
    found = [
        r
        for r in (*space.routes.values(), *connected)
        if r.table == table and destination in r.destination
    ]
    return max(found, key=lambda r: r.destination.prefixlen, default=None)


def _own_address(space: FakeNamespace, device: str, neighbour: IPv4Address) -> IPv4Address:
    """An address of the device in the neighbour's subnet, else the device's first, else any of the
    namespace."""
    on_device = space.devices[device].addresses
    near = [a.ip for a in on_device if neighbour in IPv4Network(a.network)]
    everywhere = [a.ip for d in space.devices.values() for a in d.addresses]
    return next(iter((*near, *(a.ip for a in on_device), *everywhere)), ANY)
