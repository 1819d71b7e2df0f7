"""The leadership of a manager without other managers: it always leads."""

import asyncio

from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus


class SoleLeader:
    """`store.base.Leadership` of the embedded store."""

    def __init__(self, node: NodeId) -> None:
        self.leadership_status = LeadershipStatus(node, frozenset((node,)))

    async def next(self, seen: LeadershipStatus) -> LeadershipStatus:
        if seen == self.leadership_status:
            await asyncio.Event().wait()
        return self.leadership_status

    async def resign(self) -> None:
        """Does nothing: no other manager could lead."""

    async def close(self) -> None:
        """Nothing to end."""
