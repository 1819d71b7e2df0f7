"""The interface of a store: committed state in memory, compare-and-swap commits, and subscriptions.

Every writer does the same: reads `state`, makes `Change`s from it without awaiting anything,
commits them, and begins again on `OutOfSequence`. Every reader that acts on the state subscribes,
and looks at the whole state again when something changed."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from weft.model.leadership_status import LeadershipStatus
from weft.model.state import Change, ClusterState, Event, Kind
from weft.system.tally import Histogram


class Subscription(Protocol):
    async def next(self) -> list[Event]:
        """Waits for the next events of the subscribed kinds. Gives all events since the last call,
        in order of commit."""
        ...

    def take(self) -> list[Event]:
        """As `next` without waiting, possibly none. Makes the reader as new as `Store.state`, until
        its next await."""
        ...

    @property
    def waiting(self) -> int:
        """The number of events that `take` would give."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    turn: asyncio.Lock
    """A writer that has lost a race holds this lock until it has committed, so the losers on one
    store write one after the other. Where a commit takes milliseconds, all but one of many
    concurrent writers would lose each time."""
    commit_seconds: Histogram
    """How long commits took, those of lost races left out."""

    @property
    def state(self) -> ClusterState:
        """The committed state. Read it; never keep it across an await if the answer must hold."""
        ...

    @property
    def is_healthy(self) -> bool:
        """Whether `state` is up to date and commits can succeed: false without quorum."""
        ...

    async def commit(self, changes: Sequence[Change], *, independent: bool = False) -> int:
        """Commits all changes or none, and gives the revision. On return they are durable, and in
        `state`. Raises `OutOfSequence`, `Conflict` (a name is taken) or `OperationFailed` (the
        disk), and then nothing has changed; `Unavailable` without quorum, and then the outcome is
        unknown. Checks are made before the first await.

        A decision may have depended on more than the objects it writes: on a port being free, on no
        other task having an address. Therefore commits exclude each other: a commit fails with
        `OutOfSequence` if another one was made since the state that it was decided on.
        `independent` says that the decision depended on nothing but the objects in `changes`: such
        a commit obstructs no other."""
        ...

    async def sync(self) -> None:
        """Waits until `state` has everything that anybody committed before this call. Raises
        `Unavailable` if no quorum can confirm that."""
        ...

    def subscribe(self, kinds: Collection[Kind]) -> Subscription: ...

    async def close(self) -> None: ...


class Leadership(Protocol):
    """Tells which manager leads. Two managers may lead for a moment: only the store keeps their
    decisions from contradicting each other."""

    @property
    def leadership_status(self) -> LeadershipStatus: ...

    async def next(self, seen: LeadershipStatus) -> LeadershipStatus:
        """Waits until `leadership_status` differs from `seen`, and gives it."""
        ...

    async def resign(self) -> None:
        """If this manager leads, lets another one lead."""
        ...

    async def close(self) -> None: ...
