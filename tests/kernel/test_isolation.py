"""What a container, or somebody on the underlay, may not do to hosts and to other containers, with frames of their own making.

A container has CAP_NET_RAW by default, so it may send what it likes. Hosts and containers are those of `test_datapath.py`.
That something did not arrive is known without waiting: it was sent before a datagram that did arrive, by the same way.
"""

import contextlib
import functools
import json
import os
import select
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.kernel.test_datapath import (
    CLIENT,
    HOSTS,
    TIMEOUT,
    Bed,
    ask,
    ask_udp,
    bound,
    connect,
    own_address,
    tasks,
)
from tests.support.swarms import Swarm
from weft.linux import netns
from weft.model.addresses import MacAddress, mac_for
from weft.model.ids import TaskId
from weft.model.service import PublishedPort
from weft.network.overlay import LEG_PREFIX

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

WEB, DIRECT, SECRET, OPEN = 8080, 9090, 7777, 7778
OWN, OWN_TOO = 2377, 2380
"""Published, but the daemon's."""
GATEWAY = "172.18.0.1"
GATEWAY_MAC = mac_for(IPv4Address(GATEWAY))


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """`web` on hosts 1 and 2 is published in the mesh, `direct` on host 1 in host mode; `liar` is on
    host 1; `private` on hosts 1 and 2 has a network of its own."""
    swarm = Swarm()
    with contextlib.ExitStack() as stack:
        bed = Bed(swarm, stack)
        overlay = swarm.network("mynet", "10.10.10.0/24")
        ports = [
            PublishedPort(target=80, published=WEB),
            PublishedPort(target=53, published=WEB, protocol="udp"),
        ]
        ports.append(PublishedPort(target=80, published=OWN))
        swarm.own_ports = frozenset({("tcp", OWN), ("tcp", OWN_TOO)})
        web = swarm.service("web", overlay, ports=ports, on=[1, 2])
        direct = [
            PublishedPort(target=80, published=DIRECT, mode="host"),
            PublishedPort(target=53, published=DIRECT, protocol="udp", mode="host"),
            PublishedPort(target=80, published=OWN_TOO, mode="host"),
        ]
        host_mode = swarm.service("direct", overlay, ports=direct, on=[1])
        liar = swarm.service(
            "liar", overlay, ports=[PublishedPort(target=81, published=8081)], on=[1]
        )
        private = swarm.service("private", swarm.network("other", "10.10.20.0/24"), on=[1, 2])
        bed.apply()
        for task in [*web, *host_mode, *liar, *private]:
            bed.servers.add(bed.sandbox(task), task, tcp=[80], udp=[53])
        yield bed


class Wire:
    """A raw socket on one interface."""

    def __init__(self, path: Path, device: str) -> None:
        self._socket = netns.run_in(
            path, functools.partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
        )
        self._socket.bind((device, 3))  # ETH_P_ALL

    def send(self, *frames: Packet) -> None:
        for frame in frames:
            self._socket.send(bytes(frame))

    def seen(self) -> list[Packet]:
        """What came in, or went out, so far."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(Ether(self._socket.recv(65536, socket.MSG_DONTWAIT)))
        return found

    def wait(self, wanted: Callable[[Packet], bool]) -> list[Packet]:
        """Until there is such a frame; gives all so far."""
        found: list[Packet] = []
        while not any(map(wanted, found)):
            readable, _, _ = select.select([self._socket], [], [], TIMEOUT)
            assert readable, f"nothing more came after {found}"
            found += self.seen()
        return found

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Ears:
    """Sockets of one host, whose datagrams are looked at later."""

    def __init__(self, path: Path, *places: tuple[str, int], kind: int = socket.SOCK_DGRAM) -> None:
        self._sockets = {
            place: netns.run_in(path, functools.partial(bound, kind, *place)) for place in places
        }

    def heard(self, *place: str | int) -> list[str]:
        """Senders' words so far."""
        found = []
        ear = self._sockets[str(place[0]), int(place[1])]
        ear.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, peer = ear.recvfrom(1000)
                found.append(f"{data.decode()} from {peer[0]}")
        return found

    def wait(self, *place: str | int) -> str:
        """For one word."""
        ear = self._sockets[str(place[0]), int(place[1])]
        ear.settimeout(TIMEOUT)
        data, peer = ear.recvfrom(1000)
        return f"{data.decode()} from {peer[0]}"

    def accepts(self, *place: str | int) -> str:
        """A connection; gives who it is from."""
        ear = self._sockets[str(place[0]), int(place[1])]
        ear.settimeout(TIMEOUT)
        taken, peer = ear.accept()
        taken.close()
        return str(peer[0])

    def __enter__(self) -> "Ears":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._sockets.values():
            opened.close()


def liar(bed: Bed) -> TaskId:
    return tasks(bed, "liar")[0]


def interface(bed: Bed, task: TaskId, address: str) -> tuple[str, MacAddress]:
    """Name and MAC of a task's interface with that address."""
    for link in json.loads(bed.inside(bed.sandbox(task), "ip", "-j", "address", "show")):
        if any(address == entry.get("local") for entry in link["addr_info"]):
            return link["ifname"], link["address"]
    raise AssertionError(f"no interface of {task} has {address}")


def way_out(bed: Bed, task: TaskId) -> tuple[str, str, MacAddress]:
    """A task's interface on docker_gwbridge: its address, name and MAC."""
    address = str(bed.swarm.sandbox(task).gateway.ip)
    return address, *interface(bed, task, address)


def ingress_way(bed: Bed, task: TaskId) -> tuple[str, str, MacAddress]:
    address = own_address(bed, task, "ingress")
    return address, *interface(bed, task, address)


def datagram(source: str, destination: str, port: int, words: str) -> Packet:
    return IP(src=source, dst=destination) / UDP(sport=5555, dport=port) / Raw(words.encode())


def accepts(frame: Packet) -> bool:
    """Is it a SYN-ACK?"""
    return TCP in frame and frame[TCP].flags == "SA"


def leg_mac(bed: Bed, host: int) -> MacAddress:
    """Of a host's own leg on the ingress network."""
    balancer = (
        bed.swarm.assignment(host + 1)
        .networks[bed.swarm.ingress]
        .load_balancer(bed.swarm.nodes[host])
    )
    assert balancer is not None
    return mac_for(balancer.address.ip, LEG_PREFIX)


def mac_of(bed: Bed, what: str) -> MacAddress:
    [link] = json.loads(bed.inside(what, "ip", "-j", "link", "show", "ens160"))
    return str(link["address"])


def resets(bed: Bed, host: str) -> int:
    """TCP connections that a reset has ended."""
    names, values = (
        line.split() for line in bed.inside(host, "grep", "^Tcp:", "/proc/net/snmp").splitlines()
    )
    return int(dict(zip(names, values, strict=True))["EstabResets"])


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
    """Not even a published port by that address: it would be an answer from 127.0.0.1 that is sent there."""
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


# --- what hosts send each other


def private(bed: Bed, host: int) -> tuple[TaskId, str, MacAddress]:
    """The task there whose network no other container is on, with its address and MAC."""
    task = tasks(bed, "private")[host - 1]
    address = own_address(bed, task, "other")
    return task, address, mac_for(IPv4Address(address))


def vni(bed: Bed, network: str) -> int:
    [segment] = next(d.segments for d in bed.swarm.definitions.values() if d.name == network)
    return segment.vni


def sealed_frame(bed: Bed, host: int, words: str, number: int | None = None) -> Packet:
    """A frame for the private task of that host as VXLAN carries it, without the datagram."""
    _, address, mac = private(bed, host)
    frame = Ether(src="02:42:0a:0a:14:63", dst=mac) / datagram("10.10.20.99", address, OPEN, words)
    return VXLAN(flags=8, vni=number or vni(bed, "other")) / frame


def tunnelled(bed: Bed, source: str, target: str, host: int, words: str) -> Packet:
    return (
        IP(src=source, dst=target) / UDP(sport=50000, dport=4789) / sealed_frame(bed, host, words)
    )


@contextlib.contextmanager
def listening(bed: Bed, host: int) -> Iterator[Callable[[], list[str]]]:
    """Gives what the private task of that host has heard, when a frame of the other host has come after
    all that was sent before."""
    task, address, _ = private(bed, host)
    other = HOSTS[2 - host]
    with Ears(bed.sandbox(task), (address, OPEN)) as ears:

        def heard() -> list[str]:
            frame = Ether(src=mac_of(bed, f"node{3 - host}"), dst=mac_of(bed, f"node{host}"))
            with Wire(bed.path(f"node{3 - host}"), "ens160") as wire:
                wire.send(frame / tunnelled(bed, other, HOSTS[host - 1], host, "last"))
            found = []
            while not found or not found[-1].startswith("last"):
                found.append(ears.wait(address, OPEN))
            return [said.split()[0] for said in found[:-1]]

        yield heard


@pytest.mark.parametrize("host", [1, 2])
def test_a_container_puts_no_frame_into_another_network(bed: Bed, host: int) -> None:
    """Of its own host or of another one: datagrams whole and in pieces, by all ways that it has."""
    address, device, mac = way_out(bed, liar(bed))
    _, leg, legs_mac = ingress_way(bed, liar(bed))
    with listening(bed, host) as heard, contextlib.ExitStack() as stack:
        out, ingress = (
            stack.enter_context(Wire(bed.sandbox(liar(bed)), name)) for name in (device, leg)
        )
        targets = (HOSTS[host - 1], GATEWAY) if host == 1 else (HOSTS[host - 1],)
        for target in targets:
            for source in (address, HOSTS[1], HOSTS[2]):
                packet = tunnelled(bed, source, target, host, f"{source}>{target}")
                for part in (packet, *fragment(packet, 40)):
                    out.send(Ether(src=mac, dst=GATEWAY_MAC) / part)
                    ingress.send(Ether(src=legs_mac, dst=leg_mac(bed, 0)) / part)
        assert heard() == []


def test_a_process_of_a_container_needs_no_raw_socket_for_that(bed: Bed) -> None:
    plain = netns.run_in(
        bed.sandbox(liar(bed)), functools.partial(socket.socket, type=socket.SOCK_DGRAM)
    )
    with listening(bed, 2) as heard, plain:
        plain.sendto(bytes(sealed_frame(bed, 2, "forged")), (HOSTS[1], 4789))
        assert heard() == []


def test_who_is_no_host_of_the_swarm_puts_no_frame_into_a_network(bed: Bed) -> None:
    """Nor does a host by an address that no other host sends to."""
    frame = Ether(src=mac_of(bed, "client"), dst=mac_of(bed, "node1"))
    with listening(bed, 1) as heard, Wire(bed.path("client"), "ens160") as wire:
        wire.send(frame / tunnelled(bed, CLIENT, HOSTS[0], 1, "forged"))
        wire.send(frame / tunnelled(bed, HOSTS[1], GATEWAY, 1, "forged"))
        assert heard() == []


def test_a_vxlan_of_the_hosts_own_on_the_same_port_is_left_alone(bed: Bed) -> None:
    add = f"ip link add vxown type vxlan id 77 remote {CLIENT} dstport 4789 dev ens160"
    bed.inside("node1", *add.split())
    try:
        bed.inside("node1", "ip", "link", "set", "vxown", "up")
        frame = Ether(src=mac_of(bed, "client"), dst=mac_of(bed, "node1"))
        datagrams = IP(src=CLIENT, dst=HOSTS[0]) / UDP(sport=50000, dport=4789)
        with Wire(bed.path("client"), "ens160") as wire, Wire(bed.path("node1"), "vxown") as inner:
            wire.send(frame / datagrams / sealed_frame(bed, 1, "welcome", number=77))
            inner.wait(lambda seen: Raw in seen and seen[Raw].load == b"welcome")
    finally:
        bed.inside("node1", "ip", "link", "delete", "vxown")


def test_containers_may_use_the_same_port_towards_others(bed: Bed) -> None:
    with Ears(bed.path("client"), (CLIENT, 4789)) as ears:
        plain = netns.run_in(
            bed.sandbox(liar(bed)), functools.partial(socket.socket, type=socket.SOCK_DGRAM)
        )
        with plain:
            plain.sendto(b"mine", (CLIENT, 4789))
        assert ears.wait(CLIENT, 4789) == f"mine from {HOSTS[0]}"


def test_no_esp_comes_from_a_container_to_a_host(bed: Bed) -> None:
    """It would be looked at, at some cost, and dropped."""
    address, device, mac = way_out(bed, liar(bed))
    raw = functools.partial(socket.socket, socket.AF_INET, socket.SOCK_RAW, 50)
    with contextlib.ExitStack() as stack:
        ears = {
            host: stack.enter_context(netns.run_in(bed.path(host), raw))
            for host in ("node1", "node2", "client")
        }
        wire = stack.enter_context(Wire(bed.sandbox(liar(bed)), device))
        for target in (HOSTS[0], GATEWAY, HOSTS[1], CLIENT):
            wire.send(
                Ether(src=mac, dst=GATEWAY_MAC)
                / IP(src=address, dst=target, proto=50)
                / Raw(b"12345678")
            )
        ears["client"].settimeout(TIMEOUT)
        assert ears["client"].recvfrom(100)[1][0] == HOSTS[0], (
            "where it is for somebody else it is left alone"
        )
        stack.enter_context(netns.run_in(bed.path("client"), raw)).sendto(
            b"87654321", (HOSTS[0], 0)
        )
        ears["node1"].settimeout(TIMEOUT)
        assert ears["node1"].recvfrom(100)[1][0] == CLIENT
        with pytest.raises(BlockingIOError):
            ears["node2"].recv(100, socket.MSG_DONTWAIT)


# --- who a container says it is: towards other containers


@pytest.mark.parametrize("host", [1, 2])
def test_a_container_has_its_own_address_only_on_an_overlay(bed: Bed, host: int) -> None:
    task, victim = tasks(bed, "web")[host - 1], tasks(bed, "direct")[0]
    mine, theirs = own_address(bed, liar(bed), "mynet"), own_address(bed, victim, "mynet")
    device, mac = interface(bed, liar(bed), mine)
    target = own_address(bed, task, "mynet")
    to, tag = mac_for(IPv4Address(target)), Dot1Q(vlan=0)
    with (
        Ears(bed.sandbox(task), (target, OPEN)) as ears,
        Wire(bed.sandbox(liar(bed)), device) as wire,
    ):
        for source in (theirs, "10.10.10.1", "8.8.8.8", bed.swarm.sandbox(liar(bed)).gateway.ip):
            forged = datagram(str(source), target, OPEN, "forged")
            for sender in (mac, mac_for(IPv4Address(theirs)), "02:00:00:00:00:01"):
                wire.send(
                    Ether(src=sender, dst=to) / forged, Ether(src=sender, dst=to) / tag / forged
                )
        wire.send(
            Ether(src=mac_for(IPv4Address(theirs)), dst=to) / datagram(mine, target, OPEN, "forged")
        )
        for own in (own_address(bed, liar(bed), "ingress"), mine):
            wire.send(Ether(src=mac, dst=to) / datagram(own, target, OPEN, "plain"))
        assert ears.wait(target, OPEN) == f"plain from {own_address(bed, liar(bed), 'ingress')}"
        assert ears.wait(target, OPEN) == f"plain from {mine}"


@pytest.mark.parametrize("answer", [False, True])
def test_a_container_takes_no_address_from_another_by_arp(bed: Bed, answer: bool) -> None:
    """Who is lied to are a container beside it and the network's balancer."""
    (asker, _), (victim,) = tasks(bed, "web"), tasks(bed, "direct")
    mine, theirs = own_address(bed, liar(bed), "mynet"), own_address(bed, victim, "mynet")
    device, mac = interface(bed, liar(bed), mine)
    dupe = own_address(bed, asker, "mynet")
    dupes_device, dupes_mac = interface(bed, asker, dupe)
    assert ask(bed.sandbox(asker), theirs, 80)["name"] == victim
    bed.inside(bed.sandbox(asker), "sysctl", "-qw", f"net.ipv4.neigh.{dupes_device}.locktime=0")
    claim = ARP(op=2 if answer else 1, hwsrc=mac, psrc=theirs, hwdst=dupes_mac, pdst=dupe)
    with Wire(bed.sandbox(liar(bed)), device) as wire:
        for to in (dupes_mac, "ff:ff:ff:ff:ff:ff"):
            wire.send(
                Ether(src=mac, dst=to) / claim, Ether(src=mac, dst=to) / Dot1Q(vlan=0) / claim
            )
            wire.send(Ether(src=mac_for(IPv4Address(theirs)), dst=to) / claim)
        wire.send(
            Ether(src=mac, dst=dupes_mac)
            / ARP(op=1, hwsrc=mac, psrc=mine, hwdst=dupes_mac, pdst=dupe)
        )
        wire.wait(lambda seen: ARP in seen and seen[ARP].psrc == dupe and seen[ARP].op == 2)
    known = json.loads(
        bed.inside(bed.sandbox(asker), "ip", "-j", "neighbour", "show", "dev", dupes_device)
    )
    macs = {entry["dst"]: entry["lladdr"] for entry in known if "lladdr" in entry}
    assert macs[theirs] == mac_for(IPv4Address(theirs))
    assert ask(bed.sandbox(asker), theirs, 80)["name"] == victim


def test_a_container_is_no_hosts_leg_on_the_ingress_network(bed: Bed) -> None:
    """By its leg's MAC a host is told from a container: published ports are for hosts."""
    web = tasks(bed, "web")[0]
    target = own_address(bed, web, "ingress")
    mine, device, mac = ingress_way(bed, liar(bed))
    to = mac_for(IPv4Address(target))
    with Ears(bed.sandbox(web), (target, 53)) as ears, Wire(bed.sandbox(liar(bed)), device) as wire:
        for source in (mine, "8.8.8.8"):
            for sender in (mac, leg_mac(bed, 0), leg_mac(bed, 1)):
                wire.send(Ether(src=sender, dst=to) / datagram(source, target, 53, "forged"))
        for _ in tasks(bed, "web"):
            with netns.run_in(
                bed.path("node1"), functools.partial(socket.socket, type=socket.SOCK_DGRAM)
            ) as asker:
                asker.sendto(b"plain", ("127.0.0.1", WEB))
        assert ears.wait(target, 53) == f"plain from {HOSTS[0]}"
