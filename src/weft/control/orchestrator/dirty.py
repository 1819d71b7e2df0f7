"""Is a task out of date? The updater replaces those that are; the API's filter `_up-to-date` leaves
them out. One question, asked here by both: a client that waits for an update to end must mean by
that what the updater means."""

import msgspec

from weft.control.allocator.ports import answers
from weft.control.orchestrator import nodes
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import ClusterState
from weft.model.task import Task


def is_dirty(service: Service, task: Task, node: Node | None) -> bool:
    """`node`: the task's, or None if it has none (or it is gone). Made from this version of the
    service: clean. Otherwise what they say is compared; a task whose placement alone differs may
    stay if its node fits the new one."""
    if task.spec_version == service.spec_version:
        return False
    if not _same_ports(service, task):
        return True
    wanted = service.spec.task
    if task.spec == wanted:
        return False
    moved = msgspec.structs.replace(task.spec, placement=wanted.placement) == wanted
    return not (moved and node is not None and nodes.fits(wanted, node))


def is_up_to_date(state: ClusterState, task: Task) -> bool:
    """Whether the updater would leave the task alone. No task of a service that is gone is up to
    date."""
    service = state.services.get(task.service)
    return service is not None and not is_dirty(
        service, task, state.nodes.get(task.node) if task.node else None
    )


def _same_ports(service: Service, task: Task) -> bool:
    asked = service.spec.endpoint.ports
    is_allocated = service.endpoint.spec == service.spec.endpoint and len(
        service.endpoint.ports
    ) == len(asked)
    given = service.endpoint.ports if is_allocated else ()
    return task.ports == asked or answers(given or asked, task.ports)
