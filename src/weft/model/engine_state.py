"""The state of a node's engine, as the node tells a manager that asks."""

import msgspec


class EngineFailure(msgspec.Struct, frozen=True):
    """An operation that failed in the last round of the node's network loop."""

    operation: str
    """Empty if the round failed as a whole."""
    cause: str


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    """The engine's version, as in `NodeDescription`."""
    revision: int
    """Revision of the managers' store from which the last change of the node's assignment was
    computed. Later revisions changed nothing for the node."""
    settled: bool
    """The network loop has dealt with the assignment, successfully or not."""
    sandboxes: int
    networks: int
    """Planned: sandboxes of this node, and networks that this node shares with others."""
    failures: tuple[EngineFailure, ...] = ()
    """The first of them."""
    failed: int = 0
    """The number of all failures."""
