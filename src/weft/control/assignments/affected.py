"""The nodes that a batch of changes affects: nodes whose own tasks have changed, and nodes on a
network whose view has changed.

The result may contain too many nodes, never too few: a node without a difference is sent nothing.
"""

from collections.abc import Iterable

import msgspec

from weft.control.assignments.assignment import is_dispatched
from weft.control.assignments.views import Views
from weft.model.cluster import Cluster
from weft.model.ids import NodeId, ServiceId
from weft.model.node import Node
from weft.model.secret import Config, DataKind, Secret
from weft.model.service import Service
from weft.model.state import ClusterState, Event
from weft.model.task import Task


class Concerned(msgspec.Struct, frozen=True):
    everybody: bool
    tasks: frozenset[NodeId]
    """Nodes whose tasks have changed, or what these need; and nodes that are gone."""
    networks: frozenset[NodeId]
    """Nodes with a task on a network whose view has changed."""


def concerned(
    state: ClusterState, events: Iterable[Event], before: Views, after: Views
) -> Concerned:
    """`before` and `after`: the views without and with the events."""
    changed = [id for id, view in after.items() if before.get(id) is not view]
    everybody = (
        (state.ingress is not None and state.ingress.id in changed)
        or not before.keys() <= after.keys()
        or any(_is_for_all(event) for event in events)
    )
    return Concerned(
        everybody,
        frozenset(
            node for event in events for node in (*_nodes(state, event), *_without(state, event))
        ),
        frozenset(
            task.node
            for id in changed
            for task in state.tasks_attached(id).values()
            if task.node is not None
        ),
    )


def _is_for_all(event: Event) -> bool:
    before, after = event.before, event.after
    if not (isinstance(before, Cluster) and isinstance(after, Cluster)):
        return isinstance(event.object, Cluster)
    return (before.data_keys, before.data_path_port) != (after.data_keys, after.data_path_port)


def _without(state: ClusterState, event: Event) -> Iterable[NodeId]:
    """The nodes whose tasks refer to a secret or config that is gone."""
    if event.after is not None or not isinstance(event.before, Secret | Config):
        return ()
    kind: DataKind = "secret" if isinstance(event.before, Secret) else "config"
    using = state.tasks_using(kind, event.before.id).values()
    return [task.node for task in using if task.node is not None]


def _with_other_auth(state: ClusterState, event: Event) -> Iterable[NodeId]:
    """The nodes of a service's tasks, if its credentials for a registry have changed."""
    before, after = (
        service.registry_auth if isinstance(service, Service) else None
        for service in (event.before, event.after)
    )
    tasks = state.tasks_of(ServiceId(event.object.id)).values() if before != after else ()
    return [task.node for task in tasks if task.node is not None]


def _nodes(state: ClusterState, event: Event) -> Iterable[NodeId]:
    before, after = event.before, event.after
    if isinstance(before, Node) and after is None:
        return (before.id,)
    if isinstance(event.object, Service):
        return _with_other_auth(state, event)
    tasks = [task for task in (before, after) if isinstance(task, Task)]
    if len(tasks) == 2 and _reads_the_same(*tasks):
        return ()
    return [task.node for task in tasks if task.node is not None]


def _reads_the_same(before: Task, after: Task) -> bool:
    """Whether the task's node sees no difference: only the status has changed, and the task is
    still to be run."""
    same_end = (is_dispatched(before), before.state.is_terminal) == (
        is_dispatched(after),
        after.state.is_terminal,
    )
    return (
        same_end
        and msgspec.structs.replace(before.observed(after.status), meta=after.meta) == after
    )
