"""Loops that look only at what something happened to: what they must look at all the same."""

from ipaddress import IPv4Network

import msgspec

from tests.support.control_room import ControlRoom
from weft.model.ids import NetworkId
from weft.model.network import NetworkSpec, Pool
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    Placement,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from weft.model.state import Put
from weft.model.task import TaskState


def service(
    name: str, network: NetworkId | None = None, node: str = "", replicas: int = 1
) -> ServiceSpec:
    networks = (NetworkAttachmentSpec(network),) if network else ()
    placement = Placement(constraints=(f"node.hostname=={node}",)) if node else Placement()
    task = TaskSpec(
        container=ContainerSpec(image="app"),
        networks=networks,
        placement=placement,
        restart=RestartPolicy(delay=0),
    )
    return ServiceSpec(name=name, replicas=replicas, task=task, endpoint=EndpointSpec("dnsrr"))


def legs(room: ControlRoom, network: NetworkId) -> set[str]:
    return set(room.state.nodes_attached(network))


def test_a_leg_that_found_no_address_gets_one_that_another_node_gives_back() -> None:
    room = ControlRoom(nodes=2)
    full = room.network(NetworkSpec(name="full", pools=(Pool(IPv4Network("10.1.0.0/29")),)))
    room.service(service("here", full, "node1", replicas=2))
    room.service(service("there", full, "node2", replicas=2))
    room.settle()
    assert len(legs(room, full)) == 1, "four tasks, a gateway, one leg: six addresses"
    lacking = ({"node1", "node2"} - legs(room, full)).pop()
    victim = next(t for t in room.state.tasks.values() if t.node != lacking)
    spec = room.state.services[victim.service].spec
    room.put(
        msgspec.structs.replace(
            room.state.services[victim.service], spec=msgspec.structs.replace(spec, replicas=1)
        )
    )
    room.settle()
    assert legs(room, full) == {"node1", "node2"}


def test_nodes_give_up_their_legs_on_an_ingress_network_that_is_removed_and_get_others_on_the_next() -> (
    None
):
    room = ControlRoom(nodes=2)
    room.settle()
    first = room.state.ingress
    assert first is not None
    assert legs(room, first.id) == {"node1", "node2"}
    room.remove(first)
    room.settle()
    assert not any(node.attachments for node in room.state.nodes.values())
    second = room.network(NetworkSpec(name="another", ingress=True))
    room.settle()
    assert legs(room, second) == {"node1", "node2"}


def test_what_lost_its_race_is_decided_again_although_nothing_has_happened() -> None:
    room = ControlRoom(nodes=1)
    full = room.network(NetworkSpec(name="full", pools=(Pool(IPv4Network("10.1.0.0/29")),)))
    holder = room.service(
        msgspec.structs.replace(service("holder", full, replicas=0), endpoint=EndpointSpec("vip"))
    )
    room.settle()
    room.service(service("here", full, replicas=4))
    room.settle()
    assert not legs(room, full), "a gateway, a virtual address, four tasks: no address is left"
    room.remove(room.state.services[holder])
    lost = room.decide("allocator")
    assert [change.object.id for change in lost.changes if isinstance(change, Put)] == [
        full,
        "node1",
    ]
    assert room.decide("allocator").changes == lost.changes


def test_a_replacement_whose_time_had_come_when_the_race_was_lost_is_still_started() -> None:
    room = ControlRoom(nodes=1)
    spec = service("web")
    task = msgspec.structs.replace(spec.task, restart=RestartPolicy(delay=5_000_000_000))
    id = room.service(msgspec.structs.replace(spec, task=task))
    room.settle()
    room.report(room.running(id)[0], TaskState.FAILED)
    for loop in ("orchestrator", "allocator", "scheduler"):
        room.run(loop)
    while (decision := room.run("orchestrator")).changes:
        pass
    assert decision.wake_at is not None
    room.now = decision.wake_at
    lost = room.decide("orchestrator")
    assert lost.changes
    assert room.decide("orchestrator").changes == lost.changes
