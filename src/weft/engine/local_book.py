"""The book of this node's own networks: which there are, which containers are on them, and what the
next one gets. It decides and remembers; `local_networks.py` carries out."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import msgspec

from weft.engine import local_views
from weft.engine.adapters import NetworkAdapters, Origin
from weft.engine.attacher import Granted
from weft.engine.local_allocation import (
    check_subnet,
    choose_address,
    choose_ports,
    choose_subnet,
)
from weft.engine.local_ipv6 import choose_ipv6, new_pool
from weft.engine.local_records import LocalRecords
from weft.engine.sandboxes import choose_gateway, lowest_free
from weft.errors import (
    Conflict,
    Exhausted,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    OperationFailed,
)
from weft.model.addresses import mac_for
from weft.model.bridge_network import (
    DEFAULT_DEVICE,
    DEFAULT_NETWORK,
    BridgeNetwork,
    BridgeNetworkSpec,
)
from weft.model.endpoint_settings import EndpointSettings
from weft.model.host_ports import HostPort
from weft.model.ids import CONTAINER_ID_BYTES, ContainerId, NetworkId, hex_id
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox, OverlayEndpoint
from weft.model.network import Pool
from weft.model.network_lookup import NOT_FOUND, find_network
from weft.model.sandbox import Sandbox
from weft.model.service import PublishedPort
from weft.network import bridge, bridge_ipv6
from weft.network.attached import sandbox_of
from weft.network.desired import LocalPart, SwarmPart
from weft.network.own_ports import swarm_ports
from weft.network.ownership import MOST_INTERFACES

log = logging.getLogger(__name__)

NONE, HOST = "none", "host"
SHARED = (
    "container sharing network namespace with another container or host cannot be connected to any"
    " other network"
)
TWICE = "endpoint with name {} already exists in network {}"
PRIVATE = (
    "container cannot be connected to multiple networks with one of the networks in private (none)"
    " mode"
)


class LocalBook:
    def __init__(
        self,
        adapters: NetworkAdapters,
        origin: Origin,
        default: NetworkId,
        swarm: Callable[[], SwarmPart | None],
    ) -> None:
        """`default`: id of the network `bridge`. `swarm`: the part of the swarm here."""
        self._adapters = adapters
        self._origin = origin
        self._default = default
        self._swarm = swarm
        self._records = LocalRecords(adapters.records)
        self._cursor = 0
        """The address on docker_gwbridge that was given last, as an integer."""
        self._is_settled = False
        """Whether the default network has had a container, so that its subnet stays."""
        self.networks: dict[NetworkId, BridgeNetwork] = {}
        self.sandboxes: dict[ContainerId, LocalSandbox] = {}

    def load(self, running: Iterable[ContainerId]) -> None:
        """Finds the networks of the previous daemon, and the sandboxes of the running containers.
        Raises `OperationFailed` if the disk fails."""
        self.networks = {network.id: network for network in self._records.networks()}
        found = {place.container: place for place in self._records.sandboxes()}
        self.sandboxes = {id: found[id] for id in running if id in found}
        self._is_settled = self._default in self.networks
        if not self._is_settled:
            self.networks[self._default] = self._new_default()

    @property
    def part(self) -> LocalPart:
        return LocalPart(tuple(self.networks.values()), tuple(self.sandboxes.values()))

    # --- what there is

    def all(self) -> list[BridgeNetwork]:
        """By name, with the default one."""
        return sorted(self.networks.values(), key=lambda network: network.name)

    def get(self, reference: str) -> BridgeNetwork:
        """`reference`: name, id or the beginning of an id. Raises `NotFound`, or `InvalidArgument`
        for an ambiguous one."""
        return find_network(self.all(), reference)

    def is_own(self, reference: str) -> bool:
        """Whether it names a network of this node; `host` and `none` are such. Raises
        `InvalidArgument` for an ambiguous reference."""
        try:
            return reference in (HOST, NONE) or self.get(reference) is not None
        except NotFound:
            return False

    def is_on(self, container: ContainerId, reference: str) -> bool:
        """Whether a container is on a network of this node or of the swarm."""
        place = self.sandboxes.get(container)
        if place is None or not self.is_own(reference):
            return place is not None and place.overlay(reference) is not None
        network = self.get(reference)
        return any(endpoint.network == network.id for endpoint in place.endpoints)

    def host_address(self, container: ContainerId) -> IPv4Address:
        """The default network's gateway, as in Docker; docker_gwbridge's for a container that gets
        to this host by that alone."""
        place, part = self.sandboxes.get(container), self._swarm()
        if place is None or place.gateway is None or part is None:
            return self.networks[self._default].gateway
        if bridge.outlet(place, self.networks) is not None:
            return self.networks[self._default].gateway
        return part.facts.gateway.ip

    def on(self, network: BridgeNetwork) -> list[LocalSandbox]:
        """The containers on a network."""
        return [
            place
            for place in self.sandboxes.values()
            if any(endpoint.network == network.id for endpoint in place.endpoints)
        ]

    def place(self, container: ContainerId) -> LocalSandbox:
        place = self.sandboxes.get(container)
        if place is None:
            raise Conflict(f"container {container} is not running")
        return place

    def subnets(self) -> list[IPv4Network]:
        """Without that of a default network which has had no container yet."""
        found = self.networks.values()
        return [n.subnet for n in found if not n.is_default or self._is_settled]

    def publishes(self, port: PublishedPort) -> bool:
        """Whether the host's port belongs to one of this node's own containers."""
        own = (taken for place in self.sandboxes.values() for taken in place.ports)
        return any(taken.host_port.meets(port.host_port) for taken in own)

    # --- changes, on disk when they return

    def add(self, network: BridgeNetwork) -> None:
        """Raises `OperationFailed`."""
        self._records.put(network)
        self.networks[network.id] = network

    def forget(self, network: BridgeNetwork) -> None:
        self._records.remove(network)
        self.networks.pop(network.id, None)

    def put(self, place: LocalSandbox) -> None:
        """The default network's subnet is kept from its first container on. Raises
        `OperationFailed`."""
        on_default = any(endpoint.network == self._default for endpoint in place.endpoints)
        if on_default and not self._is_settled:
            self._records.put(self.networks[self._default])
            self._is_settled = True
        sandboxes = {**self.sandboxes, place.container: place}
        self._records.put_sandboxes(sandboxes.values())
        self.sandboxes = sandboxes

    def drop(self, container: ContainerId) -> None:
        self.sandboxes.pop(container, None)
        try:
            self._records.put_sandboxes(self.sandboxes.values())
        except OperationFailed as error:
            # The next daemon finds that the container does not run.
            log.warning("sandbox.not_forgotten container=%s cause=%s", container, error)

    # --- choosing

    def new_network(self, spec: BridgeNetworkSpec) -> BridgeNetwork:
        if any(network.name == spec.name for network in self.networks.values()):
            raise Conflict(f"network with name {spec.name} already exists")
        taken = [*(n.subnet for n in self.networks.values()), *self._subnets_of_swarm()]
        if spec.pool is not None:
            check_subnet(spec.pool.subnet, taken)
        pool = spec.pool or Pool(choose_subnet([*taken, *self._adapters.routes()]))
        six = new_pool(spec, self._default, self._ipv6_subnets(), self._adapters.ipv6_routes())
        network = BridgeNetwork(
            id=NetworkId(hex_id(self._origin.entropy(CONTAINER_ID_BYTES))),
            spec=spec,
            subnet=pool.subnet,
            gateway=pool.gateway_or_first(),
            ipv6_subnet=six.subnet if six is not None else None,
            ipv6_gateway=six.gateway if six is not None else None,
            created_at=self._origin.clock(),
        )
        self.check_device(network)
        return network

    def _new_default(self) -> BridgeNetwork:
        others = (n.subnet for n in self.networks.values() if not n.is_default)
        taken = [*others, *self._subnets_of_swarm()]
        try:
            subnet = choose_subnet([*taken, *self._adapters.routes()])
        except Exhausted as error:
            log.error("network.no_subnet network=%s cause=%s", DEFAULT_NETWORK, error)
            subnet = IPv4Network("172.17.0.0/16")
        return BridgeNetwork(
            id=self._default,
            spec=BridgeNetworkSpec(name=DEFAULT_NETWORK),
            subnet=subnet,
            gateway=Pool(subnet).gateway_or_first(),
            created_at=self._origin.clock(),
            is_default=True,
        )

    def _ipv6_subnets(self) -> Iterator[IPv6Network]:
        return (n.ipv6_subnet for n in self.networks.values() if n.ipv6_subnet is not None)

    def _subnets_of_swarm(self) -> list[IPv4Network]:
        part = self._swarm()
        if part is None:
            return []
        definitions = (view.definition for view in part.overlays.networks.values())
        segments = (segment.subnet for each in definitions for segment in each.segments)
        return [part.facts.gateway.network, *segments]

    def check_device(self, network: BridgeNetwork) -> None:
        """A bridge of that name that others made is not touched."""
        same = [n for n in self.networks.values() if n.device == network.device]
        if any(n is not network for n in same) or (
            network.spec.device == DEFAULT_DEVICE and not network.is_default
        ):
            raise Forbidden(
                f"cannot create network {network.name}: another network has bridge {network.device}"
            )
        if network.device in self._adapters.foreign_links():
            raise FailedPrecondition(
                f"cannot make bridge {network.device} of network {network.name}: this host has an"
                " interface of that name that is not Weft's"
            )

    def with_endpoint(self, place: LocalSandbox, wanted: EndpointSettings) -> LocalSandbox:
        """Raises a `WeftError`."""
        network = self._network_for(place, wanted)
        self.check_device(network)
        others = [e for other in self.sandboxes.values() for e in other.endpoints]
        address = choose_address(network, [e.address.ip for e in others], wanted.address)
        six = [e.ipv6_address.ip for e in others if e.ipv6_address is not None]
        number = _free_number(place.name, place.numbers)
        endpoint = BridgeEndpoint(
            network=network.id,
            number=number,
            address=local_views.interface(network, address),
            mac=wanted.mac.lower() or mac_for(address),
            aliases=wanted.aliases,
            ipv6_address=None
            if bridge_ipv6.is_off(place.sysctls)
            else choose_ipv6(network, six, wanted.ipv6_address),
        )
        return msgspec.structs.replace(place, endpoints=(*place.endpoints, endpoint))

    def _network_for(self, place: LocalSandbox, wanted: EndpointSettings) -> BridgeNetwork:
        if wanted.network == HOST:
            raise InvalidArgument(SHARED)
        if wanted.network == NONE:
            raise InvalidArgument(PRIVATE)
        network = self.get(wanted.network)
        if network.is_default and not self._is_settled:
            network = self.networks[self._default] = self._new_default()
        causes = []
        named = wanted.address is not None or wanted.ipv6_address is not None
        if network.is_default and named:
            causes.append("user-specified IP address is supported on user-defined networks only")
        if network.is_default and wanted.aliases:
            causes.append("network-scoped aliases are only supported for user-defined networks")
        if causes:
            raise InvalidArgument("\n".join(("invalid endpoint settings:", *causes)))
        if any(endpoint.network == network.id for endpoint in place.endpoints):
            raise Conflict(TWICE.format(place.name, network.name))
        overlays = (endpoint.address.network for endpoint in place.overlays)
        _check_overlap(place.name, network.name, network.subnet, overlays)
        return network

    def with_overlay(
        self,
        place: LocalSandbox,
        wanted: EndpointSettings,
        granted: Granted,
        taken: Collection[Sandbox],
    ) -> LocalSandbox:
        """The container with its place on a network of the swarm. `taken`: what the swarm's tasks
        have here. Raises a `WeftError`."""
        part = self._swarm()
        if part is None:
            raise NotFound(NOT_FOUND.format(wanted.network))
        if any(endpoint.network == granted.network for endpoint in place.overlays):
            raise Conflict(TWICE.format(place.name, granted.name))
        there = [part.facts.gateway.network, *(address.network for address in place.addresses)]
        _check_overlap(place.name, granted.name, granted.address.network, there)
        held = [*taken, *self.overlay_sandboxes()]
        number = _free_number(place.name, place.numbers)
        if place.gateway is None:
            gateway = choose_gateway(part.facts, {s.gateway.ip for s in held}, self._cursor)
            self._cursor = int(gateway.ip)
            second = _free_number(place.name, place.numbers | {number})
            place = msgspec.structs.replace(place, gateway=gateway, gateway_number=second)
        endpoint = OverlayEndpoint(
            network=granted.network,
            name=granted.name,
            attachment=granted.id,
            number=number,
            port=lowest_free(
                {s.ports[granted.network] for s in held if granted.network in s.ports}
            ),
            address=granted.address,
            aliases=wanted.aliases,
        )
        return msgspec.structs.replace(place, overlays=(*place.overlays, endpoint))

    def overlay_sandboxes(self) -> list[Sandbox]:
        """Those of containers on networks of the swarm, as the swarm's part sees them."""
        found = (sandbox_of(place) for place in self.sandboxes.values())
        return [sandbox for sandbox in found if sandbox is not None]

    def with_ports(self, place: LocalSandbox, ports: Sequence[PublishedPort]) -> LocalSandbox:
        way_in = bridge.outlet(place, self.networks)
        if not ports or (way_in is None and not self._leads_outside(place)):
            return place  # as in Docker: on internal networks nothing is published
        network = self.networks[way_in.network] if way_in is not None else None
        check, binding = self._adapters.check_port, network.spec.binding if network else None
        try:
            has_ipv6 = bridge_ipv6.outlet(place, self.networks) is not None
            taken = self._taken_ports(place.container)
            chosen = choose_ports(ports, binding, taken, check, has_ipv6)
        except OperationFailed as error:
            id = place.id if network is None else local_views.endpoint_id(network, place)
            raise OperationFailed(
                "failed to set up container networking: driver failed programming external"
                f" connectivity on endpoint {place.name} ({id}): {error}"
            ) from error
        return msgspec.structs.replace(place, ports=chosen)

    def _leads_outside(self, place: LocalSandbox) -> bool:
        """Whether docker_gwbridge is a way in for the container's ports."""
        part = self._swarm()
        known = {} if part is None else part.overlays.networks
        views = (known.get(endpoint.network) for endpoint in place.overlays)
        return any(view is None or not view.definition.internal for view in views)

    def _taken_ports(self, container: ContainerId) -> Iterator[HostPort]:
        for place in self.sandboxes.values():
            if place.container != container:
                yield from (port.host_port for port in place.ports)
        part = self._swarm()
        if part is not None:
            yield from swarm_ports(part)


def _free_number(name: str, taken: Collection[int]) -> int:
    """The lowest free number of an interface. `name`: the container's. Raises `Exhausted`."""
    number = next(n for n in range(MOST_INTERFACES + 1) if n not in taken)
    if number == MOST_INTERFACES:
        raise Exhausted(f"cannot connect container {name}: it has too many networks")
    return number


def _check_overlap(
    container: str, network: str, subnet: IPv4Network, others: Iterable[IPv4Network]
) -> None:
    """The container could not tell by which interface an address is reached."""
    for other in others:
        if subnet.overlaps(other):
            raise OperationFailed(
                f"cannot connect container {container} to network {network}: its subnet {subnet}"
                f" overlaps {other}, where the container is already"
            )
