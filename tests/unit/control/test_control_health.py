"""Who serves and who is shown while tasks start, are healthy and are not."""

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.assignments.views import network_views
from weft.model.ids import NetworkId
from weft.model.network import NetworkSpec
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.task import Task, TaskState, TaskStatus


def started(names_starting: bool) -> tuple[ControlRoom, NetworkId, Task]:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net", names_starting=names_starting))
    task = TaskSpec(
        container=ContainerSpec(image="busybox"), networks=(NetworkAttachmentSpec(network),)
    )
    service = room.service(ServiceSpec(name="web", replicas=1, task=task))
    room.settle()
    return room, network, room.running(service)[0]


@pytest.mark.parametrize(
    ("state", "unhealthy_since", "desired", "serves", "starts"),
    [
        (TaskState.READY, 0, TaskState.RUNNING, False, False),
        (TaskState.STARTING, 0, TaskState.RUNNING, False, True),
        (TaskState.STARTING, 5, TaskState.RUNNING, False, False),
        (TaskState.STARTING, 0, TaskState.SHUTDOWN, False, False),
        (TaskState.RUNNING, 0, TaskState.RUNNING, True, False),
        (TaskState.RUNNING, 5, TaskState.RUNNING, False, False),
        (TaskState.RUNNING, 0, TaskState.SHUTDOWN, False, False),
    ],
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_task_serves_while_it_is_healthy_and_is_shown_before_if_its_network_asks(
    asked: bool,
    state: TaskState,
    unhealthy_since: int,
    desired: TaskState,
    serves: bool,
    starts: bool,
) -> None:
    room, network, task = started(names_starting=asked)
    views = network_views(room.state)
    heard = len(room.events)
    status = TaskStatus(state, unhealthy_since=unhealthy_since)
    room.put(msgspec.structs.replace(task, status=status, desired=desired))
    views = network_views(room.state, views, room.events[heard:])
    assert views == network_views(room.state)
    record = views[network].endpoints[task.id]
    assert (record.serving, record.starting) == (serves, starts and asked)
