"""The life of a task on its node, as a table in code: from the present state to the next step.
Pure.

Each step leads to a state from which the next one can be derived. So a daemon goes on where a
killed one stopped: an existing container is not created again, a running one is not started again.

    ACCEPTED, PREPARING   image, sandbox, container; then READY
    READY                 waits until the task is meant to run
    STARTING, RUNNING     start; watch; the end of the process is the end of the task (for the end
                          of the host, see `RebootVerdict`). A task with a health check is RUNNING
                          once it is healthy, and is stopped when it is not
    meant to end          stop (and remove, if the task is to be removed), give back the sandbox,
                          only then report the end
    ended                 the container stays for `docker ps -a` until the task is to be removed or
                          is no longer assigned
"""

from collections.abc import Mapping
from enum import Enum, auto

import msgspec

from weft.errors import clip
from weft.model.container import Container, ContainerState
from weft.model.health import HealthStatus
from weft.model.ids import ContainerId
from weft.model.task import TaskState

_UNHEALTHY = "dockerexec: unhealthy container"


class Step(Enum):
    WAIT = auto()
    """Wait until the manager wants something else."""
    PULL = auto()
    CONNECT = auto()
    """Give the task a sandbox, with its networks in the kernel and its DNS queries answered."""
    AWAIT_DATA = auto()
    """Say that secrets, configs or credentials are not here, and wait until a manager has sent
    them."""
    CREATE = auto()
    REPORT_PREPARING = auto()
    REPORT_READY = auto()
    REPORT_STARTING = auto()
    START = auto()
    REPORT_RUNNING = auto()
    WATCH = auto()
    """Wait until the container ends, its health turns or the manager wants something else."""
    REPORT_UNHEALTHY = auto()
    """Say that the task gets no new connections, since it is about to be stopped."""
    STOP = auto()
    DELETE = auto()
    """Remove the container and its log."""
    FINISH = auto()
    """Give back the sandbox and report the end."""
    FORGET = auto()


class RebootVerdict(Enum):
    """The decision about a task whose container ended because the whole host did."""

    OPEN = auto()
    """The node does not know yet whether a manager is in reach."""
    OVER = auto()
    """The task has failed; the manager replaces it."""
    REVIVED = auto()
    """No manager can replace the task: its container is started again."""


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    state: TaskState
    """The state last reported."""
    desired: TaskState
    assigned: bool = True
    """False: the task is no longer in the assignment."""
    container: ContainerState | None = None
    image: bool = False
    """The image is here."""
    connected: bool = False
    """The task has its sandbox, or needs none."""
    verdict: RebootVerdict = RebootVerdict.OVER
    health: HealthStatus | None = None
    """None: the container has no health check, or does not run."""
    unhealthy: str = ""
    """Why the task is unhealthy, as reported; it stays so, whatever its container does."""
    supplied: bool = True
    """The secrets and configs that the task needs are here."""
    authorized: bool = True
    """The credentials that the pull of the image needs are here."""


def next_step(task: TaskView) -> Step:
    if task.state.is_terminal:
        return _after_the_end(task)
    if task.desired > TaskState.RUNNING or not task.assigned:
        return _towards_the_end(task)
    if task.state < TaskState.READY:
        return _prepare(task)
    if task.state == TaskState.READY:
        return Step.REPORT_STARTING if task.desired >= TaskState.STARTING else Step.WAIT
    return _run(task)


def _prepare(task: TaskView) -> Step:
    if task.state < TaskState.PREPARING:
        return Step.REPORT_PREPARING
    if task.container is not None:
        return Step.REPORT_READY if task.connected else Step.CONNECT
    if not task.image:
        return Step.PULL if task.authorized else Step.AWAIT_DATA
    if not task.supplied:
        return Step.AWAIT_DATA
    return Step.CREATE if task.connected else Step.CONNECT


def _run(task: TaskView) -> Step:
    if task.unhealthy:
        return Step.STOP if task.container is ContainerState.RUNNING else Step.FINISH
    if task.container is ContainerState.CREATED:
        return Step.START if task.connected else Step.CONNECT
    if task.container is ContainerState.EXITED and task.verdict is RebootVerdict.OPEN:
        return Step.WAIT
    if task.container is ContainerState.EXITED and task.verdict is RebootVerdict.REVIVED:
        if not task.supplied:
            return Step.AWAIT_DATA
        return Step.START if task.connected else Step.CONNECT
    if task.container is not ContainerState.RUNNING:
        return Step.FINISH
    if task.health is HealthStatus.UNHEALTHY:
        return Step.REPORT_UNHEALTHY
    is_new = task.state < TaskState.RUNNING and task.health is not HealthStatus.STARTING
    return Step.REPORT_RUNNING if is_new else Step.WATCH


def _towards_the_end(task: TaskView) -> Step:
    if task.container is ContainerState.RUNNING:
        return Step.STOP
    never_ran = task.container is ContainerState.CREATED
    if task.container is not None and (
        never_ran or not task.assigned or task.desired >= TaskState.REMOVE
    ):
        return Step.DELETE
    return Step.FINISH


def _after_the_end(task: TaskView) -> Step:
    if task.container is not None and (not task.assigned or task.desired >= TaskState.REMOVE):
        return Step.DELETE
    return Step.WAIT if task.assigned else Step.FORGET


def outcome(task: TaskView, container: Container | None) -> tuple[TaskState, str, str]:
    """How a task with an ended container ended: (state, message or "" to keep the last one,
    error)."""
    if task.unhealthy:
        # Also if the manager has given the task up meanwhile: an update that fails does so.
        return TaskState.FAILED, "", _exit_text(container, task.unhealthy)
    if task.desired > TaskState.RUNNING or not task.assigned:
        return TaskState.SHUTDOWN, "shutdown", ""
    if container is None:
        return TaskState.FAILED, "", "task: container is gone"
    if container.exit_code == 0 and not container.error and container.started_at:
        return TaskState.COMPLETE, "finished", ""
    cause = f": {container.error}" if container.error else ""
    return TaskState.FAILED, "", f"task: non-zero exit ({container.exit_code}){cause}"


def unhealthy_text(output: str) -> str:
    """Docker Swarm's error for an unhealthy container (moby executor/container/errors.go), with the
    last output of its check."""
    words = clip(" ".join(output.split()))
    return f"{_UNHEALTHY}: {words}" if words else _UNHEALTHY


def _exit_text(container: Container | None, cause: str) -> str:
    code = 0 if container is None else container.exit_code
    return f"task: non-zero exit ({code}): {cause}" if code else cause


def failed_before(state: TaskState) -> TaskState:
    """The final state of a task that could not go on: REJECTED if it never ran, else FAILED."""
    return TaskState.REJECTED if state < TaskState.STARTING else TaskState.FAILED


def expired(containers: Mapping[ContainerId, tuple[str, int]], keep: int = 5) -> list[ContainerId]:
    """Which of these ended containers (id: (name, time of the end)) to remove: all but the last
    `keep` of each slot. A container's slot is its name without the task's id."""
    slots: dict[str, list[tuple[int, ContainerId]]] = {}
    for id, (name, ended) in containers.items():
        slots.setdefault(name.rpartition(".")[0], []).append((ended, id))
    return [id for slot in slots.values() for _, id in sorted(slot, reverse=True)[keep:]]
