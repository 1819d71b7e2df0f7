"""The log of what was committed: ids that a user knows, and nothing that must stay secret."""

import logging
from collections.abc import Iterable

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.manager import changelog
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId
from weft.model.node import NodeState
from weft.model.service import ContainerSpec, EndpointSpec, PublishedPort, ServiceSpec, TaskSpec
from weft.model.state import Change, Event, Put, Remove
from weft.model.task import TaskState


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "weft.manager.changelog")
    return caplog


class LoggingRoom(ControlRoom):
    """Says what it commits, as `manager.transaction` does."""

    def commit(
        self, changes: Iterable[Change], independent: bool = False, decided_on: int | None = None
    ) -> list[Event]:
        changes = tuple(changes)
        lines = changelog.describe(self.state, changes)
        events = super().commit(changes, independent, decided_on)
        changelog.write(lines)
        return events


def test_a_service_can_be_followed_by_its_id_and_a_task_by_its_own(
    told: pytest.LogCaptureFixture,
) -> None:
    room = LoggingRoom(1)
    spec = EndpointSpec(ports=(PublishedPort(80, 8080),))
    id = room.service(
        ServiceSpec(
            name="web",
            replicas=1,
            endpoint=spec,
            task=TaskSpec(container=ContainerSpec(image="one")),
        )
    )
    room.settle()
    about = [
        line.split()[0] for line in told.messages if f"service={id}" in line and "task=" not in line
    ]
    assert about == ["service.created", "service.allocated"]
    (task,) = room.state.tasks_of(id).values()
    lines = [line for line in told.messages if f"task={task.id}" in line]
    assert [line.split()[0] for line in lines] == [
        "task.created",
        "task.allocated",
        "task.placed",
        "task.state",
    ]
    assert all(f"service={id}" in line for line in lines)
    assert all("node=node1" in line for line in lines[2:])


def test_what_keeps_a_task_waiting_is_said_once(told: pytest.LogCaptureFixture) -> None:
    room = LoggingRoom(1)
    id = room.service(
        ServiceSpec(name="web", replicas=1, task=TaskSpec(container=ContainerSpec(image="one")))
    )
    room.settle()
    (task,) = room.running(id)
    waiting = msgspec.structs.replace(
        task,
        status=msgspec.structs.replace(
            task.status, state=TaskState.PENDING, err="no suitable node"
        ),
    )
    room.put(waiting)
    told.clear()
    again = msgspec.structs.replace(room.state.tasks[task.id], restart_at=1)
    room.commit((Put(again),))
    assert not told.messages
    other = msgspec.structs.replace(
        room.state.tasks[task.id],
        status=msgspec.structs.replace(waiting.status, err="no suitable node (1 node down)"),
    )
    room.commit((Put(other),))
    assert told.messages == [
        f"task.waits task={task.id} service={id} cause='no suitable node (1 node down)'"
    ]


def test_nodes_and_removals(told: pytest.LogCaptureFixture) -> None:
    room = LoggingRoom(1)
    told.clear()
    node = next(iter(room.state.nodes.values()))
    status = msgspec.structs.replace(node.status, state=NodeState.DOWN, message="heartbeat failure")
    room.commit((Put(msgspec.structs.replace(node, status=status)),))
    room.commit((Remove("node", node.id, room.state.nodes[node.id].meta.version),))
    assert told.messages == [
        "node.state node=node1 hostname=node1 state=down cause='heartbeat failure'",
        "node.removed node=node1 hostname=node1",
    ]


def test_no_token_and_no_key_of_the_cluster_is_logged(told: pytest.LogCaptureFixture) -> None:
    room = LoggingRoom(0)
    told.clear()
    cluster = room.state.cluster
    assert cluster is not None
    secret = JoinTokens("SWMTKN-secret-worker", "SWMTKN-secret-manager")
    room.commit(
        (
            Put(
                msgspec.structs.replace(
                    cluster, join_tokens=secret, root_ca=RootCa("certificate", "secret-key")
                )
            ),
        )
    )
    room.commit(
        (
            Put(
                Cluster(
                    id=ClusterId("other"),
                    join_tokens=secret,
                    root_ca=RootCa("certificate", "secret-key"),
                )
            ),
        )
    )
    assert told.messages == ["cluster.updated cluster=cluster", "cluster.created cluster=other"]
