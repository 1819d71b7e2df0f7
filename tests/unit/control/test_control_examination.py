"""What is wrong with a swarm by its state; and what is not, while it only changes."""

from ipaddress import IPv4Network

import msgspec

from tests.support.control_room import ControlRoom
from weft.control.examination import LATELY, RECENT, WAITING, examine
from weft.control.pools import subnets_left
from weft.model.finding import Finding
from weft.model.ids import NetworkId, NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.network import Network, NetworkSpec, Pool
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    NetworkAttachmentSpec,
    Placement,
    ServiceSpec,
    TaskSpec,
)
from weft.model.state import cluster_of
from weft.model.task import TaskState


def found(room: ControlRoom, *present: str) -> list[Finding]:
    return list(
        examine(room.state, LeadershipStatus(present=frozenset(map(NodeId, present))), room.now)
    )


def spec(name: str = "web", replicas: int = 2, **task: object) -> ServiceSpec:
    container = ContainerSpec(image=name)
    return ServiceSpec(
        name=name,
        replicas=replicas,
        task=msgspec.structs.replace(TaskSpec(container=container), **task),
    )


def test_nothing_is_wrong_while_services_begin_run_and_grow() -> None:
    room = ControlRoom(nodes=3)
    service = room.service(spec())
    assert found(room) == []
    room.settle()
    assert found(room) == []
    assert found(room) == []
    assert len(room.running(service)) == 2


def test_nodes_that_are_gone_and_managers_that_are_not_heard_of() -> None:
    room = ControlRoom(nodes=2)
    room.join("node9", role="manager")
    node = room.state.nodes[NodeId("node9")]
    room.put(msgspec.structs.replace(node, manager_address="192.0.2.9:2377"))
    assert found(room, "node9") == []
    [silent] = found(room)
    assert str(silent).startswith("error node9 manager: the other managers do not hear of it")
    room.set_node("node1", NodeState.DOWN)
    room.set_node("node2", NodeState.DISCONNECTED)
    assert [(f.node, f.cause) for f in found(room, "node9")] == [
        ("node1", "it is down"),
        ("node2", "it is disconnected"),
    ]


def test_a_task_without_a_place_is_told_once_it_has_waited() -> None:
    room = ControlRoom(nodes=1)
    room.service(spec(placement=Placement(constraints=("node.labels.gpu==yes",))))
    room.settle()
    assert found(room) == []
    room.now += WAITING
    [waits] = found(room)
    assert waits.what == "service web"
    assert "a task waits for a node: no suitable node" in waits.cause


def fail(room: ControlRoom, name: str) -> None:
    """The running tasks of the service end with an error."""
    for task in list(room.state.tasks.values()):
        if task.service_name == name and task.state is TaskState.RUNNING:
            status = msgspec.structs.replace(
                task.status,
                state=TaskState.FAILED,
                timestamp=room.now,
                err="task: non-zero exit (3)",
            )
            room.put(task.observed(status))


def test_tasks_that_fail_are_told_with_their_error() -> None:
    room = ControlRoom(nodes=1)
    room.service(spec(replicas=1))
    room.settle()
    fail(room, "web")
    [fails] = found(room)
    assert (fails.node, fails.cause) == ("node1", "its tasks fail: task: non-zero exit (3)")
    room.settle()
    assert found(room) == [], "it runs again"
    for _ in range(3):
        fail(room, "web")
        room.settle()
    assert [f.what for f in found(room)] == ["service web"], "again and again"
    room.now += LATELY
    assert found(room) == []
    fail(room, "web")
    room.now += RECENT
    assert found(room) == [], "long ago"


def test_networks_whose_addresses_run_out() -> None:
    room = ControlRoom(nodes=1)
    pool = Pool(subnet=IPv4Network("10.9.0.0/28"))
    network = room.network(NetworkSpec(name="small", pools=(pool,)))
    room.settle()
    service = room.service(spec(replicas=9, networks=(NetworkAttachmentSpec(network),)))
    room.settle()
    assert found(room) == []
    room.update(service, msgspec.structs.replace(room.state.services[service].spec, replicas=11))
    room.settle()
    [full] = found(room)
    assert full.what == "network small"
    assert "13 of its 13 addresses are in use" in full.cause


def test_a_default_pool_from_which_little_is_left() -> None:
    room = ControlRoom(nodes=1)
    room.settle()
    small = (IPv4Network("10.7.0.0/22"),)
    cluster = cluster_of(room.state)
    room.put(msgspec.structs.replace(cluster, default_pool=small, subnet_size=25))
    assert found(room) == [], "8 subnets"
    for number in range(8):
        room.network(NetworkSpec(name=f"n{number}"))
        room.settle()
        expected = (
            [] if number < 3 else [f"{7 - number} of 8 subnets of size /25 are left in {small[0]}"]
        )
        assert [each.cause for each in found(room)] == expected
    assert [each.severity for each in found(room)] == ["error"]


def test_every_network_takes_of_the_pool_what_it_overlaps() -> None:
    def left(*subnets: str) -> tuple[int, int]:
        pools = [IPv4Network("10.0.0.0/16"), IPv4Network("172.18.0.0/15")]
        made = [
            Network(
                id=NetworkId(text), spec=NetworkSpec(name=text, pools=(Pool(IPv4Network(text)),))
            )
            for text in subnets
        ]
        return subnets_left(pools, 24, made)

    assert left() == (256 + 256, 256 + 512), "the hosts' bridge has half of the second"
    assert left("10.0.0.0/24", "10.0.1.0/25", "10.0.1.128/25", "10.0.4.0/22")[0] == 512 - 6
    assert left("10.0.0.0/8")[0] == 256
    assert left("192.168.0.0/16")[0] == 512
