"""Which VXLAN network identifier a segment gets: the one asked for, or the next free one behind the
last handed out.

Next-fit, because a VNI that is used again at once would let a packet still on its way into another
network.
"""

from collections.abc import Collection

from weft.errors import Conflict, Exhausted
from weft.model.addresses import FIRST_VNI, LAST_VNI, Vni


def request(vni: Vni, pool: object, taken: Collection[Vni]) -> Vni:
    """Raises `Conflict` with Docker Swarm's text."""
    if vni in taken:
        raise Conflict(f"could not assign vxlan id {vni} to pool {pool}: it is in use")
    return vni


def choose(cursor: int, taken: Collection[Vni]) -> Vni:
    """The first free VNI from `cursor` on, round the end to `FIRST_VNI`. Raises `Exhausted`."""
    start = cursor if FIRST_VNI <= cursor <= LAST_VNI else FIRST_VNI
    for first, last in ((start, LAST_VNI), (FIRST_VNI, start - 1)):
        for vni in range(first, last + 1):
            if vni not in taken:
                return vni
    raise Exhausted(f"no VNI is left between {FIRST_VNI} and {LAST_VNI}")
