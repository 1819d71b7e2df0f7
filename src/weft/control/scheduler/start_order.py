"""The order in which services start: new tasks of a service with the label `weft.start-after` wait
until each service that it names has all that it asks for.

That is asked once for each version of the service's specification: as soon as one of its tasks has
a node, all of that version may have one, and restarts wait for nobody. Tasks wait as PENDING, with
the reason, so nothing but the scheduler knows of them. They hold their addresses and nothing of a
node, so the services that they wait for find as much room as without them.

A service that does not exist is waited for: a stack's services are created one after the other. A
circle is refused when a request would close it (`circle`).
"""

from collections.abc import Iterator, Mapping

from weft.control.orchestrator import nodes
from weft.control.orchestrator.draft import Slot, age, slot_of
from weft.control.orchestrator.jobs import is_completion
from weft.model.ids import ServiceId
from weft.model.labels import START_AFTER, start_after
from weft.model.service import Service, ServiceSpec
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState

STACK = "com.docker.stack.namespace"
"""The label with the name of the stack, which `docker stack deploy` puts before the names of its
services: `<stack>_<service>`."""


def awaited(state: ClusterState, task: Task) -> str:
    """The reason why the pending task has to wait; empty: it may have a node."""
    service = state.services.get(task.service)
    if service is None or START_AFTER not in service.spec.labels:
        return ""
    reasons = [
        f"{name} ({reason})"
        for name, found in _named(state, service.spec)
        if (reason := _lacks(state, found))
    ]
    if not reasons or _has_begun(state, task):
        return ""
    return f"waits for {', '.join(reasons)}"


def circle(state: ClusterState, spec: ServiceSpec) -> tuple[str, ...]:
    """The names of services that would wait for each other in a circle with this one, from it to
    itself; empty if there is none. Takes time in proportion to all labels of the services."""
    before: dict[str, str] = {}
    """By service: one that waits for it."""
    specs: list[ServiceSpec] = [spec]
    while specs:
        waiting = specs.pop()
        for name, found in _named(state, waiting, spec.name):
            if name == spec.name:
                return (spec.name, *_way(before, spec.name, waiting.name), spec.name)
            if found is not None and name not in before:
                before[name] = waiting.name
                specs.append(found.spec)
    return ()


def _way(before: Mapping[str, str], start: str, end: str) -> list[str]:
    """The names after `start`, to `end`."""
    way = []
    while end != start:
        way.append(end)
        end = before[end]
    return way[::-1]


def _named(
    state: ClusterState, spec: ServiceSpec, new: str = ""
) -> Iterator[tuple[str, Service | None]]:
    """The full names that the label means, each with its service, if that exists. Within a stack a
    name means the stack's own service, if there is one. `new`: the name of a service that is about
    to be created."""
    stack = spec.labels.get(STACK, "")
    for word in start_after(spec.labels):
        own = f"{stack}_{word}"
        name = own if stack and (own == new or state.named("service", own) is not None) else word
        found = state.named("service", name)
        yield name, found if isinstance(found, Service) else None


def _has_begun(state: ClusterState, task: Task) -> bool:
    """Whether a task of the same version has had a node."""
    return any(
        other.spec_version == task.spec_version and other.state >= TaskState.ASSIGNED
        for other in state.tasks_of(task.service).values()
    )


def _lacks(state: ClusterState, service: Service | None) -> str:
    """What the service still lacks; empty: nothing."""
    if service is None:
        return "no such service"
    is_job = service.spec.job is not None
    good = {slot for slot, task in _present(state, service.id).items() if _serves(state, task)}
    if is_job:
        tasks = state.tasks_of(service.id).values()
        good = {slot_of(task) for task in tasks if is_completion(service, task)}
    if service.spec.replicas is None:
        wanted = [n.id for n in state.nodes.values() if nodes.is_open(service.spec.task, n)]
        is_complete = all(node in good for node in wanted)
    else:
        is_complete = len(good) >= service.spec.replicas
    if is_complete:
        return ""
    return "the job has not completed" if is_job else "not all of its tasks run"


def _present(state: ClusterState, service: ServiceId) -> dict[Slot, Task]:
    """The task in each slot that runs, or else the newest."""
    found: dict[Slot, Task] = {}
    for task in state.tasks_of(service).values():
        other = found.get(slot_of(task))
        if other is None or (task.serves, age(task)) > (other.serves, age(other)):
            found[slot_of(task)] = task
    return found


def _serves(state: ClusterState, task: Task) -> bool:
    """Whether the task does what it is meant to: it runs and is healthy on a node that is up, or
    has completed and is not started again."""
    if task.state == TaskState.COMPLETE:
        return task.spec.restart.condition != "any"
    node = state.nodes.get(task.node) if task.node is not None else None
    return task.serves and node is not None and not nodes.is_down(node)
