"""Leader and present managers, as far as one manager can tell."""

import msgspec

from weft.model.ids import NodeId


class LeadershipStatus(msgspec.Struct, frozen=True):
    """The leader and the managers that are present."""

    leader: NodeId | None = None
    """None while no leader is known."""
    present: frozenset[NodeId] = frozenset()
    """Managers that were heard of within the last few seconds, as far as this one can tell."""
