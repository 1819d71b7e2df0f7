"""The common parts of the store's engines: subscriptions; and, for engines in one process, the
steps of a commit.

A commit is four steps without an await between them, so no reader ever sees half of one:

    1. check    versions and names, against the state in memory (`ClusterState.check`)
    2. write    the rows as they will be stored, made durable by the engine; if this fails, nothing
                has happened
    3. apply    to the state in memory
    4. notify   the subscriptions, which gather events until their reader comes

Such an engine is a subclass with one method, `_write`. `store/etcd/engine.py` commits otherwise."""

import asyncio
from collections.abc import Callable, Collection, Sequence

from weft.errors import Unavailable
from weft.model.meta import Nanoseconds
from weft.model.state import Change, Check, ClusterState, Event, Kind, Object, Put, Remove, stamped
from weft.system.tally import Histogram

Clock = Callable[[], Nanoseconds]


class EventSubscription:
    """The events of some kinds that one reader has not yet taken. A reader that falls behind gets
    them all in one list."""

    def __init__(
        self, kinds: Collection[Kind], forget: Callable[["EventSubscription"], None]
    ) -> None:
        self._kinds = frozenset(kinds)
        self._forget = forget
        self._pending: list[Event] = []
        self._changed = asyncio.Event()
        self._closed = False

    async def next(self) -> list[Event]:
        """Raises `Unavailable` once the subscription is closed. Cancelling this call loses no
        event."""
        await self._changed.wait()
        if self._closed:
            raise Unavailable("cannot wait for events: the subscription is closed")
        return self.take()

    def take(self) -> list[Event]:
        events, self._pending = self._pending, []
        if not self._closed:
            self._changed.clear()
        return events

    @property
    def waiting(self) -> int:
        return len(self._pending)

    def offer(self, events: Sequence[Event]) -> None:
        wanted = [event for event in events if event.kind in self._kinds]
        if wanted:
            self._pending += wanted
            self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._pending = []
        self._changed.set()
        self._forget(self)


class Readers:
    """All subscriptions of a store."""

    def __init__(self) -> None:
        self._subscriptions: dict[int, EventSubscription] = {}

    def subscribe(self, kinds: Collection[Kind]) -> EventSubscription:
        subscription = EventSubscription(kinds, self._forget)
        self._subscriptions[id(subscription)] = subscription
        return subscription

    def offer(self, events: Sequence[Event]) -> None:
        for subscription in list(self._subscriptions.values()):
            subscription.offer(events)

    def close(self) -> None:
        """Wakes every reader with `Unavailable`."""
        for subscription in list(self._subscriptions.values()):
            subscription.close()

    def _forget(self, subscription: EventSubscription) -> None:
        self._subscriptions.pop(id(subscription), None)


class Engine:
    """A `Store` in one process. `clock` gives the time of commits in nanoseconds."""

    def __init__(self, clock: Clock, state: ClusterState) -> None:
        self._clock = clock
        self._state = state
        self._readers = Readers()
        self.turn = asyncio.Lock()
        self.commit_seconds = Histogram()
        self._closed = False

    @property
    def state(self) -> ClusterState:
        return self._state

    @property
    def is_healthy(self) -> bool:
        return True

    async def commit(self, changes: Sequence[Change], *, independent: bool = False) -> int:
        """See `Store.commit`. A commit of nothing but checks gives the present revision. In one
        process and without an await every decision is made on the newest state, so `independent`
        makes no difference."""
        if self._closed:
            raise Unavailable("cannot commit: this manager is stopping")
        self._state.check(changes)
        if all(isinstance(change, Check) for change in changes):
            return self._state.revision
        now = self._clock()
        revision = self._state.revision + 1
        put = [
            stamped(change.object, revision, now) for change in changes if isinstance(change, Put)
        ]
        removed = [change for change in changes if isinstance(change, Remove)]
        self._write(revision, put, removed)
        self._readers.offer(self._state.apply(changes, now))
        return revision

    async def sync(self) -> None:
        """Does nothing: there is no other writer."""

    def subscribe(self, kinds: Collection[Kind]) -> EventSubscription:
        return self._readers.subscribe(kinds)

    async def close(self) -> None:
        """Wakes every reader with `Unavailable`. `state` can still be read."""
        self._closed = True
        self._readers.close()

    def _write(self, revision: int, put: Sequence[Object], removed: Sequence[Remove]) -> None:
        """Makes the rows durable, all or none, or raises `OperationFailed`."""
        raise NotImplementedError
