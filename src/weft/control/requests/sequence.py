"""Whether a request to change an object has seen what it replaces.

A request names the version that it has read. Docker Swarm compares it with the object's, so that a
request fails as well when only the status has changed, or what the allocator gave: an update right
after another nearly always. Here it has to have seen the spec that it replaces, and nothing more.
"""

from weft.errors import OutOfSequence
from weft.model.cluster import Cluster
from weft.model.node import Node
from weft.model.service import Service


def check_sequence(current: Node | Service | Cluster, version: int) -> None:
    """Raises `OutOfSequence` unless whoever read `version` has seen the present spec."""
    if not current.spec_follows < version <= current.meta.version:
        raise OutOfSequence("update out of sequence")
