"""Published ports of the routing mesh: in the whole cluster, each port and protocol has one owner,
or several that publish it at different addresses of hosts (`weft.publish-address`).

A service gets the port it asks for, or is refused. For an open port (0) it gets the next free one
of 30000-32767, which stays the same while the service keeps it. Ports in host mode belong to a
node: the scheduler handles them.

No service may publish the swarm's own ports: if a manager's port led to a task, no node could reach
the manager. Each host keeps further ports that it listens on to itself (`network/own_ports.py`).
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
"""Ports that no service may publish, and their purpose: `managers listen there for nodes`."""
NO_PORTS: OwnPorts = MappingProxyType({})
_HOW = {"ingress": "an ingress port", "host": "a host-published port"}


def conflict(
    state: ClusterState, service_id: ServiceId | None, endpoint_spec: EndpointSpec
) -> str | None:
    """Why the service (None: a new one) cannot have the endpoint, in Docker Swarm's words, or None.
    Several services may ask for the same port in host mode."""
    wanted = {(p.protocol, p.published): p for p in endpoint_spec.ports if p.published}
    if not wanted:
        return None
    for service in state.services.values():
        if service.id == service_id:
            continue
        for port in (*service.spec.endpoint.ports, *service.endpoint.ports):
            asked = wanted.get((port.protocol, port.published))
            if (
                asked
                and asked.host_port.meets(port.host_port)
                and "ingress" in (asked.mode, port.mode)
            ):
                return _taken(port.published, service, port.mode)
    return None


def swarm_ports(state: ClusterState) -> dict[PortKey, str]:
    """Ports on which the swarm's hosts listen for each other, as far as the whole swarm knows them:
    from managers' addresses, never from workers' reports. Default ports are included, as any node
    may become a manager."""
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
    """Why the endpoint of the service (None: a new one) cannot be published, or None. `own`: ports
    of the manager that is asked. A service may keep ports that it already has."""
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
    """Whether the given ports are those asked for. For a port left open, any number is right, and
    so is none yet."""
    return len(asked) == len(given) and all(
        _answers(a, g) for a, g in zip(asked, given, strict=True)
    )


def _answers(asked: PublishedPort, given: PublishedPort) -> bool:
    return asked == given or asked == msgspec.structs.replace(given, published=0)


_Owned = tuple[PublishedPort, Service]


class Ports:
    """The ports of the routing mesh during one pass of the allocator. A port given up in a pass is
    free in the next."""

    def __init__(
        self, services: Iterable[Service], cursor: Port, nobodys: Collection[PortKey] = ()
    ) -> None:
        """`nobodys`: ports that must not be chosen."""
        self._nobodys = nobodys
        self._owners: dict[PortKey, list[_Owned]] = {}
        self.cursor = cursor
        for service in services:
            ports = _mesh(service.endpoint.ports)
            self._own({(p.protocol, p.published): (p, service) for p in ports})

    def take(self, service: Service) -> tuple[PublishedPort, ...]:
        """The ports of the service's spec with a number for every port of the mesh. Raises
        `Conflict` or `Exhausted`; then no port is taken."""
        cursor, taken = self.cursor, dict[PortKey, _Owned]()
        try:
            ports = tuple(
                self._filled(service, port, taken) for port in service.spec.endpoint.ports
            )
        except WeftError:
            self.cursor = cursor
            raise
        self._own(taken)
        return ports

    def _own(self, taken: Mapping[PortKey, _Owned]) -> None:
        for key, owned in taken.items():
            self._owners.setdefault(key, []).append(owned)

    def _filled(
        self, service: Service, port: PublishedPort, taken: dict[PortKey, _Owned]
    ) -> PublishedPort:
        if port.mode == "host":
            return port
        port = msgspec.structs.replace(
            port, published=port.published or self._dynamic(service, port, taken)
        )
        self._claim(service, port, taken)
        return port

    def _claim(self, service: Service, port: PublishedPort, taken: dict[PortKey, _Owned]) -> None:
        key = (port.protocol, port.published)
        for other, owner in self._owners.get(key, ()):
            if owner.id != service.id and port.host_port.meets(other.host_port):
                raise Conflict(_taken(port.published, owner, "ingress"))
        taken[key] = (port, service)

    def _dynamic(self, service: Service, port: PublishedPort, taken: dict[PortKey, _Owned]) -> Port:
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
