"""Frames of one's own making, and ears on the other side: for tests of what nobody may do.

The hosts, containers and servers are those of `datapath_bed.py`. That something did not arrive is
known without waiting: it was sent before a datagram that did arrive, by the same way.
"""

import contextlib
import functools
import json
import select
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.kernel.datapath_bed import TIMEOUT, Bed, bound, own_address, tasks
from tests.support.swarms import Swarm
from weft.linux import netns
from weft.model.addresses import MacAddress, mac_for
from weft.model.ids import TaskId
from weft.model.service import PublishedPort
from weft.network.overlay import LEG_PREFIX

WEB, DIRECT, SECRET, OPEN = 8080, 9090, 7777, 7778
OWN, OWN_TOO = 2377, 2380
"""Published, but the daemon's."""
GATEWAY = "172.18.0.1"
GATEWAY_MAC = mac_for(IPv4Address(GATEWAY))


@contextlib.contextmanager
def hosts_and_liar() -> Iterator[Bed]:
    """`web` on hosts 1 and 2 is published in the mesh, `direct` on host 1 in host mode; `liar` is
    on host 1; `private` on hosts 1 and 2 has a network of its own."""
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
        found: list[Packet] = []
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
