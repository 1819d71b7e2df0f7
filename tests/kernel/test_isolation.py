"""What nobody may do to a host with frames of their own making, nor by its bridge to a container.

A container has CAP_NET_RAW by default, so it may send what it likes.
"""

import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from tests.kernel.datapath_bed import (
    CLIENT,
    HOSTS,
    TIMEOUT,
    Bed,
    ask,
    ask_udp,
    connect,
    own_address,
    tasks,
)
from tests.kernel.raw_frames import (
    DIRECT,
    GATEWAY,
    GATEWAY_MAC,
    OPEN,
    OWN,
    OWN_TOO,
    SECRET,
    WEB,
    Ears,
    Wire,
    accepts,
    datagram,
    hosts_and_liar,
    ingress_way,
    leg_mac,
    liar,
    mac_of,
    resets,
    way_out,
)
from weft.linux import netns
from weft.model.addresses import mac_for

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with hosts_and_liar() as made:
        yield made


# --- this host's own addresses


def test_a_container_cannot_reach_what_listens_on_the_hosts_loopback(bed: Bed) -> None:
    address, device, mac = way_out(bed, liar(bed))
    frame = Ether(src=mac, dst=GATEWAY_MAC)
    with (
        Ears(bed.path("node1"), ("127.0.0.1", SECRET), ("0.0.0.0", OPEN)) as ears,
        Wire(bed.sandbox(liar(bed)), device) as wire,
    ):
        for source in (address, "127.0.0.1", "8.8.8.8", HOSTS[0]):
            for target in ("127.0.0.1", "127.255.255.254"):
                wire.send(
                    frame / datagram(source, target, SECRET, "forged"),
                    frame / datagram(source, target, OPEN, "forged"),
                )
        wire.send(frame / datagram(address, GATEWAY, OPEN, "plain"))
        assert ears.wait("0.0.0.0", OPEN) == f"plain from {address}"
        assert ears.heard("127.0.0.1", SECRET) == []


def test_nor_open_a_connection_to_it(bed: Bed) -> None:
    address, device, mac = way_out(bed, liar(bed))
    frame = Ether(src=mac, dst=GATEWAY_MAC)
    places = (("127.0.0.1", SECRET), ("0.0.0.0", OPEN))
    with (
        Ears(bed.path("node1"), *places, kind=socket.SOCK_STREAM),
        Wire(bed.sandbox(liar(bed)), device) as wire,
    ):
        for target, port in (("127.0.0.1", SECRET), ("127.0.0.1", OPEN), (GATEWAY, OPEN)):
            wire.send(
                frame / IP(src=address, dst=target) / TCP(sport=5000, dport=port, flags="S", seq=1)
            )
        # What listens on the bridge's own address is there for containers, as in Docker.
        answers = filter(
            accepts, wire.wait(lambda frame: accepts(frame) and frame[IP].src == GATEWAY)
        )
        assert [frame[IP].src for frame in answers] == [GATEWAY]


def test_nor_by_the_hosts_leg_on_the_ingress_network(bed: Bed) -> None:
    """Nor as if it were a packet of two of the host's own processes that talk to each other."""
    address, device, mac = ingress_way(bed, liar(bed))
    frame = Ether(src=mac, dst=leg_mac(bed, 0))
    spoken = functools.partial(
        socket.create_connection, ("127.0.0.1", SECRET), TIMEOUT, ("127.0.0.1", 5556)
    )
    with contextlib.ExitStack() as stack:
        ears = stack.enter_context(
            Ears(bed.path("node1"), ("127.0.0.1", SECRET), ("0.0.0.0", OPEN))
        )
        stack.enter_context(Ears(bed.path("node1"), ("127.0.0.1", SECRET), kind=socket.SOCK_STREAM))
        stack.enter_context(netns.run_in(bed.path("node1"), spoken))
        wire = stack.enter_context(Wire(bed.sandbox(liar(bed)), device))
        before = resets(bed, "node1")
        for source in (address, "127.0.0.1", HOSTS[1]):
            for target in ("127.0.0.1", HOSTS[0], GATEWAY):
                wire.send(
                    frame / datagram(source, target, SECRET, "forged"),
                    frame / datagram(source, target, OPEN, "forged"),
                )
        wire.send(
            frame
            / IP(src="127.0.0.1", dst="127.0.0.1")
            / TCP(sport=5556, dport=SECRET, flags="R", seq=1)
        )
        assert ask_udp(bed.path("node1"), "127.0.0.1", WEB)["name"] in tasks(bed, "web")
        assert [ears.heard("127.0.0.1", SECRET), ears.heard("0.0.0.0", OPEN)] == [[], []]
        assert resets(bed, "node1") == before


def test_somebody_on_the_underlay_cannot_reach_the_loopback_either(bed: Bed) -> None:
    """Not even a published port by that address: it would be an answer from 127.0.0.1 that is sent
    there."""
    ask(bed.path("client"), HOSTS[0], WEB)
    frame = Ether(src=mac_of(bed, "client"), dst=mac_of(bed, "node1"))
    with (
        Ears(bed.path("node1"), ("127.0.0.1", SECRET)) as ears,
        Wire(bed.path("client"), "ens160") as wire,
    ):
        wire.send(frame / datagram(CLIENT, "127.0.0.1", SECRET, "forged"))
        for port in (WEB, DIRECT):
            wire.send(
                frame
                / IP(src=CLIENT, dst="127.0.0.1")
                / TCP(sport=5001, dport=port, flags="S", seq=1)
            )
        for _ in range(2):
            ask(bed.path("client"), HOSTS[0], WEB)
        ask(bed.path("client"), HOSTS[0], DIRECT)
        assert ears.heard("127.0.0.1", SECRET) == []
        assert {frame[IP].src for frame in filter(accepts, wire.seen())} == {HOSTS[0]}


def test_there_is_no_way_in_by_ipv6(bed: Bed) -> None:
    address, device, mac = way_out(bed, liar(bed))
    every = socket.getaddrinfo("ff02::1", OPEN, type=socket.SOCK_DGRAM)[0][4][0]

    def listening() -> socket.socket:
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        opened.bind(("::", SECRET))
        return opened

    sandbox, host = bed.sandbox(liar(bed)), bed.path("node1")
    with (
        netns.run_in(host, listening) as six,
        Ears(host, ("0.0.0.0", OPEN)) as ears,
        Wire(sandbox, device) as wire,
    ):
        for source in ("fe80::1", "::1"):
            for target in ("::1", "fe80::42:acff:fe12:1", every):
                packet = (
                    IPv6(src=source, dst=target) / UDP(sport=5555, dport=SECRET) / Raw(b"forged")
                )
                wire.send(Ether(src=mac, dst=GATEWAY_MAC) / packet)
        wire.send(Ether(src=mac, dst=GATEWAY_MAC) / datagram(address, GATEWAY, OPEN, "plain"))
        ears.wait("0.0.0.0", OPEN)
        with pytest.raises(BlockingIOError):
            six.recv(100, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("port", [WEB, DIRECT])
def test_the_hosts_processes_reach_published_ports_by_the_loopback(bed: Bed, port: int) -> None:
    """The answers come from the container and are for 127.0.0.1 once they are translated back."""
    names = set(tasks(bed, "web" if port == WEB else "direct"))
    for address in ("127.0.0.1", "127.1.2.3", HOSTS[0], GATEWAY):
        assert {ask(bed.path("node1"), address, port)["name"] for _ in range(2)} == names
        assert {ask_udp(bed.path("node1"), address, port)["name"] for _ in range(2)} == names


@pytest.mark.parametrize("port", [OWN, OWN_TOO])
def test_what_the_daemon_listens_on_is_not_taken_by_a_published_port(bed: Bed, port: int) -> None:
    """In the mesh or in host mode; a host that does not listen there is not concerned."""
    for where, target in (("client", HOSTS[0]), ("node2", HOSTS[0]), ("node1", "127.0.0.1")):
        with Ears(bed.path("node1"), ("0.0.0.0", port), kind=socket.SOCK_STREAM) as ears:
            with connect(bed.path(where), target, port) as asking:
                assert ears.accepts("0.0.0.0", port) == asking.getsockname()[0]


# --- who a container says it is: towards its host and the outside


def test_a_container_leaves_its_host_with_its_own_address_only(bed: Bed) -> None:
    address, device, mac = way_out(bed, liar(bed))
    victim = str(bed.swarm.sandbox(tasks(bed, "direct")[0]).gateway.ip)
    inner = own_address(bed, liar(bed), "mynet")
    victims_mac = mac_for(IPv4Address(victim))
    with (
        Ears(bed.path("client"), (CLIENT, OPEN)) as ears,
        Wire(bed.sandbox(liar(bed)), device) as wire,
    ):
        for source in ("8.8.8.8", HOSTS[0], HOSTS[1], victim, inner, GATEWAY, "0.0.0.0"):
            wire.send(Ether(src=mac, dst=GATEWAY_MAC) / datagram(source, CLIENT, OPEN, "forged"))
        wire.send(
            Ether(src=victims_mac, dst=GATEWAY_MAC) / datagram(victim, CLIENT, OPEN, "forged")
        )
        wire.send(
            Ether(src=mac, dst=GATEWAY_MAC)
            / Dot1Q(vlan=0)
            / datagram("8.8.4.4", CLIENT, OPEN, "forged")
        )
        wire.send(Ether(src=mac, dst=GATEWAY_MAC) / datagram(address, CLIENT, OPEN, "plain"))
        assert ears.wait(CLIENT, OPEN) == f"plain from {HOSTS[0]}"


@pytest.mark.parametrize("bridged", ["0", "1"])
def test_only_a_published_port_leads_to_a_container_by_the_gateway_bridge(
    bed: Bed, bridged: str
) -> None:
    """Neither does the bridge forward a frame, nor the host a packet, to a port that is not
    published, whoever it says it is from; `bridged`: whether bridged frames meet netfilter."""
    (victim,) = tasks(bed, "direct")
    theirs = str(bed.swarm.sandbox(victim).gateway.ip)
    address, device, mac = way_out(bed, liar(bed))
    bed.inside(
        "node1", "sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={bridged}", check=False
    )
    ask(bed.path("client"), HOSTS[0], DIRECT)
    with (
        Ears(bed.sandbox(victim), (theirs, OPEN), ("127.0.0.1", OPEN)) as ears,
        Wire(bed.sandbox(liar(bed)), device) as wire,
    ):
        for source in (address, HOSTS[0], CLIENT, theirs, GATEWAY, "127.0.0.1"):
            for target in (theirs, "127.0.0.1"):
                for to in (GATEWAY_MAC, mac_for(IPv4Address(theirs)), "ff:ff:ff:ff:ff:ff"):
                    wire.send(Ether(src=mac, dst=to) / datagram(source, target, OPEN, "forged"))
        asked = ask_udp(bed.sandbox(liar(bed)), HOSTS[0], DIRECT)
        assert (asked["name"], asked["peer"]) == (victim, HOSTS[0])
        assert [ears.heard(place, OPEN) for place in (theirs, "127.0.0.1")] == [[], []]


@pytest.mark.parametrize("lie", ["frame", "ARP request", "ARP answer"])
def test_a_container_does_not_get_what_is_sent_to_another_on_the_gateway_bridge(
    bed: Bed, lie: str
) -> None:
    (victim,) = tasks(bed, "direct")
    theirs = str(bed.swarm.sandbox(victim).gateway.ip)
    _, device, mac = way_out(bed, liar(bed))
    assert ask(bed.path("node1"), theirs, 80)["name"] == victim
    bed.inside("node1", "sysctl", "-qw", "net.ipv4.neigh.docker_gwbridge.locktime=0")
    with Wire(bed.sandbox(liar(bed)), device) as wire:
        if lie == "frame":
            wire.send(
                Ether(src=mac_for(IPv4Address(theirs)), dst="ff:ff:ff:ff:ff:ff", type=0x88B5)
                / Raw(bytes(50))
            )
        else:
            claim = ARP(
                op=1 if lie == "ARP request" else 2,
                hwsrc=mac,
                psrc=theirs,
                hwdst=GATEWAY_MAC,
                pdst=GATEWAY,
            )
            wire.send(Ether(src=mac, dst=GATEWAY_MAC) / claim)
        assert ask(bed.path("node1"), theirs, 80)["name"] == victim
        assert ask(bed.path("client"), HOSTS[0], DIRECT)["name"] == victim
        assert not [p for p in wire.seen() if IP in p and p[IP].dst == theirs]


def test_hosts_know_their_containers_without_asking(bed: Bed) -> None:
    """And repair it when it is lost."""
    (victim,) = tasks(bed, "direct")
    theirs = bed.swarm.sandbox(victim).gateway.ip
    port = f"wgw-{bed.swarm.sandbox(victim).id[:10]}"
    bed.inside("node1", "bridge", "fdb", "delete", mac_for(theirs), "dev", port, "master")
    bed.inside("node1", "ip", "neighbour", "delete", str(theirs), "dev", "docker_gwbridge")
    bed.inside("node1", "bridge", "link", "set", "dev", port, "locked", "off")
    assert len(bed.apply()[0]) == 3
    assert ask(bed.path("node1"), str(theirs), 80)["name"] == victim
