"""The VXLAN network identifier (VNI) of a segment: the one asked for, or the next free one behind
the last one given out.

The search is next-fit: with a VNI that is reused at once, packets still in flight would reach
another network.
"""

from collections.abc import Collection

from weft.errors import Conflict, Exhausted
from weft.model.addresses import FIRST_VNI, LAST_VNI, Vni


def request(vni: Vni, pool: object, taken: Collection[Vni]) -> Vni:
    """The VNI asked for. Raises `Conflict` with Docker Swarm's text."""
    if vni in taken:
        raise Conflict(f"could not assign vxlan id {vni} to pool {pool}: it is in use")
    return vni


def choose(cursor: int, taken: Collection[Vni]) -> Vni:
    """The first free VNI from `cursor` on, wrapping around to `FIRST_VNI`. Raises `Exhausted`."""
    start = cursor if FIRST_VNI <= cursor <= LAST_VNI else FIRST_VNI
    for first, last in ((start, LAST_VNI), (FIRST_VNI, start - 1)):
        for vni in range(first, last + 1):
            if vni not in taken:
                return vni
    raise Exhausted(f"no VNI is left between {FIRST_VNI} and {LAST_VNI}")
