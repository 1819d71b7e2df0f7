"""Addresses on networks, next-fit: `Book` gives them out during one pass of the allocator.

An address is free unless it is held, kept, excluded, or given out earlier in this pass. In the
state, services, nodes and tasks that are not over hold addresses (`ClusterState.usage`). An address
that a user chose is kept for its service, whether held or not. Gateways, reserved addresses and the
network and broadcast address are excluded. An address given up in a pass is free in the next. The
cursor (`Network.cursor`) delays the reuse of an address as long as possible.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface
from types import MappingProxyType

from weft.errors import Conflict, Exhausted, NotFound, OperationFailed
from weft.model.ids import NetworkId
from weft.model.network import Network, Pool, Segment
from weft.model.state import ClusterState

NONE_FIXED: Mapping[NetworkId, IPv4Address] = MappingProxyType({})


class Book:
    def __init__(self, state: ClusterState, networks: dict[NetworkId, Network]) -> None:
        """`networks`: as they will be committed, with the segments of this pass."""
        self._state = state
        self._networks = networks
        self._given: dict[NetworkId, set[int]] = {}
        self._full: set[NetworkId] = set()
        self.cursors: dict[NetworkId, int] = {}
        """Last address given out in this pass, by network."""

    def take(
        self, ids: Iterable[NetworkId], fixed: Mapping[NetworkId, IPv4Address] = NONE_FIXED
    ) -> dict[NetworkId, IPv4Interface]:
        """One address on each of the networks, or none at all: `claim(find(ids, fixed), fixed)`."""
        return self.claim(self.find(ids, fixed), fixed)

    def find(
        self, ids: Iterable[NetworkId], fixed: Mapping[NetworkId, IPv4Address] = NONE_FIXED
    ) -> dict[NetworkId, IPv4Interface]:
        """The fixed or else the next free address of each network, with its segment's mask, not
        claimed yet. Raises `NotFound`, `OperationFailed` (a network has no subnet), `Exhausted`, or
        `Conflict` (a fixed address cannot be had now)."""
        return {id: self._exactly(id, fixed[id]) if id in fixed else self._next(id) for id in ids}

    def claim(
        self,
        found: dict[NetworkId, IPv4Interface],
        fixed: Mapping[NetworkId, IPv4Address] = NONE_FIXED,
    ) -> dict[NetworkId, IPv4Interface]:
        """The cursor stays where it is for fixed addresses: they are not given out in turn."""
        for id, address in found.items():
            self._given.setdefault(id, set()).add(int(address))
            if id not in fixed:
                self.cursors[id] = int(address)
        return found

    def has(self, id: NetworkId) -> bool:
        """Whether the network exists and is allocated. Its segments never change, so every address
        that it gave out still belongs to it."""
        network = self._networks.get(id)
        return network is not None and bool(network.segments)

    def _allocated(self, id: NetworkId) -> Network:
        network = self._networks.get(id)
        if network is None:
            raise NotFound(f"network {id} not found")
        if not network.segments:
            raise OperationFailed(
                f"network {network.name} has no subnet: {network.error or 'not allocated yet'}"
            )
        return network

    def _exactly(self, id: NetworkId, address: IPv4Address) -> IPv4Interface:
        network = self._allocated(id)
        cause = unusable(network, address)
        if cause:
            raise Conflict(f"address {address} on network {network.name} {cause}")
        number = int(address)
        if number in self._state.usage.addresses(id) or number in self._given.get(id, ()):
            raise Conflict(
                f"waits for address {address} on network {network.name}, which"
                f" {self._holder(id, address)} still has"
            )
        segment = next(s for s in network.segments if address in s.subnet)
        return IPv4Interface((address, segment.subnet.prefixlen))

    def _holder(self, id: NetworkId, address: IPv4Address) -> str:
        for task in self._state.tasks_attached(id).values():
            if not task.state.is_terminal and task.has(id, address):
                return f"task {task.name}"
        for service in self._state.services.values():
            if any((a.network, a.address.ip) == (id, address) for a in service.endpoint.addresses):
                return f"service {service.name}"
        return "something else"

    def _next(self, id: NetworkId) -> IPv4Interface:
        network = self._allocated(id)
        if id not in self._full:
            for address, segment in _candidates(network, self.cursors.get(id, network.cursor)):
                if self._is_free(network, address):
                    return IPv4Interface((address, segment.subnet.prefixlen))
            self._full.add(id)
        subnets = ", ".join(str(segment.subnet) for segment in network.segments)
        raise Exhausted(f"no available addresses on network {network.name} ({subnets})")

    def _is_free(self, network: Network, address: int) -> bool:
        usage = self._state.usage
        return (
            address not in usage.addresses(network.id)
            and address not in usage.fixed(network.id)
            and address not in self._given.get(network.id, ())
        )


def unusable(network: Network, address: IPv4Address) -> str:
    """Why nothing on the network can have the address; empty: it can be had, or the network has no
    subnet yet. An address outside `ip_range` can: that range is for the choice of addresses."""
    pools = network.spec.pools
    subnets = [s.subnet for s in network.segments] or [pool.subnet for pool in pools]
    subnet = next((subnet for subnet in subnets if address in subnet), None)
    if subnets and subnet is None:
        return f"is outside of the network's subnet {', '.join(map(str, subnets))}"
    if subnet is not None and address in (subnet.network_address, subnet.broadcast_address):
        return f"is the network or broadcast address of subnet {subnet}"
    gateways: list[IPv4Address | None] = [s.gateway for s in network.segments]
    gateways = gateways or [pool.gateway for pool in pools]
    if address in gateways:
        return "is the network's gateway"
    reserved = {name: it for pool in pools for name, it in pool.reserved.items()}
    return next((f"is reserved as {name}" for name, it in reserved.items() if it == address), "")


def _candidates(network: Network, cursor: int) -> Iterator[tuple[int, Segment]]:
    """Every address that may be given out: from behind the cursor to the end of its segment, the
    other segments, then the rest up to the cursor."""
    spans = [
        (*_span(network, position), segment) for position, segment in enumerate(network.segments)
    ]
    blocked = {int(segment.gateway) for segment in network.segments}
    blocked |= {int(address) for pool in network.spec.pools for address in pool.reserved.values()}
    at = next((i for i, (first, last, _) in enumerate(spans) if first <= cursor <= last), None)
    if at is None:
        rounds = spans
    else:
        first, last, segment = spans[at]
        rounds = [
            (cursor + 1, last, segment),
            *spans[at + 1 :],
            *spans[:at],
            (first, cursor, segment),
        ]
    for first, last, segment in rounds:
        yield from (
            (address, segment) for address in range(first, last + 1) if address not in blocked
        )


def _span(network: Network, position: int) -> tuple[int, int]:
    """First and last host address of a segment, within its pool's `ip_range` if there is one."""
    subnet = network.segments[position].subnet
    first, last = int(subnet.network_address) + 1, int(subnet.broadcast_address) - 1
    pool: Pool | None = network.spec.pools[position] if position < len(network.spec.pools) else None
    if pool is not None and pool.ip_range is not None:
        first = max(first, int(pool.ip_range.network_address))
        last = min(last, int(pool.ip_range.broadcast_address))
    return first, last
