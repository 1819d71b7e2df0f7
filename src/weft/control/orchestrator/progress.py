"""How far a service has come: what `docker service ls` shows and its clients wait for."""

import msgspec

from weft.model.node import Node, NodeState
from weft.model.service import Service
from weft.model.state import ClusterState
from weft.model.task import TaskState


class Progress(msgspec.Struct, frozen=True):
    """Tasks of one service."""

    running: int
    """Tasks meant to run that run on a node which is not down."""
    desired: int
    """Tasks that are meant to run."""
    completed: int
    """Tasks that ended successfully by themselves."""


def progress(state: ClusterState, service: Service) -> Progress:
    """For a global service, `desired` is the number of its tasks that are meant to run."""
    running = wanted = completed = 0
    nodes = state.nodes
    for task in state.tasks_of(service.id).values():
        reached = task.status.state
        if task.desired <= TaskState.RUNNING:
            wanted += 1
            running += (
                reached == TaskState.RUNNING and _is_there(nodes.get(task.node))
                if task.node is not None
                else 0
            )
        completed += reached == TaskState.COMPLETE
    return Progress(
        running, wanted if service.spec.replicas is None else service.spec.replicas, completed
    )


def _is_there(node: Node | None) -> bool:
    """A node that is down does not report what runs on it."""
    return node is not None and node.status.state != NodeState.DOWN
