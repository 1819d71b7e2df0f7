"""The interface of a store: committed state in memory, compare-and-swap commits, and subscriptions.

All who write do the same: read `state`, make `Change`s from it without awaiting anything, `commit` them, and on `OutOfSequence`
do it again. All who read in order to act subscribe, and look at the whole state again when something changed.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from weft.model.state import Change, ClusterState, Event, Kind


class Subscription(Protocol):
    async def next(self) -> list[Event]:
        """Waits for the next events of the subscribed kinds; gives all since the last call, in order of commit."""
        ...

    def take(self) -> list[Event]:
        """The same without waiting, possibly none: what makes the reader as new as `Store.state`, until its next await."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    @property
    def state(self) -> ClusterState:
        """What is committed. Read it; never keep it across an await if the answer must hold."""
        ...

    async def commit(self, changes: Sequence[Change]) -> int:
        """All or nothing, and durable on return. Gives the revision. Raises `OutOfSequence`, `Conflict` (a name is taken),
        `Unavailable` (no majority) or `OperationFailed` (the disk); nothing has changed then. Checks are made before the
        first await."""
        ...

    def subscribe(self, kinds: Collection[Kind]) -> Subscription: ...

    async def close(self) -> None: ...
