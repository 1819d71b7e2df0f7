"""Credentials of services for their registries: which nodes get them, and what updates and rollbacks
do with them."""

import msgspec
import pytest

from tests.support.control_room import LOOPS, ControlRoom
from weft.control.assignments.affected import concerned
from weft.control.assignments.assignment import Opened, assignment_for, sealed_stay_closed
from weft.control.assignments.differences import difference
from weft.control.assignments.views import network_views
from weft.control.requests import services
from weft.errors import FailedPrecondition
from weft.model.assignment import Assignment
from weft.model.ids import NodeId, ServiceId
from weft.model.registry import AuthSource, PullAuth, RegistryAuth, SealedAuth
from weft.model.secret import Sealed
from weft.model.service import ContainerSpec, Placement, Service, ServiceSpec, TaskSpec
from weft.model.state import Event, Put

NODE1, NODE2 = NodeId("node1"), NodeId("node2")
AUTH = RegistryAuth(username="me", password="marker")
FIRST = SealedAuth("reg.test", Sealed("key", b"nonce", b"first"))
SECOND = SealedAuth("reg.test", Sealed("key", b"nonce", b"second"))


def spec(image: str = "reg.test/app:1", node: str = "node1") -> ServiceSpec:
    placement = Placement(constraints=(f"node.hostname == {node}",))
    task = TaskSpec(container=ContainerSpec(image=image), placement=placement)
    return ServiceSpec(name="web", replicas=2, task=task)


def opened(service: Service) -> PullAuth | None:
    sealed = service.registry_auth
    assert sealed is not None, "only services with credentials are asked for"
    return PullAuth(service=service.id, registry=sealed.registry, auth=AUTH)


OPENED = Opened(sealed_stay_closed, opened)


def room_with(image: str = "reg.test/app:1") -> tuple[ControlRoom, ServiceId]:
    room = ControlRoom(nodes=2)
    id = room.service(spec(image))
    room.put(msgspec.structs.replace(room.state.services[id], registry_auth=FIRST))
    for loop in LOOPS:
        room.run(loop)
    return room, id


def told(room: ControlRoom, node: NodeId) -> Assignment:
    return assignment_for(room.state, node, network_views(room.state), None, OPENED)


def test_only_nodes_with_a_task_of_the_service_get_them() -> None:
    room, id = room_with()
    here, there = told(room, NODE1), told(room, NODE2)
    assert {task.private_registry for task in here.tasks.values()} == {"reg.test"}
    assert list(here.registry_auths.values()) == [
        PullAuth(service=id, registry="reg.test", auth=AUTH)
    ]
    assert there.registry_auths == {}
    change = difference(None, here)
    assert Assignment(node=NODE1).after(change) == here
    assert "marker" not in repr(here) + repr(change)


@pytest.mark.parametrize("image", ["app:1", "reg.test:5000/app:1", "other.test/reg.test/app:1"])
def test_they_are_not_sent_for_an_image_elsewhere(image: str) -> None:
    room, _ = room_with(image)
    assert len(told(room, NODE1).tasks) == 2
    assert {task.private_registry for task in told(room, NODE1).tasks.values()} == {""}
    assert told(room, NODE1).registry_auths == {}


def test_a_node_whose_manager_cannot_open_them_knows_that_it_needs_them() -> None:
    room, _ = room_with()
    closed = assignment_for(room.state, NODE1, network_views(room.state))
    assert {task.private_registry for task in closed.tasks.values()} == {"reg.test"}
    assert closed.registry_auths == {}


def test_other_credentials_reach_the_nodes_and_replace_no_task() -> None:
    room, id = room_with()
    before, known = room.state.services[id], told(room, NODE1)
    views = network_views(room.state)
    room.put(msgspec.structs.replace(before, registry_auth=SECOND))
    event = Event(before, room.state.services[id])
    assert concerned(room.state, [event], views, views).tasks == {NODE1}
    assert concerned(room.state, [Event(before, before)], views, views).tasks == set()
    for loop in LOOPS:
        room.run(loop)
    assert told(room, NODE1).tasks.keys() == known.tasks.keys()
    room.put(msgspec.structs.replace(room.state.services[id], registry_auth=None))
    gone = difference(known, told(room, NODE1))
    assert gone.removed_registry_auths == (id,)
    assert known.after(gone).registry_auths == {}


def updated(room: ControlRoom, id: ServiceId, auth: SealedAuth | AuthSource | None) -> Service:
    service = room.state.services[id]
    (change,) = services.update(
        room.state, id, service.meta.version, spec("reg.test/app:2"), room.now, auth=auth
    )
    assert isinstance(change, Put)
    assert isinstance(change.object, Service)
    return change.object


def test_an_update_keeps_them_or_brings_others() -> None:
    room, id = room_with()
    with pytest.raises(FailedPrecondition, match="service does not have a previous spec"):
        updated(room, id, "previous-spec")
    assert updated(room, id, "spec").registry_auth == FIRST
    assert updated(room, id, None).registry_auth is None
    room.put(updated(room, id, SECOND))
    now = room.state.services[id]
    assert (now.registry_auth, now.previous_registry_auth) == (SECOND, FIRST)
    assert updated(room, id, "previous-spec").registry_auth == FIRST


def test_a_rollback_brings_the_former_ones_back() -> None:
    room, id = room_with()
    room.put(updated(room, id, SECOND))
    version = room.state.services[id].meta.version
    (change,) = services.rollback(room.state, id, version, room.now)
    assert isinstance(change, Put)
    assert isinstance(change.object, Service)
    assert change.object.registry_auth == FIRST
    assert change.object.previous_registry_auth == SECOND
