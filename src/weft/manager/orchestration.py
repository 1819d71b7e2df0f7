"""The orchestrator in its loop: it looks at the services that something happened to, and at all of them when time is the reason."""

from collections.abc import Callable, Sequence

from weft.control.orchestrator import orchestrator
from weft.model.ids import TaskId
from weft.model.meta import Nanoseconds
from weft.model.state import ClusterState, Decision, Event


class Orchestration:
    def __init__(self, new_id: Callable[[], TaskId]) -> None:
        self._new_id = new_id
        self._wake_at: Nanoseconds | None = None
        """The earliest that any service asked for since all of them were looked at."""

    def reconcile(self, state: ClusterState, now: Nanoseconds, events: Sequence[Event] | None) -> Decision:
        is_due = self._wake_at is not None and self._wake_at <= now
        services = None if events is None or is_due else orchestrator.touched(state, events)
        decision = orchestrator.reconcile(state, now, self._new_id, services)
        if services is None:
            self._wake_at = decision.wake_at
        else:
            asked = [moment for moment in (self._wake_at, decision.wake_at) if moment is not None]
            self._wake_at = min(asked, default=None)
        return Decision(decision.changes, self._wake_at)
