"""A decision is committed in one transaction: the loops leave what is too much for the next run."""

from typing import Literal

import msgspec
import pytest

from tests.support.control_room import ControlRoom, Loop
from weft.control.orchestrator import updater
from weft.control.orchestrator.replicated import MOST_WAITING
from weft.model.ids import NodeId, ServiceId
from weft.model.network import NetworkSpec
from weft.model.node import NodeState
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec, UpdateConfig
from weft.model.state import MOST_CHANGES, Change, Put
from weft.model.task import TaskState, TaskStatus

EXTRA = 50
"""The cluster, networks, and what else a pass writes once."""


@pytest.mark.parametrize("loop", ["allocator", "scheduler"])
def test_a_large_service_is_decided_on_in_parts(loop: Loop) -> None:
    room = ControlRoom(3)
    room.network(NetworkSpec(name="net"))
    wanted = 2 * MOST_CHANGES + 1
    task = TaskSpec(container=ContainerSpec(image="demo"))
    room.service(ServiceSpec(name="web", task=task, replicas=wanted))
    while room.run("orchestrator").changes:
        pass
    while loop == "scheduler" and room.run("allocator").changes:
        pass
    sizes = []
    while (decision := room.run(loop)).changes:
        sizes.append(len(decision.changes))
    assert len(sizes) >= 3
    assert max(sizes) <= MOST_CHANGES + EXTRA
    done = TaskState.PENDING if loop == "allocator" else TaskState.ASSIGNED
    assert len(room.state.tasks_in(done)) == wanted


TASK = TaskSpec(container=ContainerSpec(image="demo"))
MANY = 2 * MOST_CHANGES + 1


def decisions(room: ControlRoom) -> list[tuple[Change, ...]]:
    """Of the orchestrator, until it has nothing more to do; each is small enough."""
    found = []
    while (decision := room.run("orchestrator")).changes:
        assert len(decision.changes) <= MOST_CHANGES
        found.append(decision.changes)
    return found


def large_service(room: ControlRoom, state: TaskState, **spec: object) -> ServiceId:
    """With so many tasks on node1."""
    id = room.service(
        msgspec.structs.replace(ServiceSpec(name="web", task=TASK, replicas=MANY), **spec)
    )
    assert len(decisions(room)) >= 3
    status = TaskStatus(state, room.now)
    tasks = room.state.tasks_of(id).values()
    assert len(tasks) == MANY
    room.commit(
        [Put(msgspec.structs.replace(task, node=NodeId("node1"), status=status)) for task in tasks]
    )
    assert not decisions(room)
    return id


def test_of_more_replicas_than_a_swarm_has_room_for_a_few_thousand_wait() -> None:
    """A slip of the hand costs no more than that, and is taken back at once."""
    room = ControlRoom(1)
    id = room.service(ServiceSpec(name="web", task=TASK, replicas=300_000))
    decisions(room)
    assert len(room.state.tasks_of(id)) == MOST_WAITING
    first = list(room.state.tasks_of(id).values())[:1000]
    running = TaskStatus(TaskState.RUNNING, room.now)
    room.commit(
        [Put(msgspec.structs.replace(task, node=NodeId("node1"), status=running)) for task in first]
    )
    decisions(room)
    tasks = room.state.tasks_of(id).values()
    assert len(tasks) == MOST_WAITING + 1000
    assert sorted(task.slot for task in tasks) == list(range(1, MOST_WAITING + 1001))
    service = room.state.services[id]
    room.put(
        msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, replicas=30))
    )
    decisions(room)
    meant = [task for task in room.state.tasks_of(id).values() if task.is_live]
    assert len(meant) == 30
    assert all(task.state == TaskState.RUNNING for task in meant)


def test_many_services_are_decided_on_in_parts_and_the_rest_is_asked_for_at_once() -> None:
    room = ControlRoom(1)
    each = MOST_CHANGES // 3
    for number in range(10):
        room.service(ServiceSpec(name=f"web{number}", task=TASK, replicas=each))
    first = room.decide("orchestrator")
    assert first.wake_at == room.now
    assert [len(changes) for changes in decisions(room)] == [MOST_CHANGES] * 3 + [
        10 * each - 3 * MOST_CHANGES
    ]
    assert len(room.state.tasks) == 10 * each
    assert room.decide("orchestrator").wake_at is None


def test_the_tasks_of_a_large_service_that_is_removed_are_told_to_go_in_parts() -> None:
    room = ControlRoom(1)
    id = large_service(room, TaskState.RUNNING)
    room.remove(room.state.services[id])
    assert len(decisions(room)) >= 3
    assert {task.desired for task in room.state.tasks_of(id).values()} == {TaskState.REMOVE}
    over = TaskStatus(TaskState.SHUTDOWN, room.now)
    room.commit(
        [
            Put(msgspec.structs.replace(task, status=over))
            for task in room.state.tasks_of(id).values()
        ]
    )
    assert len(decisions(room)) >= 3
    assert not room.state.tasks_of(id)


def test_a_large_service_without_replicas_is_emptied_in_parts() -> None:
    room = ControlRoom(1)
    id = large_service(room, TaskState.RUNNING)
    service = room.state.services[id]
    room.put(
        msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, replicas=0))
    )
    assert len(decisions(room)) >= 3
    over = TaskStatus(TaskState.SHUTDOWN, room.now)
    room.commit(
        [
            Put(msgspec.structs.replace(task, status=over))
            for task in room.state.tasks_of(id).values()
        ]
    )
    assert len(decisions(room)) >= 3
    assert not room.state.tasks_of(id)


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_large_service_is_updated_in_parts_and_each_old_task_goes_with_its_new_one(
    order: Literal["stop-first", "start-first"],
) -> None:
    room = ControlRoom(1)
    id = large_service(room, TaskState.RUNNING, update=UpdateConfig(parallelism=0, order=order))
    new = msgspec.structs.replace(TASK, container=ContainerSpec(image="new"))
    before = room.state.services[id]
    room.put(updater.with_spec(before, msgspec.structs.replace(before.spec, task=new)))
    old = set(room.state.tasks_of(id))
    parts = 0
    while (decision := room.run("orchestrator")).changes:
        assert len(decision.changes) <= MOST_CHANGES
        parts += 1
        tasks = room.state.tasks_of(id).values()
        made = {task.slot for task in tasks if task.id not in old}
        told = {
            task.slot for task in tasks if task.id in old and task.desired == TaskState.SHUTDOWN
        }
        assert told == (made if order == "stop-first" else set())
    assert parts >= (5 if order == "stop-first" else 3)
    assert len(made) == MANY


def test_the_tasks_of_a_host_that_was_lost_are_replaced_in_parts() -> None:
    room = ControlRoom(2)
    id = large_service(room, TaskState.RUNNING)
    room.set_node("node1", NodeState.DOWN)
    assert len(decisions(room)) >= 5
    tasks = room.state.tasks_of(id).values()
    assert sum(task.desired == TaskState.SHUTDOWN for task in tasks) == MANY
    assert sum(task.is_live for task in tasks) == MANY
