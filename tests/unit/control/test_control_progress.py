"""What clients are told of a service's progress: it ends when the control loops have nothing left
to do."""

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.orchestrator.dirty import is_up_to_date
from weft.control.orchestrator.progress import Progress, progress
from weft.control.orchestrator.updater import with_spec
from weft.model.ids import ServiceId
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
)  # fmt: skip
from weft.model.task import TaskState

TASK = TaskSpec(container=ContainerSpec(image="one"), restart=RestartPolicy(condition="none"))
SPEC = ServiceSpec(name="web", replicas=3, task=TASK, update=UpdateConfig(parallelism=0))


def room_with(spec: ServiceSpec) -> tuple[ControlRoom, ServiceId]:
    room = ControlRoom(3)
    id = room.service(spec)
    room.settle()
    return room, id


def counted(room: ControlRoom, id: ServiceId) -> Progress:
    return progress(room.state, room.state.services[id])


CHANGES: dict[str, dict[str, object]] = {
    "a constraint that holds already": {
        "task": msgspec.structs.replace(TASK, placement=Placement(("node.role==worker",)))
    },
    "a constraint that moves tasks": {
        "task": msgspec.structs.replace(TASK, placement=Placement(("node.hostname==node2",)))
    },
    "the same again by force": {"task": msgspec.structs.replace(TASK, force_update=1)},
    "another image": {"task": msgspec.structs.replace(TASK, container=ContainerSpec(image="two"))},
    "a label of the service": {"labels": {"colour": "blue"}},
    "another port": {"endpoint": EndpointSpec(ports=(PublishedPort(80, 8080),))},
    "a port to be chosen": {"endpoint": EndpointSpec(ports=(PublishedPort(80),))},
    "more replicas": {"replicas": 5},
    "nothing": {},
}


@pytest.mark.parametrize(
    "before", [SPEC, msgspec.structs.replace(SPEC, replicas=None)], ids=["replicated", "global"]
)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_when_an_update_has_ended_all_that_should_run_is_up_to_date(
    before: ServiceSpec, change: dict[str, object]
) -> None:
    """The docker command waits until as many tasks run as are desired, of those that the filter
    `_up-to-date` lets through."""
    room, id = room_with(before)
    if before.is_global:
        change = {key: value for key, value in change.items() if key != "replicas"}
    room.put(with_spec(room.state.services[id], msgspec.structs.replace(before, **change)))
    room.settle()
    seen = [task for task in room.state.tasks_of(id).values() if is_up_to_date(room.state, task)]
    running = [task for task in seen if task.state == task.desired == TaskState.RUNNING]
    assert len(running) == counted(room, id).running == counted(room, id).desired


def test_a_global_service_is_updated_around_a_node_that_is_down() -> None:
    room, id = room_with(msgspec.structs.replace(SPEC, replicas=None))
    room.set_node("node2", NodeState.DOWN)
    room.put(
        with_spec(
            room.state.services[id],
            msgspec.structs.replace(SPEC, replicas=None, **CHANGES["another image"]),
        )
    )
    room.settle()
    assert {task.node for task in room.running(id)} == {"node1", "node3"}
    assert counted(room, id) == Progress(running=2, desired=2, completed=0)
    assert len(room.state.tasks_of(id)) == 5


def test_an_old_task_that_turns_out_to_be_right_goes_when_the_new_one_runs() -> None:
    """Start-first, and the old task's port was chosen only after the new one was made: it is the
    one that is asked for now."""
    update = UpdateConfig(parallelism=0, order="start-first")
    before = msgspec.structs.replace(
        SPEC, replicas=1, update=update, endpoint=EndpointSpec(ports=(PublishedPort(80),))
    )
    room = ControlRoom(3)
    id = room.service(before)
    room.run("orchestrator")
    fixed = EndpointSpec(ports=(PublishedPort(80, 8080),))
    room.put(with_spec(room.state.services[id], msgspec.structs.replace(before, endpoint=fixed)))
    room.settle()
    assert len(room.running(id)) == 1
    assert counted(room, id) == Progress(running=1, desired=1, completed=0)


def test_no_task_of_a_service_that_is_gone_is_up_to_date() -> None:
    room, id = room_with(SPEC)
    task = room.running(id)[0]
    assert is_up_to_date(room.state, task)
    room.remove(room.state.services[id])
    assert not is_up_to_date(room.state, task)


def test_tasks_on_a_node_that_is_down_do_not_run() -> None:
    room, id = room_with(SPEC)
    assert counted(room, id) == Progress(running=3, desired=3, completed=0)
    room.set_node(room.running(id)[0].node or "", NodeState.DOWN)
    assert counted(room, id).running == 2


def test_tasks_that_ended_well_are_counted_and_those_on_their_way_out_are_not() -> None:
    room, id = room_with(SPEC)
    first, second, _ = room.running(id)
    room.report(first, TaskState.COMPLETE)
    room.put(msgspec.structs.replace(second, desired=TaskState.SHUTDOWN))
    assert counted(room, id) == Progress(running=1, desired=3, completed=1)
