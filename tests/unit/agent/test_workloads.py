"""From tasks to workloads."""

import msgspec

from tests.support.swarms import Swarm
from weft.agent.workloads import Workloads
from weft.model.assignment import TaskAssignment
from weft.model.ids import TaskId
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


def test_only_a_changed_task_gives_another_workload() -> None:
    tasks, sandboxes, [one, other] = scene()
    workloads = Workloads()
    before = {TaskId(r.workload.id): r.workload for r in workloads.residents(tasks, sandboxes)}
    leaving = tasks | {one: msgspec.structs.replace(tasks[one], desired=TaskState.SHUTDOWN)}
    after = {TaskId(r.workload.id): r.workload for r in workloads.residents(leaving, sandboxes)}
    assert after[other] is before[other]
    assert (before[one].is_leaving, after[one].is_leaving) == (False, True)
