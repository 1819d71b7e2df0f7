"""The scheduler: who gets what, how evenly, and what is said when nobody can."""

from ipaddress import IPv4Address

import msgspec
import pytest
from msgspec.structs import replace

from tests.support.control_room import ControlRoom
from weft.control.orchestrator.dirty import is_dirty
from weft.control.scheduler.constraints import parse, satisfied
from weft.errors import InvalidArgument
from weft.model.generic import GenericResource, resources_from
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Meta
from weft.model.node import Node, NodeDescription, NodeSpec, NodeState, NodeStatus
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    Placement,
    PublishedPort,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from weft.model.task import TaskState

GIB = 1 << 30
CPU = 1_000_000_000


def spec(
    replicas: int | None = 3,
    placement: Placement | None = None,
    memory: int = 0,
    host_port: int = 0,
    name: str = "web",
) -> ServiceSpec:
    ports = (PublishedPort(80, host_port, mode="host"),) if host_port else ()
    task = TaskSpec(
        container=ContainerSpec(image="app"),
        placement=placement or Placement(),
        reservations=Resources(memory=memory),
        restart=RestartPolicy(delay=0),
    )
    return ServiceSpec(name=name, replicas=replicas, task=task, endpoint=EndpointSpec(ports=ports))


def spread_of(room: ControlRoom, service: ServiceId) -> list[int]:
    return [sum(t.node == node for t in room.running(service)) for node in room.state.nodes]


def errors_of(room: ControlRoom, service: ServiceId) -> set[str]:
    return {
        t.status.err for t in room.state.tasks_of(service).values() if t.state == TaskState.PENDING
    }


def test_a_batch_spreads_evenly() -> None:
    room = ControlRoom(nodes=3)
    one, two = room.service(spec(3)), room.service(spec(10, name="two"))
    room.settle()
    assert spread_of(room, one) == [1, 1, 1]
    assert sorted(spread_of(room, two)) == [3, 3, 4]


def test_two_specs_of_a_service_that_wait_together_share_its_limit_on_a_node() -> None:
    room = ControlRoom(nodes=1)
    id = room.service(spec(1, Placement(max_replicas=1)))
    for loop in ("orchestrator", "allocator"):
        room.run(loop)
    (old,) = room.state.tasks_of(id).values()
    room.put(
        msgspec.structs.replace(
            old,
            id=TaskId("new"),
            slot=2,
            spec_version=old.spec_version + 1,
            meta=Meta(),
            spec=msgspec.structs.replace(old.spec, force_update=1),
        )
    )
    room.run("scheduler")
    states = sorted(task.state for task in room.state.tasks_of(id).values())
    assert states == [TaskState.PENDING, TaskState.ASSIGNED]
    assert errors_of(room, id) == {"no suitable node (max replicas per node limit exceed)"}


def test_tasks_that_wait_together_each_go_where_their_own_ports_are_free() -> None:
    """Of one version of a service, while the ports of its tasks are not the same."""
    room = ControlRoom(2)
    room.service(spec(1, Placement(("node.hostname==node1",)), host_port=8080, name="other"))
    room.service(spec(5, Placement(("node.hostname==node2",)), name="load"))
    room.settle()
    id = room.service(spec(replicas=3))
    room.run("orchestrator")
    room.run("allocator")
    tasks = sorted(room.state.tasks_of(id).values(), key=lambda task: task.slot)
    room.put(msgspec.structs.replace(tasks[-1], ports=(PublishedPort(80, 8080, mode="host"),)))
    room.run("scheduler")
    assert [room.state.tasks[task.id].node for task in tasks] == [
        "node1",
        "node2",
        "node2",
    ], "or: node1 again"


def with_ports(
    *ports: PublishedPort, replicas: int | None = 2, host_network: bool = False
) -> ServiceSpec:
    made = spec(replicas)
    task = msgspec.structs.replace(made.task, host_network=host_network)
    return msgspec.structs.replace(made, task=task, endpoint=EndpointSpec(ports=ports))


@pytest.mark.parametrize("other", [None, "10.59.72.11", "10.59.72.12"])
def test_one_port_at_two_addresses_of_a_host_is_two_ports(other: str | None) -> None:
    """A task at all addresses excludes the same port at one of them, also in the pass in which both
    are placed, and until it has ended."""
    first, second = IPv4Address("10.59.72.11"), IPv4Address(other) if other else None
    fits = second not in (None, first)

    def port(address: IPv4Address | None) -> PublishedPort:
        return PublishedPort(80, 8080, mode="host", host_address=address)

    for is_one_pass in (False, True):
        room = ControlRoom(nodes=1)
        ids: list[ServiceId] = []
        for name, address in (("first", first), ("second", second)):
            ids.append(room.service(replace(with_ports(port(address), replicas=1), name=name)))
            if not is_one_pass:
                room.settle()
        room.settle()
        assert [len(room.running(id)) for id in ids] == [1, int(fits)]
        full = "no suitable node (host-mode port already in use on 1 node)"
        assert errors_of(room, ids[1]) == (set() if fits else {full})
        room.update(ids[0], replace(room.state.services[ids[0]].spec, replicas=0))
        room.settle()
        assert len(room.running(ids[1])) == 1


def test_a_port_in_host_mode_that_is_left_open_is_chosen_of_what_is_free_on_the_node() -> None:
    room = ControlRoom(nodes=1)
    cluster = room.state.cluster
    assert cluster is not None
    room.put(msgspec.structs.replace(cluster, data_path_port=32769))
    web = room.service(
        with_ports(PublishedPort(80, mode="host"), PublishedPort(53, protocol="udp", mode="host"))
    )
    room.settle()
    given = [
        [(p.published, p.protocol, p.target) for p in task.ports] for task in room.running(web)
    ]
    assert given == [
        [(32768, "tcp", 80), (32768, "udp", 53)],
        [(32769, "tcp", 80), (32770, "udp", 53)],
    ]
    service = room.state.services[web]
    assert not any(is_dirty(service, task, None) for task in room.running(web)), (
        "they are as the service asks for"
    )
    changed = msgspec.structs.replace(service, spec_version=service.spec_version + 1)
    assert not any(is_dirty(changed, task, None) for task in room.running(web)), (
        "also after another update"
    )
    other = room.service(
        msgspec.structs.replace(
            with_ports(PublishedPort(81, mode="host"), replicas=None), name="other"
        )
    )
    room.settle()
    assert [task.ports[0].published for task in room.running(other)] == [32770]


def test_on_the_hosts_network_the_port_is_the_programs_own() -> None:
    room = ControlRoom(nodes=1)
    web = room.service(with_ports(PublishedPort(80, mode="host"), host_network=True))
    room.settle()
    assert [task.ports[0].published for task in room.running(web)] == [80]
    assert errors_of(room, web) == {"no suitable node (host-mode port already in use on 1 node)"}


def test_the_emptier_node_comes_first() -> None:
    room = ControlRoom(nodes=1)
    room.service(spec(5))
    room.settle()
    room.join("late")
    two = room.service(spec(1, name="two"))
    room.settle()
    assert spread_of(room, two) == [0, 1]


@pytest.mark.parametrize(
    ("wanted", "running", "error"),
    [
        (spec(3, memory=5 * GIB), 2, "no suitable node (insufficient resources on 2 nodes)"),
        (spec(3, host_port=8080), 2, "no suitable node (host-mode port already in use on 2 nodes)"),
        (
            spec(5, Placement(max_replicas=2)),
            4,
            "no suitable node (max replicas per node limit exceed)",
        ),
        (
            spec(1, Placement(constraints=("node.role==manager",))),
            0,
            "no suitable node (scheduling constraints not satisfied on 2 nodes)",
        ),
        (
            spec(1, Placement(platforms=(("arm64", "linux"),))),
            0,
            "no suitable node (unsupported platform on 2 nodes)",
        ),
        (spec(3, Placement(platforms=(("amd64", "linux"),))), 3, None),
    ],
)
def test_filters_explain_themselves(wanted: ServiceSpec, running: int, error: str | None) -> None:
    room = ControlRoom(nodes=2)
    service = room.service(wanted)
    room.settle()
    assert len(room.running(service)) == running
    assert errors_of(room, service) == ({error} if error else set())
    assert room.decide("scheduler").changes == ()


@pytest.mark.parametrize(
    ("reserved", "running"),
    [
        (Resources(), 9), (Resources(1), 9), (Resources(4 * CPU), 1), (Resources(4 * CPU + 1), 0), (Resources(2 * CPU), 2),
        (Resources(0, 8 * GIB), 1), (Resources(0, 8 * GIB + 1), 0), (Resources(0, 4 * GIB), 2),
        (Resources(CPU, 8 * GIB), 1), (Resources(4 * CPU, GIB), 1), (Resources(4 * CPU, 8 * GIB), 1), (Resources(5 * CPU, GIB), 0),
    ],
)  # fmt: skip
def test_as_many_run_as_their_reservations_have_room_for(reserved: Resources, running: int) -> None:
    """On a node of 4 processors and 8 GiB, to the last of both."""
    room = ControlRoom(nodes=1)
    wanted = spec(9)
    id = room.service(
        msgspec.structs.replace(
            wanted, task=msgspec.structs.replace(wanted.task, reservations=reserved)
        )
    )
    room.settle()
    assert len(room.running(id)) == running
    unreserved = room.service(spec(1, name="unreserved"))
    room.settle()
    assert len(room.running(unreserved)) == 1, "who reserves nothing needs no room"


def test_clauses_are_joined_most_first() -> None:
    room = ControlRoom(nodes=3)
    room.set_node("node3", availability="pause")
    service = room.service(spec(1, Placement(constraints=("node.hostname == elsewhere",))))
    room.settle()
    assert errors_of(room, service) == {
        "no suitable node (scheduling constraints not satisfied on 2 nodes; 1 node not available"
        " for new tasks)"
    }


def test_a_task_that_waits_is_placed_when_a_node_comes() -> None:
    room = ControlRoom()
    service = room.service(spec(2))
    room.settle()
    assert errors_of(room, service) == {"no suitable node"}
    room.join("node1")
    room.settle()
    assert spread_of(room, service) == [2]


def test_tasks_of_a_global_service_wait_for_their_own_node() -> None:
    room = ControlRoom(nodes=2)
    room.service(spec(2, host_port=80))
    room.settle()
    service = room.service(spec(None, host_port=80, name="everywhere"))
    room.settle()
    assert errors_of(room, service) == {
        "no suitable node (host-mode port already in use on 1 node)"
    }
    room.remove(room.state.named("service", "web"))  # type: ignore[arg-type]
    room.settle()
    assert spread_of(room, service) == [1, 1]


def test_spread_preferences_balance_branches_before_nodes() -> None:
    room = ControlRoom()
    for name, zone in (("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b")):
        room.join(name, labels={"zone": zone})
    service = room.service(spec(6, Placement(spread=("node.labels.zone",))))
    room.settle()
    assert spread_of(room, service) == [3, 1, 1, 1]


def test_a_node_where_a_service_keeps_failing_is_left_to_the_end() -> None:
    room = ControlRoom(nodes=2)
    service = room.service(spec(1))
    room.settle()
    room.set_node("node2", availability="drain")
    for _ in range(5):
        room.settle()
        room.report(room.running(service)[0], TaskState.FAILED)
    room.set_node("node2", availability="active")
    room.service(spec(1, name="other"))
    room.settle()
    assert spread_of(room, service) == [0, 1]


NODE = Node(
    id=NodeId("abc"),
    spec=NodeSpec(role="manager", labels={"zone": "East"}),
    description=NodeDescription(hostname="Host", engine_labels={"disk": "ssd"}),
    status=NodeStatus(NodeState.READY, address="192.0.2.7"),
)


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("node.id == ABC", True),
        ("node.hostname!=host", False),
        ("NODE.ROLE==manager", True),
        ("node.ip == 192.0.2.0/24", True),
        ("node.ip != 192.0.2.7", False),
        ("node.platform.arch == amd64", True),
        ("node.platform.os == windows", False),
        ("node.labels.zone == east", True),
        ("node.labels.Zone == east", False),
        ("node.labels.none != x", True),
        ("engine.labels.disk==ssd", True),
        ("nonsense == x", False),
    ],
)
def test_constraints(expression: str, holds: bool) -> None:
    assert satisfied(parse([expression]), NODE) is holds


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("node.role", "constraint expected one operator from ==, !="),
        ("1x==y", "key '1x' is invalid"),
        ("node.role==", "value '' is invalid"),
        ("node.role==a=b", "value 'a=b' is invalid"),
    ],
)
def test_constraints_that_cannot_be_read(expression: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse([expression])
    assert str(raised.value) == text


def test_many_tasks_on_many_nodes_are_placed_in_one_decision() -> None:
    room = ControlRoom(nodes=300)
    service = room.service(spec(900))
    room.run("orchestrator"), room.run("allocator"), room.run("scheduler")
    nodes = [t.node for t in room.state.tasks_of(service).values()]
    assert {nodes.count(node) for node in room.state.nodes} == {3}


def test_a_node_that_rejected_a_task_is_tried_after_the_others() -> None:
    """It may have a program of its own at the port. It stays better than nothing."""
    room = ControlRoom(nodes=3)
    id = room.service(spec(1))
    room.settle()
    [first] = room.running(id)
    tried = [first.node]
    for _ in range(5):
        [task] = room.running(id)
        room.put(task.observed(msgspec.structs.replace(task.status, state=TaskState.REJECTED)))
        room.settle()
        tried.append(room.running(id)[0].node)
    assert set(tried[:3]) == set(room.state.nodes)
    assert len(tried) == 6, "it runs wherever a node takes it"


@pytest.mark.parametrize("replicas", [5, None])
def test_generic_resources_are_counted_given_by_name_and_given_back(replicas: int | None) -> None:
    room = ControlRoom()
    for node, has in (("one", ["GPU=a", "GPU=b", "GPU=c"]), ("two", ["GPU=2"]), ("none", [])):
        room.join(node, resources=Resources(generic=resources_from(has)))
    wanted = spec(replicas)
    reserved = Resources(generic=(GenericResource("GPU", 2),))
    task = msgspec.structs.replace(wanted.task, reservations=reserved)
    id = room.service(msgspec.structs.replace(wanted, task=task))
    room.settle()
    given = {t.node: [(r.name, r.amount) for r in t.generic] for t in room.running(id)}
    assert given == {"one": [("a", 1), ("b", 1)], "two": [("", 2)]}
    nodes = 3 if replicas else 1
    plural = "s" if replicas else ""
    assert errors_of(room, id) == {
        f"no suitable node (insufficient resources on {nodes} node{plural})"
    }
    first, second = room.running(id)
    for ended in (first, second):
        room.report(ended, TaskState.FAILED)
    room.settle()
    assert {t.node: [(r.name, r.amount) for r in t.generic] for t in room.running(id)} == given
    single = ServiceSpec(
        name="single",
        task=msgspec.structs.replace(
            task, reservations=Resources(generic=(GenericResource("GPU"),))
        ),
    )
    other = room.service(single)
    room.settle()
    assert [r.name for t in room.running(other) for r in t.generic] == ["c"]
