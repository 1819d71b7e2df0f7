"""The interface of a store: committed state in memory, compare-and-swap commits, and subscriptions.

All who write do the same: read `state`, make `Change`s from it without awaiting anything, `commit`
them, and on `OutOfSequence` do it again. All who read in order to act subscribe, and look at the
whole state again when something changed.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from weft.model.leadership_status import LeadershipStatus
from weft.model.state import Change, ClusterState, Event, Kind


class Subscription(Protocol):
    async def next(self) -> list[Event]:
        """Waits for the next events of the subscribed kinds; gives all since the last call, in
        order of commit."""
        ...

    def take(self) -> list[Event]:
        """The same without waiting, possibly none: what makes the reader as new as `Store.state`,
        until its next await."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    turn: asyncio.Lock
    """Held by a writer that has lost a race, until it has committed: those of one store that lose
    then write one after the other. Where a commit takes milliseconds, all but one of many that
    write at once would lose each time."""

    @property
    def state(self) -> ClusterState:
        """What is committed. Read it; never keep it across an await if the answer must hold."""
        ...

    @property
    def is_healthy(self) -> bool:
        """Whether `state` is kept up to date and commits can succeed: false while there is no
        majority."""
        ...

    async def commit(self, changes: Sequence[Change], *, independent: bool = False) -> int:
        """All or nothing, durable on return, and in `state` by then. Gives the revision. Raises
        `OutOfSequence`, `Conflict` (a name is taken) or `OperationFailed` (the disk), and nothing
        has changed then; `Unavailable` if there is no majority, and then nobody can tell. Checks
        are made before the first await.

        A decision may have looked at more than the objects it writes: that a port is free, that no
        other task has an address. Commits exclude each other for that reason: one fails with
        `OutOfSequence` if another was made since the state that it was decided on. `independent`
        says that nothing but the objects in `changes` was looked at: such a commit stands in
        nobody's way."""
        ...

    async def sync(self) -> None:
        """Waits until `state` has everything that was committed, by whomever, before this call.
        Raises `Unavailable` if there is no majority to say so."""
        ...

    def subscribe(self, kinds: Collection[Kind]) -> Subscription: ...

    async def close(self) -> None: ...


class Leadership(Protocol):
    """What only the leader does may be done twice for a moment: the store alone keeps two of them
    from contradicting each other."""

    @property
    def leadership_status(self) -> LeadershipStatus: ...

    async def next(self, seen: LeadershipStatus) -> LeadershipStatus:
        """Waits until `leadership_status` is not what was `seen`, and gives it."""
        ...

    async def resign(self) -> None:
        """If this manager leads, lets another one do it."""
        ...

    async def close(self) -> None: ...
