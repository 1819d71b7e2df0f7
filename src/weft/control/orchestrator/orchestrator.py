"""The orchestrator: takes each service with its tasks through the steps below, in this order, and
collects what they change.

    nodes        tasks of which nobody will hear again are over
    restart      tasks that ended, or have to leave their node, are replaced
    replicated   as many slots as replicas          global_   one task per eligible node
    updater      tasks out of date are replaced, a few at a time
    restart      replacements whose time has come may run
    reaper       records that nobody needs are removed; of services that are gone, everything

A service is a world of its own, so a manager that knows what events came in asks for the services
they touch (`touched`) and those whose time has come (`Plan.wakes`), and spends nothing on the
others.
"""

from collections.abc import Callable, Iterable

import msgspec

from weft.control.orchestrator import global_, nodes, reaper, replicated, restart, updater
from weft.control.orchestrator.draft import Draft
from weft.model.cluster import Cluster
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import MOST_CHANGES, Change, ClusterState, Decision, Event
from weft.model.task import Task


class Plan(msgspec.Struct):
    """What was found for some services."""

    changes: list[Change] = msgspec.field(default_factory=list)
    wakes: dict[ServiceId, Nanoseconds] = msgspec.field(default_factory=dict)
    """When to look at a service again although nothing has changed; now, if it was not its turn."""


def reconcile(state: ClusterState, now: Nanoseconds, new_id: Callable[[], TaskId]) -> Decision:
    """About all services."""
    found = plan(state, now, new_id, every_service(state))
    return Decision(tuple(found.changes), min(found.wakes.values(), default=None))


def plan(
    state: ClusterState,
    now: Nanoseconds,
    new_id: Callable[[], TaskId],
    services: Iterable[ServiceId],
) -> Plan:
    found, is_full = Plan(), False
    for id in services:
        if is_full:
            found.wakes[id] = now
            continue
        draft = Draft(state, id, now, new_id)
        _reconcile_service(draft)
        for part in draft.parts():
            is_full = bool(found.changes) and len(found.changes) + len(part) > MOST_CHANGES
            if is_full:
                break
            found.changes += part
        if is_full:
            found.wakes[id] = now
        elif draft.wake_at is not None:
            found.wakes[id] = draft.wake_at
    return found


def every_service(state: ClusterState) -> list[ServiceId]:
    """Also those that are gone and have tasks left."""
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
            services.update(
                service.id for service in state.services.values() if service.spec.is_global
            )
    return services


def _history_changed(event: Event) -> bool:
    before, after = event.before, event.after
    return not (
        isinstance(before, Cluster) and isinstance(after, Cluster) and before.spec == after.spec
    )


def _node_changed(event: Event) -> bool:
    """In anything but its addresses."""
    before, after = event.before, event.after
    if not (isinstance(before, Node) and isinstance(after, Node)):
        return True
    return (before.spec, before.description, before.status) != (
        after.spec,
        after.description,
        after.status,
    )
