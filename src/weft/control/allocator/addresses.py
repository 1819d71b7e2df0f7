"""Addresses on networks, next-fit: `Book` gives them out during one pass of the allocator.

An address is free unless it is held, excluded, or given out earlier in this pass. In the state,
services, nodes and tasks that are not over hold addresses (`ClusterState.usage`). Gateways,
reserved addresses and the network and broadcast address are excluded. An address given up in a pass
is free in the next. The cursor (`Network.cursor`) delays the reuse of an address as long as
possible.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Interface

from weft.errors import Exhausted, NotFound, OperationFailed
from weft.model.ids import NetworkId
from weft.model.network import Network, Pool, Segment
from weft.model.state import ClusterState


class Book:
    def __init__(self, state: ClusterState, networks: dict[NetworkId, Network]) -> None:
        """`networks`: as they will be committed, with the segments of this pass."""
        self._state = state
        self._networks = networks
        self._given: dict[NetworkId, set[int]] = {}
        self._full: set[NetworkId] = set()
        self.cursors: dict[NetworkId, int] = {}
        """Last address given out in this pass, by network."""

    def take(self, ids: Iterable[NetworkId]) -> dict[NetworkId, IPv4Interface]:
        """One address on each of the networks, or none at all: `claim(find(ids))`."""
        return self.claim(self.find(ids))

    def find(self, ids: Iterable[NetworkId]) -> dict[NetworkId, IPv4Interface]:
        """The next free address of each network, with its segment's mask, not claimed yet. Raises
        `NotFound`, `OperationFailed` (a network has no subnet) or `Exhausted`."""
        return {id: self._next(id) for id in ids}

    def claim(self, found: dict[NetworkId, IPv4Interface]) -> dict[NetworkId, IPv4Interface]:
        for id, address in found.items():
            self._given.setdefault(id, set()).add(int(address))
            self.cursors[id] = int(address)
        return found

    def has(self, id: NetworkId) -> bool:
        """Whether the network exists and is allocated. Its segments never change, so every address
        that it gave out still belongs to it."""
        network = self._networks.get(id)
        return network is not None and bool(network.segments)

    def _next(self, id: NetworkId) -> IPv4Interface:
        network = self._networks.get(id)
        if network is None:
            raise NotFound(f"network {id} not found")
        if not network.segments:
            raise OperationFailed(
                f"network {network.name} has no subnet: {network.error or 'not allocated yet'}"
            )
        if id not in self._full:
            for address, segment in _candidates(network, self.cursors.get(id, network.cursor)):
                if self._is_free(network, address):
                    return IPv4Interface((address, segment.subnet.prefixlen))
            self._full.add(id)
        subnets = ", ".join(str(segment.subnet) for segment in network.segments)
        raise Exhausted(f"no available addresses on network {network.name} ({subnets})")

    def _is_free(self, network: Network, address: int) -> bool:
        return address not in self._state.usage.addresses(
            network.id
        ) and address not in self._given.get(network.id, ())


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
