"""Leadership of a manager that has no other beside it: it leads, always."""

import asyncio

from weft.model.ids import NodeId
from weft.model.standing import Standing


class SoleLeader:
    """`store.base.Leadership` of the embedded store."""

    def __init__(self, node: NodeId) -> None:
        self.standing = Standing(node, frozenset((node,)))

    async def next(self, seen: Standing) -> Standing:
        if seen == self.standing:
            await asyncio.Event().wait()
        return self.standing

    async def resign(self) -> None:
        """There is nobody else."""

    async def close(self) -> None:
        """Nothing to end."""
