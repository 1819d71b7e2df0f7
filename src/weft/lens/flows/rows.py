"""Connections as people and programs read them: with names, one by one or counted together."""

import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.lens.flows.joined import Connection, End
from weft.model.flows import STATES, State, Traffic

PROTOCOLS = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_SCTP: "sctp",
}
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Names:
    """Names of nodes."""

    def __init__(self, nodes: Iterable[tuple[str, str, tuple[str, ...]]] = ()) -> None:
        """Id, hostname and addresses of each node."""
        self._hostnames: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        for id, hostname, addresses in nodes:
            self._hostnames[id] = hostname
            self._addresses.update(dict.fromkeys(addresses, hostname))

    def node(self, id: str) -> str:
        return self._hostnames.get(id, id)

    def each(self, end: End) -> str:
        """The one who has the address."""
        party = end.party
        if party.kind == "node":
            return self.node(party.name)
        if party.kind == "outside":
            known = self._addresses.get(party.address)
            return known if known is not None else f"outside {party.address}"
        if party.kind == "container" and party.is_local:
            return f"{party.name}@{self.node(end.node)}"
        return party.name

    def service(self, end: End) -> str:
        """The service in place of its tasks."""
        return end.party.service or self.each(end)


class Row(NamedTuple):
    """Connections with the same source, target, port and way."""

    source: str
    target: str
    port: int
    protocol: str
    way: str
    states: Counter[State]
    sent: Traffic | None
    received: Traffic | None

    @property
    def number(self) -> int:
        """Of connections."""
        return self.states.total()


def way(connection: Connection, names: Names) -> str:
    """How the target was found."""
    asked, target = connection.asked, connection.target
    if asked.party.kind == "service":
        return "virtual address"
    if (asked.party.address, asked.port) == (target.party.address, target.port):
        return "direct"
    kind = "host port" if target.party.is_local else "mesh"
    return f"{kind} {names.each(asked).removeprefix('outside ')}:{asked.port}"


def is_of(connection: Connection, service: str) -> bool:
    ends = (connection.source, connection.asked, connection.target)
    return any(end.party.service == service for end in ends)


def row(connection: Connection, names: Names, each: bool = False) -> Row:
    """`each`: with the names of tasks."""
    name = names.each if each else names.service
    return Row(
        name(connection.source),
        name(connection.target),
        connection.target.port,
        PROTOCOLS.get(connection.protocol, str(connection.protocol)),
        way(connection, names),
        Counter([connection.state]),
        connection.sent,
        connection.received,
    )


def together(rows: Iterable[Row]) -> list[Row]:
    """One row for all with the same source, target, port and way; those with most bytes first."""
    found: dict[tuple[str, str, int, str, str], Row] = {}
    for one in rows:
        key = one[:5]
        known = found.get(key)
        if known is not None:
            one = one._replace(
                states=known.states + one.states,
                sent=_sum(known.sent, one.sent),
                received=_sum(known.received, one.received),
            )
        found[key] = one
    return sorted(found.values(), key=lambda each: (-_bytes(each), -each.number, each[:5]))


def _sum(one: Traffic | None, other: Traffic | None) -> Traffic | None:
    if one is None or other is None:
        return one or other
    return Traffic(one.packets + other.packets, one.bytes + other.bytes)


def _bytes(row: Row) -> int:
    return sum(traffic.bytes for traffic in (row.sent, row.received) if traffic is not None)


# --- as text

HEAD = ("SOURCE", "TARGET", "PORT", "BY", "CONNECTIONS", "SENT", "RECEIVED")


def table(rows: Iterable[Row], each: bool = False) -> Iterator[str]:
    head = (*HEAD[:4], "STATE", *HEAD[5:]) if each else HEAD
    cells = [head, *(_cells(row, each) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)).rstrip()


def _cells(row: Row, each: bool) -> tuple[str, ...]:
    return (
        row.source,
        row.target,
        port(row),
        row.way,
        next(iter(row.states)) if each else states(row.states),
        amount(row.sent),
        amount(row.received),
    )


def port(row: Row) -> str:
    return f"{row.port}/{row.protocol}" if row.port else row.protocol


def states(found: Mapping[State, int]) -> str:
    """`2 open, 1 refused`"""
    return ", ".join(f"{found[state]} {state}" for state in STATES if found.get(state))


def amount(traffic: Traffic | None) -> str:
    """`12 kB`; `-` if nobody has counted."""
    return "-" if traffic is None else octets(traffic.bytes)


def octets(number: float) -> str:
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"


def as_json(row: Row) -> dict[str, object]:
    return {
        "Source": row.source,
        "Target": row.target,
        "Port": row.port,
        "Protocol": row.protocol,
        "Way": row.way,
        "Connections": row.number,
        "States": dict(row.states),
        "Sent": _traffic_json(row.sent),
        "Received": _traffic_json(row.received),
    }


def each_json(connection: Connection, names: Names) -> dict[str, object]:
    return {
        **as_json(row(connection, names, each=True)),
        "State": connection.state,
        "SourceAddress": _at(connection.source),
        "AskedAddress": _at(connection.asked),
        "TargetAddress": _at(connection.target),
    }


def _at(end: End) -> str:
    return f"{IPv4Address(end.party.address)}:{end.port}"


def _traffic_json(traffic: Traffic | None) -> dict[str, int] | None:
    if traffic is None:
        return None
    return {"Packets": traffic.packets, "Bytes": traffic.bytes}
