"""Tasks: list and inspect."""

from collections.abc import Callable

from aiohttp import web

from weft.api import filters, lookup
from weft.api.call import Call, answer
from weft.api.filters import boolean, label_matches
from weft.api.nodes import find_node
from weft.api.schema.task import task_json
from weft.errors import InvalidArgument
from weft.model.ids import ServiceId
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState

FILTERS = ("name", "id", "label", "service", "node", "desired-state", "_up-to-date", "runtime")
DESIRED = {"running": (TaskState.RUNNING,), "shutdown": (TaskState.SHUTDOWN,), "accepted": (TaskState.ACCEPTED,)}


def find_task(state: ClusterState, reference: str) -> Task:
    return lookup.find("task", reference, state.tasks)


async def listing(call: Call) -> web.Response:
    state = call.swarm.state
    wanted = call.filters(FILTERS)
    for value in wanted.get("desired-state", ()):
        if value not in DESIRED:
            raise InvalidArgument(f"invalid desired-state filter: '{value}'")
    found = filters.select(_candidates(state, wanted), wanted, _predicates(call, state))
    return answer([task_json(task, state.networks) for task in found])


def _candidates(state: ClusterState, wanted: filters.Filters) -> list[Task]:
    """A client that waits for a service asks five times a second: then only its own tasks are looked at."""
    services = wanted.get("service", ())
    if len(services) == 1:
        return list(state.tasks_of(lookup_service(state, services[0])).values())
    return list(state.tasks.values())


def lookup_service(state: ClusterState, reference: str) -> ServiceId:
    """Raises `NotFound`."""
    return lookup.find("service", reference, state.services).id


def _predicates(call: Call, state: ClusterState) -> dict[str, Callable[[Task, str], bool]]:
    def on_node(task: Task, value: str) -> bool:
        return task.node is not None and task.node == find_node(state, value, call.node.membership.node).id

    return {
        "name": lambda task, value: task.name.startswith(value) or task.service_name == value,
        "id": lambda task, value: task.id.startswith(value),
        "label": lambda task, value: label_matches(task.spec.container.labels, value),
        "service": lambda task, value: task.service == lookup_service(state, value),
        "node": on_node,
        "desired-state": lambda task, value: task.desired in DESIRED[value],
        "_up-to-date": lambda task, value: is_up_to_date(state, task) == boolean(value, "_up-to-date"),
        "runtime": lambda task, value: value == "container",
    }


def is_up_to_date(state: ClusterState, task: Task) -> bool:
    """Would run the same if it were made now: of the service's current version, or with nothing in it changed."""
    service = state.services.get(task.service)
    if service is None:
        return False
    if task.spec_version == service.spec_version:
        return True
    return task.spec == service.spec.task and task.ports == service.endpoint.ports


async def inspect(call: Call) -> web.Response:
    state = call.swarm.state
    return answer(task_json(find_task(state, call.id), state.networks))
