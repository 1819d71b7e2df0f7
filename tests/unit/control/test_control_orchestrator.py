"""The orchestrator, together with the other loops and agents that behave, in virtual time."""

from typing import Literal

import msgspec
import pytest

from tests.support.control_room import LOOPS, ControlRoom
from weft.control.orchestrator import orchestrator
from weft.control.orchestrator.dirty import is_dirty
from weft.control.orchestrator.updater import rolled_back, with_spec
from weft.errors import FailedPrecondition
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import SECOND
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    Placement,
    PublishedPort,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    UpdateState,
)
from weft.model.task import TaskState


def spec(
    image: str = "one",
    replicas: int | None = 3,
    restart: RestartPolicy | None = None,
    placement: Placement | None = None,
    **more: object,
) -> ServiceSpec:
    task = TaskSpec(
        container=ContainerSpec(image=image),
        restart=restart or RestartPolicy(),
        placement=placement or Placement(),
    )
    return msgspec.structs.replace(ServiceSpec(name="web", replicas=replicas, task=task), **more)


def room_with(service: ServiceSpec, nodes: int = 3) -> tuple[ControlRoom, ServiceId]:
    room = ControlRoom(nodes)
    id = room.service(service)
    room.settle()
    return room, id


def change(room: ControlRoom, id: ServiceId, new: ServiceSpec) -> None:
    room.put(with_spec(room.state.services[id], new))


def images(room: ControlRoom, id: ServiceId) -> list[str]:
    return [task.spec.container.image for task in room.running(id)]


def update_state(room: ControlRoom, id: ServiceId) -> UpdateState | None:
    status = room.state.services[id].update_status
    return status.state if status else None


# --- scale


def test_scaling_uses_the_lowest_free_slots_and_removes_from_the_fullest_nodes() -> None:
    room, id = room_with(spec(replicas=2))
    change(room, id, spec(replicas=5))
    room.settle()
    assert [task.slot for task in room.running(id)] == [1, 2, 3, 4, 5]
    assert update_state(room, id) is None
    change(room, id, spec(replicas=3))
    room.settle()
    assert sorted(task.node or "" for task in room.running(id)) == ["node1", "node2", "node3"]
    assert len(room.state.tasks) == 3


def test_scaling_down_takes_tasks_that_do_not_run_first() -> None:
    room, id = room_with(spec(replicas=3))
    room.report(room.running(id)[0], TaskState.FAILED)
    room.run("orchestrator")
    change(room, id, spec(replicas=2))
    room.settle()
    assert [task.slot for task in room.running(id)] == [2, 3]


def test_a_removed_service_leaves_nothing() -> None:
    room, id = room_with(spec())
    room.remove(room.state.services[id])
    room.run("orchestrator")
    assert {task.desired for task in room.state.tasks.values()} == {TaskState.REMOVE}
    room.settle()
    assert not room.state.tasks


# --- restart


def test_a_task_that_ended_is_replaced_after_the_delay_and_keeps_its_record() -> None:
    room, id = room_with(spec(replicas=1))
    room.report(room.running(id)[0], TaskState.FAILED, "task: non-zero exit (1)")
    started = room.now
    decision = room.run("orchestrator")
    assert decision.wake_at == started + 5 * SECOND
    old, new = sorted(room.state.tasks_of(id).values(), key=lambda t: t.id)
    assert (old.desired, new.desired, new.slot, new.restart_at) == (
        TaskState.SHUTDOWN,
        TaskState.READY,
        1,
        started + 5 * SECOND,
    )
    room.settle()
    assert room.now == started + 5 * SECOND
    assert [task.id for task in room.running(id)] == [new.id]


@pytest.mark.parametrize(
    ("policy", "state", "restarts"),
    [("none", TaskState.FAILED, False), ("on-failure", TaskState.COMPLETE, False), ("on-failure", TaskState.FAILED, True),
     ("any", TaskState.COMPLETE, True)],
)  # fmt: skip
def test_restart_conditions(policy: str, state: TaskState, restarts: bool) -> None:
    room, id = room_with(spec(replicas=1, restart=RestartPolicy(policy)))  # type: ignore[arg-type]
    room.report(room.running(id)[0], state)
    room.settle()
    assert len(room.running(id)) == restarts
    assert len(room.state.tasks) == 1 + restarts


def test_attempts_are_limited_and_history_is_kept_short() -> None:
    room, id = room_with(spec(replicas=1, restart=RestartPolicy(max_attempts=2)))
    room.failing.add("one")
    room.settle()
    assert len(room.state.tasks_of(id)) == 3
    other = room.service(msgspec.structs.replace(spec(replicas=1), name="endless"))
    room.until(lambda: room.now > room.state.services[other].meta.created_at + 100 * SECOND)
    assert len(room.state.tasks_of(other)) == 5


# --- nodes


def test_tasks_of_a_node_that_goes_down_run_elsewhere_at_once() -> None:
    room, id = room_with(spec(replicas=3))
    at = room.now
    room.set_node("node1", NodeState.DOWN)
    room.settle()
    assert room.now == at
    assert sorted(task.node or "" for task in room.running(id)) in (
        ["node2", "node2", "node3"],
        ["node2", "node3", "node3"],
    )
    lost = next(task for task in room.state.tasks_on(NodeId("node1")).values())
    assert (lost.desired, lost.state) == (TaskState.SHUTDOWN, TaskState.RUNNING)
    room.settle(patience=25 * 3600 * SECOND)
    assert room.state.tasks[lost.id].state == TaskState.ORPHANED


def test_tasks_of_a_node_that_is_removed_are_orphaned_at_once() -> None:
    room, id = room_with(spec(replicas=3))
    room.remove(room.state.nodes[NodeId("node1")])
    room.settle()
    assert len(room.running(id)) == 3
    assert [task.state for task in room.state.tasks_on(NodeId("node1")).values()] == [
        TaskState.ORPHANED
    ]


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_drained_node_is_left_in_the_order_of_the_service(
    order: Literal["stop-first", "start-first"],
) -> None:
    room, id = room_with(spec(replicas=3, update=UpdateConfig(order=order)))
    room.set_node("node1", availability="drain")
    room.run("orchestrator")
    tasks = room.state.tasks_of(id).values()
    found = [(t.desired, t.state) for t in tasks if t.node in ("node1", None)]
    first, second = TaskState.SHUTDOWN, TaskState.READY
    if order == "start-first":
        first = second = TaskState.RUNNING
    assert sorted(found, key=lambda t: t[1]) == [
        (second, TaskState.NEW),
        (first, TaskState.RUNNING),
    ]
    room.settle()
    assert {task.node for task in room.running(id)} == {"node2", "node3"}
    room.set_node("node1", availability="active")
    room.settle()
    assert {task.node for task in room.running(id)} == {"node2", "node3"}


def test_tasks_leave_a_node_that_no_longer_meets_their_constraints() -> None:
    room = ControlRoom()
    for name in ("node1", "node2"):
        room.join(name, labels={"disk": "ssd"})
    id = room.service(spec(replicas=2, placement=Placement(constraints=("node.labels.disk==ssd",))))
    room.settle()
    node = room.state.nodes[NodeId("node1")]
    room.put(msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, labels={})))
    room.run("orchestrator")
    left = next(iter(room.state.tasks_on(node.id).values()))
    assert (left.desired, left.status.err) == (
        TaskState.SHUTDOWN,
        "assigned node no longer meets constraints",
    )
    room.settle()
    assert [task.node for task in room.running(id)] == ["node2", "node2"]


def test_a_global_service_is_on_every_node_that_may_have_it() -> None:
    room, id = room_with(spec(replicas=None))
    assert {task.node for task in room.running(id)} == {"node1", "node2", "node3"}
    assert all(task.slot == 0 for task in room.running(id))
    room.join("node4")
    room.set_node("node1", availability="drain")
    room.set_node("node2", availability="pause")
    room.set_node("node3", NodeState.DOWN)
    room.settle()
    assert {t.node for t in room.running(id) if t.desired == TaskState.RUNNING} == {
        "node2",
        "node4",
    }
    for name in ("node1", "node3"):
        room.set_node(name, NodeState.READY, "active")
    room.settle()
    assert {task.node for task in room.running(id)} == {"node1", "node2", "node3", "node4"}
    assert len(room.running(id)) == 4


# --- updates


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize(("parallelism", "least"), [(1, 3), (2, 2), (0, 0)])
def test_an_update_replaces_so_many_slots_at_a_time(
    order: str, parallelism: int, least: int
) -> None:
    config = UpdateConfig(parallelism=parallelism, delay=2 * SECOND, order=order)  # type: ignore[arg-type]
    room, id = room_with(spec(replicas=4, update=config))
    change(room, id, spec("two", replicas=4, update=config))
    started, fewest, most = room.now, 4, 0
    while update_state(room, id) != UpdateState.COMPLETED:
        for loop in ("orchestrator", "allocator", "scheduler", "orchestrator"):
            wake = room.run(loop).wake_at or room.now
            fewest = min(fewest, len(room.running(id)))
            most = max(most, len(room.running(id)))
        moved = room.run_agents()
        most = max(most, len(room.running(id)))
        if not moved and not room.decide("orchestrator").changes:
            room.now = max(room.now, wake)
    assert images(room, id) == ["two"] * 4
    assert fewest == (4 if order == "start-first" else least)
    assert most == (4 if order == "stop-first" else 4 + (parallelism or 4))
    rounds = -(-4 // (parallelism or 4))
    assert room.now - started == (rounds - 1) * 2 * SECOND + 5 * SECOND
    status = room.state.services[id].update_status
    assert status is not None
    assert (status.message, status.started_at, status.completed_at) == (
        "update completed",
        started,
        room.now,
    )


def test_an_update_to_something_that_fails_pauses() -> None:
    room, id = room_with(spec(replicas=3))
    room.failing.add("bad")
    change(room, id, spec("bad", replicas=3))
    room.until(lambda: update_state(room, id) == UpdateState.PAUSED)
    status = room.state.services[id].update_status
    assert status is not None
    failed = next(t for t in room.state.tasks_of(id).values() if t.state == TaskState.FAILED)
    assert (
        status.message == f"update paused due to failure or early termination of task {failed.id}"
    )
    assert images(room, id) == ["one", "one"]
    change(room, id, spec("two", replicas=3))
    room.settle()
    assert images(room, id) == ["two"] * 3


def test_an_update_that_fails_rolls_back_when_told_to() -> None:
    config = UpdateConfig(failure_action="rollback")
    room, id = room_with(spec(replicas=3))
    room.failing.add("bad")
    change(room, id, spec("bad", replicas=3, update=config))
    room.settle()
    assert images(room, id) == ["one"] * 3
    assert update_state(room, id) == UpdateState.ROLLBACK_COMPLETED
    assert room.state.services[id].spec == spec(replicas=3)
    status = room.state.services[id].update_status
    assert status is not None
    why = "update rolled back due to failure or early termination of task "
    assert status.message.startswith(f"rollback completed: {why}")


def test_a_rollback_that_a_user_asks_for_needs_no_reason() -> None:
    room, id = room_with(spec(replicas=3))
    change(room, id, spec("two", replicas=3))
    room.settle()
    room.put(rolled_back(room.state.services[id], room.now))
    room.settle()
    status = room.state.services[id].update_status
    assert status is not None
    assert (images(room, id), status.message) == (["one"] * 3, "rollback completed")


def test_a_rollback_that_fails_as_well_pauses_and_goes_no_further() -> None:
    room, id = room_with(spec(replicas=3))
    room.failing.update(("bad", "one"))
    change(room, id, spec("bad", replicas=3, update=UpdateConfig(failure_action="rollback")))
    room.until(lambda: update_state(room, id) == UpdateState.ROLLBACK_PAUSED)
    status = room.state.services[id].update_status
    assert status is not None
    assert status.message.startswith("rollback paused due to failure or early termination of task ")
    assert room.state.services[id].spec == spec(replicas=3)
    tasks = set(room.state.tasks_of(id))
    assert not room.run("orchestrator").changes
    assert set(room.state.tasks_of(id)) == tasks


@pytest.mark.parametrize(("ratio", "action"), [(0.0, "continue"), (0.5, "pause")])
def test_failures_may_be_tolerated(ratio: float, action: str) -> None:
    config = UpdateConfig(failure_action=action, max_failure_ratio=ratio)  # type: ignore[arg-type]
    room, id = room_with(spec(replicas=3))
    change(room, id, spec("two", replicas=3, update=config))
    room.until(lambda: "two" in images(room, id))
    room.report(
        next(t for t in room.running(id) if t.spec.container.image == "two"), TaskState.FAILED
    )
    room.settle()
    assert images(room, id) == ["two"] * 3
    assert update_state(room, id) == UpdateState.COMPLETED


def test_a_late_failure_does_not_stop_a_slow_update() -> None:
    config = UpdateConfig(delay=60 * SECOND)
    room, id = room_with(spec(replicas=3, update=config))
    change(room, id, spec("two", replicas=3, update=config))
    room.until(lambda: images(room, id).count("two") == 2)
    first = min(
        (t for t in room.running(id) if t.spec.container.image == "two"),
        key=lambda t: t.meta.created_at,
    )
    room.now += 10 * SECOND
    room.report(first, TaskState.FAILED)
    room.settle(patience=600 * SECOND)
    assert update_state(room, id) == UpdateState.COMPLETED


@pytest.mark.parametrize(("lasted", "state"), [(20, UpdateState.UPDATING), (2, UpdateState.PAUSED)])
def test_of_an_update_that_cannot_end_only_early_failures_count(
    lasted: int, state: UpdateState
) -> None:
    """All slots at once, and one of them finds no node: no slot follows another."""
    config = UpdateConfig(parallelism=0, monitor=3 * SECOND)
    room, id = room_with(spec(replicas=2, update=config), nodes=2)
    room.set_node("node2", availability="pause")
    change(room, id, spec("two", replicas=2, update=config, placement=Placement(max_replicas=1)))
    room.until(lambda: images(room, id) == ["two"])
    room.now += lasted * SECOND
    room.report(room.running(id)[0], TaskState.FAILED)
    room.settle(patience=20 * SECOND)
    assert update_state(room, id) == state


def test_a_task_that_never_ran_has_failed_however_late() -> None:
    room, id = room_with(spec(replicas=1))
    change(room, id, spec("two", replicas=1))
    room.until(
        lambda: any(t.spec.container.image == "two" for t in room.state.tasks_of(id).values())
    )
    new = next(t for t in room.state.tasks_of(id).values() if t.spec.container.image == "two")
    room.now += 600 * SECOND
    room.report(new, TaskState.REJECTED)
    room.settle()
    assert update_state(room, id) == UpdateState.PAUSED


def test_start_first_keeps_the_old_task_while_the_new_one_fails() -> None:
    config = UpdateConfig(order="start-first")
    room, id = room_with(spec(replicas=2, update=config))
    room.failing.add("bad")
    change(room, id, spec("bad", replicas=2, update=config))
    room.until(lambda: update_state(room, id) == UpdateState.PAUSED)
    room.settle()
    assert images(room, id) == ["one", "one"]


def test_a_user_rolls_back() -> None:
    room, id = room_with(spec())
    with pytest.raises(FailedPrecondition):
        rolled_back(room.state.services[id], room.now)
    change(room, id, spec("two"))
    room.settle()
    room.put(rolled_back(room.state.services[id], room.now))
    room.settle()
    assert images(room, id) == ["one"] * 3
    assert update_state(room, id) == UpdateState.ROLLBACK_COMPLETED
    assert room.state.services[id].previous_spec == spec("two")


def test_a_global_service_is_updated_as_well() -> None:
    room, id = room_with(spec(replicas=None))
    change(room, id, spec("two", replicas=None))
    room.settle()
    assert images(room, id) == ["two"] * 3
    assert len(room.state.tasks_of(id)) == 6


def test_what_makes_a_task_out_of_date() -> None:
    room, id = room_with(spec(endpoint=EndpointSpec(ports=(PublishedPort(80),))))
    task = room.running(id)[0]
    node = room.state.nodes[task.node]  # type: ignore[index]

    def dirty(**fields: object) -> bool:
        new = msgspec.structs.replace(room.state.services[id].spec, **fields)
        return is_dirty(with_spec(room.state.services[id], new), task, node)

    assert not dirty(replicas=7)
    assert not dirty(labels={"a": "b"})
    assert dirty(task=msgspec.structs.replace(task.spec, force_update=1))
    assert dirty(endpoint=EndpointSpec(ports=(PublishedPort(81),)))
    assert dirty(endpoint=EndpointSpec())
    assert not dirty(
        task=msgspec.structs.replace(
            task.spec, placement=Placement(constraints=("node.role==worker",))
        )
    )
    assert dirty(
        task=msgspec.structs.replace(
            task.spec, placement=Placement(constraints=("node.role==manager",))
        )
    )


def test_what_cannot_be_made_ready_is_tried_again_once_in_each_delay() -> None:
    room, id = room_with(spec(replicas=1, restart=RestartPolicy(delay=5 * SECOND)))
    room.report(room.running(id)[0], TaskState.FAILED)
    began, rejected = room.now, 0
    while room.now < began + 21 * SECOND:
        decisions = [room.run(loop) for loop in LOOPS]
        waiting = [t for t in room.state.tasks_of(id).values() if t.state == TaskState.ASSIGNED]
        for task in waiting:
            room.report(task, TaskState.REJECTED)
            rejected += 1
        if not waiting and not any(decision.changes for decision in decisions):
            room.now = min(
                decision.wake_at for decision in decisions if decision.wake_at is not None
            )
    assert rejected == 5, "at once, and after each of four delays"


# --- cost


def test_only_services_that_events_touch_are_looked_at() -> None:
    room, id = room_with(spec())
    other = room.service(msgspec.structs.replace(spec(), name="other"))
    room.settle()
    room.events.clear()
    room.report(room.running(id)[0], TaskState.FAILED)
    assert orchestrator.touched(room.state, room.events) == {id}
    room.set_node("node1", NodeState.DOWN)
    assert orchestrator.touched(room.state, room.events) == {id, other}
    partial = orchestrator.plan(room.state, room.now, lambda: TaskId(room.new_id("task")), {id})
    assert {change.object.service for change in partial.changes} == {id}  # type: ignore[union-attr]
