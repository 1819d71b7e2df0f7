"""Whether a task is out of date. The updater replaces such tasks; the API's filter `_up-to-date`
leaves them out. Both ask here, so that a client that waits for an update to end and the updater
mean the same."""

import msgspec

from weft.control.allocator.ports import answers
from weft.control.orchestrator import nodes
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState


def is_dirty(service: Service, task: Task, node: Node | None) -> bool:
    """`node`: the task's node, or None if the task has none or the node is gone. A task of the
    service's present version is clean. Otherwise ports and specs are compared; a task that differs
    only in its placement is clean if its node fits the new placement."""
    if task.spec_version == service.spec_version:
        return False
    if service.spec.job is not None:
        return True  # an update starts a job again, whatever has changed
    if not _same_ports(service, task) or not _same_addresses(service, task):
        return True
    wanted = service.spec.task
    if task.spec == wanted:
        return False
    moved = msgspec.structs.replace(task.spec, placement=wanted.placement) == wanted
    return not (moved and node is not None and nodes.fits(wanted, node))


def is_up_to_date(state: ClusterState, task: Task) -> bool:
    """Whether the updater would leave the task alone. False for a task whose service is gone.

    For a job, a task that was told to stop counts once it has ended. On a node that is out of reach
    it seems to run for a day, and the docker command would wait for it, although the job is
    complete."""
    service = state.services.get(task.service)
    if service is None:
        return False
    is_stopping = task.desired > TaskState.RUNNING and not task.state.is_terminal
    if service.spec.job is not None and is_stopping:
        return False
    return not is_dirty(service, task, state.nodes.get(task.node) if task.node else None)


def _same_addresses(service: Service, task: Task) -> bool:
    """Whether the task has the addresses that the user chose for its slot, or has none yet."""
    chosen = service.spec.task_addresses(task.slot) if service.spec.addresses else {}
    return all(chosen.get(a.network, a.address.ip) == a.address.ip for a in task.attachments)


def _same_ports(service: Service, task: Task) -> bool:
    asked = service.spec.endpoint.ports
    is_allocated = service.endpoint.spec == service.spec.endpoint and len(
        service.endpoint.ports
    ) == len(asked)
    given = service.endpoint.ports if is_allocated else ()
    return task.ports == asked or answers(given or asked, task.ports)
