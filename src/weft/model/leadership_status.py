"""Which managers are there, as far as one of them can tell."""

import msgspec

from weft.model.ids import NodeId


class LeadershipStatus(msgspec.Struct, frozen=True):
    """Which managers are there, and which one of them leads."""

    leader: NodeId | None = None
    """None while none is known."""
    present: frozenset[NodeId] = frozenset()
    """Managers that have been heard of within the last few seconds, as far as this one can tell."""
