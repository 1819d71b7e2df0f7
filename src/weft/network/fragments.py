"""How the hops' contributions become one state.

Each hop gives fragments: `Namespace` values that hold only what that hop adds. A namespace that several hops add to (the host's,
an overlay's bridge) is the union of its fragments; a table that several hops write to is their texts, one after the other.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface
from types import MappingProxyType

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
NO_SERVICES: Services = MappingProxyType({})


def table(
    body: str, family: str = "ip", sets: Mapping[str, ElementSet] = NO_SETS, services: Services = NO_SERVICES, start: int = 0
) -> dict[tuple[str, str], Table]:
    return {(family, TABLE): Table(family, TABLE, body, sets, services, start)}


def links(*links: Link) -> dict[str, Link]:
    return {link.name: link for link in links}


def cable(
    bridge: tuple[str, str, str], end: tuple[str, str], mtu: int, mac: MacAddress, *addresses: IPv4Interface
) -> list[Namespace]:  # fmt: skip
    """A veth from a bridge to an interface. `bridge`: namespace, port, bridge; `end`: namespace, interface.

    The bridge is told by which port the MAC is, and learns nothing: neither that an address is still
    where it was a task's before, which it would believe for five minutes, nor that a container is
    another one because it says so. Frames with another sender do not enter. The host's own bridge
    also keeps its containers apart."""
    (space, port, master), (far_space, far) = bridge, end
    settings = BridgePort(isolated=space == HOST, learning=False, flood=False, locked=True)
    here = Link(name=port, kind=Veth(far_space, far), mtu=mtu, master=master, port=settings)
    there = Link(name=far, kind=Veth(space, port), mtu=mtu, mac=mac, addresses=frozenset(addresses))
    told = frozenset({ForwardingEntry(port, mac)})
    return [Namespace(name=space, links=links(here), forwarding=told), Namespace(name=far_space, links=links(there))]


def merge(fragments: Iterable[Namespace]) -> KernelState:
    grouped: dict[str, list[Namespace]] = {}
    for fragment in fragments:
        grouped.setdefault(fragment.name, []).append(fragment)
    return KernelState({name: _union(name, parts) for name, parts in grouped.items()})


def _union(name: str, parts: list[Namespace]) -> Namespace:
    tables: dict[tuple[str, str], Table] = {}
    for part in parts:
        for key, new in part.tables.items():
            tables[key] = _joined(tables[key], new) if key in tables else new
    return Namespace(
        name=name,
        links={k: link for part in parts for k, link in part.links.items()},
        neighbours=frozenset().union(*(part.neighbours for part in parts)),
        forwarding=frozenset().union(*(part.forwarding for part in parts)),
        routes=frozenset().union(*(part.routes for part in parts)),
        rules=frozenset().union(*(part.rules for part in parts)),
        sysctls={k: value for part in parts for k, value in part.sysctls.items()},
        tables=tables,
    )


def _joined(one: Table, other: Table) -> Table:
    """One of the two at most has services."""
    return Table(
        family=one.family,
        name=one.name,
        body="\n".join(body for body in (one.body, other.body) if body),
        sets={**one.sets, **other.sets} if one.sets and other.sets else one.sets or other.sets,
        services=one.services or other.services,
        start=one.start or other.start,
    )
