"""The store in memory: `SqliteStore` without the disk. For tests and simulations."""

from collections.abc import Sequence

from weft.model.state import ClusterState, Object, Remove
from weft.store.engine import Clock, Engine


class MemoryStore(Engine):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, ClusterState())

    def _write(self, revision: int, put: Sequence[Object], removed: Sequence[Remove]) -> None:
        """Does nothing: `apply` makes the only copy."""
