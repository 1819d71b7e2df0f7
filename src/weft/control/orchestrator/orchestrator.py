"""The orchestrator: takes each service with its tasks through the steps below, in this order, and collects what they change.

    nodes        tasks of which nobody will hear again are over
    restart      tasks that ended, or have to leave their node, are replaced
    replicated   as many slots as replicas          global_   one task per eligible node
    updater      tasks out of date are replaced, a few at a time
    restart      replacements whose time has come may run
    reaper       records that nobody needs are removed; of services that are gone, everything

A service is a world of its own, so a manager that knows what events came in asks for the services they touch (`touched`) and
spends nothing on the others. Time is the exception: at `wake_at`, and at the start, ask for all.
"""

from collections.abc import Callable, Collection, Iterable

from weft.control.orchestrator import global_, nodes, reaper, replicated, restart, updater
from weft.control.orchestrator.draft import Draft
from weft.model.cluster import Cluster
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import MOST_CHANGES, Change, ClusterState, Decision, Event
from weft.model.task import Task


def reconcile(
    state: ClusterState, now: Nanoseconds, new_id: Callable[[], TaskId], services: Collection[ServiceId] | None = None
) -> Decision:
    """`services`: only these, as from `touched`; None: all. `wake_at` is about those looked at, and `now` if not all
    were: ask for all then."""
    changes: list[Change] = []
    wake_at: Nanoseconds | None = None
    for id in _every_service(state) if services is None else services:
        draft = Draft(state, id, now, new_id)
        _reconcile_service(draft)
        for part in draft.parts():
            if changes and len(changes) + len(part) > MOST_CHANGES:
                return Decision(tuple(changes), now)
            changes += part
        if draft.wake_at is not None:
            wake_at = draft.wake_at if wake_at is None else min(wake_at, draft.wake_at)
    return Decision(tuple(changes), wake_at)


def _every_service(state: ClusterState) -> list[ServiceId]:
    return list(dict.fromkeys((*state.services, *(task.service for task in state.orphans()))))


def _reconcile_service(draft: Draft) -> None:
    nodes.orphan_lost(draft)
    if not draft.exists:
        reaper.remove_all(draft)
        return
    restart.supervise(draft)
    if draft.service.spec.is_global:
        global_.cover(draft)
    else:
        replicated.scale(draft)
    updater.update(draft)
    restart.promote(draft)
    reaper.reap(draft)


def touched(state: ClusterState, events: Iterable[Event]) -> set[ServiceId] | None:
    """The services that may have something to do after these events; None: all."""
    services: set[ServiceId] = set()
    for event in events:
        obj = event.object
        if isinstance(obj, Service):
            services.add(obj.id)
        elif isinstance(obj, Task):
            services.add(obj.service)
        elif isinstance(obj, Cluster) and _history_changed(event):
            return None
        elif isinstance(obj, Node) and _node_changed(event):
            services.update(task.service for task in state.tasks_on(NodeId(obj.id)).values())
            services.update(service.id for service in state.services.values() if service.spec.is_global)
    return services


def _history_changed(event: Event) -> bool:
    before, after = event.before, event.after
    return not (isinstance(before, Cluster) and isinstance(after, Cluster) and before.spec == after.spec)


def _node_changed(event: Event) -> bool:
    """In anything but its addresses."""
    before, after = event.before, event.after
    if not (isinstance(before, Node) and isinstance(after, Node)):
        return True
    return (before.spec, before.description, before.status) != (after.spec, after.description, after.status)
