"""Merges the hops' contributions into one state.

Each hop gives fragments: `Namespace` values that hold only what that hop adds. A namespace that
several hops add to (the host's, an overlay's bridge) is the union of its fragments; a table that
several hops write to consists of their texts, one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Interface
from types import MappingProxyType
from typing import TypeVar

import msgspec

from weft.model.addresses import MacAddress
from weft.network.kernel_state import (
    HOST,
    BridgePort,
    ElementSet,
    ForwardingEntry,
    KernelState,
    Link,
    Namespace,
    Table,
    Veth,
)
from weft.network.service_table import Services

TABLE = "weft"
"""The one table, per family, in each namespace."""
NO_SETS: Mapping[str, ElementSet] = MappingProxyType({})
V = TypeVar("V")


def table(
    body: str, family: str = "ip", sets: Mapping[str, ElementSet] = NO_SETS, start: int = 0
) -> dict[tuple[str, str], Table]:
    return {(family, TABLE): Table(family, TABLE, body, sets, start=start)}


def serving(namespace: Namespace, services: Services) -> Namespace:
    """The namespace with these services in its table, which must have the hooks and sets
    already."""
    key = ("ip", TABLE)
    table = msgspec.structs.replace(namespace.tables[key], services=services)
    return msgspec.structs.replace(namespace, tables={**namespace.tables, key: table})


def links(*links: Link) -> dict[str, Link]:
    return {link.name: link for link in links}


def cable(
    bridge: tuple[str, str, str],
    end: tuple[str, str],
    mtu: int,
    mac: MacAddress,
    *addresses: IPv4Interface,
) -> list[Namespace]:
    """A veth from a bridge to an interface. `bridge`: namespace, port, bridge; `end`: namespace,
    interface.

    The bridge is told which port the MAC is behind, and learns nothing. A learning bridge would
    believe for five minutes that an address is still where an earlier task had it, and would
    believe a container that claims to be another one. Frames with another sender do not enter. The
    host's own bridge also isolates its containers from each other."""
    (space, port, master), (far_space, far) = bridge, end
    settings = BridgePort(isolated=space == HOST, learning=False, flood=False, locked=True)
    here = Link(name=port, kind=Veth(far_space, far), mtu=mtu, master=master, port=settings)
    there = Link(name=far, kind=Veth(space, port), mtu=mtu, mac=mac, addresses=frozenset(addresses))
    told = frozenset({ForwardingEntry(port, mac)})
    return [
        Namespace(name=space, links=links(here), forwarding=told),
        Namespace(name=far_space, links=links(there)),
    ]


def merge(fragments: Iterable[Namespace]) -> KernelState:
    return KernelState({name: union(name, parts) for name, parts in grouped(fragments).items()})


def grouped(fragments: Iterable[Namespace]) -> dict[str, list[Namespace]]:
    found: dict[str, list[Namespace]] = {}
    for fragment in fragments:
        found.setdefault(fragment.name, []).append(fragment)
    return found


def union(name: str, parts: Sequence[Namespace]) -> Namespace:
    """A part that only one fragment has stays the same object, so that comparing it is fast."""
    tables: dict[tuple[str, str], Table] = {}
    for part in parts:
        for key, new in part.tables.items():
            tables[key] = _joined(tables[key], new) if key in tables else new
    return Namespace(
        name=name,
        links=_together([part.links for part in parts if part.links]),
        neighbours=_all_of([part.neighbours for part in parts if part.neighbours]),
        forwarding=_all_of([part.forwarding for part in parts if part.forwarding]),
        routes=_all_of([part.routes for part in parts if part.routes]),
        rules=_all_of([part.rules for part in parts if part.rules]),
        sysctls=_together([part.sysctls for part in parts if part.sysctls]),
        tables=tables,
    )


def _together(parts: Sequence[Mapping[str, V]]) -> Mapping[str, V]:
    return (
        parts[0]
        if len(parts) == 1
        else {key: value for part in parts for key, value in part.items()}
    )


def _all_of(parts: Sequence[frozenset[V]]) -> frozenset[V]:
    return parts[0] if len(parts) == 1 else frozenset().union(*parts)


def _joined(one: Table, other: Table) -> Table:
    """At most one of the two tables is meant for services; its `start` is kept."""
    return Table(
        family=one.family,
        name=one.name,
        body="\n".join(body for body in (one.body, other.body) if body),
        sets={**one.sets, **other.sets} if one.sets and other.sets else one.sets or other.sets,
        start=one.start or other.start,
    )
