"""Rolling update and rollback: replaces tasks that are out of date, a few slots at a time, and
watches for failures.

Nothing is remembered between passes; everything follows from the task records. A slot is *updated*
if it has tasks both of the service's present version and of an older one. Its oldest task of the
present version was made by the updater, later ones are restarts. An updated slot is *in flight*
until that task, or a restart of it, has run or has been over for `delay`; at most `parallelism`
slots are in flight. A slot is in flight, too, while it waits for a task of another version that is
up to date and has not run yet (`_begins`).

A task that ends within `monitor` of its start, or never ran, is a failure. Later ends are not
(swarmkit manager/orchestrator/update/updater.go).
"""

from collections.abc import Sequence

import msgspec

from weft.control.orchestrator import nodes
from weft.control.orchestrator.dirty import is_dirty
from weft.control.orchestrator.draft import Draft, Slot, age
from weft.control.orchestrator.restart import is_filled
from weft.control.orchestrator.way_back import obstacle
from weft.errors import FailedPrecondition
from weft.model.meta import Nanoseconds, bounded
from weft.model.service import Service, ServiceSpec, UpdateConfig, UpdateState, UpdateStatus
from weft.model.task import Task, TaskState

_ROLLING_BACK = (
    UpdateState.ROLLBACK_STARTED,
    UpdateState.ROLLBACK_PAUSED,
    UpdateState.ROLLBACK_COMPLETED,
)
AUTOMATIC = "update rolled back"
"""How the message of an automatic rollback begins."""
_PAUSED = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)
_ACTIVE = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)
_FAILURES = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED)


# --- what the manager writes when a user updates a service


def with_spec(service: Service, spec: ServiceSpec) -> Service:
    """The service after a user's update. A new update begins, whatever the state of the last one.
    The credentials stay."""
    return msgspec.structs.replace(
        service,
        spec=spec,
        spec_follows=service.meta.version,
        spec_version=0,
        previous_spec=service.spec,
        previous_registry_auth=service.registry_auth,
        update_status=None,
    )


def rolled_back(
    service: Service, now: Nanoseconds, message: str = "manually requested rollback"
) -> Service:
    """The service with its present and previous spec exchanged. Raises `FailedPrecondition` if
    there is no previous spec."""
    if service.previous_spec is None:
        raise FailedPrecondition(f"service {service.id} does not have a previous spec")
    status = UpdateStatus(UpdateState.ROLLBACK_STARTED, started_at=now, message=message)
    return msgspec.structs.replace(
        with_spec(service, service.previous_spec),
        registry_auth=service.previous_registry_auth,
        update_status=status,
    )


# --- one pass


def update(draft: Draft) -> None:
    service = draft.service
    is_active = is_updating(service)
    if is_paused(service) or (not is_active and _is_current(draft)):
        return
    slots = {slot: tasks for slot, tasks in draft.slots().items() if is_filled(draft, tasks)}
    for tasks in slots.values():
        _finish(draft, tasks)
    dirty = [slot for slot, tasks in slots.items() if _is_due(draft, slot, tasks)]
    if not is_active:
        if not dirty:
            return
        _set_status(draft, UpdateState.UPDATING, "update in progress")
    config = _config(draft.service)
    updated = _updated(draft, slots)
    if _handle_failures(draft, config, updated, len(updated.keys() | set(dirty))):
        return
    flying = {slot for slot in updated if not _has_landed(draft, slots[slot], config.delay)}
    flying |= {slot for slot, tasks in slots.items() if slot not in dirty and _begins(draft, tasks)}
    due = [slot for slot in dirty if slot not in flying]
    due.sort(
        key=lambda slot: (
            any(t.is_healthy for t in slots[slot]),
            str(slot).zfill(10),
        )
    )
    room = max(config.parallelism - len(flying), 0) if config.parallelism else len(due)
    for slot in due[:room]:
        _replace(draft, slot, slots[slot], config)
    if not dirty and not flying:
        _complete(draft, config, list(updated.values()))


def is_updating(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in _ACTIVE


def is_paused(service: Service) -> bool:
    """Whether an update or rollback waits for the user."""
    return service.update_status is not None and service.update_status.state in _PAUSED


def _is_current(draft: Draft) -> bool:
    version = draft.service.spec_version
    return all(task.spec_version == version for task in draft.tasks.values())


def _config(service: Service) -> UpdateConfig:
    return service.spec.rollback if _is_rolling_back(service) else service.spec.update


def _is_rolling_back(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in _ROLLING_BACK


def _is_due(draft: Draft, slot: Slot, tasks: Sequence[Task]) -> bool:
    """Whether the slot is out of date and its node, for a global service, takes new tasks."""
    if isinstance(slot, str):
        node = draft.state.nodes.get(slot)
        if node is None or not nodes.is_open(draft.service.spec.task, node):
            return False
    return any(_is_dirty(draft, task) for task in _current(tasks))


def _current(tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks that fill the slot."""
    return [task for task in tasks if task.is_live] or tasks[-1:]


def _is_dirty(draft: Draft, task: Task) -> bool:
    return is_dirty(draft.service, task, draft.node_of(task))


def _updated(draft: Draft, slots: dict[Slot, list[Task]]) -> dict[Slot, Task]:
    """The task that the updater made in each updated slot, oldest first."""
    version = draft.service.spec_version
    made = {
        slot: next(task for task in tasks if task.spec_version == version)
        for slot, tasks in slots.items()
        if len({task.spec_version == version for task in tasks}) == 2
    }
    return dict(sorted(made.items(), key=lambda item: age(item[1])))


def _has_landed(draft: Draft, tasks: Sequence[Task], delay: Nanoseconds) -> bool:
    ran = [
        t
        for t in tasks
        if t.spec_version == draft.service.spec_version and t.state >= TaskState.RUNNING
    ]
    if not ran:
        return False
    began = min(task.witnessed(task.started_at or task.status.timestamp) for task in ran)
    since = bounded(began + delay, delay, draft.now)
    if draft.now < since:
        draft.wake(since)
    return draft.now >= since


def _begins(draft: Draft, tasks: Sequence[Task]) -> bool:
    """Whether the slot waits for a task that another update made, that this one has made right
    again, and that has not run yet."""
    live, version = [task for task in tasks if task.is_live], draft.service.spec_version
    return not any(task.is_healthy for task in live) and any(
        task.spec_version != version and task.state < TaskState.RUNNING for task in live
    )


def _finish(draft: Draft, tasks: Sequence[Task]) -> None:
    """Start-first: once the new task runs, the others are stopped. This includes an old task that a
    further update has made up to date again; no other step would stop it."""
    live = [task for task in tasks if task.is_live]
    if len(live) < 2:
        return
    dirty = [task for task in live if _is_dirty(draft, task)]
    running = [task for task in live if task.is_healthy and task not in dirty]
    if running:
        for task in (*dirty, *running[:-1]):
            draft.desire(task, TaskState.SHUTDOWN)


def _replace(draft: Draft, slot: Slot, tasks: Sequence[Task], config: UpdateConfig) -> None:
    live = [task for task in tasks if task.is_live and draft.tasks[task.id].is_live]
    clean = [task for task in live if not _is_dirty(draft, task)]
    retry_at = _retry_at(draft, tasks)
    if not clean and draft.now < retry_at:
        draft.wake(retry_at)
    elif config.order == "start-first":
        if not clean:
            draft.create(slot, TaskState.RUNNING)
    else:
        for task in live:
            if task not in clean:
                draft.desire(task, TaskState.SHUTDOWN)
        if not clean:
            draft.create(slot, TaskState.READY, draft.now)


def _retry_at(draft: Draft, tasks: Sequence[Task]) -> Nanoseconds:
    """Start-first: if the new task failed beside the old one, the updater tries another after the
    restart delay."""
    ended = [
        t for t in tasks if t.spec_version == draft.service.spec_version and t.state.is_terminal
    ]
    if not ended:
        return 0
    failed, delay = ended[-1], ended[-1].spec.restart.delay
    return bounded(failed.witnessed(failed.status.timestamp) + delay, delay, draft.now)


# --- how it goes


def _handle_failures(
    draft: Draft, config: UpdateConfig, updated: dict[Slot, Task], total: int
) -> bool:
    """Pauses or rolls back if too many tasks failed; True if the update does not go on."""
    failed = [task for task in updated.values() if _has_failed(task, config)]
    if (
        config.failure_action == "continue"
        or not failed
        or len(failed) / total <= config.max_failure_ratio
    ):
        return False
    cause = f"due to failure or early termination of task {failed[-1].id}"
    service = draft.service
    if (
        service.update_status is not None
        and service.update_status.state == UpdateState.ROLLBACK_STARTED
    ):
        _set_status(draft, UpdateState.ROLLBACK_PAUSED, f"rollback paused {cause}")
    elif config.failure_action == "rollback" and service.previous_spec is not None:
        _roll_back(draft, cause)
    else:
        _set_status(draft, UpdateState.PAUSED, f"update paused {cause}")
    return True


def _roll_back(draft: Draft, cause: str) -> None:
    """Or pauses if that is impossible: the tasks that are not updated yet go on."""
    if problem := obstacle(draft.state, draft.service):
        text = f"update paused {cause}; cannot roll back: {problem}"
        _set_status(draft, UpdateState.PAUSED, text)
        return
    back = rolled_back(draft.service, draft.now, f"{AUTOMATIC} {cause}")
    draft.put_service(
        msgspec.structs.replace(back, previous_spec=None, previous_registry_auth=None)
    )


def _has_failed(task: Task, config: UpdateConfig) -> bool:
    """An unhealthy task fails when it turns unhealthy, not when its container has stopped."""
    status = task.status
    ended = status.unhealthy_since or status.timestamp
    is_late = task.started_at and ended > task.started_at + config.monitor
    return (task.state in _FAILURES or status.unhealthy_since > 0) and not is_late


def _complete(draft: Draft, config: UpdateConfig, updated: Sequence[Task]) -> None:
    latest = max((task.witnessed(task.status.timestamp) for task in updated), default=0)
    watched_until = bounded(latest + config.monitor, config.monitor, draft.now)
    if updated and draft.now < watched_until:
        draft.wake(watched_until)
    elif _is_rolling_back(draft.service):
        _set_status(draft, UpdateState.ROLLBACK_COMPLETED, _rolled_back(draft.service))
    else:
        _set_status(draft, UpdateState.COMPLETED, "update completed")


def _rolled_back(service: Service) -> str:
    """The message of a completed rollback. That of an automatic one keeps its reason: the rollback
    may be over before anybody has seen that it began."""
    status = service.update_status
    reason = status.message if status is not None else ""
    return f"rollback completed: {reason}" if reason.startswith(AUTOMATIC) else "rollback completed"


def _set_status(draft: Draft, state: UpdateState, message: str) -> None:
    old = draft.service.update_status
    started = old.started_at if old is not None and old.state in _ACTIVE else draft.now
    is_over = state in (UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED)
    status = UpdateStatus(state, started, draft.now if is_over else 0, message)
    draft.put_service(msgspec.structs.replace(draft.service, update_status=status))
