"""The assignment of one node: its tasks, and the views of the networks that they are on."""

from collections.abc import Iterator

from weft.control.assignments.views import Views
from weft.model.assignment import (
    Assignment,
    TaskAssignment,
)
from weft.model.cluster import VXLAN_PORT
from weft.model.ids import NetworkId, NodeId, TaskId
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState


def assignment_for(
    state: ClusterState,
    node_id: NodeId,
    views: Views,
    tasks: dict[TaskId, TaskAssignment] | None = None,
) -> Assignment:
    """The assignment of the node. `views`: those of `network_views` at this very state. `tasks`:
    those of an earlier assignment, if no task of the node has changed since; most assignments are
    made because of an event on a network elsewhere."""
    cluster = state.cluster
    if tasks is None:
        found = state.tasks_on(node_id).values()
        tasks = {task.id: TaskAssignment.of(task, node_id) for task in found if is_dispatched(task)}
    networks = {
        network: views[network] for network in _networks_of(state, node_id) if network in views
    }
    needs_keys = cluster is not None and any(
        view.definition.encrypted for view in networks.values()
    )
    return Assignment(
        node=node_id,
        revision=state.revision,
        data_path_port=cluster.data_path_port if cluster else VXLAN_PORT,
        keys=cluster.data_keys if cluster is not None and needs_keys else (),
        tasks=tasks,
        networks=networks,
    )


def is_dispatched(task: Task) -> bool:
    """Whether the task's node must know the task. Ended tasks are included: the agent keeps their
    container and log as long as their record is kept."""
    return task.state >= TaskState.ASSIGNED and not (
        task.state.is_terminal and task.desired >= TaskState.REMOVE
    )


def _networks_of(state: ClusterState, node_id: NodeId) -> Iterator[NetworkId]:
    """Ingress, because every node answers for the published ports; then the networks of the node's
    tasks."""
    ingress = state.ingress
    if ingress is not None:
        yield ingress.id
    yield from (
        network
        for network in state.usage.networks(node_id)
        if ingress is None or network != ingress.id
    )
