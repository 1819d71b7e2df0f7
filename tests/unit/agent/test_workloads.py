"""From tasks to workloads."""

import msgspec

from tests.support.swarms import Swarm
from weft.agent.workloads import Workloads, filled_workload
from weft.model.assignment import TaskAssignment
from weft.model.generic import GenericResource
from weft.model.ids import TaskId
from weft.model.node import NodeDescription
from weft.model.sandbox import Sandbox
from weft.model.task import TaskState


def scene() -> tuple[dict[TaskId, TaskAssignment], list[Sandbox], list[TaskId]]:
    swarm = Swarm(1)
    tasks = swarm.service("web", swarm.network("mynet", "10.10.10.0/24"), on=[1, 1])
    return swarm.assignment(1).tasks, swarm.sandboxes(1), tasks


def test_a_task_that_is_not_assigned_is_no_resident() -> None:
    tasks, sandboxes, [one, other] = scene()
    workloads = Workloads()
    assert [TaskId(r.workload.id) for r in workloads.residents(tasks, sandboxes)] == [one, other]
    assert [TaskId(r.workload.id) for r in workloads.residents({one: tasks[one]}, sandboxes)] == [
        one
    ]
    assert workloads.residents({}, sandboxes) == []


def test_variables_tell_of_generic_resources() -> None:
    tasks, _, [one, _] = scene()
    given = msgspec.structs.replace(tasks[one], generic=(GenericResource("GPU", name="a"),))
    env = tasks[one].spec.container.env
    node = NodeDescription(hostname="n")
    assert filled_workload(tasks[one], node).spec.env == env
    assert filled_workload(given, node).spec.env == (*env, "DOCKER_RESOURCE_GPU=a")


def test_only_a_changed_task_gives_another_workload() -> None:
    tasks, sandboxes, [one, other] = scene()
    workloads = Workloads()
    before = {TaskId(r.workload.id): r.workload for r in workloads.residents(tasks, sandboxes)}
    leaving = tasks | {one: msgspec.structs.replace(tasks[one], desired=TaskState.SHUTDOWN)}
    after = {TaskId(r.workload.id): r.workload for r in workloads.residents(leaving, sandboxes)}
    assert after[other] is before[other]
    assert (before[one].is_leaving, after[one].is_leaving) == (False, True)
