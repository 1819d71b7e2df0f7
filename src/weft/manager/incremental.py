"""Control functions that look only at objects with events, and what they keep from one run to the
next."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network

from weft.control.allocator import allocator
from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.control.orchestrator import orchestrator
from weft.model.ids import ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.state import ClusterState, Decision, Event


class Allocation:
    """The allocator. While something is left unserved, the allocator looks at everything: any event
    may help."""

    def __init__(self, host_routes: Sequence[IPv4Network], own_ports: OwnPorts = NO_PORTS) -> None:
        self._host_routes = host_routes
        self._own_ports = own_ports
        self._everything = False

    def reconcile(
        self, state: ClusterState, now: Nanoseconds, events: Sequence[Event] | None
    ) -> Decision:
        everything = self._everything or events is None
        news = None if everything else events
        decision = allocator.reconcile(state, now, self._host_routes, news, self._own_ports)
        # The commit of these changes may fail.
        self._everything = decision.unserved or (everything and bool(decision.changes))
        return decision


class Orchestration:
    """The orchestrator, for services that have events or whose wake-up time has come."""

    def __init__(self, new_id: Callable[[], TaskId]) -> None:
        self._new_id = new_id
        self._wakes: dict[ServiceId, Nanoseconds] = {}
        self._last: Nanoseconds = 0

    def reconcile(
        self, state: ClusterState, now: Nanoseconds, events: Sequence[Event] | None
    ) -> Decision:
        touched = None if events is None else orchestrator.touched(state, events)
        was_set_back, self._last = now < self._last, now
        due = {id for id, moment in self._wakes.items() if was_set_back or moment <= now}
        services = orchestrator.every_service(state) if touched is None else touched | due
        plan = orchestrator.plan(state, now, self._new_id, services)
        for id in services:
            self._wakes.pop(id, None)
        self._wakes |= plan.wakes
        if plan.changes:
            # The commit of these changes may fail.
            self._wakes |= dict.fromkeys(due, now)
        return Decision(tuple(plan.changes), min(self._wakes.values(), default=None))
