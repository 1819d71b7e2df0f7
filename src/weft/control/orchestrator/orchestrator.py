"""The orchestrator: takes each service with its tasks through these steps, in this order, and
collects the changes.

    nodes        ends tasks that no agent will report on again
    restart      replaces tasks that ended or have to leave their node
    replicated   fills one slot per replica         global_   one task per eligible node
    jobs         in place of these two, the updater and the rebalancer: one completion per slot, or eligible node
    updater      replaces tasks that are out of date, a few at a time
    rebalancer   moves tasks to nodes that have fewer, if the service asks for it
    restart      lets replacements run whose time has come
    reaper       removes records that nobody needs, and all tasks of services that are gone

Services do not depend on each other. So a manager that knows which events came in plans only the
services that the events concern (`touched`) and those whose time has come (`Plan.wakes`).
"""

from collections.abc import Callable, Iterable

import msgspec

from weft.control.orchestrator import (
    global_,
    jobs,
    nodes,
    reaper,
    rebalancer,
    replicated,
    restart,
    updater,
)
from weft.control.orchestrator.draft import Draft
from weft.model.cluster import Cluster
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import MOST_CHANGES, Change, ClusterState, Decision, Event
from weft.model.task import Task


class Plan(msgspec.Struct):
    """The outcome for some services."""

    changes: list[Change] = msgspec.field(default_factory=list)
    wakes: dict[ServiceId, Nanoseconds] = msgspec.field(default_factory=dict)
    """When to plan a service again although nothing has changed; `now` if the plan had no room for
    it."""


def reconcile(state: ClusterState, now: Nanoseconds, new_id: Callable[[], TaskId]) -> Decision:
    """Plans all services."""
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
    """All services, also those that are gone and still have tasks."""
    return list(dict.fromkeys((*state.services, *(task.service for task in state.orphans()))))


def _reconcile_service(draft: Draft) -> None:
    nodes.orphan_lost(draft)
    if not draft.exists:
        reaper.remove_all(draft)
        return
    if draft.service.spec.job is not None:
        jobs.retire(draft)
        restart.supervise(draft)
        jobs.start(draft)
    else:
        restart.supervise(draft)
        if draft.service.spec.is_global:
            global_.cover(draft)
        else:
            replicated.scale(draft)
        updater.update(draft)
        rebalancer.rebalance(draft)
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
                service.id
                for service in state.services.values()
                if service.spec.is_global or rebalancer.asks(service.spec)
            )
    return services


def _history_changed(event: Event) -> bool:
    before, after = event.before, event.after
    return not (
        isinstance(before, Cluster) and isinstance(after, Cluster) and before.spec == after.spec
    )


def _node_changed(event: Event) -> bool:
    """Whether anything but the node's addresses has changed."""
    before, after = event.before, event.after
    if not (isinstance(before, Node) and isinstance(after, Node)):
        return True
    return (before.spec, before.description, before.status) != (
        after.spec,
        after.description,
        after.status,
    )
