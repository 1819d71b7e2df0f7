"""Which flows the kernel must forget when its rules change.

As long as conntrack remembers a flow, it translates all packets as it did the first, and traffic
keeps the flow remembered. After a change of the rules, two kinds of flows lead nowhere, or to the
wrong place:

* Flows to a backend that gets no new ones: a task in the mesh or behind a virtual address that
  stops serving, or a container that had a host-mode port. Once such a flow is forgotten, its next
  datagram gets a new backend; otherwise the datagram would be lost, or reach the next owner of the
  address.
* Flows to a port that was not published when they began: their datagrams end at the host itself.

All such UDP flows are forgotten. Such TCP flows are forgotten only while they are unanswered, as
when a task's host has lost its power: the client sends the SYN again. An established connection
ends with its task.

The rules before and after are compared namespace by namespace: every host remembers flows to
published ports, each container remembers flows to virtual addresses.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import NamedTuple

from weft.model.addresses import Address, Port, Protocol
from weft.network import bridge_ipv6
from weft.network.bridge import PUBLISHED, PUBLISHED_AT
from weft.network.fragments import TABLE
from weft.network.gateway import HOST_PORTS, HOST_PORTS_AT
from weft.network.kernel_state import Entry, KernelState, Namespace
from weft.network.ownership import BRIDGE_TABLE
from weft.network.service_table import Published, Services


class Answered(NamedTuple):
    """Flows whose replies come from the address, or would come from there."""

    address: Address


class Asked(NamedTuple):
    """Untranslated flows to the port, at whatever address of the family."""

    protocol: Protocol
    port: Port
    is_ipv6: bool = False


Stale = Answered | Asked
Place = tuple[str, Stale]
"""A namespace, and flows in it."""
_HostPorts = Mapping[Entry, Entry]
_NO_SERVICES: Services = MappingProxyType({})
_NO_PORTS: _HostPorts = MappingProxyType({})


def stale_flows(before: KernelState, after: KernelState) -> set[Place]:
    """The flows to forget once the rules have changed from `before` to `after`. A namespace that is
    gone took its flows along."""
    found: set[Place] = set()
    known: dict[tuple[int, int], frozenset[Answered]] = {}
    for name, now in after.namespaces.items():
        then = before.namespaces.get(name) or Namespace(name=name)
        if then is now:
            continue
        (old, old_ports), (new, new_ports) = _ways(then), _ways(now)
        if old is not new:
            key = (id(old), id(new))
            if key not in known:
                known[key] = frozenset(map(Answered, _left(old, new)))
            found.update((name, stale) for stale in known[key])
            found.update((name, Asked(*port.key)) for port in _begun(old, new))
        if any(ports is not wanted for ports, wanted in zip(old_ports, new_ports, strict=True)):
            found.update((name, stale) for stale in _of_host_ports(old_ports, new_ports))
        six, wanted = _ipv6_ways(then), _ipv6_ways(now)
        if any(ports is not new_ones for ports, new_ones in zip(six, wanted, strict=True)):
            found.update((name, stale) for stale in _of_host_ports(six, wanted))
    return found


def _ways(namespace: Namespace) -> tuple[Services, list[_HostPorts]]:
    """The targets of new flows: the services, and the ports that this host publishes for containers
    of its own, each by protocol and port."""
    table = namespace.tables.get(("ip", TABLE))
    services = _NO_SERVICES if table is None else table.services
    return services, [
        _elements(namespace, TABLE, HOST_PORTS),
        _elements(namespace, TABLE, HOST_PORTS_AT),
        _elements(namespace, BRIDGE_TABLE, PUBLISHED),
        _elements(namespace, BRIDGE_TABLE, PUBLISHED_AT),
    ]


def _ipv6_ways(namespace: Namespace) -> list[_HostPorts]:
    sets = (bridge_ipv6.PUBLISHED, bridge_ipv6.PUBLISHED_AT)
    return [_elements(namespace, BRIDGE_TABLE, name, "ip6") for name in sets]


def _elements(namespace: Namespace, table: str, name: str, family: str = "ip") -> _HostPorts:
    found = namespace.tables.get((family, table))
    ports = found.sets.get(name) if found is not None else None
    return ports.elements if ports is not None else _NO_PORTS


def _of_host_ports(old: Sequence[_HostPorts], new: Sequence[_HostPorts]) -> Iterator[Stale]:
    """A container may have ports on all addresses of the host and others on one, and keep some."""
    addresses = _containers(old) - _containers(new)
    known = (IPv4Address, IPv6Address)
    yield from (Answered(address) for address in addresses if isinstance(address, known))
    for ports, wanted in zip(old, new, strict=True):
        # A port that is published on one address of the host has the address before it. The entries
        # of all these maps end with protocol and port, which their type does not say.
        for port in wanted.keys() - ports.keys():
            is_ipv6 = isinstance(wanted[port][0], IPv6Address)
            protocol, number = port[-2:]
            yield Asked(protocol, number, is_ipv6)  # type: ignore[arg-type]


def _containers(maps: Iterable[_HostPorts]) -> set[object]:
    return {target[0] for ports in maps for target in ports.values()}


def _left(old: Services, new: Services) -> set[IPv4Address]:
    """The addresses of backends that get no new flows any longer. Most services are the same
    objects."""
    changed = [
        service for destination, service in old.items() if new.get(destination) is not service
    ]
    left = {backend.address for service in changed for backend in service.backends}
    for service in new.values() if left else ():
        left.difference_update(backend.address for backend in service.backends)
    return left


def _begun(old: Services, new: Services) -> list[Published]:
    return [port for port in new if isinstance(port, Published) and port not in old]
