"""What the swarm itself listens on is published by nobody: asked for, chosen, or kept from
before."""

from itertools import count

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.allocator.ports import FIRST_DYNAMIC, OwnPorts, swarm_ports
from weft.control.requests import services
from weft.errors import InvalidArgument
from weft.model.ids import NodeId, ServiceId
from weft.model.service import ContainerSpec, EndpointSpec, PublishedPort, ServiceSpec, TaskSpec
from weft.model.state import Put

API: OwnPorts = {("tcp", 2376): "the API listens on tcp://0.0.0.0:2376"}
UNUSUAL_LISTEN, UNUSUAL_VXLAN = 7377, 5789


@pytest.fixture
def room() -> ControlRoom:
    """`node1` is a manager at an unusual port, and so is VXLAN."""
    room = ControlRoom(nodes=2)
    first, cluster = room.state.nodes[NodeId("node1")], room.state.cluster
    assert cluster is not None
    room.put(
        msgspec.structs.replace(
            first,
            manager_address=f"192.0.2.1:{UNUSUAL_LISTEN}",
            store_peer="https://192.0.2.1:2390",
        )
    )
    room.put(msgspec.structs.replace(cluster, data_path_port=UNUSUAL_VXLAN))
    room.settle()
    return room


def spec(*ports: PublishedPort) -> ServiceSpec:
    task = TaskSpec(container=ContainerSpec(image="app"))
    return ServiceSpec(name="web", task=task, endpoint=EndpointSpec("vip", ports))


def created(room: ControlRoom, wanted: ServiceSpec) -> ServiceId:
    [change] = services.creation(room.state, ServiceId("web"), wanted, room.now, API)
    assert isinstance(change, Put)
    room.commit([change])
    room.settle()
    return ServiceId("web")


OWN = {
    (2377, "tcp"): "managers listen there for nodes",
    (2380, "tcp"): "managers listen there for each other",
    (UNUSUAL_LISTEN, "tcp"): "managers listen there for nodes",
    (2390, "tcp"): "managers listen there for each other",
    (UNUSUAL_VXLAN, "udp"): "hosts listen there for each other's packets",
    (2376, "tcp"): "the API listens on tcp://0.0.0.0:2376",
}


@pytest.mark.parametrize("mode", ["ingress", "host"])
@pytest.mark.parametrize(("number", "protocol"), OWN)
def test_none_is_published_at_first_or_later(
    room: ControlRoom, number: int, protocol: str, mode: str
) -> None:
    port = PublishedPort(80, number, protocol, mode)  # type: ignore[arg-type]
    text = f"cannot publish port {number}/{protocol}: {OWN[number, protocol]}"
    with pytest.raises(InvalidArgument, match=f"^{text}$"):
        services.creation(room.state, ServiceId("web"), spec(port), room.now, API)
    id = created(room, spec(PublishedPort(80, 8080)))
    version = room.state.services[id].meta.version
    with pytest.raises(InvalidArgument, match=f"^{text}$"):
        services.update(room.state, id, version, spec(PublishedPort(80, 8080), port), room.now, API)


@pytest.mark.parametrize(("number", "protocol"), OWN)
def test_no_program_on_the_hosts_network_takes_one(
    room: ControlRoom, number: int, protocol: str
) -> None:
    for published in (0, number):
        wanted = spec(PublishedPort(number, published, protocol, "host"))  # type: ignore[arg-type]
        wanted = msgspec.structs.replace(
            wanted, task=msgspec.structs.replace(wanted.task, host_network=True)
        )
        with pytest.raises(InvalidArgument, match=f"^cannot publish port {number}/{protocol}: "):
            services.creation(room.state, ServiceId("web"), wanted, room.now, API)


def test_what_only_looks_alike_is_free(room: ControlRoom) -> None:
    alike = ((2377, "udp"), (2380, "udp"), (UNUSUAL_VXLAN, "tcp"), (4789, "udp"), (7946, "tcp"))
    ports = (PublishedPort(80, number, protocol) for number, protocol in alike)  # type: ignore[arg-type]
    id = created(room, spec(*ports, PublishedPort(2377, 8080)))
    assert room.state.services[id].error == ""


def test_a_service_that_has_one_already_can_be_changed_but_not_rolled_back_to_it(
    room: ControlRoom,
) -> None:
    """It published the number before a manager came that listens there."""
    id = created(room, spec(PublishedPort(80, 9377)))
    second = msgspec.structs.replace(
        room.state.nodes[NodeId("node2")], manager_address="192.0.2.2:9377"
    )
    room.put(second)
    service = room.state.services[id]
    keeps = spec(PublishedPort(80, 9377), PublishedPort(81, 8081))
    assert services.update(room.state, id, service.meta.version, keeps, room.now, API)
    [change] = services.update(room.state, id, service.meta.version, spec(), room.now, API)
    room.commit([change])
    version = room.state.services[id].meta.version
    with pytest.raises(InvalidArgument, match="cannot publish port 9377/tcp"):
        services.rollback(room.state, id, version, room.now, API)


def test_none_is_chosen_for_a_port_that_is_left_open(room: ControlRoom) -> None:
    cluster = room.state.cluster
    assert cluster is not None
    room.put(msgspec.structs.replace(cluster, data_path_port=FIRST_DYNAMIC))
    ports = [PublishedPort(80, protocol="udp"), PublishedPort(80)]
    id = created(room, spec(*ports))
    given = [(p.published, p.protocol) for p in room.state.services[id].endpoint.ports]
    numbers = count(FIRST_DYNAMIC + 1)
    assert given == [(next(numbers), "udp"), (next(numbers), "tcp")]


def test_a_worker_has_no_say_in_it(room: ControlRoom) -> None:
    """Else one that lies would take any port from everybody."""
    before = swarm_ports(room.state)
    worker = room.state.nodes[NodeId("node2")]
    room.put(msgspec.structs.replace(worker, routes=("10.0.0.0/8",)))
    assert swarm_ports(room.state) == before
