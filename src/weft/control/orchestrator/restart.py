"""The restart supervisor: replaces tasks that ended or have to leave their node, as their restart
policy says.

The old task keeps its record and gets the desired state SHUTDOWN. The new task, in the same slot,
gets READY: the agent prepares it. When the delay is over (`restart_at`) and the old task has
stopped, `promote` lets the new one run. If the new task cannot be prepared, its successor waits for
the same moment. The number of restarts follows from the slot's task records; the reaper keeps
enough of them.
"""

from collections.abc import Sequence

import msgspec

from weft.control.orchestrator import nodes
from weft.control.orchestrator.draft import Draft, Slot, age, slot_of
from weft.model.ids import TaskId
from weft.model.meta import APART, SECOND, Nanoseconds, bounded
from weft.model.task import Task, TaskState

OLD_TASK_TIMEOUT: Nanoseconds = 60 * SECOND
"""How long a replacement waits for its predecessor to stop (swarmkit orchestrator/restart,
defaultOldTaskTimeout), if the predecessor's grace period is not longer."""
BESIDE_GRACE: Nanoseconds = 15 * SECOND
"""How long all that belongs to a task's end may take besides its grace period."""


def supervise(draft: Draft) -> None:
    slots: dict[Slot, list[TaskId]] = {}
    for task in draft.tasks.values():
        slots.setdefault(slot_of(task), []).append(task.id)
    for task in list(draft.tasks.values()):
        if task.desired > TaskState.RUNNING:
            continue
        leaving = nodes.must_leave(draft, task)
        if _is_awaited(draft, task) and not leaving:
            draft.wake(task.restart_at)
        elif leaving and _awaits_relief(draft, task, slots[slot_of(task)]):
            continue
        elif leaving or task.state.is_terminal:
            _stop(draft, task, leaving)
            _replace(draft, task, leaving, slots[slot_of(task)])


def _awaits_relief(draft: Draft, task: Task, slot: list[TaskId]) -> bool:
    """Start-first: a task that has to leave a node that is up runs until its replacement does, but
    not for ever: there may be no room for two. `slot`: its task ids; a new task's is added."""
    service, node = draft.service, draft.node_of(task)
    is_asked = service.spec.update.order == "start-first" and not service.spec.is_global
    is_serving = task.state == TaskState.RUNNING and node is not None and not nodes.is_down(node)
    if not (is_asked and is_serving):
        return False
    younger = [t for id in slot if age(t := draft.tasks[id]) > age(task)]
    if not younger:
        slot.append(draft.create(slot_of(task), TaskState.RUNNING).id)
        return True
    relief = max(younger, key=age)
    until = (relief.meta.created_at or draft.now) + OLD_TASK_TIMEOUT
    until = bounded(until, OLD_TASK_TIMEOUT, draft.now)
    if not relief.is_live or relief.state >= TaskState.RUNNING or draft.now >= until:
        return False
    draft.wake(until)
    return True


def _is_awaited(draft: Draft, task: Task) -> bool:
    """The task ended before its time to run had come, for instance because it could not be
    prepared: its replacement waits until then."""
    is_early = draft.now < _restarts_at(draft, task)
    return task.state.is_terminal and task.desired <= TaskState.RUNNING and is_early


def _restarts_at(draft: Draft, task: Task) -> Nanoseconds:
    return bounded(task.restart_at, task.spec.restart.delay, draft.now)


def _stop(draft: Draft, task: Task, leaving: bool) -> None:
    stopped = draft.desire(task, TaskState.SHUTDOWN)
    node = draft.node_of(task)
    if (
        leaving
        and node is not None
        and not nodes.is_unavailable(node)
        and not task.state.is_terminal
    ):
        draft.put(
            msgspec.structs.replace(
                stopped, status=msgspec.structs.replace(task.status, err=nodes.CONSTRAINTS_BROKEN)
            )
        )


def _replace(draft: Draft, task: Task, leaving: bool, slot: list[TaskId]) -> None:
    """`slot`: its task ids; a new task's is added."""
    others = [t for id in slot if (t := draft.tasks[id]).desired < TaskState.REMOVE]
    if any(t.is_live for t in others) or not may_restart(draft, others, task):
        return
    node = draft.node_of(task)
    if draft.service.spec.is_global and (
        nodes.is_unavailable(node) or not _fits_service(draft, task)
    ):
        return
    delay = 0 if leaving or nodes.is_unavailable(node) else task.spec.restart.delay
    slot.append(draft.create(slot_of(task), TaskState.READY, draft.now + delay).id)


def _fits_service(draft: Draft, task: Task) -> bool:
    node = draft.node_of(task)
    return node is not None and nodes.fits(draft.service.spec.task, node)


def may_restart(draft: Draft, slot: Sequence[Task], task: Task) -> bool:
    """Whether the policy of `task` allows a replacement. `slot`: all recorded tasks of the slot."""
    policy = task.spec.restart
    if policy.condition == "none" or (
        policy.condition == "on-failure" and task.state == TaskState.COMPLETE
    ):
        return False
    if not policy.max_attempts:
        return True
    attempts = sorted((t for t in slot if t.spec_version == task.spec_version), key=age)[1:]
    if policy.window:
        # The delays between the attempts do not count: otherwise a window that is shorter than
        # `max_attempts` delays would never hold that many attempts, and restarts would never end.
        window = policy.window + policy.max_attempts * policy.delay
        attempts = [t for t in attempts if -APART <= draft.now - t.meta.created_at < window]
    return len(attempts) < policy.max_attempts


def is_filled(draft: Draft, slot: Sequence[Task]) -> bool:
    """Whether the slot has a task that runs, will run, or ended and is not to be restarted. `slot`:
    oldest first."""
    return any(t.is_live or _is_awaited(draft, t) for t in slot) or (
        bool(slot) and not may_restart(draft, slot, slot[-1])
    )


def promote(draft: Draft) -> None:
    """Lets replacements run whose time has come."""
    waiting = [
        t for t in draft.tasks.values() if t.desired == TaskState.READY and not t.state.is_terminal
    ]
    slots = draft.slots() if waiting else {}
    for task in waiting:
        start = _restarts_at(draft, task)
        ends = [stop_timeout(t) for t in slots[slot_of(task)] if is_stopping(draft, t)]
        if ends:
            stopped = (task.meta.created_at or draft.now) + max(ends)
            start = max(start, bounded(stopped, max(ends), draft.now))
        if draft.now >= start:
            draft.desire(task, TaskState.RUNNING)
        else:
            draft.wake(start)


def stop_timeout(task: Task) -> Nanoseconds:
    """How long a replacement waits for the task to stop: two databases on one directory are worse
    than none."""
    return max(OLD_TASK_TIMEOUT, task.spec.container.stop_grace_period + BESIDE_GRACE)


def is_stopping(draft: Draft, task: Task) -> bool:
    """Whether the task was told to stop and its agent can still report the end. A task that no
    agent knows has nothing to stop."""
    if (
        task.desired <= TaskState.RUNNING
        or task.state.is_terminal
        or task.state < TaskState.ASSIGNED
    ):
        return False
    node = draft.node_of(task)
    return node is not None and not nodes.is_down(node)
