"""Turns a task into the workload that the engine runs for it: names, labels, templates.

Users can write templates for the environment, the hostname, and the sources and targets of mounts.
This file fills them in with `model/template.py`."""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from weft.model.assignment import TaskAssignment
from weft.model.generic import variables
from weft.model.ids import TaskId, WorkloadId
from weft.model.node import NodeDescription
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec
from weft.model.task import TaskState
from weft.model.task_templates import expanded, task_values
from weft.model.template import Scope
from weft.model.workload import SERVICE_LABEL, TASK_LABEL, Resident, Workload

Tasks = Mapping[TaskId, TaskAssignment]


def workload(task: TaskAssignment, is_closed: bool = False) -> Workload:
    """The task's workload, with templates as the user wrote them."""
    spec = task.spec.container
    return Workload(
        id=WorkloadId(task.id),
        name=task.name,
        spec=spec,
        labels=spec.labels | swarm_labels(task),
        limits=task.spec.limits,
        log_driver=task.spec.log_driver,
        log_options=task.spec.log_options,
        attachments=task.attachments,
        ports=task.ports,
        host_network=task.spec.host_network,
        is_leaving=task.desired > TaskState.RUNNING,
        is_closed=is_closed,
    )


def filled_workload(task: TaskAssignment, node: NodeDescription) -> Workload:
    """The task's workload, with templates filled in, and variables that tell of its generic
    resources. Raises `InvalidArgument` for an invalid
    template."""
    spec = fill_templates(task, node)
    spec = msgspec.structs.replace(spec, env=(*spec.env, *variables(task.generic)))
    return msgspec.structs.replace(workload(task), spec=spec)


def residents(tasks: Tasks, sandboxes: Iterable[Sandbox]) -> list[Resident]:
    return Workloads().residents(tasks, sandboxes)


class Workloads:
    """Makes workloads. The same task gives the very same workload object, which shows a plan that
    nothing has changed."""

    def __init__(self, closed: Collection[TaskId] = ()) -> None:
        """`closed`: the tasks that are closed (`Workload.is_closed`), now and later."""
        self._closed = closed
        self._known: dict[TaskId, tuple[TaskAssignment, Workload]] = {}

    def residents(self, tasks: Tasks, sandboxes: Iterable[Sandbox]) -> list[Resident]:
        """The residents for all tasks that are assigned and have a sandbox. Forgets the workloads
        of other tasks."""
        self._known = {id: known for id, known in self._known.items() if id in tasks}
        found = ((sandbox, tasks.get(TaskId(sandbox.workload))) for sandbox in sandboxes)
        return [Resident(sandbox, self.of(task)) for sandbox, task in found if task is not None]

    def of(self, task: TaskAssignment) -> Workload:
        known, is_closed = self._known.get(task.id), task.id in self._closed
        if known is None or known[0] is not task or known[1].is_closed != is_closed:
            known = self._known[task.id] = (task, workload(task, is_closed))
        return known[1]


def swarm_labels(task: TaskAssignment) -> dict[str, str]:
    return {
        "com.docker.swarm.node.id": task.node,
        SERVICE_LABEL: task.service,
        "com.docker.swarm.service.name": task.service_name,
        "com.docker.swarm.task": "",
        TASK_LABEL: task.id,
        "com.docker.swarm.task.name": task.name,
    }


def template_values(task: TaskAssignment, node: NodeDescription) -> Scope:
    return task_values(
        service=(task.service, task.service_name, task.service_labels),
        node=(task.node, node.hostname, node.os, node.architecture),
        task=(task.id, task.name, str(task.slot or task.node)),
    )


def fill_templates(task: TaskAssignment, node: NodeDescription) -> ContainerSpec:
    """The task's container with the values of its templates. Raises `InvalidArgument` for an
    invalid template."""
    return expanded(task.spec.container, template_values(task, node))
