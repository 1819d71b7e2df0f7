"""The IP layer of one namespace: routing, the netfilter hooks with their chains, connection
tracking and address translation.

Functions on a `Space` and a `Flight`, in the order in which Linux does these things. Where a
packet's way ends, they raise `Halt`; they report each step to `note`. walk.py brings the packet to
the next device and beyond.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from weft.model.addresses import Address
from weft.model.trace import ANY, CauseKind, Packet, StepKind
from weft.network.kernel_state import MAIN_TABLE, Route, Rule
from weft.network.nft import DSTNAT, SRCNAT
from weft.network.trace.conntrack import Connection
from weft.network.trace.host import LOOPBACK, Device, Space
from weft.network.trace.nft import Chain, Flight, Ruleset, run

CONNTRACK_PRIORITY = -200
MAIN_PRIORITY = 32766
PROTOCOLS = {"icmp": 1, "ipv6-icmp": 58, "tcp": 6, "udp": 17, "esp": 50, "sctp": 132}
DAEMON = "the daemon of this host, by itself, within 10 s, or weft doctor --repair at once"
"""What repairs what the daemon has made."""


class Note(Protocol):
    def __call__(self, kind: StepKind, words: str, *facts: str, choices: int = 1) -> None: ...


class Halt(Exception):
    """The packet's way ends here; `str()` says why. `where`: the namespace and interface of the
    fault, if that is not where the packet is."""

    def __init__(
        self,
        kind: CauseKind,
        words: str,
        missing: str = "",
        repair: str = DAEMON,
        where: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__(words)
        self.kind, self.missing, self.repair, self.where = kind, missing, repair, where


class Hop(NamedTuple):
    """The result of a route lookup: a device and a neighbour."""

    device: str
    neighbour: Address
    source: Address
    """Source address of the host's own packets that have none."""
    table: int
    route: Route | None = None
    """None: the address is local."""


# --- hooks


def hook(space: Space, name: str, flight: Flight, note: Note) -> None:
    """Runs the chains of a hook (prerouting, input, forward, output or postrouting) in order of
    priority. Connection tracking runs between the raw chains and the rest, address translation at
    the end."""
    chains = sorted(_chains(space, flight.packet.family, name), key=lambda c: c[1].priority)
    for rules, chain in chains:
        if chain.priority < CONNTRACK_PRIORITY:
            _call(rules, chain, flight, note)
    if name in ("prerouting", "output"):
        _track(flight)
    for rules, chain in chains:
        if chain.priority > CONNTRACK_PRIORITY and chain.kind != "nat":
            _call(rules, chain, flight, note)
    if name != "forward":
        _translate(space, name, [entry for entry in chains if entry[1].kind == "nat"], flight, note)


def ingress(space: Space, port: Device, flight: Flight, note: Note) -> None:
    """Runs a bridge's prerouting chains. Rules about ARP are not evaluated: ARP is not a packet
    here."""
    flight.input = port.name
    for rules, chain in _chains(space, "bridge", "prerouting"):
        _call(rules, chain, flight, note)


def egress(space: Space, flight: Flight, note: Note) -> None:
    """Runs the netdev egress chains of the device by which the packet leaves."""
    device = space.devices[flight.output]
    for rules, chain in _chains(space, "netdev", "egress"):
        if device.name in space.bound and chain.device == device.name:
            before = flight.ether_destination
            _call(rules, chain, flight, note)
            if flight.ether_destination != before:
                note(StepKind.FRAME, f"{chain.name}: frame to {flight.ether_destination}")


def confirm(flight: Flight) -> None:
    """Confirms the connection of a packet that got through its last hook: conntrack knows it from
    now on."""
    if flight.tracked and not flight.connections.confirm(flight.tracked.connection):
        raise Halt(
            CauseKind.SAME_ANSWER,
            "dropped: another connection has the same answer",
            repair="another source port",
        )


def _chains(space: Space, family: str, hook: str) -> list[tuple[Ruleset, Chain]]:
    for key in space.changed:
        if key[0] == family:
            raise Halt(
                CauseKind.RULES_CHANGED,
                f"cannot follow the rules of nft table {' '.join(key)}",
                "they are not those that the daemon has applied: somebody has changed them",
            )
    rulesets = [rules for key, rules in space.tables.items() if key[0] == family]
    return [(rules, chain) for rules in rulesets for chain in rules.on(hook)]


def _call(rules: Ruleset, chain: Chain, flight: Flight, note: Note) -> None:
    mark = flight.mark
    verdict = run(rules, chain, flight)
    if flight.mark != mark:
        note(StepKind.MARK, f"{chain.name}: mark {flight.mark:#x}")
    if verdict.word == "drop" or verdict.word.startswith("reject"):
        raise Halt(
            CauseKind.RULE,
            f"{verdict.word} by {verdict.chain}",
            _MEANINGS.get(verdict.chain, ""),
            "nothing is broken: this is what the rule is for",
        )


_MEANINGS = {
    "mesh-refuse": "no task of the service that publishes this port serves",
    "vip-refuse": "no task of the service with this virtual address serves",
    "mesh-guard": "only hosts may send to a task on the ingress network, and for published ports",
    "source-guard": "a container may send only from its own addresses",
    "gateway-guard": "a container may send only from its own address",
    "gateway-entry": "the port is not published",
    "from-containers": "a container may not send to hosts what hosts send each other",
    "mesh-answers": "from the ingress network only answers are let in",
    "vxlan-in": "the sender is not known as a host that shares a network with this one",
}
"""What the chains are for that refuse packets."""


def _track(flight: Flight) -> None:
    """Finds the packet's connection. A packet on its way through `lo` was seen already and keeps
    its connection."""
    if flight.tracked is None and not flight.untracked:
        flight.tracked = flight.connections.find(flight.packet, flight.zone)


# --- address translation


def _translate(
    space: Space, hook: str, chains: list[tuple[Ruleset, Chain]], flight: Flight, note: Note
) -> None:
    if flight.tracked is None:
        return
    connection = flight.tracked.connection
    what = "destination" if hook in ("prerouting", "output") else "source"
    if flight.tracked.state == "new" and what not in connection.translated and chains:
        connection.translated.add(what)
        _choose_translation(space, what, chains, flight, note)
        if what == "source":
            flight.connections.make_unique(connection)
    wire, packet = flight.tracked.wire, flight.packet
    if what == "destination":
        flight.packet = packet._replace(
            destination=wire.destination, destination_port=wire.destination_port
        )
    else:
        flight.packet = packet._replace(source=wire.source, source_port=wire.source_port)
    if flight.packet != packet and flight.tracked.is_reply:
        note(StepKind.TRANSLATE, f"answer of a translated connection: its {what} back")


def _choose_translation(
    space: Space, what: str, chains: list[tuple[Ruleset, Chain]], flight: Flight, note: Note
) -> None:
    assert flight.tracked is not None
    connection = flight.tracked.connection
    for rules, chain in chains:
        assert chain.priority == (DSTNAT if what == "destination" else SRCNAT), (
            f"{chain.name} is called out of turn"
        )
        flight.choices = 0
        verdict = run(rules, chain, flight)
        if _choose(space, connection, verdict.word, flight):
            many = flight.choices > 1
            facts = [f"one of {flight.choices} tasks; another connection may get another"] * many
            words = f"{verdict.chain}: {verdict.word}"
            note(StepKind.TRANSLATE, words, *facts, choices=max(flight.choices, 1))
            return


def _target(text: str) -> tuple[Address, int | None]:
    """`10.0.0.2`, `10.0.0.2:80`, `fd00::2`, `[fd00::2]:80`"""
    if text.startswith("["):
        address, _, port = text[1:].partition("]:")
    elif text.count(":") > 1:
        address, port = text, ""
    else:
        address, _, port = text.partition(":")
    return ip_address(address), int(port) if port else None


def _choose(space: Space, connection: Connection, word: str, flight: Flight) -> bool:
    """Applies a verdict that is a translation; False if it is none."""
    if word.startswith("dnat "):
        connection.send_to(*_target(word.removeprefix("dnat ")))
    elif word.startswith(("snat ip to ", "snat ip6 to ")):
        connection.send_from(ip_address(word.rpartition(" ")[2]))
    elif word == "masquerade":
        version = flight.packet.source.version
        addresses = [a for a in space.devices[flight.output].addresses if a.version == version]
        if not addresses:
            raise Halt(
                CauseKind.MISSING,
                f"dropped: masquerade by {flight.output}",
                f"{flight.output} has no address",
                "an address on the interface",
                (space.name, flight.output),
            )
        connection.send_from(addresses[0].ip)
    else:
        return False
    return True


# --- routing


def look_up(space: Space, packet: Packet, mark: int, input: str = LOOPBACK) -> Hop | None:
    """The route to the packet's destination. `input`: the device by which it came in; `lo` for the
    host's own packets."""
    destination = packet.destination
    if space.is_local(destination):
        return Hop(LOOPBACK, destination, destination, 255)
    number = PROTOCOLS.get(packet.protocol)
    own = space.by_priority if destination.version == 4 else ()  # those of IPv6 are not ours
    for rule in (*own, Rule(priority=MAIN_PRIORITY, table=MAIN_TABLE)):
        fits = (
            mark & rule.mask == rule.mark
            and rule.input_device in (None, input)
            and rule.protocol in (None, number)
            and _is_within(packet.source_port, rule.source_ports)
        )
        route = _longest(space, rule.table, destination) if fits else None
        if route is not None:
            source = route.source or _own_address(space, route.device, route.via or destination)
            return Hop(route.device, route.via or destination, source, route.table, route)
    return None


def check_source(space: Space, packet: Packet, mark: int, input: str) -> None:
    """Drops what Linux does not accept from a device: loopback addresses, and, where rp_filter is
    set, senders that fail its check."""
    if input == LOOPBACK:
        return
    if (packet.source.is_loopback or packet.destination.is_loopback) and not _setting(
        space, input, "route_localnet"
    ):
        raise Halt(
            CauseKind.REVERSE_PATH,
            f"dropped: martian {packet.source} > {packet.destination} by {input}",
            repair="nothing: no such packet may come in",
        )
    if packet.source.version == 6 or not _setting(space, input, "rp_filter"):
        return
    seen = mark if _setting(space, input, "src_valid_mark") else 0
    way = look_up(space, packet.reversed(), seen)
    strict = _setting(space, input, "rp_filter") == 1
    if way is None or (strict and way.device != input):
        leads = "there is no route back" if way is None else f"the route back leads to {way.device}"
        raise Halt(
            CauseKind.REVERSE_PATH,
            f"dropped: reverse path of {packet.source} is not {input}",
            leads,
            f"a route to {packet.source} by {input}, or net.ipv4.conf.{input}.rp_filter=2",
            (space.name, input),
        )


def _setting(space: Space, device: str, name: str) -> int:
    """The larger value of the device and of `all`, as the kernel does for the parameters used
    here."""
    return max(int(space.sysctl(f"net.ipv4.conf.{where}.{name}")) for where in ("all", device))


def answers_arp(space: Space, device: Device, address: Address) -> bool:
    own = any(address == a.ip for a in device.addresses)
    return own or (
        address.version == 4  # a neighbour of IPv6 answers for the interface's own alone
        and not _setting(space, device.name, "arp_ignore")
        and not address.is_loopback
        and space.is_local(address)
    )


def _is_within(port: int, range: tuple[int, int] | None) -> bool:
    return range is None or range[0] <= port <= range[1]


def _longest(space: Space, table: int, destination: Address) -> Route | None:
    found = [r for r in space.routes if r.table == table and destination in r.destination]
    return max(found, key=lambda r: r.destination.prefixlen, default=None)


def _own_address(space: Space, device: str, neighbour: Address) -> Address:
    """An address of the device in the neighbour's subnet, else the device's first, else any of the
    namespace."""
    known = space.devices.get(device)
    version = neighbour.version
    on_device = [a for a in known.addresses if a.version == version] if known is not None else []
    near = [a.ip for a in on_device if neighbour in a.network]
    everywhere: Sequence[Address] = [
        a.ip
        for d in space.devices.values()
        if d.name != LOOPBACK
        for a in d.addresses
        if a.version == version
    ]
    return next(iter((*near, *(a.ip for a in on_device), *everywhere)), ANY)
