"""The reaper: removes task records that nobody needs any longer, and the tasks of services that are
gone.

`ClusterSpec.task_history` says how many records to keep per slot, the current task included (as in
Docker Swarm). The reaper keeps more where restarts must be counted, and always keeps the newest:
that task may fill the slot. The record of a completed task is kept as long as its iteration of the
job is the present one: nothing else says that the slot has completed.
"""

from collections.abc import Sequence
from itertools import islice

from weft.control.orchestrator.draft import Draft, Slot
from weft.control.orchestrator.jobs import is_completion
from weft.control.orchestrator.rebalancer import asks
from weft.control.orchestrator.updater import is_updating
from weft.control.scheduler.ranking import MANY_FAILURES
from weft.model.state import MOST_CHANGES
from weft.model.task import Task, TaskState

PREDECESSOR = 2
"""Records kept during an update: the record of the previous task shows that a slot was updated."""
FAILURES = MANY_FAILURES + 1
"""Records kept of a slot that may be moved: they show that the slot fails on a node, so that it goes
back and is not moved there again at once."""


def reap(draft: Draft) -> None:
    for task in list(draft.tasks.values()):
        is_done = task.desired == TaskState.REMOVE and task.state.is_terminal
        if is_done or (task.desired > TaskState.RUNNING and _never_ran(task)):
            draft.remove(task)
    limit = _limit(draft)
    for slot, tasks in draft.slots().items():
        if len(tasks) > limit or isinstance(slot, str):
            _reap_history(draft, slot, tasks, limit)


def _never_ran(task: Task) -> bool:
    """No agent has ever heard of the task."""
    return task.state < TaskState.ASSIGNED


def _reap_history(draft: Draft, slot: Slot, tasks: Sequence[Task], limit: int) -> None:
    is_gone = isinstance(slot, str) and slot not in draft.state.nodes
    surplus = len(tasks) if is_gone else len(tasks) - limit
    for task in tasks if is_gone else tasks[:-1]:
        if is_completion(draft.service, task) and not is_gone:
            continue
        if surplus > 0 and task.state.is_terminal and task.desired > TaskState.RUNNING:
            draft.remove(task)
            surplus -= 1


def _limit(draft: Draft) -> int:
    cluster = draft.state.cluster
    limit = cluster.spec.task_history if cluster else 0
    attempts = draft.service.spec.task.restart.max_attempts
    return max(
        limit,
        attempts + 1 if attempts else 0,
        PREDECESSOR if is_updating(draft.service) else 0,
        FAILURES if asks(draft.service.spec) else 0,
    )


def remove_all(draft: Draft) -> None:
    """For a service that is gone: tells tasks to stop, and removes each one that has stopped. Tasks
    that stand for attached containers never had a service: their nodes end them."""
    due = (task for task in draft.tasks.values() if _is_over(task) or _is_to_end(task))
    for task in list(islice(due, MOST_CHANGES + 1)):  # one too many, so that another run follows
        if _is_over(task):
            draft.remove(task)
        else:
            draft.desire(task, TaskState.REMOVE)


def _is_over(task: Task) -> bool:
    return task.state.is_terminal or _never_ran(task)


def _is_to_end(task: Task) -> bool:
    return task.desired < TaskState.REMOVE and task.attached is None
