"""Whether a request to change an object has seen what it replaces.

A request names the version that it has read. Docker Swarm requires the object's present version, so
a request also fails if only the status or the allocation has changed, as it nearly always has right
after another update. Weft only requires that the request has seen the spec that it replaces.
"""

from weft.errors import OutOfSequence
from weft.model.cluster import Cluster
from weft.model.node import Node
from weft.model.service import Service


def check_sequence(current: Node | Service | Cluster, version: int) -> None:
    """Raises `OutOfSequence` unless a reader of `version` has seen the present spec."""
    if not current.spec_follows < version <= current.meta.version:
        raise OutOfSequence("update out of sequence")
