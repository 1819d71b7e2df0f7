"""Which subnets a network gets: the ones asked for, or the first of the cluster's pool that overlaps nothing.

In use is what any network of the state has or has asked for, and what the hosts route elsewhere: an overlay that shadows a
route would cut its containers off from that place.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network

from weft.errors import Exhausted
from weft.model.network import Network, Pool
from weft.model.state import ClusterState

Named = tuple[str, IPv4Network]
"""Who has a subnet, as an error names it, and the subnet."""


def overlapping(
    state: ClusterState, subnets: Sequence[IPv4Network], host_routes: Iterable[IPv4Network] = (), name: str = ""
) -> str | None:
    """Why the subnets cannot be had for a new network, or None: `subnet 10.1.0.0/24 overlaps network Y (10.1.0.0/16)`, with
    `cannot create network <name>: ` before it if a name is given."""
    cause = first_overlap(subnets, [*held(state.networks.values()), *routed(host_routes)])
    return f"cannot create network {name}: {cause}" if cause and name else cause


def first_overlap(subnets: Sequence[IPv4Network], taken: Sequence[Named]) -> str | None:
    for position, subnet in enumerate(subnets):
        for owner, other in (*taken, *(("the same network", earlier) for earlier in subnets[:position])):
            if subnet.overlaps(other):
                return f"subnet {subnet} overlaps {owner} ({other})"
    return None


def held(networks: Iterable[Network]) -> Iterator[Named]:
    """Subnets that networks have, or will have as soon as the allocator comes to them. One that is in error has none."""
    for network in networks:
        if network.segments:
            yield from ((f"network {network.name}", segment.subnet) for segment in network.segments)
        elif not network.error:
            yield from ((f"network {network.name}", pool.subnet) for pool in network.spec.pools)


def routed(host_routes: Iterable[IPv4Network]) -> Iterator[Named]:
    """The default route leads everywhere and claims nothing."""
    return (("a route of the host", route) for route in host_routes if route.prefixlen)


def reported(state: ClusterState) -> tuple[IPv4Network, ...]:
    """What the hosts say they have routes to, each once. What is no IPv4 subnet concerns no overlay."""
    texts = {route for node in state.nodes.values() for route in node.routes}
    return tuple(dict.fromkeys(subnet for text in sorted(texts) for subnet in _subnet(text)))


def _subnet(text: str) -> tuple[IPv4Network, ...]:
    try:
        return (IPv4Network(text, strict=False),)
    except ValueError:
        return ()


def choose(pools: Sequence[IPv4Network], size: int, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The lowest subnet of `size` bits in the pools that overlaps none of `taken`. Raises `Exhausted`."""
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    step = 1 << (32 - size)
    for pool in pools:
        start, end = int(pool.network_address), int(pool.broadcast_address)
        for low, high in spans:
            if low < start + step and high >= start:
                start = (high // step + 1) * step
        if start + step - 1 <= end:
            return IPv4Network((start, size))
    raise Exhausted(f"no subnet of size /{size} is left in {', '.join(map(str, pools))}")


def gateway(pool: Pool) -> IPv4Address:
    """The one asked for, else the first host address that is not reserved."""
    if pool.gateway is not None:
        return pool.gateway
    reserved = set(pool.reserved.values())
    for host in pool.subnet.hosts():
        if host not in reserved:
            return host
    raise Exhausted(f"no address for a gateway in {pool.subnet}")
