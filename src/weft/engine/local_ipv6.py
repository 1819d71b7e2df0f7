"""Chooses what this node's own networks and containers get of IPv6: subnets and addresses. Pure,
with Docker's texts for what cannot be had."""

import hashlib
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

from weft.engine.local_allocation import OVERLAP
from weft.errors import Exhausted, Forbidden
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec, Ipv6Pool

SUBNET_BITS = 64
"""Of the prefix of each subnet that this node chooses (RFC 4291 section 2.5.4)."""
_PREFIX_BITS = 48
_GLOBAL_ID = (1 << 40) - 1


def own_prefix(seed: str) -> IPv6Network:
    """This host's prefix of unique local addresses (RFC 4193 section 3.2): always the same for a
    seed, and hardly ever that of another host."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") & _GLOBAL_ID
    return IPv6Network((0xFD << 120 | number << 80, _PREFIX_BITS))


def new_pool(
    spec: BridgeNetworkSpec, seed: str, networks: Iterable[IPv6Network], host: Iterable[IPv6Network]
) -> Ipv6Pool | None:
    """What a new network gets, with its gateway; None without IPv6. `networks`: the subnets of all
    others; `host`: those to which the host has routes. Raises `Forbidden` or `Exhausted`."""
    if not spec.has_ipv6:
        return None
    pool, taken = spec.ipv6_pool, tuple(networks)
    if pool is None:
        pool = Ipv6Pool(_choose(own_prefix(seed), (*taken, *host)))
    elif any(pool.subnet.overlaps(other) for other in taken):
        raise Forbidden(OVERLAP)
    gateway = pool.gateway or _lowest(pool.subnet, pool.subnet, pool.reserved.values())
    if gateway is None:
        raise Exhausted(f"cannot choose a gateway: no address is free in {pool.subnet}")
    return Ipv6Pool(pool.subnet, gateway, pool.ip_range, pool.reserved)


def _choose(prefix: IPv6Network, taken: Collection[IPv6Network]) -> IPv6Network:
    for subnet in prefix.subnets(new_prefix=SUBNET_BITS):
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise Exhausted("all predefined address pools have been fully subnetted")


def choose_ipv6(
    network: BridgeNetwork, held: Collection[IPv6Address], wanted: IPv6Address | None
) -> IPv6Interface | None:
    """The lowest free address, in the range that the user named if there is one; or the address
    that the user wants. None on a network without IPv6. Raises `InvalidArgument`, `Forbidden` or
    `Exhausted`."""
    if wanted is not None:
        network.spec.check_ipv6(wanted)
    subnet, gateway, asked = network.ipv6_subnet, network.ipv6_gateway, network.spec.ipv6_pool
    if subnet is None or gateway is None:
        return None
    reserved = asked.reserved.values() if asked is not None else ()
    blocked = {subnet.network_address, gateway, *reserved, *held}
    if wanted is not None and wanted in blocked:
        raise Forbidden("Address already in use")
    span = asked.ip_range if asked is not None and asked.ip_range is not None else subnet
    chosen = wanted or _lowest(span, subnet, blocked)
    if chosen is None:
        raise Exhausted(
            f"no available IPv6 addresses on this network's address pools: {network.name}"
            f" ({network.id})"
        )
    return IPv6Interface((int(chosen), subnet.prefixlen))


def _lowest(
    span: IPv6Network, subnet: IPv6Network, blocked: Iterable[IPv6Address]
) -> IPv6Address | None:
    """The lowest free address of the span. The subnet's first stands for its routers (RFC 4291
    section 2.6.1)."""
    taken = {int(address) for address in blocked} | {int(subnet.network_address)}
    number = int(span.network_address)
    while number in taken:
        number += 1
    return IPv6Address(number) if number <= int(span.broadcast_address) else None
