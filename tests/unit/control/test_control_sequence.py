"""Which requests come too late: those that have not seen what they replace. What else has changed
since does not count."""

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.requests import services
from weft.control.requests.sequence import check_sequence
from weft.errors import OutOfSequence
from weft.model.ids import NodeId, ServiceId
from weft.model.meta import Meta
from weft.model.node import Node, NodeSpec
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    UpdateState,
)


def spec(image: str, **more: object) -> ServiceSpec:
    task = TaskSpec(container=ContainerSpec(image=image))
    return msgspec.structs.replace(ServiceSpec(name="web", replicas=2, task=task), **more)


def update(room: ControlRoom, id: ServiceId, version: int, wanted: ServiceSpec) -> None:
    room.commit(services.update(room.state, id, version, wanted, room.now))


def test_an_update_right_after_another_need_not_have_seen_how_that_one_goes() -> None:
    room = ControlRoom(2)
    id = room.service(spec("one", endpoint=EndpointSpec(ports=(PublishedPort(80),))))
    read = room.state.services[id].meta.version
    room.settle()
    assert room.state.services[id].meta.version > read, "the allocator has written"
    update(room, id, read, spec("two"))
    after = room.state.services[id].meta.version
    room.settle()
    assert room.state.services[id].meta.version > after, "the updater has written"
    update(room, id, after, spec("three"))
    room.settle()
    assert {task.spec.container.image for task in room.running(id)} == {"three"}


def test_two_updates_that_read_the_same_exclude_each_other() -> None:
    room = ControlRoom(2)
    id = room.service(spec("one"))
    room.settle()
    read = room.state.services[id].meta.version
    update(room, id, read, spec("two"))
    for version in (0, read - 1, read, room.state.services[id].meta.version + 1):
        with pytest.raises(OutOfSequence):
            update(room, id, version, spec("three"))
        with pytest.raises(OutOfSequence):
            services.rollback(room.state, id, version, room.now)


def test_what_the_swarm_rolled_back_itself_has_to_be_seen() -> None:
    room = ControlRoom(2)
    room.failing.add("bad")
    id = room.service(spec("one"))
    room.settle()
    update(
        room,
        id,
        room.state.services[id].meta.version,
        spec("bad", update=UpdateConfig(failure_action="rollback")),
    )
    read = room.state.services[id].meta.version
    room.settle()
    status = room.state.services[id].update_status
    assert status is not None
    assert status.state == UpdateState.ROLLBACK_COMPLETED
    with pytest.raises(OutOfSequence):
        update(room, id, read, spec("three"))


def test_the_cluster_may_have_handed_out_a_port_since() -> None:
    room = ControlRoom(1)
    cluster = room.state.cluster
    assert cluster is not None
    room.settle()
    room.service(spec("one", endpoint=EndpointSpec(ports=(PublishedPort(80),))))
    room.settle()
    changed = room.state.cluster
    assert changed is not None
    assert changed.next_port != cluster.next_port
    check_sequence(changed, cluster.meta.version)
    with pytest.raises(OutOfSequence):
        check_sequence(
            msgspec.structs.replace(changed, spec_follows=cluster.meta.version),
            cluster.meta.version,
        )


def test_a_node_may_have_said_something_since() -> None:
    node = Node(id=NodeId("n"), spec=NodeSpec(), spec_follows=4, meta=Meta(version=9))
    for version in (5, 9):
        check_sequence(node, version)
    for version in (0, 4, 10):
        with pytest.raises(OutOfSequence):
            check_sequence(node, version)
