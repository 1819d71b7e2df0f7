"""Published ports of the routing mesh: one owner each per protocol in the whole cluster.

A port asked for is had or refused; a port left open (0) is the next free one of 30000-32767, and
stays the same while the service keeps it. Ports in host mode belong to a node: the scheduler sees
to them.

The swarm's own ports are nobody's: a manager whose port led to a task could not be reached by any
node. What single hosts listen on beside them they keep to themselves (`network/own_ports.py`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from weft.errors import Conflict, Exhausted, WeftError
from weft.model.addresses import Port, PortKey
from weft.model.cluster import PEER_PORT, SESSION_PORT
from weft.model.ids import ServiceId
from weft.model.numbers import decimal
from weft.model.service import EndpointSpec, PublishedPort, Service
from weft.model.state import ClusterState

FIRST_DYNAMIC = 30000
LAST_DYNAMIC = 32767

OwnPorts = Mapping[PortKey, str]
"""What nobody may publish, and what it is for: `managers listen there for nodes`."""
NO_PORTS: OwnPorts = MappingProxyType({})
_HOW = {"ingress": "an ingress port", "host": "a host-published port"}


def conflict(
    state: ClusterState, service_id: ServiceId | None, endpoint_spec: EndpointSpec
) -> str | None:
    """Why the endpoint cannot be had for the service (None: a new one), in Docker Swarm's words, or
    None. Several services may ask for the same port in host mode."""
    wanted = {(p.protocol, p.published): p.mode for p in endpoint_spec.ports if p.published}
    if not wanted:
        return None
    for service in state.services.values():
        if service.id == service_id:
            continue
        for port in (*service.spec.endpoint.ports, *service.endpoint.ports):
            mode = wanted.get((port.protocol, port.published))
            if mode is not None and "ingress" in (mode, port.mode):
                return _taken(port.published, service, port.mode)
    return None


def swarm_ports(state: ClusterState) -> dict[PortKey, str]:
    """What the swarm's hosts listen on for each other, as far as all of it is known: by managers'
    addresses, never by what a worker says. The usual ones too: any node may become a manager."""
    sessions, members = "managers listen there for nodes", "managers listen there for each other"
    found: dict[PortKey, str] = {("tcp", SESSION_PORT): sessions, ("tcp", PEER_PORT): members}
    for node in state.nodes.values():
        for address, purpose in ((node.manager_address, sessions), (node.store_peer, members)):
            port = decimal(address.rpartition(":")[2])
            if port is not None:
                found["tcp", port] = purpose
    if state.cluster is not None:
        found["udp", state.cluster.data_path_port] = "hosts listen there for each other's packets"
    return found


def reserved(
    state: ClusterState, service: Service | None, endpoint: EndpointSpec, own: OwnPorts
) -> str | None:
    """Why the endpoint of the service (None: a new one) cannot be published, or None. `own`: of the
    manager that is asked. What the service has already it may keep."""
    kept = {(p.protocol, p.published) for p in service.spec.endpoint.ports} if service else set()
    nobodys = {**own, **swarm_ports(state)}
    for port in endpoint.ports:
        key = (port.protocol, port.published)
        if key in nobodys and key not in kept:
            return f"cannot publish port {port.published}/{port.protocol}: {nobodys[key]}"
    return None


def _taken(port: Port, service: Service, mode: str) -> str:
    return (
        f"port '{port}' is already in use by service '{service.name}' ({service.id}) as"
        f" {_HOW[mode]}"
    )


def answers(asked: Sequence[PublishedPort], given: Sequence[PublishedPort]) -> bool:
    """Are the given ports those asked for, where a port left open is answered by any number, or by
    none yet?"""
    return len(asked) == len(given) and all(
        _answers(a, g) for a, g in zip(asked, given, strict=True)
    )


def _answers(asked: PublishedPort, given: PublishedPort) -> bool:
    return asked == given or asked == msgspec.structs.replace(given, published=0)


class Ports:
    """The mesh's ports during one pass of the allocator. What is given up in a pass is free in the
    next."""

    def __init__(
        self, services: Iterable[Service], cursor: Port, nobodys: Collection[PortKey] = ()
    ) -> None:
        """`nobodys`: not to be chosen."""
        self._nobodys = nobodys
        self._owners: dict[PortKey, Service] = {}
        self.cursor = cursor
        for service in services:
            self._owners.update(
                {(p.protocol, p.published): service for p in _mesh(service.endpoint.ports)}
            )

    def take(self, service: Service) -> tuple[PublishedPort, ...]:
        """The ports of the service's spec with every port of the mesh filled in. Raises `Conflict`
        or `Exhausted`, and has taken none then."""
        cursor, taken = self.cursor, dict[PortKey, Service]()
        try:
            ports = tuple(
                self._filled(service, port, taken) for port in service.spec.endpoint.ports
            )
        except WeftError:
            self.cursor = cursor
            raise
        self._owners.update(taken)
        return ports

    def _filled(
        self, service: Service, port: PublishedPort, taken: dict[PortKey, Service]
    ) -> PublishedPort:
        if port.mode == "host":
            return port
        port = msgspec.structs.replace(
            port, published=port.published or self._dynamic(service, port, taken)
        )
        self._claim(service, port, taken)
        return port

    def _claim(self, service: Service, port: PublishedPort, taken: dict[PortKey, Service]) -> None:
        key = (port.protocol, port.published)
        owner = self._owners.get(key)
        if owner is not None and owner.id != service.id:
            raise Conflict(_taken(port.published, owner, "ingress"))
        taken[key] = service

    def _dynamic(
        self, service: Service, port: PublishedPort, taken: dict[PortKey, Service]
    ) -> Port:
        asked = {(p.protocol, p.published) for p in service.spec.endpoint.ports}
        for old in _mesh(service.endpoint.ports):
            same = (old.target, old.protocol) == (port.target, port.protocol)
            key = (old.protocol, old.published)
            if (
                same
                and FIRST_DYNAMIC <= old.published <= LAST_DYNAMIC
                and key not in taken
                and key not in asked
            ):
                return old.published
        for number in self._from_cursor():
            key = (port.protocol, number)
            used = key in self._owners or key in taken or key in asked
            if not used and key not in self._nobodys:
                self.cursor = number + 1
                return number
        raise Exhausted(
            f"no {port.protocol} port is left between {FIRST_DYNAMIC} and {LAST_DYNAMIC}"
        )

    def _from_cursor(self) -> Iterator[Port]:
        start = self.cursor if FIRST_DYNAMIC <= self.cursor <= LAST_DYNAMIC else FIRST_DYNAMIC
        yield from range(start, LAST_DYNAMIC + 1)
        yield from range(FIRST_DYNAMIC, start)


def _mesh(ports: Iterable[PublishedPort]) -> Iterator[PublishedPort]:
    return (p for p in ports if p.mode == "ingress" and p.published)
