"""How far is a service? What `docker service ls` shows of it, and what its clients wait for."""

import msgspec

from weft.model.node import Node, NodeState
from weft.model.service import Service
from weft.model.state import ClusterState
from weft.model.task import TaskState


class Progress(msgspec.Struct, frozen=True):
    """Tasks of one service."""

    running: int
    """That run on a node which is there."""
    desired: int
    """That are meant to run."""
    completed: int
    """That ended by themselves and well."""


def progress(state: ClusterState, service: Service) -> Progress:
    """A global service desires as many as it has tasks that are meant to run."""
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
    """A node that is down does not say what runs on it."""
    return node is not None and node.status.state != NodeState.DOWN
