"""The dispatcher: what each node is told, that views kept up to date equal views made afresh, and
that differences add up."""

import msgspec

from tests.support.control_room import ControlRoom
from weft.control.assignments.assignment import assignment_for
from weft.control.assignments.differences import Memo, difference
from weft.control.assignments.views import network_views
from weft.model.addresses import MIN_UNDERLAY_MTU
from weft.model.assignment import Assignment, NetworkView
from weft.model.ids import NetworkId, NodeId
from weft.model.meta import SECOND
from weft.model.network import NetworkSpec
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.task import ContainerStatus, TaskState, TaskStatus

NODE1 = NodeId("node1")


def spec(
    network: NetworkId, replicas: int = 1, name: str = "web", publish: int = 0, mode: str = "vip"
) -> ServiceSpec:
    container = ContainerSpec(image="app", hostname="shop")
    task = TaskSpec(container=container, networks=(NetworkAttachmentSpec(network, ("alias",)),))
    ports = (PublishedPort(80, publish),) if publish else ()
    return ServiceSpec(name=name, replicas=replicas, task=task, endpoint=EndpointSpec(mode, ports))  # type: ignore[arg-type]


def views_of(room: ControlRoom) -> dict[NetworkId, NetworkView]:
    return network_views(room.state)


def test_a_node_gets_ingress_and_the_networks_of_its_tasks() -> None:
    room = ControlRoom(nodes=2)
    network = room.network(NetworkSpec(name="net"))
    service = room.service(spec(network))
    room.settle()
    views = views_of(room)
    task = room.running(service)[0]
    here = assignment_for(room.state, NodeId(task.node or ""), views)
    there = assignment_for(room.state, NodeId("node2" if task.node == "node1" else "node1"), views)
    ingress = room.state.ingress
    assert ingress is not None
    assert list(here.networks) == [ingress.id, network]
    assert list(there.networks) == [ingress.id]
    assert (list(here.tasks), list(there.tasks)) == ([task.id], [])
    assert here.networks[ingress.id] is there.networks[ingress.id]


def test_records_of_a_network() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    service = room.service(spec(network, publish=8080))
    room.settle()
    task = room.running(service)[0]
    container = ContainerStatus("0123456789abcdef")  # type: ignore[arg-type]
    room.put(
        msgspec.structs.replace(
            task, status=msgspec.structs.replace(task.status, container=container)
        )
    )
    views = views_of(room)
    record = views[network].endpoints[task.id]
    assert (record.name, record.aliases, record.serving, str(record.vtep)) == (
        task.name,
        ("0123456789ab", "shop"),
        True,
        "192.0.2.1",
    )
    virtual = views[network].services[service]
    assert (str(virtual.virtual_address), virtual.aliases, virtual.ports) == (
        "10.0.1.2",
        ("alias",),
        (),
    )
    assert room.state.ingress is not None
    mesh = views[room.state.ingress.id].services[service]
    assert (mesh.virtual_address, [p.published for p in mesh.ports]) == (None, [8080])
    leg = views[network].load_balancer(NODE1)
    assert leg is not None
    assert leg.task is None


def test_a_task_that_is_over_is_kept_without_addresses_as_long_as_its_record() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    service = room.service(spec(network))
    room.settle()
    task = room.running(service)[0]
    failed = msgspec.structs.replace(task, status=TaskStatus(TaskState.FAILED))
    room.put(failed)
    told = assignment_for(room.state, NODE1, views_of(room)).tasks[task.id]
    assert (told.attachments, told.desired) == ((), TaskState.SHUTDOWN)
    room.put(msgspec.structs.replace(room.state.tasks[task.id], desired=TaskState.REMOVE))
    assert task.id not in assignment_for(room.state, NODE1, views_of(room)).tasks


def test_a_task_told_to_stop_serves_no_longer_but_stays_until_it_is_over() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    service = room.service(spec(network, mode="dnsrr"))
    room.settle()
    task = room.running(service)[0]
    room.remove(room.state.services[service])
    room.run("orchestrator")
    views = views_of(room)
    assert not views[network].endpoints[task.id].serving
    assert views[network].services == {}
    told = assignment_for(room.state, NODE1, views)
    assert told.tasks[task.id].desired == TaskState.REMOVE
    room.run_agents()
    assert task.id not in views_of(room)[network].endpoints
    assert assignment_for(room.state, NODE1, views_of(room)).tasks == {}


def test_views_follow_the_events_and_differences_lead_from_one_assignment_to_the_next() -> None:
    room = ControlRoom(nodes=3)
    first, second = (
        room.network(NetworkSpec(name="first")),
        room.network(NetworkSpec(name="second")),
    )
    views: dict[NetworkId, NetworkView] = {}
    told: dict[NodeId, Assignment] = {}

    def follow() -> None:
        nonlocal views
        views = network_views(room.state, views, room.events)
        room.events.clear()
        assert views == network_views(room.state)
        memo = Memo()
        for node in room.state.nodes:
            new = assignment_for(room.state, node, views)
            change = difference(told.get(node), new, memo)
            after = told.get(node, Assignment(node=node)).after(change)
            assert after == new
            assert difference(new, new).is_empty
            told[node] = new

    def settle() -> None:
        for _ in range(30):
            for loop in ("orchestrator", "allocator", "scheduler"):
                room.run(loop)
                follow()
            room.run_agents()
            follow()

    one = room.service(spec(first, 4, "one", publish=8080))
    room.service(spec(second, 2, "two"))
    settle()
    node = room.state.nodes[NODE1]
    assert node.data_path_address is not None
    room.put(
        msgspec.structs.replace(
            node, data_path_address=node.data_path_address + 100, underlay_mtu=1400
        )
    )
    follow()
    room.put(
        msgspec.structs.replace(
            room.state.services[one], spec=spec(second, 3, "one"), spec_version=0
        )
    )
    settle()
    room.now += 10**10
    settle()
    room.remove(room.state.nodes[NODE1])
    settle()
    room.remove(room.state.services[one])
    settle()
    room.remove(room.state.networks[first])
    settle()
    assert first not in views


def test_what_a_task_was_started_with_is_known_until_it_is_gone() -> None:
    """An update, halfway through, that publishes another target and leaves one network for
    another."""
    room = ControlRoom(nodes=1)
    old, new = room.network(NetworkSpec(name="old")), room.network(NetworkSpec(name="new"))
    service = room.service(spec(old, 2, publish=8080))
    room.settle()
    assert room.state.ingress is not None
    ingress, address = room.state.ingress.id, views_of(room)[old].services[service].virtual_address
    wanted = spec(new, 2)
    task = msgspec.structs.replace(wanted.task, networks=(NetworkAttachmentSpec(new, ("other",)),))
    ports = EndpointSpec("vip", (PublishedPort(81, 8080), PublishedPort(82, 9090)))
    wanted = msgspec.structs.replace(
        wanted, task=task, endpoint=ports, update=UpdateConfig(delay=3600 * SECOND)
    )
    room.put(msgspec.structs.replace(room.state.services[service], spec=wanted, spec_version=0))
    room.settle(patience=600 * SECOND)
    kept, replaced = sorted(room.running(service), key=lambda t: t.spec_version)
    views = views_of(room)
    mesh, left, entered = (views[id].services[service] for id in (ingress, old, new))
    assert mesh.ports == replaced.ports == ports.ports
    assert mesh.former == {kept.spec_version: kept.ports}
    assert {e.version for e in views[ingress].endpoints.values() if e.task == kept.id} == {
        kept.spec_version
    }
    assert (left.virtual_address, left.aliases) == (address, ("alias",))
    assert entered.aliases == ("other",)
    room.now += 3600 * SECOND
    room.settle()
    views = views_of(room)
    assert views[ingress].services[service].former == {}
    assert service not in views[old].services
    assert [a.network for a in room.state.services[service].endpoint.addresses] == [ingress, new]


def test_an_alias_that_an_update_takes_away_is_known_while_a_task_has_it() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    service = room.service(spec(network, 2))
    room.settle()
    wanted = spec(network, 2)
    task = msgspec.structs.replace(
        wanted.task, networks=(NetworkAttachmentSpec(network, ("other",)),)
    )
    wanted = msgspec.structs.replace(wanted, task=task, update=UpdateConfig(delay=3600 * SECOND))
    room.put(msgspec.structs.replace(room.state.services[service], spec=wanted, spec_version=0))
    room.settle(patience=600 * SECOND)
    assert views_of(room)[network].services[service].aliases == ("other", "alias")
    room.now += 3600 * SECOND
    room.settle()
    assert views_of(room)[network].services[service].aliases == ("other",)


def test_networks_know_the_smallest_mtu_of_all_hosts() -> None:
    room = ControlRoom(nodes=3)
    network = room.network(NetworkSpec(name="net"))
    room.settle()
    assert room.state.ingress is not None

    def agreed() -> set[int]:
        return {view.definition.underlay_mtu for view in views_of(room).values()}

    def tells(node: str, mtu: int) -> None:
        room.put(msgspec.structs.replace(room.state.nodes[NodeId(node)], underlay_mtu=mtu))

    assert (set(views_of(room)), agreed()) == ({network, room.state.ingress.id}, {0})
    tells("node1", 1500)
    tells("node2", 1400)
    assert agreed() == {1400}
    room.set_node("node2", NodeState.DOWN)
    assert agreed() == {1400}, "it may come back at any time"
    tells("node3", 68)
    assert agreed() == {MIN_UNDERLAY_MTU}
    room.remove(room.state.nodes[NodeId("node2")])
    room.remove(room.state.nodes[NodeId("node3")])
    assert agreed() == {1500}


def test_networks_that_nothing_happened_to_stay_the_same_object() -> None:
    room = ControlRoom(nodes=1)
    quiet, busy = room.network(NetworkSpec(name="quiet")), room.network(NetworkSpec(name="busy"))
    room.service(spec(quiet, name="quiet"))
    service = room.service(spec(busy, name="busy"))
    room.settle()
    views = views_of(room)
    room.events.clear()
    room.report(room.running(service)[0], TaskState.FAILED)
    after = network_views(room.state, views, room.events)
    assert after[quiet] is views[quiet]
    assert after[busy] is not views[busy]
    assert after[busy].services is views[busy].services
