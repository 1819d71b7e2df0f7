"""The loop around a control function: run it when something changed or when it asked to be run,
commit what it decides.

The function sees the whole state and is called until it has nothing more to change. It is told what
happened since its last decision was committed, only so that it may leave out what nothing happened
to; at the start, and after anything went wrong, it is told nothing and has to look at everything. A
short pause after the first event gathers those that come with it. Nothing that goes wrong ends a
loop: it is logged, and the function is called again after a growing pause.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from weft.manager.transaction import transact
from weft.model.meta import SECOND, Nanoseconds
from weft.model.state import Change, ClusterState, Decision, Event, Kind
from weft.store.base import Store

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
"""Runs in a row that each changed something. If nobody else did meanwhile, they will never end; if
somebody did, as when a cluster is being filled, it is time for a breath: two loops that never agree
look the same."""
BREATH = 0.02
LONG = 0.02
"""Seconds. After a round that took longer, as one about thousands of tasks does, the loop waits as
long again: an answer of the API takes several turns of the event loop, and each of them would take
as long as a round of every control loop."""


def whole(reconcile: Callable[[ClusterState, Nanoseconds], Decision]) -> Reconcile:
    """For a function that always looks at everything."""
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

    async def run(self) -> None:
        """Until cancelled."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._wait(await self.settle())
                backoff = FIRST_BACKOFF
            except Exception:
                self._events = None
                log.exception("loop.failed name=%s retry_after=%ss", self.name, backoff)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF)

    def close(self) -> None:
        """To be called when `run` has been, or is about to be, cancelled."""
        self._changes.close()

    async def settle(self) -> Nanoseconds | None:
        """Runs the function until it changes nothing; gives when it wants to be run again although
        nothing has changed."""
        first, own = self._store.state.revision, 0
        for _ in range(MAX_ROUNDS):
            begun = self._clock()
            decision = await self._round()
            if not decision.changes:
                return decision.wake_at
            own += 1
            taken = (self._clock() - begun) / SECOND
            await asyncio.sleep(taken if taken > LONG else 0)
        if self._store.state.revision - first <= own:
            raise RuntimeError(f"{self.name} still changes something after {MAX_ROUNDS} runs")
        await asyncio.sleep(BREATH)
        return self._clock()

    async def _round(self) -> Decision:
        decision = Decision()

        def decide(state: ClusterState) -> Sequence[Change]:
            """Events are kept until what they led to is committed: a lost race decides on them
            again."""
            nonlocal decision
            news = self._changes.take()
            if self._events is not None:
                self._events += news
            decision = self._reconcile(state, self._clock(), self._events)
            return decision.changes

        await transact(self._store, decide)
        self._events = []
        return decision

    async def _wait(self, wake_at: Nanoseconds | None) -> None:
        """Until something changed that the last run has not seen, or until `wake_at`."""
        delay = None if wake_at is None else max(0.0, (wake_at - self._clock()) / SECOND)
        try:
            async with asyncio.timeout(delay):
                news = await self._changes.next()
        except TimeoutError:
            return
        if self._events is not None:
            self._events += news
        await asyncio.sleep(DEBOUNCE)
