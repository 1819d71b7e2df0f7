"""How far a service has come: what `docker service ls` shows and its clients wait for."""

import msgspec

from weft.control.orchestrator.draft import slot_of
from weft.control.orchestrator.jobs import is_completion, is_present
from weft.model.node import Node, NodeState
from weft.model.service import Job, Service
from weft.model.state import ClusterState
from weft.model.task import TaskState


class Progress(msgspec.Struct, frozen=True):
    """Tasks of one service."""

    running: int
    """Tasks meant to run that run on a node which is not down."""
    desired: int
    """Tasks that are meant to run; of a replicated job: that may run at the same time."""
    completed: int
    """Tasks that ended successfully by themselves; of a job: slots that have completed."""


def progress(state: ClusterState, service: Service) -> Progress:
    """For a global service, `desired` is the number of its tasks that are meant to run. A job is
    counted by its present iteration."""
    if service.spec.job is not None:
        return _job_progress(state, service, service.spec.job)
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


def _job_progress(state: ClusterState, service: Service, job: Job) -> Progress:
    tasks = [t for t in state.tasks_of(service.id).values() if is_present(service, t)]
    completed = {slot_of(task) for task in tasks if is_completion(service, task)}
    open = [t for t in tasks if t.desired <= TaskState.RUNNING and slot_of(t) not in completed]
    running = sum(
        t.state == TaskState.RUNNING and t.node is not None and _is_there(state.nodes.get(t.node))
        for t in open
    )
    wanted = len(open) if job.max_concurrent is None else job.max_concurrent
    return Progress(running, wanted, len(completed))


def _is_there(node: Node | None) -> bool:
    """A node that is down does not report what runs on it."""
    return node is not None and node.status.state != NodeState.DOWN
