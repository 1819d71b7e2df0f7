"""One packet, hop by hop, from a client to a container and back: the data path as it can be read.
Begin here.

The hosts are kernels in memory that were brought to what the plan says; each line is what one of
them did with the packet, and the packet as it was after that. `ingress.py`, `loadbalancer.py`,
`overlay.py`, `sandbox.py`, `reply.py` and `gateway.py` of `weft.network` are the hops, in that
order. A look-up of a name is not shown: it ends in the resolver of the container's own host.
"""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Literal

import msgspec
import pytest

from tests.support.swarms import Swarm
from tests.walk.conftest import CLIENT, Cluster, arrived, only_task, text
from tests.walk.damage import NEIGHBOUR, SABOTAGE, forget, planned_on_node1
from weft.linux.fake_underlay import Place
from weft.model.encryption import DataKey
from weft.model.service import PublishedPort
from weft.model.trace import ANY, Packet
from weft.network import operations as op
from weft.network.kernel_state import HOST, Route

WEB, DNS, DEAD, DIRECT = 8080, 9001, 8081, 9090


@pytest.fixture
def cluster() -> Cluster:
    """Three hosts; `web` on the second publishes 8080 and 9001/udp, `app` on the third is on the
    same network."""
    swarm = Swarm(3)
    net = swarm.network("mynet", "10.10.10.0/24")
    ports = [
        PublishedPort(target=80, published=WEB),
        PublishedPort(target=53, published=DNS, protocol="udp"),
    ]
    swarm.service("web", net, ports=ports, on=[2])
    swarm.service("app", net, on=[3])
    return Cluster(swarm)


# --- the three ways to be read


def test_a_client_asks_a_host_that_runs_no_task(cluster: Cluster) -> None:
    """The mesh: the client asks the first host, the container is on the second. It sees the
    client's own address."""
    request = cluster.from_outside("node1", WEB)
    assert cluster.told(request) == text("""
        outside:            sends:                                          tcp 192.0.2.7:40000 > 10.59.72.11:8080
        node1 host:         in by ens160:                                   tcp 192.0.2.7:40000 > 10.59.72.11:8080
        node1 host:         mesh-mark-in: mark 0x20000:                     tcp 192.0.2.7:40000 > 10.59.72.11:8080
        node1 host:         mesh-tcp-8080: dnat 10.0.0.6:80:                tcp 192.0.2.7:40000 > 10.59.72.11:8080
        node1 host:         out by ing0 to 10.0.0.6, table 5917:            tcp 192.0.2.7:40000 > 10.0.0.6:80
        node1 1-ingress000: br0: veth-host to vxlan0, host 10.59.72.12:     tcp 192.0.2.7:40000 > 10.0.0.6:80
        node1 host:         sends:                                          udp 10.59.72.11:49152 > 10.59.72.12:4789
        node1 host:         out by ens160 to 10.59.72.12:                   udp 10.59.72.11:49152 > 10.59.72.12:4789
        node2 host:         in by ens160:                                   udp 10.59.72.11:49152 > 10.59.72.12:4789
        node2 1-ingress000: in by vxlan0, VNI 4096:                         tcp 192.0.2.7:40000 > 10.0.0.6:80
        node2 1-ingress000: br0: vxlan0 to veth1:                           tcp 192.0.2.7:40000 > 10.0.0.6:80
        node2 web1:         in by eth0:                                     tcp 192.0.2.7:40000 > 10.0.0.6:80
        node2 web1:         mesh-mark-in: mark 0x1000002:                   tcp 192.0.2.7:40000 > 10.0.0.6:80
        node2 web1:         arrives:                                        tcp 192.0.2.7:40000 > 10.0.0.6:80
    """)
    assert request.end == "delivered"
    assert arrived(request).source == CLIENT

    answer = cluster.underlay.answer(request)
    assert cluster.told(answer) == text("""
        node2 web1:         sends:                                          tcp 10.0.0.6:80 > 192.0.2.7:40000
        node2 web1:         out by eth0 to 169.254.1.1, table 100:          tcp 10.0.0.6:80 > 192.0.2.7:40000
        node2 web1:         mesh-egress: frame to 02:43:0a:00:00:02:        tcp 10.0.0.6:80 > 192.0.2.7:40000
        node2 1-ingress000: br0: veth1 to vxlan0, host 10.59.72.11:         tcp 10.0.0.6:80 > 192.0.2.7:40000
        node2 host:         sends:                                          udp 10.59.72.12:49152 > 10.59.72.11:4789
        node2 host:         out by ens160 to 10.59.72.11:                   udp 10.59.72.12:49152 > 10.59.72.11:4789
        node1 host:         in by ens160:                                   udp 10.59.72.12:49152 > 10.59.72.11:4789
        node1 1-ingress000: in by vxlan0, VNI 4096:                         tcp 10.0.0.6:80 > 192.0.2.7:40000
        node1 1-ingress000: br0: vxlan0 to veth-host:                       tcp 10.0.0.6:80 > 192.0.2.7:40000
        node1 host:         in by ing0:                                     tcp 10.0.0.6:80 > 192.0.2.7:40000
        node1 host:         mesh-mark-in: mark 0x30000:                     tcp 10.0.0.6:80 > 192.0.2.7:40000
        node1 host:         answer of a translated connection: its source back: tcp 10.59.72.11:8080 > 192.0.2.7:40000
        node1 host:         out by ens160 to 10.59.72.254:                  tcp 10.59.72.11:8080 > 192.0.2.7:40000
        outside:            arrives:                                        tcp 10.59.72.11:8080 > 192.0.2.7:40000
    """)
    assert answer.end == "left"


def test_a_container_calls_a_service_by_its_virtual_address(cluster: Cluster) -> None:
    """The choice of a task is made in the caller's own namespace; after that it is a packet from
    container to container."""
    request = cluster.from_task(only_task(cluster, "app"), "10.10.10.5", 80)
    assert cluster.told(request) == text("""
        node3 app1:         sends:                                          tcp 0.0.0.0:40000 > 10.10.10.5:80
        node3 app1:         vip-10.10.10.5: dnat 10.10.10.6:                tcp 10.10.10.8:40000 > 10.10.10.5:80
        node3 app1:         out by eth0 to 10.10.10.6:                      tcp 10.10.10.8:40000 > 10.10.10.6:80
        node3 1-mynet00000: br0: veth1 to vxlan0, host 10.59.72.12:         tcp 10.10.10.8:40000 > 10.10.10.6:80
        node3 host:         sends:                                          udp 10.59.72.13:49152 > 10.59.72.12:4789
        node3 host:         out by ens160 to 10.59.72.12:                   udp 10.59.72.13:49152 > 10.59.72.12:4789
        node2 host:         in by ens160:                                   udp 10.59.72.13:49152 > 10.59.72.12:4789
        node2 1-mynet00000: in by vxlan0, VNI 4097:                         tcp 10.10.10.8:40000 > 10.10.10.6:80
        node2 1-mynet00000: br0: vxlan0 to veth1:                           tcp 10.10.10.8:40000 > 10.10.10.6:80
        node2 web1:         in by eth1:                                     tcp 10.10.10.8:40000 > 10.10.10.6:80
        node2 web1:         arrives:                                        tcp 10.10.10.8:40000 > 10.10.10.6:80
    """)
    answer = cluster.underlay.answer(request)
    assert answer.did("its source back")
    assert str(answer.packet) == "tcp 10.10.10.5:80 > 10.10.10.8:40000"


def test_a_container_asks_the_outside(cluster: Cluster) -> None:
    """By docker_gwbridge, with the host's address."""
    request = cluster.from_task(only_task(cluster, "app"), "198.51.100.9", 443)
    assert cluster.told(request) == text("""
        node3 app1: sends:                                      tcp 0.0.0.0:40000 > 198.51.100.9:443
        node3 app1: out by eth1 to 172.18.0.1:                  tcp 172.18.0.3:40000 > 198.51.100.9:443
        node3 host: in by docker_gwbridge:                      tcp 172.18.0.3:40000 > 198.51.100.9:443
        node3 host: gateway-nat-post: masquerade:               tcp 172.18.0.3:40000 > 198.51.100.9:443
        node3 host: out by ens160 to 10.59.72.254:              tcp 10.59.72.13:40000 > 198.51.100.9:443
        outside:    arrives:                                    tcp 10.59.72.13:40000 > 198.51.100.9:443
    """)
    answer = cluster.underlay.answer(request)
    assert answer.place == cluster.place(only_task(cluster, "app"))
    assert str(answer.packet) == "tcp 198.51.100.9:443 > 172.18.0.3:40000"


# --- the mesh, from everywhere


@pytest.mark.parametrize("host", ["node1", "node2", "node3"])
@pytest.mark.parametrize(("protocol", "port"), [("tcp", WEB), ("udp", DNS)])
def test_every_host_answers_for_a_published_port(
    cluster: Cluster, host: str, protocol: str, port: int
) -> None:
    request = cluster.from_outside(host, port, protocol)
    assert cluster.task_at(request) == only_task(cluster, "web")
    assert arrived(request).source == CLIENT
    assert cluster.round_trip(request)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.59.72.11", "172.18.0.1", "10.59.72.12"])
@pytest.mark.parametrize(("protocol", "port"), [("tcp", WEB), ("udp", DNS)])
def test_a_process_of_a_host_asks(cluster: Cluster, address: str, protocol: str, port: int) -> None:
    request = cluster.from_host("node1", address, port, protocol)
    assert arrived(request).source == cluster.address("node1"), (
        "nothing that is not unique may leave the host"
    )
    assert cluster.round_trip(request)


@pytest.mark.parametrize("setting", ["0", "1", "2"])
def test_with_any_reverse_path_filter(cluster: Cluster, setting: str) -> None:
    for device in ("all", "ens160", "ing0", "docker_gwbridge"):
        cluster.kernel("node1").damage(
            op.SetSysctl(HOST, f"net.ipv4.conf.{device}.rp_filter", setting)
        )
    assert cluster.round_trip(cluster.from_outside("node1", WEB))
    assert cluster.round_trip(cluster.from_host("node1", "127.0.0.1", WEB))


def test_a_client_may_live_in_the_ingress_subnet(cluster: Cluster) -> None:
    assert cluster.round_trip(cluster.from_outside("node1", WEB, source=(NEIGHBOUR, 40000)))


def test_tasks_take_turns() -> None:
    swarm = Swarm(3)
    tasks = swarm.service("web", ports=[PublishedPort(target=80, published=WEB)], on=[1, 2, 3])
    cluster = Cluster(swarm)
    seen = [
        cluster.task_at(cluster.from_outside("node1", WEB, source=(CLIENT, 41000 + i)))
        for i in range(6)
    ]
    assert sorted(seen) == sorted(tasks * 2)
    again = [
        cluster.task_at(cluster.from_outside("node1", WEB, source=(CLIENT, 41000 + i)))
        for i in range(6)
    ]
    assert again == seen, "a connection stays with its task"


def test_one_client_port_by_three_hosts_at_once(cluster: Cluster) -> None:
    """All three connections meet at one task, with the same addresses and ports."""
    requests = [cluster.from_outside(host, WEB) for host in ("node1", "node2", "node3")]
    assert len({arrived(request).source_port for request in requests}) == 3
    for request, host in zip(requests, ("node1", "node2", "node3"), strict=True):
        answer = cluster.underlay.answer(request)
        assert answer.packet == Packet("tcp", cluster.address(host), WEB, CLIENT, 40000)


def test_a_port_of_which_no_task_serves_is_refused_at_once() -> None:
    swarm = Swarm(2)
    [task] = swarm.service("dead", ports=[PublishedPort(target=80, published=DEAD)], on=[2])
    swarm.set_serving(task, False)
    cluster = Cluster(swarm)
    assert cluster.from_outside("node1", DEAD).end == "reject with tcp reset by mesh-refuse"
    assert (
        cluster.from_host("node1", "127.0.0.1", DEAD).end == "reject with tcp reset by mesh-refuse"
    )


def test_a_task_that_stopped_serving_keeps_its_connections(cluster: Cluster) -> None:
    web = only_task(cluster, "web")
    assert cluster.round_trip(cluster.from_outside("node1", WEB), at=web)
    cluster.swarm.set_serving(web, False)
    cluster.apply()
    assert cluster.round_trip(cluster.from_outside("node1", WEB), at=web)
    assert cluster.from_outside("node1", WEB, source=(CLIENT, 40001)).end.startswith("reject")


def test_one_udp_target_by_the_mesh_and_in_host_mode() -> None:
    """A server that is bound to no address answers from that of its choice, whichever was asked."""
    swarm = Swarm(1)
    ports = [
        PublishedPort(target=53, published=DNS, protocol="udp"),
        PublishedPort(target=53, published=DIRECT, protocol="udp", mode="host"),
    ]
    swarm.service("web", ports=ports, on=[1])
    cluster = Cluster(swarm)
    for port, client in ((DNS, 40000), (DIRECT, 40001), (DIRECT, 40000)):
        request = cluster.from_outside("node1", port, "udp", source=(CLIENT, client))
        assert request.end == "delivered"
        answer = cluster.underlay.answer(request)
        assert str(answer.packet) == f"udp 10.59.72.11:{port} > {CLIENT}:{client}"


@pytest.mark.parametrize("mode", ["ingress", "host"])
def test_a_udp_flow_that_is_older_than_the_port_is_served_once_it_is_forgotten(
    mode: Literal["ingress", "host"],
) -> None:
    """Its first datagrams were for the host itself, and so are those that follow."""
    swarm = Swarm(1)
    cluster = Cluster(swarm)
    before = planned_on_node1(swarm)
    assert arrived(cluster.from_outside("node1", DNS, "udp")).destination_port == DNS
    port = PublishedPort(target=53, published=DNS, protocol="udp", mode=mode)
    [task] = swarm.service("web", ports=[port], on=[1])
    cluster.apply()
    assert arrived(cluster.from_outside("node1", DNS, "udp")).destination_port == DNS
    forget(cluster, before)
    served = cluster.from_outside("node1", DNS, "udp")
    assert cluster.task_at(served) == task
    assert cluster.round_trip(served)


def test_a_udp_flow_moves_on_once_it_is_forgotten() -> None:
    """It would stay with a task that no longer serves for as long as it talks: so the agent has it
    forgotten."""
    swarm = Swarm(2)
    tasks = swarm.service(
        "web", ports=[PublishedPort(target=53, published=DNS, protocol="udp")], on=[1, 2]
    )
    cluster = Cluster(swarm)
    first = cluster.from_outside("node1", DNS, "udp")
    assert cluster.round_trip(first)
    before = planned_on_node1(swarm)
    swarm.set_serving(cluster.task_at(first), False)
    cluster.apply()
    assert cluster.task_at(cluster.from_outside("node1", DNS, "udp")) == cluster.task_at(first)
    forget(cluster, before)
    moved = cluster.from_outside("node1", DNS, "udp")
    assert cluster.task_at(moved) in set(tasks) - {cluster.task_at(first)}
    assert cluster.round_trip(moved)


# --- virtual addresses


def test_callers_begin_with_different_tasks() -> None:
    """Each makes its own choice, and many callers make only one connection."""
    swarm = Swarm(3)
    net = swarm.network("mynet", "10.10.10.0/24")
    web = swarm.service("web", net, on=[1, 2])
    callers = swarm.service("app", net, on=[3, 3])
    cluster = Cluster(swarm)
    virtual = swarm.services[net][swarm.tasks[web[0]].service].virtual_address
    assert virtual is not None
    assert {cluster.task_at(cluster.from_task(caller, virtual, 80)) for caller in callers} == set(
        web
    )


def test_a_virtual_address_of_which_no_task_serves_is_refused_at_once(cluster: Cluster) -> None:
    cluster.swarm.set_serving(only_task(cluster, "web"), False)
    cluster.apply()
    app = only_task(cluster, "app")
    assert cluster.from_task(app, "10.10.10.5", 80).end == "reject with tcp reset by vip-refuse"
    assert (
        cluster.from_task(app, "10.10.10.5", 53, "udp").end
        == "reject with icmp type host-unreachable by vip-refuse"
    )


def test_the_balancers_own_packets_do_not_come_from_a_virtual_address(cluster: Cluster) -> None:
    """It holds them all, so the kernel would choose the one that is asked, and the answer would not
    come back to this host."""
    place = Place("node3", "lb_mynet0000")
    request = cluster.underlay.trace(
        Packet("icmp", IPv4Address("10.10.10.5"), 0, IPv4Address("10.10.10.5"), 0), place
    )
    assert cluster.task_at(request) == only_task(cluster, "web")
    assert str(arrived(request).source) == "10.10.10.4"
    assert cluster.underlay.answer(request).place == place


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_questions_to_the_resolver_stay_in_the_container(cluster: Cluster, protocol: str) -> None:
    app = only_task(cluster, "app")
    request = cluster.from_task(app, "127.0.0.11", 53, protocol)
    assert (request.place, arrived(request).destination_port) == (cluster.place(app), 61053)
    assert cluster.round_trip(request)


# --- who may not


def test_other_containers_of_the_ingress_network_cannot_get_in(cluster: Cluster) -> None:
    net = cluster.swarm.definitions[cluster.swarm.ingress].id
    [other] = cluster.swarm.service(
        "other", ports=[PublishedPort(target=90, published=DEAD)], on=[1]
    )
    cluster.apply()
    web = cluster.swarm.endpoints[net][only_task(cluster, "web")].address.ip
    assert cluster.from_task(other, web, 80).end == "drop by mesh-guard"


def test_a_host_does_not_tell_the_ingress_network_of_its_own_addresses(cluster: Cluster) -> None:
    """Not even of one in that very subnet, which its own network may use as well."""
    [other] = cluster.swarm.service(
        "other", ports=[PublishedPort(target=90, published=DEAD)], on=[1]
    )
    cluster.apply()
    cluster.kernel("node1").damage(op.AddAddress(HOST, "ens160", IPv4Interface("10.0.0.77/32")))
    assert cluster.from_task(other, NEIGHBOUR, 22).end == "no host has 10.0.0.77 behind eth0"


def test_the_outside_cannot_reach_what_is_not_published(cluster: Cluster) -> None:
    gateway = cluster.swarm.sandbox(only_task(cluster, "web")).gateway.ip
    assert cluster.from_host("node2", gateway, 80).end == "delivered", "the host itself may"
    stray = cluster.underlay.trace(Packet("tcp", CLIENT, 40000, gateway, 80), via="node2")
    assert stray.end == "drop by gateway-entry"


def test_containers_do_not_meet_on_the_gateway_bridge(cluster: Cluster) -> None:
    one, two = cluster.swarm.service("pair", on=[1, 1])
    cluster.apply()
    neighbour = cluster.swarm.sandbox(two).gateway.ip
    assert cluster.from_task(one, neighbour, 80).end == f"no host has {neighbour} behind eth0"


def test_a_container_leaves_with_its_own_address_only(cluster: Cluster) -> None:
    web = cluster.place(only_task(cluster, "web"))
    stranger = Packet("udp", IPv4Address("192.0.2.99"), 53, IPv4Address("198.51.100.9"), 53)
    assert cluster.underlay.trace(stranger, web).end == "drop by gateway-guard"


def test_a_container_has_its_own_address_only_on_an_overlay(cluster: Cluster) -> None:
    """Here it would be taken for the other one; by an address of its own on another network it is
    known."""
    web, app = (only_task(cluster, service) for service in ("web", "app"))
    theirs, *_ = (a.address.ip for a in cluster.swarm.tasks[app].attachments)
    ingress, inner = (a.address.ip for a in cluster.swarm.tasks[web].attachments)
    target = IPv4Address("10.10.10.4")
    for source, end in (
        (theirs, "drop by source-guard"),
        (inner, "delivered"),
        (ingress, "delivered"),
    ):
        request = cluster.underlay.trace(Packet("udp", source, 53, target, 53), cluster.place(web))
        assert request.end == end


def test_a_container_sends_no_host_what_hosts_send_each_other(cluster: Cluster) -> None:
    web = only_task(cluster, "web")
    for host in ("node1", "node2"):
        for protocol in ("udp", "esp"):
            request = cluster.from_task(web, cluster.address(host), 4789, protocol)
            assert request.end == "drop by from-containers"
    assert cluster.from_task(web, "198.51.100.9", 4789, "udp").end == "left"


def test_nothing_for_the_loopback_comes_from_outside(cluster: Cluster) -> None:
    """Not for a published port, and not where a setting of the host's would let it in."""
    for setting in ("0", "1"):
        localnet = op.SetSysctl(HOST, "net.ipv4.conf.ens160.route_localnet", setting)
        cluster.kernel("node1").damage(localnet)
        request = cluster.underlay.trace(
            Packet("tcp", CLIENT, 40000, IPv4Address("127.0.0.1"), WEB), via="node1"
        )
        assert not request.did("dnat")


def test_containers_of_an_internal_network_have_no_way_out() -> None:
    swarm = Swarm(2)
    inner = swarm.network("inner", "10.30.0.0/24", internal=True)
    one, two = swarm.service("hidden", inner, on=[1, 2])
    cluster = Cluster(swarm)
    other = swarm.endpoints[inner][two].address.ip
    assert cluster.round_trip(cluster.from_task(one, other, 80))
    assert cluster.from_task(one, "198.51.100.9", 443).end == "no route to 198.51.100.9"


# --- other ways


def test_a_servers_own_question_from_its_port_leaves_by_the_gateway(cluster: Cluster) -> None:
    """The rule that makes UDP servers answer with the ingress address sees no difference; it is
    translated on the way out."""
    web = only_task(cluster, "web")
    request = cluster.underlay.trace(
        Packet("udp", ANY, 53, IPv4Address("198.51.100.9"), 53), cluster.place(web)
    )
    assert (request.end, arrived(request).source) == ("left", cluster.address("node2"))
    assert cluster.underlay.answer(request).place == cluster.place(web)


@pytest.mark.parametrize("mode", ["ingress", "host"])
def test_what_the_daemon_listens_on_leads_to_the_daemon(mode: Literal["ingress", "host"]) -> None:
    """Also where somebody has published that number; other hosts and ports are as they were."""
    swarm = Swarm(2)
    ports = [PublishedPort(target=80, published=published, mode=mode) for published in (2377, WEB)]
    vxlan = PublishedPort(target=53, published=4789, protocol="udp", mode=mode)
    [task] = swarm.service("web", ports=[*ports, vxlan], on=[2])
    swarm.own_ports = frozenset({("tcp", 2377)})
    cluster = Cluster(swarm)
    own, other = cluster.from_outside("node2", 2377), cluster.from_outside("node2", WEB)
    assert (own.place, cluster.task_at(other)) == (Place("node2"), task)
    assert cluster.from_host("node2", "127.0.0.1", 2377).place == Place("node2")
    assert cluster.from_outside("node2", 4789, "udp").place == Place("node2")


def test_between_the_segments_of_one_network() -> None:
    swarm = Swarm(2)
    wide = swarm.network("wide", "10.20.0.0/24", "10.20.1.0/24")
    one, two = swarm.service("spanning", wide, on=[1, 2])
    cluster = Cluster(swarm)
    ends = [swarm.endpoints[wide][task].address.ip for task in (one, two)]
    assert ends[0] in swarm.definitions[wide].segments[1].subnet
    assert ends[1] in swarm.definitions[wide].segments[0].subnet
    assert cluster.round_trip(cluster.from_task(one, ends[1], 80))


def test_an_encrypted_network_by_the_userspace_engine() -> None:
    """The datagram is made in the engine's namespace, which has no other way out than the
    engine."""
    swarm = Swarm(2)
    secret = swarm.network("secret", "10.40.0.0/24", encrypted=True)
    one, two = swarm.service("safe", secret, on=[1, 2])
    other = swarm.endpoints[secret][two].address.ip
    cluster = Cluster(swarm, engine="userspace", keys=[DataKey(tag=1, secret=b"k" * 16)])
    request = cluster.from_task(one, other, 80)
    assert request.did("encrypted")
    shown = {packet.protocol for packet in request.shown_at(Place("node1"))}
    assert shown == {"esp"}, "in clear it is never on the underlay"
    assert cluster.round_trip(request)
    without = Cluster(swarm, engine="userspace")
    assert without.from_task(one, other, 80).end == f"no host has {other} behind eth0", (
        "encrypted or down"
    )


# --- the tests can fail


@pytest.mark.parametrize("missing", SABOTAGE)
def test_nothing_of_the_mesh_is_there_for_nothing(cluster: Cluster, missing: str) -> None:
    web = only_task(cluster, "web")
    cluster.kernel("node1").damage(
        op.AddRoute(HOST, Route(destination=IPv4Network("10.0.0.77/32"), device="ens160"))
    )
    assert cluster.round_trip(cluster.from_outside("node1", WEB, source=(NEIGHBOUR, 40000)), web)
    SABOTAGE[missing](cluster.kernel("node1"))
    assert not cluster.round_trip(
        cluster.from_outside("node1", WEB, source=(NEIGHBOUR, 40001)), web
    )
    cluster.apply()
    assert cluster.round_trip(cluster.from_outside("node1", WEB, source=(NEIGHBOUR, 40002)), web)


def test_a_statement_that_nobody_knows_is_noticed(cluster: Cluster) -> None:
    table = cluster.kernel("node1").state()[HOST].tables["ip", "weft"]
    strange = msgspec.structs.replace(
        table, body=table.body.replace("ct state new,", "limit rate 1/second ")
    )
    cluster.kernel("node1").damage(op.ReplaceTable(HOST, strange))
    request = cluster.from_outside("node1", WEB)
    with pytest.raises(ValueError, match="limit rate"):
        cluster.underlay.answer(request)
