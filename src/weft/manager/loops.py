"""Runs a control function when something changed or when the function asked to be run, and commits
what it decides.

The function sees the whole state, and is called until it has nothing more to change. It also gets
the events since its last decision was committed, only so that it can skip objects without events.
At the start and after a failure it gets no events, and must look at everything. A short pause after
the first event gathers the events that follow. No failure ends a loop: the loop logs the failure
and calls the function again after a growing pause."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from time import perf_counter

from weft.manager.transaction import transact
from weft.model.meta import SECOND, Nanoseconds
from weft.model.state import Change, ClusterState, Decision, Event, Kind
from weft.store.base import Store
from weft.system.tally import Histogram

log = logging.getLogger(__name__)

Reconcile = Callable[[ClusterState, Nanoseconds, Sequence[Event] | None], Decision]
"""From the state, the time, and the events since the last decision (None: look at everything)."""

DEBOUNCE = 0.002
"""Seconds from the first event to the run. A chain of three loops and a dispatcher must end in a
few tens of milliseconds."""
FIRST_BACKOFF = 0.1
MAX_BACKOFF = 5.0
"""Seconds."""
MAX_ROUNDS = 100
"""Runs in a row that each changed something. Without other writers the runs will never end. With
other writers, as when a cluster is being filled, the loop only pauses: two loops that never agree
look the same."""
BREATH = 0.02
LONG = 0.02
"""Seconds. After a longer round, as for thousands of tasks, the loop waits for as long as the round
took. Otherwise an API request, whose answer takes several turns of the event loop, would wait in
each turn for a round of every control loop."""
LONGEST_PAUSE = 1.0
"""Seconds."""


def whole(reconcile: Callable[[ClusterState, Nanoseconds], Decision]) -> Reconcile:
    """Adapts a function that always looks at everything."""
    return lambda state, now, events: reconcile(state, now)


class ControlLoop:
    def __init__(
        self,
        name: str,
        store: Store,
        clock: Callable[[], Nanoseconds],
        kinds: Collection[Kind],
        reconcile: Reconcile,
    ) -> None:
        self.name = name
        self._store = store
        self._clock = clock
        self._reconcile = reconcile
        self._changes = store.subscribe(kinds)
        self._events: list[Event] | None = None
        self.seconds = Histogram()
        """How long each run took, with its commit."""
        self.failures = 0

    @property
    def waiting(self) -> int:
        """Events that no committed decision has seen."""
        return len(self._events or ()) + self._changes.waiting

    async def run(self) -> None:
        """Runs until cancelled."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._wait(await self.settle())
                backoff = FIRST_BACKOFF
            except Exception:
                self._events = None
                self.failures += 1
                log.exception("loop.failed name=%s retry_after=%ss", self.name, backoff)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF)

    def close(self) -> None:
        """Ends the subscription. Call this when `run` was, or is about to be, cancelled."""
        self._changes.close()

    async def settle(self) -> Nanoseconds | None:
        """Runs the function until it changes nothing. Gives the time at which the function asks to
        be run again although nothing has changed."""
        first, own = self._store.state.revision, 0
        for _ in range(MAX_ROUNDS):
            begun = self._clock()
            decision = await self._round()
            if not decision.changes:
                return decision.wake_at
            own += 1
            # The clock may be set meanwhile.
            taken = min((self._clock() - begun) / SECOND, LONGEST_PAUSE)
            await asyncio.sleep(taken if taken > LONG else 0)
        if self._store.state.revision - first <= own:
            raise RuntimeError(f"{self.name} still changes something after {MAX_ROUNDS} runs")
        await asyncio.sleep(BREATH)
        return self._clock()

    async def _round(self) -> Decision:
        decision = Decision()

        def decide(state: ClusterState) -> Sequence[Change]:
            """Keeps events until the decision on them is committed: after a lost race the function
            decides on them again."""
            nonlocal decision
            news = self._changes.take()
            if self._events is not None:
                self._events += news
            decision = self._reconcile(state, self._clock(), self._events)
            return decision.changes

        begun = perf_counter()
        await transact(self._store, decide)
        self.seconds.add(perf_counter() - begun)
        self._events = []
        return decision

    async def _wait(self, wake_at: Nanoseconds | None) -> None:
        """Waits for a change that the last run has not seen, or until `wake_at`."""
        delay = None if wake_at is None else max(0.0, (wake_at - self._clock()) / SECOND)
        try:
            async with asyncio.timeout(delay):
                news = await self._changes.next()
        except TimeoutError:
            return
        if self._events is not None:
            self._events += news
        await asyncio.sleep(DEBOUNCE)
