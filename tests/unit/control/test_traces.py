"""What is asked of which node for a trace, and what is refused with the name of the thing."""

from ipaddress import IPv4Address, IPv4Interface

import msgspec
import pytest

from weft.control.requests.traces import question
from weft.errors import FailedPrecondition, InvalidArgument, NotFound, WeftError
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.node import Node, NodeDescription
from weft.model.service import (
    ContainerSpec,
    Endpoint,
    PublishedPort,
    Service,
    ServiceSpec,
    TaskSpec,
)
from weft.model.state import ClusterState
from weft.model.task import Attachment, ContainerStatus, Task, TaskState, TaskStatus
from weft.model.trace import ANY, FromProcess, FromWire, TraceWanted

OWN = NodeId("n1")
SPEC = TaskSpec(container=ContainerSpec(image="demo"))
HOSTS = {1: IPv4Address("10.59.72.11"), 2: IPv4Address("10.59.72.12")}


def node(number: int) -> Node:
    return Node(
        id=NodeId(f"n{number}"),
        description=NodeDescription(hostname=f"host{number}"),
        data_path_address=HOSTS[number],
    )


def service(name: str, *ports: PublishedPort) -> Service:
    spec = ServiceSpec(name=name, task=SPEC)
    return Service(id=ServiceId(f"{name}-id"), spec=spec, endpoint=Endpoint(ports=ports))


def task(name: str, slot: int, number: int, state: TaskState = TaskState.RUNNING) -> Task:
    third = 2 if state is TaskState.PENDING else 1
    address = IPv4Interface(f"10.0.{third}.{10 * number + slot}/24")
    container = ContainerStatus(ContainerId(f"{name}{slot}c0ffee".ljust(64, "0")))
    return Task(
        id=TaskId(f"{name}{slot}task"),
        service=ServiceId(f"{name}-id"),
        service_name=name,
        slot=slot,
        spec=SPEC,
        node=NodeId(f"n{number}"),
        attachments=(Attachment(NetworkId("net"), address),),
        status=TaskStatus(state, container=container),
    )


STATE = ClusterState(
    [
        node(1),
        node(2),
        service("web", PublishedPort(target=80, published=8080)),
        service("app"),
        service("idle"),
        task("web", 1, 2),
        task("web", 2, 1),
        task("app", 1, 1),
        task("idle", 1, 1, TaskState.PENDING),
    ]
)


@pytest.mark.parametrize(
    "source", ["app", "app.1", "app1task", "app.1.app1task", "app-id", "app1c0ffee", "10.0.1.11"]
)
def test_every_way_to_name_a_source(source: str) -> None:
    found = question(STATE, OWN, TraceWanted(source=source, target="web"))
    assert (found.node, found.task, found.name) == (NodeId("n1"), TaskId("app1task"), "web")
    assert isinstance(found.entry, FromProcess)
    assert (found.entry.packet.destination, found.entry.packet.destination_port) == (ANY, 80)


@pytest.mark.parametrize(
    ("target", "name", "destination", "port"),
    [
        ("web.1", "web.1.web1task", "0.0.0.0", 80),
        ("web1c0ffee", "web.1.web1task", "0.0.0.0", 80),
        ("web.elsewhere", "web.elsewhere", "0.0.0.0", 9),
        ("10.0.1.21", "", "10.0.1.21", 9),
        ("host2:8080", "", "10.59.72.12", 8080),
        ("10.59.72.12:8080", "", "10.59.72.12", 8080),
        (":8080", "", "10.59.72.11", 8080),
        ("host2", "", "10.59.72.12", 9),
    ],
)
def test_every_way_to_name_a_target(target: str, name: str, destination: str, port: int) -> None:
    wanted = TraceWanted(source="app", target=target, port=0 if port in (80, 8080) else port)
    found = question(STATE, OWN, wanted)
    assert isinstance(found.entry, FromProcess)
    packet = found.entry.packet
    assert (found.name, str(packet.destination), packet.destination_port) == (
        name,
        destination,
        port,
    )


@pytest.mark.parametrize(
    ("target", "where"), [(":8080", "n1"), ("host2:8080", "n2"), ("web", "n1"), ("web.1", "n1")]
)
def test_from_outside(target: str, where: str) -> None:
    found = question(STATE, OWN, TraceWanted(target=target, outside=IPv4Address("192.0.2.7")))
    assert isinstance(found.entry, FromWire)
    packet = found.entry.datagram.packet
    assert (found.node, packet.destination_port) == (where, 8080)
    assert packet.destination == HOSTS[int(where[1])]


def test_from_a_host() -> None:
    found = question(STATE, OWN, TraceWanted(source="host2", target="web"))
    assert isinstance(found.entry, FromProcess)
    assert (found.node, found.task, found.entry.namespace) == ("n2", None, "host")


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        (TraceWanted(source="nobody", target="web"), NotFound, "nobody (source)"),
        (TraceWanted(source="", target="web"), InvalidArgument, "no source is named"),
        (TraceWanted(source="idle", target="web"), FailedPrecondition, "no running task"),
        (TraceWanted(source="idle.1", target="web"), FailedPrecondition, "it is pending"),
        (TraceWanted(source="app", target="idle.1", port=1), FailedPrecondition, "it is pending"),
        (TraceWanted(source="app", target="app"), InvalidArgument, "name one with --port"),
        (TraceWanted(source="app", target="host9:1"), NotFound, "node host9"),
        (TraceWanted(source="app", target="host1:99999"), InvalidArgument, "99999 is not a port"),
        (TraceWanted(source="app", target="web", protocol="icmp"), InvalidArgument, "'icmp'"),
        (TraceWanted(source="app", target="web", port=70000), InvalidArgument, "port 70000"),
        (TraceWanted(source="host1", target="app"), FailedPrecondition, "publishes no tcp port"),
        (TraceWanted(source="app", target="web", outside=ANY), InvalidArgument, "not both"),
    ],
)
def test_what_cannot_be_asked_is_named(
    wanted: TraceWanted, kind: type[WeftError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        question(STATE, OWN, wanted)
    assert text in str(caught.value)


def test_an_ambiguous_name_is_refused() -> None:
    twin = msgspec.structs.replace(node(2), description=NodeDescription(hostname="app"))
    state = ClusterState([node(1), twin, service("app"), task("app", 1, 1)])
    with pytest.raises(InvalidArgument, match="ambiguous: node app, service app"):
        question(state, OWN, TraceWanted(source="app", target=":80"))


@pytest.mark.parametrize(
    ("source", "node"), [("/job", "n1"), ("host2/job", "n2"), ("n2/job", "n2")]
)
def test_a_container_of_a_node_is_named_with_the_node(source: str, node: str) -> None:
    asked = question(STATE, OWN, TraceWanted(source=source, target="10.0.1.21", port=80))
    assert (asked.node, asked.container, asked.task) == (node, "job", None)
    assert isinstance(asked.entry, FromProcess)
    assert str(asked.entry.packet) == "tcp 0.0.0.0:40000 > 10.0.1.21:80"


@pytest.mark.parametrize("source", ["/", "host2/", "host7/job"])
def test_a_container_without_a_name_or_a_node_is_refused(source: str) -> None:
    with pytest.raises((InvalidArgument, NotFound), match="cannot trace"):
        question(STATE, OWN, TraceWanted(source=source, target="10.0.1.21", port=80))
