"""The subnets of a network: those asked for, or the first in the cluster's pool that overlaps
nothing.

The subnets in use are those that any network of the state has or has asked for, and the default
subnet of docker_gwbridge. Every container has an interface on docker_gwbridge too, and would
mistake an address on one network for its own on the other. A host whose bridge has another subnet,
because its routes take the default one, does not run tasks of a network that overlaps that subnet
(`network/sandbox.py`). The choice also avoids the hosts' routes as long as another subnet is left
(`routes.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network

from weft.errors import Exhausted
from weft.model.network import Network
from weft.model.sandbox import GATEWAY_BRIDGE, GATEWAY_INTERFACE
from weft.model.state import ClusterState

NONE_AVOIDED = 33
"""Bits; no subnet has so long a prefix."""
Named = tuple[str, IPv4Network]
"""The owner of a subnet, as an error names it, and the subnet."""
GATEWAY: Named = (f"{GATEWAY_BRIDGE} of the hosts", GATEWAY_INTERFACE.network)


def overlapping(state: ClusterState, subnets: Sequence[IPv4Network], name: str = "") -> str | None:
    """Why a new network cannot have the subnets, or None: `subnet 10.1.0.0/24 overlaps network Y
    (10.1.0.0/16)`, with `cannot create network <name>: ` before it if a name is given."""
    cause = first_overlap(subnets, [GATEWAY, *held(state.networks.values())])
    return f"cannot create network {name}: {cause}" if cause and name else cause


def first_overlap(subnets: Sequence[IPv4Network], taken: Sequence[Named]) -> str | None:
    for position, subnet in enumerate(subnets):
        for owner, other in (
            *taken,
            *(("the same network", earlier) for earlier in subnets[:position]),
        ):
            if subnet.overlaps(other):
                return f"subnet {subnet} overlaps {owner} ({other})"
    return None


def held(networks: Iterable[Network]) -> Iterator[Named]:
    """Subnets that networks have, or will have after the allocator's next pass. A network in error
    has none."""
    for network in networks:
        if network.segments:
            yield from ((f"network {network.name}", segment.subnet) for segment in network.segments)
        elif not network.error:
            yield from ((f"network {network.name}", pool.subnet) for pool in network.spec.pools)


def choose(
    pools: Sequence[IPv4Network],
    size: int,
    taken: Iterable[IPv4Network],
    avoided: Sequence[IPv4Network] = (),
) -> IPv4Network:
    """The lowest subnet of prefix length `size` in the pools that overlaps none of `taken`.
    `avoided` is respected if possible; otherwise its widest subnets are given up first. Raises
    `Exhausted`."""
    spans = [(int(net.network_address), int(net.broadcast_address)) for net in taken]
    lengths = sorted({net.prefixlen for net in avoided})
    for shortest in (*lengths, NONE_AVOIDED):
        kept = (net for net in avoided if net.prefixlen >= shortest)
        more = ((int(net.network_address), int(net.broadcast_address)) for net in kept)
        found = _lowest(pools, size, sorted((*spans, *more)))
        if found is not None:
            return found
    raise Exhausted(f"no subnet of size /{size} is left in {', '.join(map(str, pools))}")


def _lowest(
    pools: Sequence[IPv4Network], size: int, spans: Sequence[tuple[int, int]]
) -> IPv4Network | None:
    """`spans`: first and last address of each subnet in use, in order."""
    step = 1 << (32 - size)
    for pool in pools:
        start, end = int(pool.network_address), int(pool.broadcast_address)
        for low, high in spans:
            if low < start + step and high >= start:
                start = (high // step + 1) * step
        if start + step - 1 <= end:
            return IPv4Network((start, size))
    return None
