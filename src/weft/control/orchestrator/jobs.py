"""Jobs: each slot of a replicated job, and each eligible node of a global one, completes once.

An update of the service starts the job again, as its next iteration. Nothing else does: a slot has
completed if a task of the present iteration completed in it, and no daemon, leader or node can undo
that. A task that fails or loses its node has not completed: the restart supervisor replaces it, as
the restart policy allows. Completed tasks get the desired state SHUTDOWN like all tasks that have
ended, so that no agent runs them again; users see `complete` (`Task.shown_desired`).

A slot is busy while a task may run in it: a task of the present iteration, or any task that was
told to stop and has not stopped yet. At most `max_concurrent` slots are busy. Two tasks of one slot
run at the same time only where no replacement can know it: if a node is cut off.

Weft differs from swarmkit (manager/orchestrator/jobs) where that one creates a task again although
the restart policy forbids it, counts two completions of one slot twice, and does not wait for tasks
of an earlier iteration to stop.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from weft.control.orchestrator import nodes
from weft.control.orchestrator.draft import Draft, Slot, slot_of
from weft.control.orchestrator.replicated import MOST_WAITING
from weft.control.orchestrator.restart import is_filled, is_stopping, stop_timeout
from weft.model.meta import Nanoseconds, bounded
from weft.model.service import JobStatus, Service
from weft.model.state import MOST_CHANGES
from weft.model.task import Task, TaskState


def started_again(service: Service, now: Nanoseconds) -> Service:
    """A service with a new specification: if it is a job, its next iteration begins. An update of a
    job has no status: nothing is replaced little by little."""
    if service.job_status is None:
        return service
    status = JobStatus(service.job_status.iteration + 1, now)
    return msgspec.structs.replace(service, job_status=status, update_status=None)


def is_present(service: Service, task: Task) -> bool:
    """Whether the task belongs to the present iteration of the job."""
    return service.iteration is not None and task.job_iteration == service.iteration


def is_completion(service: Service, task: Task) -> bool:
    """Whether the task is a completion that counts."""
    return task.state == TaskState.COMPLETE and is_present(service, task)


# --- one pass


def retire(draft: Draft) -> None:
    """Tells the tasks to stop that nobody needs: those of earlier iterations, and a second one in a
    slot that has completed (a node that was cut off came back and had completed it). Removes the
    slots that the job no longer has."""
    service = draft.service
    last = service.spec.replicas
    surplus = [t for slot, tasks in draft.slots().items() if _is_beyond(slot, last) for t in tasks]
    for task in islice(surplus, MOST_CHANGES):
        draft.desire(task, TaskState.REMOVE)
    for tasks in draft.slots().values():
        has_completed = any(is_completion(service, task) for task in tasks)
        for task in tasks:
            if has_completed or not is_present(service, task):
                draft.desire(task, TaskState.SHUTDOWN)


def _is_beyond(slot: Slot, last: int | None) -> bool:
    return last is not None and isinstance(slot, int) and slot > last


def start(draft: Draft) -> None:
    """Creates the tasks that may run now."""
    if draft.service.spec.is_global:
        _start_on_nodes(draft)
    else:
        _start_in_slots(draft)


def _start_on_nodes(draft: Draft) -> None:
    slots = draft.slots()
    for node in draft.state.nodes.values():
        is_open = nodes.is_open(draft.service.spec.task, node)
        if is_open and not _is_settled(draft, slots.get(node.id, [])):
            draft.create(node.id, TaskState.READY, draft.now)


def _start_in_slots(draft: Draft) -> None:
    slots, job = draft.slots(), draft.service.spec.job
    busy = {slot_of(task) for task in draft.tasks.values() if _is_busy(draft, task)}
    room = (job.max_concurrent or 0 if job is not None else 0) - len(busy)
    waiting = sum(t.is_live and t.state < TaskState.RUNNING for ts in slots.values() for t in ts)
    free = _free_slots(draft, busy, room)
    for slot in islice(list(free), max(min(MOST_CHANGES, MOST_WAITING - waiting), 0)):
        if slot in busy:
            draft.create(slot, TaskState.READY, draft.now)
        else:
            draft.create(slot, TaskState.RUNNING)


def _free_slots(draft: Draft, busy: set[Slot], room: int) -> Iterator[int]:
    """The slots for new tasks, in order. A slot whose earlier task still has to stop is busy
    already, so it needs no room; but if more slots are busy than may be, because fewer may be than
    in the earlier iteration, all wait until some have stopped."""
    slots = draft.slots()
    if room < 0:
        return
    for slot in range(1, (draft.service.spec.replicas or 0) + 1):
        needs_room = slot not in busy
        if (needs_room and room == 0) or _is_settled(draft, slots.get(slot, [])):
            continue
        room -= needs_room
        yield slot


def _is_settled(draft: Draft, slot: Sequence[Task]) -> bool:
    """Whether the slot has completed, has a task, or its task failed and is not to be tried
    again."""
    present = [task for task in slot if is_present(draft.service, task)]
    return any(is_completion(draft.service, t) for t in present) or is_filled(draft, present)


def _is_busy(draft: Draft, task: Task) -> bool:
    """Whether the task runs, or may, or waits for its replacement's time. A task of an earlier
    iteration that does not stop holds its slot no longer than it would hold up a replacement."""
    if task.desired <= TaskState.RUNNING:
        return True
    if not is_stopping(draft, task):
        return False
    status = draft.service.job_status
    if status is None or is_present(draft.service, task):
        return True
    longest = stop_timeout(task)
    until = bounded(status.last_execution + longest, longest, draft.now)
    if draft.now >= until:
        return False
    draft.wake(until)
    return True
