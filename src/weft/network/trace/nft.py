"""An interpreter of nftables text. The interpreter knows exactly the statements that the plan
writes.

A statement that is not in `STATEMENTS` is an error, so that the packet tests notice a change in the
plan's rules. Each statement either matches (and lets the rule go on or end), or changes the packet
in flight, or gives a verdict. The caller (stack.py) decides the order of the chains.
"""

import functools
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import NamedTuple

from weft.model.addresses import Address
from weft.model.trace import Packet
from weft.network.kernel_state import Table
from weft.network.render.changes import (
    AddElements,
    Change,
    Changes,
    RemoveChain,
    RemoveElements,
    SetTurn,
)
from weft.network.render.table import element
from weft.network.trace.conntrack import Connections, Tracked
from weft.network.trace.jhash import jhash

BLOCK = re.compile(r"  (chain|set|map) (\S+) \{\n(.*?)\n  \}(?:\n|$)", re.DOTALL)
BASE = re.compile(r'type (\w+) hook (\w+)(?: device "(\S+)")? priority (-?\d+); policy accept;')
ELEMENTS = re.compile(r"elements = \{ (.*) \}")


class Chain(NamedTuple):
    name: str
    rules: tuple[str, ...]
    kind: str = ""
    hook: str = ""
    device: str | None = None
    priority: int = 0


class Ruleset(NamedTuple):
    """A parsed table. Sets are maps with empty values."""

    chains: dict[str, Chain]
    elements: dict[str, dict[str, str]]

    def on(self, hook: str) -> list[Chain]:
        return [chain for chain in self.chains.values() if chain.hook == hook]

    def after(self, table: Table, changes: Changes) -> "Ruleset":
        """Applies the changes as the kernel does, all or nothing. Raises KeyError if an object is
        missing, ValueError if an object exists already or is in use."""
        changed = Ruleset(
            dict(self.chains), {name: dict(content) for name, content in self.elements.items()}
        )
        for change in changes:
            changed._change(change, table.start)
        return changed

    def _change(self, change: Change, start: int) -> None:
        match change:
            case SetTurn(turn):
                self.chains[turn.chain] = Chain(turn.chain, (turn.rule(start),))
            case RemoveChain(name):
                if any(
                    value == f"jump {name}"
                    for content in self.elements.values()
                    for value in content.values()
                ):
                    raise ValueError(f"chain {name} is in use")
                del self.chains[name]
            case RemoveElements(name, type_, keys):
                for key in keys:
                    del self.elements[name][element(type_, key)]
            case AddElements(name, type_, entries):
                for entry in entries:
                    words, _, value = element(type_, *entry).partition(" : ")
                    if words in self.elements[name]:
                        raise ValueError(f"{name} has an element {words}")
                    if value.startswith("jump "):
                        self.chains[value.removeprefix("jump ")]
                    self.elements[name][words] = value


class Flight:
    """A packet on its way through one namespace: the fields that rules can read and change."""

    def __init__(
        self,
        packet: Packet,
        is_local: Callable[[Address], bool],
        counters: dict[str, int],
        connections: Connections,
    ) -> None:
        self.packet = packet
        self.is_local = is_local
        self.counters = counters
        """The counters of `numgen inc`, by chain and rule."""
        self.connections = connections
        self.choices = 0
        """Number of backends among which the last rule chose, if it did."""
        self.size = 0
        """Bytes of the packet; 0: not known."""
        self.chain = ""
        """The chain that the packet is in."""
        self.mark = 0
        self.zone = 0
        self.tracked: Tracked | None = None
        self.untracked = False
        self.input = ""
        self.output = ""
        self.ether_source = ""
        self.ether_destination = ""
        self.vni: int | None = None
        """The VNI of a VXLAN datagram."""

    @property
    def state(self) -> str:
        return self.tracked.state if self.tracked else "untracked"

    @property
    def connection_mark(self) -> int:
        return self.tracked.connection.mark if self.tracked else 0


class Verdict(NamedTuple):
    """`accept`, `drop`, `reject …`, `dnat …`, `snat …`, `masquerade`."""

    word: str
    chain: str
    """The chain that gave the verdict."""


class Stop(Exception):
    """A rule's verdict."""


@functools.lru_cache(256)
def parse(body: str) -> Ruleset:
    """Raises ValueError for text that the interpreter does not know."""
    chains: dict[str, Chain] = {}
    elements: dict[str, dict[str, str]] = {}
    rest = BLOCK.sub("", body + "\n").strip()
    if rest:
        raise ValueError(f"not understood: {rest!r}")
    for kind, name, text in BLOCK.findall(body + "\n"):
        lines = [line.strip() for line in text.splitlines()]
        if kind == "chain":
            chains[name] = _chain(name, lines)
        else:
            found = [match[1] for line in lines if (match := ELEMENTS.fullmatch(line))]
            pairs = [entry.partition(" : ") for entry in found[0].split(", ")] if found else []
            elements[name] = {key: value for key, _, value in pairs}
    return Ruleset(chains, elements)


def _chain(name: str, lines: list[str]) -> Chain:
    base = BASE.fullmatch(lines[0]) if lines else None
    if base is None:
        return Chain(name, tuple(lines))
    kind, hook, device, priority = base.groups()
    return Chain(name, tuple(lines[1:]), kind, hook, device, int(priority))


def run(rules: Ruleset, chain: Chain, flight: Flight) -> Verdict:
    """Raises ValueError for a statement that the interpreter does not know."""
    return _walk(rules, chain, flight) or Verdict("accept", chain.name)


def _walk(rules: Ruleset, chain: Chain, flight: Flight) -> Verdict | None:
    """None if the chain ends without a verdict."""
    for rule in chain.rules:
        flight.chain = chain.name
        try:
            _run_rule(rules, rule, flight)
        except Stop as stop:
            word, _, target = str(stop).partition(" ")
            if word not in ("goto", "jump"):
                return Verdict(str(stop), chain.name)
            verdict = _walk(rules, rules.chains[target], flight)
            if verdict is not None or word == "goto":
                return verdict
    return None


def _run_rule(rules: Ruleset, rule: str, flight: Flight) -> None:
    position = 0
    while position < len(rule):
        found = next(
            (hit for pattern, act in STATEMENTS if (hit := _match(pattern, rule, position, act))),
            None,
        )
        if found is None:
            raise ValueError(f"no such statement: {rule[position:]!r}")
        match, act = found
        if not act(match, flight, rules):
            return
        position = match.end()


Act = Callable[[re.Match[str], Flight, Ruleset], bool]


def _match(
    pattern: re.Pattern[str], rule: str, position: int, act: Act
) -> tuple[re.Match[str], Act] | None:
    match = pattern.match(rule, position)
    return (match, act) if match else None


# --- matches


def _service(f: Flight, _: object = None) -> str:
    return f"{f.packet.protocol} . {f.packet.destination_port}"


def _service_at(f: Flight) -> str:
    return f"{f.packet.destination} . {_service(f)}"


def _sender(f: Flight) -> str:
    return f"{f.ether_source} . {f.packet.source}"


def _address(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    """`ip saddr 10.0.0.1`, `ip daddr != …`, `ip saddr { net, net }`, `ip daddr @set`."""
    field, negated, what = m.groups()
    address = f.packet.source if field == "saddr" else f.packet.destination
    values = r.elements[what[1:]] if what.startswith("@") else what.strip("{ }").split(", ")
    return any(address in ip_network(value) for value in values) != bool(negated)


def _protocol(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    negated, what = m.groups()
    return (f.packet.protocol in what.strip("{ }").split(", ")) != bool(negated)


def _interface(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    field, negated, what = m.groups()
    name = f.input if field == "iifname" else f.output
    fits = any(_is_named(name, one.strip('"')) for one in what.strip("{ }").split(", "))
    return fits != bool(negated)


def _is_named(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


def _masked(value: int, m: re.Match[str]) -> bool:
    return value & int(m[1], 16) == int(m[2], 16)


# --- actions


def _jump_by(key: str, m: re.Match[str], r: Ruleset) -> bool:
    verdict = r.elements[m[1]].get(key)
    if verdict is not None:
        raise Stop(verdict)
    return False


def _set_mark(value: str | None, f: Flight) -> bool:
    if value is None:
        return False
    f.mark = int(value, 16)
    return True


def _set_connection_mark(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    if f.tracked:
        f.tracked.connection.mark = f.mark
    return True


def _set_zone(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    """Bits 80 to 95 of the Ethernet header are the last two octets of the source's MAC."""
    f.zone = int(f.ether_source.replace(":", "")[-4:], 16)
    return True


def _set_ether(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    mac = r.elements[m[1]].get(f"{f.mark:#010x}")
    f.ether_destination = mac or f.ether_destination
    return mac is not None


def _no_track(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    f.untracked = True
    return True


def _send_to(target: str | None) -> bool:
    """DNAT to a backend, `address` or `address . port`. None: the map has no backend for the
    key."""
    if target is None:
        return False
    address, _, port = target.partition(" . ")
    if port:
        raise Stop(f"dnat [{address}]:{port}" if ":" in address else f"dnat {address}:{port}")
    raise Stop(f"dnat {address}")


def _asked(field: str, f: Flight) -> str | None:
    """`ip daddr`, `tcp dport`, or both; None if the packet has another protocol."""
    address, _, rest = field.partition(" . ") if " . " in field else (field, "", field)
    protocol = rest.split()[0]
    if protocol == "ip":
        return str(f.packet.destination)
    if f.packet.protocol != protocol:
        return None
    port = str(f.packet.destination_port)
    return f"{f.packet.destination} . {port}" if address == "ip daddr" else port


def _dnat_in_turn(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    """`dnat ip to tcp dport . (numgen inc mod 4 offset 1 & 3) map @slots`: the counter advances
    even if the slot is empty."""
    field, size, offset, mask, slots = m.groups()
    asked = _asked(field, f)
    if asked is None:
        return False
    counter = f"{f.chain}: {m[0]}"
    turn = f.counters.get(counter, 0)
    f.counters[counter] = (turn + 1) % int(size)
    slot = turn + int(offset) & int(mask) if mask else turn
    f.choices = _backends(r, slots, asked)
    return _send_to(r.elements[slots].get(f"{asked} . {slot}"))


def _backends(r: Ruleset, slots: str, asked: str) -> int:
    start = f"{asked} . "
    return len({target for key, target in r.elements[slots].items() if key.startswith(start)})


def _dnat_by_client(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    """`dnat ip to tcp dport . jhash ip saddr mod 256 seed 0x5eed map @slots`"""
    field, size, seed, slots = m.groups()
    asked = _asked(field, f)
    if asked is None:
        return False
    slot = jhash(IPv4Address(f.packet.source), int(size), int(seed, 16))
    f.choices = _backends(r, slots, asked)
    return _send_to(r.elements[slots].get(f"{asked} . {slot}"))


def _stop(m: re.Match[str], f: Flight, r: Ruleset) -> bool:
    raise Stop(m[0].strip())


def _statement(pattern: str, act: Act) -> tuple[re.Pattern[str], Act]:
    return re.compile(pattern + r"(?: |$)"), act


FIELDS = (
    r"dnat ip to (ip daddr \. (?:tcp|udp|sctp) dport|ip daddr|tcp dport|udp dport|sctp dport) \. "
)
STATEMENTS = (
    _statement(r'(iifname|oifname) (!= )?(\{ .+? \}|"\S+")', _interface),
    _statement(r"ip daddr vmap @(\S+)", lambda m, f, r: _jump_by(str(f.packet.destination), m, r)),
    _statement(r"ip daddr \. meta l4proto \. th dport vmap @(\S+)", lambda m, f, r: _jump_by(_service_at(f), m, r)),
    _statement(r"ip daddr \. meta l4proto \. th dport @(\S+)", lambda m, f, r: _service_at(f) in r.elements[m[1]]),
    _statement(r"ip6? (saddr|daddr) (!= )?(\{ .+? \}|\S+)", _address),
    _statement(r"ether type (\w+)", lambda m, f, r: m[1] == f.packet.family),
    _statement(r"icmpv6 type (?:\{ .+? \}|\S+)", lambda m, f, r: False),
    _statement(r"ether saddr \. (?:ip6? saddr|arp saddr ip) (!= )?@(\S+)",
               lambda m, f, r: (_sender(f) in r.elements[m[2]]) != bool(m[1])),
    _statement(r"ip protocol (\w+)", lambda m, f, r: f.packet.protocol == m[1]),
    _statement(r"meta l4proto \. th dport vmap @(\S+)", lambda m, f, r: _jump_by(_service(f), m, r)),
    _statement(r"meta l4proto \. th dport @(\S+)", lambda m, f, r: _service(f) in r.elements[m[1]]),
    _statement(r"meta l4proto (!= )?(\{ .+? \}|\w+)", _protocol),
    _statement(r"(tcp|udp) dport (\d+)", lambda m, f, r: _service(f) == f"{m[1]} . {m[2]}"),
    _statement(r"tcp flags & \(fin \| syn \| rst \| ack\) == rst \| ack tcp sequence 0", lambda m, f, r: False),
    _statement(r"@th,96,24 \{ (.+?) \}", lambda m, f, r: str(f.vni) in m[1].split(", ")),
    _statement(r"fib daddr type local", lambda m, f, r: f.is_local(f.packet.destination)),
    _statement(r"ct state (\S+)", lambda m, f, r: f.state in m[1].split(",")),
    _statement(r"ct status dnat", lambda m, f, r: f.tracked is not None and f.tracked.connection.is_dnat),
    _statement(r"ct direction reply", lambda m, f, r: f.tracked is not None and f.tracked.is_reply),
    _statement(r"ct reply ip saddr (\S+)", lambda m, f, r: f.tracked is not None
               and f.tracked.connection.reply.source in IPv4Network(m[1])),
    _statement(r"ct mark & (0x\w+) == (0x\w+)", lambda m, f, r: _masked(f.connection_mark, m)),
    _statement(r"ct mark set meta mark", _set_connection_mark),
    _statement(r"ct original zone set @ll,80,16", _set_zone),
    _statement(r"meta mark & (0x\w+) == (0x\w+)", lambda m, f, r: _masked(f.mark, m)),
    _statement(r"meta mark set ct mark", lambda m, f, r: _set_mark(hex(f.connection_mark), f)),
    _statement(r"meta mark set ether saddr map @(\S+)", lambda m, f, r: _set_mark(r.elements[m[1]].get(f.ether_source), f)),
    _statement(r"meta mark set (0x\w+)", lambda m, f, r: _set_mark(m[1], f)),
    _statement(r"ether daddr set meta mark map @(\S+)", _set_ether),
    _statement(FIELDS + r"\(?numgen inc mod (\d+)(?: offset (\d+) & (\d+)\))? map @(\S+)", _dnat_in_turn),
    _statement(FIELDS + r"jhash ip saddr mod (\d+) seed (0x\w+) map @(\S+)", _dnat_by_client),
    _statement(r"dnat ip6? to ip6? daddr \. meta l4proto \. th dport map @(\S+)",
               lambda m, f, r: _send_to(r.elements[m[1]].get(_service_at(f)))),
    _statement(r"dnat ip6? to meta l4proto \. th dport map @(\S+)", lambda m, f, r: _send_to(r.elements[m[1]].get(_service(f)))),
    _statement(r"dnat ip to (\S+)", lambda m, f, r: _send_to(m[1])),
    _statement(r"snat ip6? to \S+", _stop),
    _statement(r"(?:masquerade|accept|drop|reject with tcp reset|reject with icmp type \S+|goto \S+|jump \S+)", _stop),
    _statement(r"notrack", _no_track),
)  # fmt: skip
"""Patterns and their meanings, tried in this order."""
