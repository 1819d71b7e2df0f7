"""What nobody may do to a container's networks with frames of their own making.

Not another container, which has CAP_NET_RAW by default, nor somebody on the underlay.
"""

import contextlib
import functools
import json
import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.kernel.datapath_bed import CLIENT, HOSTS, TIMEOUT, Bed, ask, own_address, tasks
from tests.kernel.raw_frames import (
    GATEWAY,
    GATEWAY_MAC,
    OPEN,
    WEB,
    Ears,
    Wire,
    datagram,
    hosts_and_liar,
    ingress_way,
    interface,
    leg_mac,
    liar,
    mac_of,
    way_out,
)
from weft.linux import netns
from weft.model.addresses import MacAddress, mac_for
from weft.model.ids import TaskId

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with hosts_and_liar() as made:
        yield made


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
    """Gives what the private task of that host has heard, when a frame of the other host has come
    after all that was sent before."""
    task, address, _ = private(bed, host)
    other = HOSTS[2 - host]
    with Ears(bed.sandbox(task), (address, OPEN)) as ears:

        def heard() -> list[str]:
            frame = Ether(src=mac_of(bed, f"node{3 - host}"), dst=mac_of(bed, f"node{host}"))
            with Wire(bed.path(f"node{3 - host}"), "ens160") as wire:
                wire.send(frame / tunnelled(bed, other, HOSTS[host - 1], host, "last"))
            found: list[str] = []
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
                fragments = fragment(packet, 40)  # type: ignore[no-untyped-call]  # scapy's
                for part in (packet, *fragments):
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
