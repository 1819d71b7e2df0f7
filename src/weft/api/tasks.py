"""Tasks: list and inspect."""

from collections.abc import Iterable

from aiohttp import web

from weft.api import filters, lookup
from weft.api.call import Call, answer
from weft.api.filters import boolean, label_matches
from weft.api.listing import answer_list
from weft.api.nodes import find_node
from weft.api.schema.task import TaskRows
from weft.control.orchestrator.dirty import is_up_to_date
from weft.model.ids import NodeId, ServiceId
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState

FILTERS = ("name", "id", "label", "service", "node", "desired-state", "_up-to-date", "runtime")
DESIRED = {"running": (TaskState.RUNNING,), "shutdown": (TaskState.SHUTDOWN,), "accepted": (TaskState.ACCEPTED,)}


def find_task(state: ClusterState, reference: str) -> Task:
    return lookup.find("task", reference, state.tasks)


async def listing(call: Call) -> web.Response:
    state, own = call.swarm.state, call.node.membership.node
    wanted = call.filters(FILTERS)
    test = filters.compile_test(wanted, _makers(state, own))
    return await answer_list(_candidates(state, wanted, own), test, TaskRows(state.networks))


def _candidates(state: ClusterState, wanted: filters.Filters, own: NodeId | None) -> Iterable[Task]:
    """All that may pass, from the index that fits: a client that waits for a service asks for its tasks five times a second."""
    if services := wanted.get("service"):
        ids = dict.fromkeys(lookup_service(state, value) for value in services)
        return (task for id in ids for task in state.tasks_of(id).values())
    if nodes := wanted.get("node"):
        on = dict.fromkeys(find_node(state, value, own).id for value in nodes)
        return (task for node in on for task in state.tasks_on(node).values())
    return state.tasks.values()


def lookup_service(state: ClusterState, reference: str) -> ServiceId:
    """Raises `NotFound`."""
    return lookup.find("service", reference, state.services).id


def _makers(state: ClusterState, own: NodeId | None) -> filters.Makers[Task]:
    def of_service(value: str) -> filters.Test[Task]:
        service = lookup_service(state, value)
        return lambda task: task.service == service

    def on_node(value: str) -> filters.Test[Task]:
        node = find_node(state, value, own).id
        return lambda task: task.node == node

    def desired(value: str) -> filters.Test[Task]:
        states = DESIRED[filters.among(value, DESIRED, "desired-state")]
        return lambda task: task.desired in states

    def up_to_date(value: str) -> filters.Test[Task]:
        expected = boolean(value, "_up-to-date")
        return lambda task: is_up_to_date(state, task) == expected

    return {
        "name": lambda value: lambda task: task.name.startswith(value) or task.service_name == value,
        "id": lambda value: lambda task: task.id.startswith(value),
        "label": lambda value: lambda task: label_matches(task.spec.container.labels, value),
        "service": of_service,
        "node": on_node,
        "desired-state": desired,
        "_up-to-date": up_to_date,
        "runtime": lambda value: lambda task: value == "container",
    }


async def inspect(call: Call) -> web.Response:
    state = call.swarm.state
    return answer(TaskRows(state.networks)(find_task(state, call.id)))
