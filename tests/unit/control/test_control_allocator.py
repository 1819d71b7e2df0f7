"""The allocator: what is handed out, what is refused and in which words, and what becomes free
again."""

from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.allocator import allocator, ports, subnets, vnis
from weft.errors import Conflict, Exhausted
from weft.model.addresses import FIRST_VNI, LAST_VNI
from weft.model.ids import NetworkId, NodeId
from weft.model.network import Network, NetworkSpec, Pool
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
)
from weft.model.task import TaskState


def spec(
    name: str,
    *networks: NetworkId,
    replicas: int = 1,
    mode: str = "vip",
    publish: tuple[PublishedPort, ...] = (),
) -> ServiceSpec:
    attachments = tuple(NetworkAttachmentSpec(network) for network in networks)
    endpoint = EndpointSpec(mode, publish)  # type: ignore[arg-type]
    return ServiceSpec(
        name=name,
        replicas=replicas,
        task=TaskSpec(container=ContainerSpec(image="app"), networks=attachments),
        endpoint=endpoint,
    )


def pool(subnet: str, **more: object) -> Pool:
    return Pool(IPv4Network(subnet), **more)  # type: ignore[arg-type]


def test_a_fresh_swarm_gets_the_numbers_that_an_operator_knows() -> None:
    room = ControlRoom(nodes=1)
    room.settle()
    network = room.network(NetworkSpec(name="net"))
    service = room.service(spec("web", network, replicas=2, publish=(PublishedPort(80, 8080),)))
    room.settle()
    ingress = room.state.ingress
    assert ingress is not None
    assert [(str(s.subnet), str(s.gateway), s.vni) for s in ingress.segments] == [
        ("10.0.0.0/24", "10.0.0.1", 4096)
    ]
    assert [(str(s.subnet), s.vni) for s in room.state.networks[network].segments] == [
        ("10.0.1.0/24", 4097)
    ]
    assert [str(a.address) for a in room.state.nodes[NodeId("node1")].attachments] == [
        "10.0.0.2/24",
        "10.0.1.5/24",
    ]
    assert [str(a.address) for a in room.state.services[service].endpoint.addresses] == [
        "10.0.0.3/24",
        "10.0.1.2/24",
    ]
    tasks = [[str(a.address) for a in task.attachments] for task in room.running(service)]
    assert tasks == [["10.0.0.4/24", "10.0.1.3/24"], ["10.0.0.5/24", "10.0.1.4/24"]]


def test_an_address_given_back_rests_until_the_search_comes_round() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    first = room.service(spec("one", network, mode="dnsrr"))
    room.settle()
    before = room.running(first)[0].attachments[0].address
    room.remove(room.state.services[first])
    room.settle()
    assert not room.state.tasks
    second = room.service(spec("two", network, mode="dnsrr"))
    room.settle()
    assert room.running(second)[0].attachments[0].address > before


def test_a_small_network_is_used_to_the_last_address_and_says_so_in_the_task() -> None:
    room = ControlRoom(nodes=1)
    small = NetworkSpec(
        name="small", pools=(pool("10.9.0.0/29", reserved={"router": IPv4Address("10.9.0.6")}),)
    )
    network = room.network(small)
    service = room.service(spec("web", network, replicas=6, mode="dnsrr"))
    room.run("orchestrator")
    room.run("allocator")
    waiting = [t for t in room.state.tasks_of(service).values() if t.state == TaskState.NEW]
    taken = sorted(
        str(t.attachments[0].address.ip)
        for t in room.state.tasks_of(service).values()
        if t.attachments
    )
    assert taken == ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5"]
    assert {t.status.err for t in waiting} == {
        "no available addresses on network small (10.9.0.0/29)"
    }
    assert {t.status.message for t in waiting} == {"pending task scheduling"}
    assert room.decide("allocator").changes == ()
    room.put(
        msgspec.structs.replace(
            room.state.services[service],
            spec=spec("web", network, replicas=0, mode="dnsrr"),
            spec_version=0,
        )
    )
    room.settle()
    assert not room.state.usage.addresses(network)


def test_several_pools_are_segments_with_a_vni_each_and_are_used_in_turn() -> None:
    room = ControlRoom(nodes=1)
    pools = (
        pool("10.9.0.0/29"),
        pool(
            "10.9.1.0/24", gateway=IPv4Address("10.9.1.254"), ip_range=IPv4Network("10.9.1.64/26")
        ),
    )
    network = room.network(NetworkSpec(name="net", pools=pools, vnis=(5000, 5001)))
    service = room.service(spec("web", network, replicas=7, mode="dnsrr"))
    room.settle()
    segments = room.state.networks[network].segments
    assert [(str(s.gateway), s.vni) for s in segments] == [("10.9.0.1", 5000), ("10.9.1.254", 5001)]
    addresses = [str(t.attachments[0].address) for t in room.running(service)]
    assert addresses[:5] == [f"10.9.0.{n}/29" for n in range(2, 7)]
    assert addresses[5:] == ["10.9.1.64/24", "10.9.1.65/24"]


def test_overlaps_are_refused_and_automatic_subnets_avoid_networks_and_routes() -> None:
    room = ControlRoom()
    room.network(NetworkSpec(name="wide", pools=(pool("10.0.1.0/24"), pool("10.1.0.0/16"))))
    room.network(NetworkSpec(name="narrow", pools=(pool("10.1.0.0/24"),)))
    automatic = room.network(NetworkSpec(name="automatic"))
    room.commit(
        allocator.reconcile(
            room.state, room.now, [IPv4Network("0.0.0.0/0"), IPv4Network("10.0.2.0/23")]
        ).changes
    )
    narrow = room.state.named("network", "narrow")
    assert isinstance(narrow, Network)
    assert (
        narrow.error
        == "cannot create network narrow: subnet 10.1.0.0/24 overlaps network wide (10.1.0.0/16)"
    )
    assert str(room.state.networks[automatic].segments[0].subnet) == "10.0.4.0/24"
    asked = [IPv4Network("10.2.0.0/24")]
    assert subnets.overlapping(room.state, asked) is None
    assert subnets.overlapping(room.state, [IPv4Network("10.1.2.0/24")], "x") == (
        "cannot create network x: subnet 10.1.2.0/24 overlaps network wide (10.1.0.0/16)"
    )


@pytest.mark.parametrize("subnet", ["172.18.0.0/16", "172.18.77.0/24", "172.16.0.0/12"])
def test_no_network_has_addresses_of_the_hosts_gateway_bridge(subnet: str) -> None:
    """Every container has an interface there too. Whether the hosts have joined yet does not
    matter."""
    room = ControlRoom()
    cause = subnets.overlapping(room.state, [IPv4Network(subnet)], "x")
    expected = f"subnet {subnet} overlaps docker_gwbridge of the hosts (172.18.0.0/16)"
    assert cause == f"cannot create network x: {expected}"


def test_an_automatic_subnet_is_not_that_of_the_hosts_gateway_bridge() -> None:
    room = ControlRoom()
    cluster = room.state.cluster
    assert cluster is not None
    wide = (IPv4Network("172.16.0.0/12"),)
    room.put(msgspec.structs.replace(cluster, default_pool=wide, subnet_size=16))
    ids = [room.network(NetworkSpec(name=f"n{number}")) for number in range(3)]
    room.settle()
    chosen = [str(room.state.networks[id].segments[0].subnet) for id in ids]
    assert chosen == ["172.17.0.0/16", "172.19.0.0/16", "172.20.0.0/16"], "ingress has the first"


def test_the_pool_can_be_used_up() -> None:
    taken = [IPv4Network("10.0.0.0/25"), IPv4Network("10.0.0.192/26")]
    assert subnets.choose([IPv4Network("10.0.0.0/24")], 26, taken) == IPv4Network("10.0.0.128/26")
    with pytest.raises(Exhausted):
        subnets.choose([IPv4Network("10.0.0.0/24")], 25, taken)


def test_vnis_are_next_fit_and_one_asked_for_is_had_or_refused() -> None:
    assert vnis.choose(4096, {4096, 4097}) == 4098
    assert vnis.choose(LAST_VNI, {LAST_VNI}) == FIRST_VNI
    with pytest.raises(Conflict, match="could not assign vxlan id 7 to pool 10.0.1.0/24"):
        vnis.request(7, IPv4Network("10.0.1.0/24"), {7})


def test_a_vni_is_not_used_again_at_once() -> None:
    room = ControlRoom()
    room.settle()
    first = room.network(NetworkSpec(name="first"))
    room.settle()
    room.remove(room.state.networks[first])
    second = room.network(NetworkSpec(name="second"))
    room.settle()
    assert room.state.networks[second].segments[0].vni == 4098


def test_a_published_port_has_one_owner() -> None:
    room = ControlRoom(nodes=1)
    one = room.service(spec("x", publish=(PublishedPort(80, 8080),)))
    room.settle()
    two = room.service(spec("y", publish=(PublishedPort(80, 8080),)))
    room.settle()
    text = f"port '8080' is already in use by service 'x' ({one}) as an ingress port"
    assert room.state.services[two].error == text
    assert [t.status.err for t in room.state.tasks_of(two).values()] == [text]
    assert room.decide("allocator").changes == ()
    asked = room.state.services[two].spec.endpoint
    assert ports.conflict(room.state, two, asked) == text
    assert ports.conflict(room.state, one, room.state.services[one].spec.endpoint) is not None
    room.remove(room.state.services[one])
    room.settle()
    assert len(room.running(two)) == 1
    assert room.state.services[two].error == ""
    assert ports.conflict(room.state, two, asked) is None


def test_a_service_that_does_without_virtual_addresses_gives_up_those_it_had_at_once() -> None:
    """Also while tasks of the earlier version are on the network: names lead to the tasks
    themselves now."""
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    id = room.service(spec("web", network))
    room.settle()
    assert [address.network for address in room.state.services[id].endpoint.addresses] == [network]
    room.put(
        msgspec.structs.replace(
            room.state.services[id], spec=spec("web", network, mode="dnsrr"), spec_version=0
        )
    )
    room.run("allocator")
    assert len(room.running(id)) == 1
    assert room.state.services[id].endpoint.addresses == ()


def test_host_mode_ports_may_be_shared_but_not_with_the_mesh() -> None:
    room = ControlRoom(nodes=1)
    host = EndpointSpec("vip", (PublishedPort(80, 8080, mode="host"),))
    id = room.service(spec("x", publish=host.ports))
    room.settle()
    assert ports.conflict(room.state, None, host) is None
    mesh = EndpointSpec("vip", (PublishedPort(80, 8080),))
    assert (
        ports.conflict(room.state, None, mesh)
        == f"port '8080' is already in use by service 'x' ({id}) as a host-published port"
    )
    assert (
        ports.conflict(room.state, None, EndpointSpec("vip", (PublishedPort(80, 8080, "udp"),)))
        is None
    )


def test_dynamic_ports_are_next_fit_and_stay_on_update() -> None:
    room = ControlRoom(nodes=1)
    wanted = (PublishedPort(80), PublishedPort(81), PublishedPort(80, protocol="udp"))
    one = room.service(spec("x", publish=wanted))
    two = room.service(spec("y", publish=(PublishedPort(80),)))
    room.settle()
    assert [p.published for p in room.state.services[one].endpoint.ports] == [30000, 30001, 30002]
    assert [p.published for p in room.state.services[two].endpoint.ports] == [30003]
    assert [p.published for p in room.running(one)[0].ports] == [30000, 30001, 30002]
    changed = spec("x", publish=(PublishedPort(81), PublishedPort(82)))
    room.put(msgspec.structs.replace(room.state.services[one], spec=changed, spec_version=0))
    room.settle()
    assert [p.published for p in room.state.services[one].endpoint.ports] == [30001, 30004]


def test_a_service_that_publishes_without_an_ingress_network_says_so() -> None:
    room = ControlRoom(nodes=1)
    assert room.state.ingress is not None
    room.remove(room.state.ingress)
    id = room.service(spec("x", publish=(PublishedPort(80, 8080),)))
    room.settle()
    assert (
        room.state.services[id].error
        == "service needs ingress network, but no ingress network is present"
    )


def test_a_node_has_a_leg_on_a_network_while_a_task_is_there() -> None:
    room = ControlRoom(nodes=2)
    network = room.network(NetworkSpec(name="net"))
    id = room.service(spec("x", network))
    room.settle()
    legs = [len(node.attachments) for node in room.state.nodes.values()]
    assert sorted(legs) == [1, 2]
    room.remove(room.state.services[id])
    room.settle()
    assert [len(node.attachments) for node in room.state.nodes.values()] == [1, 1]
    assert not room.state.usage.addresses(network)


def test_a_lost_race_hands_out_nothing_twice() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="net"))
    room.settle()
    room.service(spec("x", network))
    room.run("orchestrator")
    mine, theirs = room.decide("allocator"), room.decide("allocator")
    room.commit(mine.changes)
    with pytest.raises(Exception, match="out of sequence"):
        room.commit(theirs.changes)


def test_the_search_comes_round_past_addresses_that_are_still_held() -> None:
    room = ControlRoom(nodes=1)
    network = room.network(NetworkSpec(name="small", pools=(pool("10.9.0.0/29"),)))
    stays = room.service(spec("stays", network, mode="dnsrr"))
    room.settle()
    held = room.running(stays)[0].attachments[0].address
    for number in range(8):
        id = room.service(spec(f"short{number}", network, mode="dnsrr"))
        room.settle()
        assert room.running(id)[0].attachments[0].address not in {
            held,
            room.state.nodes[NodeId("node1")].attachments[1].address,
        }
        room.remove(room.state.services[id])
        room.settle()


def test_one_port_at_different_addresses_of_hosts_has_several_owners() -> None:
    room = ControlRoom(nodes=1)
    one, two = (
        PublishedPort(80, 8080, host_address=IPv4Address(a)) for a in ("192.0.2.1", "192.0.2.2")
    )
    everywhere = PublishedPort(80, 8080)
    first = room.service(spec("first", publish=(one,)))
    second = room.service(spec("second", publish=(two,)))
    room.settle()
    assert room.state.services[second].endpoint.ports == (two,)
    for port, owner in ((one, "first"), (two, "second"), (everywhere, "first")):
        cause = ports.conflict(room.state, None, EndpointSpec("vip", (port,)))
        assert f"port '8080' is already in use by service '{owner}'" in str(cause)
    third = PublishedPort(80, 8080, host_address=IPv4Address("192.0.2.3"))
    assert ports.conflict(room.state, None, EndpointSpec("vip", (third,))) is None
    clash = room.service(spec("clash", publish=(everywhere,)))
    room.settle()
    assert "is already in use by service" in room.state.services[clash].error
    for id in (first, second):
        room.remove(room.state.services[id])
    room.settle()
    assert room.state.services[clash].endpoint.ports == (everywhere,)
