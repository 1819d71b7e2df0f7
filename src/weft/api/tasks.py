"""Tasks: list and inspect. Tasks that stand for attached containers are listed only to those who
ask for that runtime, as in Docker Swarm."""

from collections.abc import Iterable

from aiohttp import web

from weft.api import filters
from weft.api.call import Call, answer
from weft.api.filters import swarm_label_matches
from weft.api.listing import answer_list
from weft.api.nodes import find_node
from weft.api.schema.task import TaskRows, runtime_of
from weft.control.orchestrator.dirty import is_up_to_date
from weft.model import lookup
from weft.model.ids import NodeId, ServiceId
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState

FILTERS = ("name", "id", "label", "service", "node", "desired-state", "_up-to-date", "runtime")
STATES = {state.name.lower(): state for state in TaskState}


def find_task(state: ClusterState, reference: str) -> Task:
    return lookup.find("task", reference, state.tasks)


async def listing(call: Call) -> web.Response:
    state, own = call.swarm.state, call.node.membership.node
    wanted = filters.without_empty(call.filters(FILTERS), ("desired-state",))
    test = filters.compile_test(wanted, _makers(state, own))
    found = _candidates(state, wanted, own)
    if "runtime" not in wanted:
        found = (task for task in found if task.attached is None)
    return await answer_list(found, test, TaskRows(state.networks))


def _candidates(state: ClusterState, wanted: filters.Filters, own: NodeId | None) -> Iterable[Task]:
    """All tasks that may pass, from the best index: a client that waits for a service asks for its
    tasks five times a second."""
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
        wanted = STATES[filters.among(value, STATES, "desired-state")]
        return lambda task: task.shown_desired == wanted

    def of_labels(value: str) -> filters.Test[Task]:
        """Labels of the service, as in Docker: labels of the container do not count."""

        def test(task: Task) -> bool:
            service = state.services.get(task.service)
            return service is not None and swarm_label_matches(service.spec.labels, value)

        return test

    return {
        "name": lambda value: (
            lambda task: task.name.startswith(value) or task.service_name == value
        ),
        "id": lambda value: lambda task: task.id.startswith(value),
        "label": of_labels,
        "service": of_service,
        "node": on_node,
        "desired-state": desired,
        "_up-to-date": lambda value: lambda task: is_up_to_date(state, task),
        "runtime": lambda value: lambda task: value == runtime_of(task),
    }


async def inspect(call: Call) -> web.Response:
    state = call.swarm.state
    return answer(TaskRows(state.networks)(find_task(state, call.id)))
