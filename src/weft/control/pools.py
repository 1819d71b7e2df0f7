"""How many subnets are left in the pools from which networks without a subnet of their own get
one."""

from collections.abc import Iterable
from ipaddress import IPv4Network

from weft.control.allocator.subnets import GATEWAY, held
from weft.model.network import Network


def subnets_left(
    pools: Iterable[IPv4Network], size: int, networks: Iterable[Network]
) -> tuple[int, int]:
    """Those of prefix length `size` that overlap nothing, and how many there are in all. What hosts
    have routes to is not counted: it is taken when nothing else is left."""
    taken = [subnet for _, subnet in (GATEWAY, *held(networks))]
    left = total = 0
    for pool in pools:
        here = 1 << max(size - pool.prefixlen, 0)
        used: set[int] = set()
        for subnet in (other for other in taken if other.overlaps(pool)):
            first = max(int(subnet.network_address), int(pool.network_address))
            last = min(int(subnet.broadcast_address), int(pool.broadcast_address))
            used |= set(range(first >> 32 - size, (last >> 32 - size) + 1))
        total += here
        left += here - len(used)
    return left, total
