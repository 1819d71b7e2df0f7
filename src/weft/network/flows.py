"""Which flows the kernel must forget when its rules change.

A flow is translated as its first packet was, for as long as it is remembered, and one that keeps
talking is remembered for ever. Two kinds lead nowhere, or to the wrong place, from then on:

* those to a backend that gets no new ones: a task in the mesh or behind a virtual address that
  stops serving, a container that had a host-mode port. The next datagram is to choose anew;
  otherwise the flow would be lost, or find whoever gets the address next.
* those to a port that was not published when they began: their datagrams end at the host itself.

Of UDP all such flows are forgotten; of TCP those that nobody has answered yet, as when a task's
host has lost its power: the SYN is sent again. A connection that stands ends with its task.

What the rules were and what they are is compared, namespace by namespace: every host remembers
flows to published ports, each container those to virtual addresses.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import NamedTuple

from weft.model.addresses import Port, Protocol
from weft.network.fragments import TABLE
from weft.network.gateway import HOST_PORTS
from weft.network.kernel_state import Entry, KernelState, Namespace
from weft.network.service_table import Published, Services


class Answered(NamedTuple):
    """Flows whose answers come from the address, or would."""

    address: IPv4Address


class Asked(NamedTuple):
    """Flows to the port, at whatever address, that are not translated."""

    protocol: Protocol
    port: Port


Stale = Answered | Asked
Place = tuple[str, Stale]
"""A namespace, and flows there."""
_HostPorts = Mapping[Entry, Entry]
_NO_SERVICES: Services = MappingProxyType({})
_NO_PORTS: _HostPorts = MappingProxyType({})


def stale_flows(before: KernelState, after: KernelState) -> set[Place]:
    """The flows that are to be forgotten once the rules have changed so. A namespace that has gone
    took its flows along."""
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
            found.update((name, Asked(*port)) for port in _begun(old, new))
        if old_ports is not new_ports:
            found.update((name, stale) for stale in _of_host_ports(old_ports, new_ports))
    return found


def _ways(namespace: Namespace) -> tuple[Services, _HostPorts]:
    """Where new flows are sent: by the services and by the host-mode ports."""
    table = namespace.tables.get(("ip", TABLE))
    if table is None:
        return _NO_SERVICES, _NO_PORTS
    ports = table.sets.get(HOST_PORTS)
    return table.services, ports.elements if ports else _NO_PORTS


def _of_host_ports(old: _HostPorts, new: _HostPorts) -> Iterator[Stale]:
    addresses = {target[0] for target in old.values()} - {target[0] for target in new.values()}
    yield from (Answered(address) for address in addresses if isinstance(address, IPv4Address))
    yield from (Asked(*port) for port in new.keys() - old.keys())  # type: ignore[arg-type]


def _left(old: Services, new: Services) -> set[IPv4Address]:
    """Backends that get no new flows any longer. Most services are the very same."""
    changed = [
        service for destination, service in old.items() if new.get(destination) is not service
    ]
    left = {backend.address for service in changed for backend in service.backends}
    for service in new.values() if left else ():
        left.difference_update(backend.address for backend in service.backends)
    return left


def _begun(old: Services, new: Services) -> list[Published]:
    return [port for port in new if isinstance(port, Published) and port not in old]
