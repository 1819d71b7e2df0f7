"""IPv6 on one node's networks in a real kernel: who reaches whom, and by which address."""

import contextlib
import os
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.kernel.adapter_bed import inside, sh
from tests.kernel.test_bridge_networks import FILTERS_BRIDGES, LONG, NOT_LONG, Bed, on_a_host
from tests.support.local_node import container_id
from weft.errors import WeftError
from weft.linux import netns
from weft.model.bridge_network import BridgeNetworkSpec, Ipv6Pool
from weft.model.endpoint_settings import EndpointSettings
from weft.model.host_ports import ANY_IPV6
from weft.model.local_sandbox import LocalSandbox
from weft.model.service import PublishedPort

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST, OUTSIDE = "2001:db8::1", "2001:db8::2"


def spec(name: str, subnet: str, **more: bool) -> BridgeNetworkSpec:
    pool = Ipv6Pool(IPv6Network(subnet))
    return BridgeNetworkSpec(name=name, has_ipv6=True, ipv6_pool=pool, **more)  # type: ignore[arg-type]  # its fields differ in type


def own(place: LocalSandbox) -> str:
    address = place.endpoints[0].ipv6_address
    assert address is not None
    return str(address.ip)


def wire(bed: Bed) -> None:
    """The machine outside gets IPv6 too, and a router's word is worth something to the host."""
    sh("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_ra=1")
    sh(f"ip addr add {HOST}/64 dev eth0 nodad")
    there = bed.outside.parent, bed.outside.name
    inside(*there, "sysctl -qw net.ipv6.conf.far.disable_ipv6=0")
    inside(*there, f"ip addr add {OUTSIDE}/64 dev far nodad")
    inside(*there, f"ip route add fd00::/16 via {HOST}")


@FILTERS_BRIDGES
def test_who_reaches_whom(tmp_path: Path, setting: str) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        sh(f"sysctl -qw net.bridge.bridge-nf-call-ip6tables={setting} || true")
        wire(bed)
        for each in (
            spec("blue", "fd00:b::/64"),
            spec("red", "fd00:e::/64"),
            spec("inner", "fd00:1::/64", internal=True),
            spec("mute", "fd00:f::/64", talks=False),
            spec("routed", "fd00:a::/64", masquerades=False),
            BridgeNetworkSpec(name="old"),
        ):
            await node.networks.create(each)
        one, two = [await node.run(name, "blue") for name in ("one", "two")]
        red, old = await node.run("red1", "red"), await node.run("old1", "old")
        deep, deeper = [await node.run(name, "inner") for name in ("deep", "deeper")]
        mute, muter = [await node.run(name, "mute") for name in ("mute", "muter")]
        bare = await node.run("bare", "routed")
        at = {each.name: own(each) for each in (one, two, red, deep, deeper, mute, muter, bare)}
        assert (at["one"], at["two"]) == ("fd00:b::2", "fd00:b::3")
        server, inner = (bed.serve(bed.at(each), 80, any="::") for each in (two, deeper))
        quiet, away = bed.serve(bed.at(muter), 80, any="::"), bed.serve(bed.outside, 80, any="::")
        host = bed.serve(None, 8000, any="::")
        inside(bed.at(deep).parent, deep.key, "ip route add default via fd00:1::1")
        for caller, to, listener, seen in (
            (one, at["two"], server, at["one"]),
            (red, at["two"], server, None),
            (deep, at["two"], server, None),
            (old, at["two"], server, None),
            (deep, at["deeper"], inner, at["deep"]),
            (one, at["deeper"], inner, None),
            (mute, at["muter"], quiet, None),
            (one, OUTSIDE, away, HOST),
            (mute, OUTSIDE, away, HOST),
            (bare, OUTSIDE, away, at["bare"]),
            (deep, OUTSIDE, away, None),
            (old, OUTSIDE, away, None),
        ):
            bed.meet(bed.at(caller), to, 80, listener, seen)
        bed.meet(bed.at(one), "fd00:b::1", 8000, host, at["one"])
        bed.meet(None, at["two"], 80, server, "fd00:b::1")
        bed.meet(bed.outside, at["two"], 80, server, None)
        space = (bed.at(one).parent, bed.at(one).name)
        inside(*space, f"ping -6 -c1 -W10 {at['two']}")
        assert "inet6" not in inside(bed.at(old).parent, old.key, "ip addr show dev eth0")
        assert sh("sysctl -n net.ipv6.conf.eth0.accept_ra").strip() == "2"
        # What others change is mended: the bridge's address, the container's, and its way out.
        sh(f"ip addr del fd00:b::1/64 dev {bed.node.networks.get('blue').device}")
        inside(*space, "ip addr flush dev eth0 scope global")
        await node.loop.repair()
        bed.meet(bed.at(one), OUTSIDE, 80, away, HOST)

    on_a_host(tmp_path, story)


def test_published_ports(tmp_path: Path) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        wire(bed)
        await node.networks.create(spec("blue", "fd00:b::/64"))
        await node.networks.create(spec("red", "fd00:e::/64"))
        ports = [
            PublishedPort(80, 8080),
            PublishedPort(80, 8081, host_address=IPv6Address(HOST)),
            PublishedPort(80, 8082, host_address=ANY_IPV6),
            PublishedPort(53, 5353, "udp"),
        ]
        web = await node.run("web", "blue", ports=ports)
        near, red = await node.run("near", "blue"), await node.run("red1", "red")
        server, of_ipv4 = bed.serve(bed.at(web), 80, any="::"), bed.serve(None, 8082)
        gateway = "fd00:b::1"
        for caller, to, port, seen in (
            (bed.outside, HOST, 8080, OUTSIDE),
            (bed.outside, HOST, 8081, OUTSIDE),
            (bed.outside, HOST, 8082, OUTSIDE),
            (None, HOST, 8080, HOST),
            (None, "::1", 8080, None),
            (bed.at(near), HOST, 8080, gateway),
            (bed.at(web), HOST, 8080, gateway),
            (bed.at(red), HOST, 8080, gateway),
            (bed.at(red), "fd00:e::1", 8080, gateway),
            (bed.at(red), "fd00:e::1", 8081, None),
            (bed.at(red), "fd00:b::2", 80, None),
        ):
            bed.meet(caller, to, port, server, seen)
        bed.meet(bed.outside, "192.0.2.1", 8080, server, "::ffff:192.0.2.2")
        bed.meet(bed.outside, "192.0.2.1", 8082, of_ipv4, "192.0.2.2")
        datagrams = bed.serve(bed.at(web), 53, socket.SOCK_DGRAM, any="::")

        def send() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"?", (HOST, 5353))

        netns.run_in(bed.outside, send)
        assert datagrams.recvfrom(9)[1][0] == OUTSIDE
        with pytest.raises(WeftError, match=r"Bind for :::8082 failed: port is already allocated"):
            await node.run("again", "blue", ports=ports[2:3])
        bed.serve(None, 7000, any="::")
        with pytest.raises(WeftError, match=r"\[::\]:7000/tcp: address already in use"):
            taken = PublishedPort(80, 7000, host_address=ANY_IPV6)
            await node.run("again", "blue", ports=[taken])
        assert node.networks.sandbox(container_id("again")) is None
        await node.restart()
        node.loop.desire_swarm(None)
        await node.loop.settled()
        bed.meet(bed.outside, HOST, 8080, server, OUTSIDE)

    on_a_host(tmp_path, story)


def test_nobody_sends_as_another_one(tmp_path: Path) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        await node.networks.create(spec("blue", "fd00:b::/64"))
        await node.networks.create(BridgeNetworkSpec(name="old"))
        liar, other, listener = [await node.run(name, "blue") for name in ("liar", "two", "ear")]
        wanted = EndpointSettings(network="blue", ipv6_address=IPv6Address("fd00:b::9"))
        await node.run("asks", wanted)
        ear = bed.serve(bed.at(listener), 53, socket.SOCK_DGRAM, any="::")
        to, to_mac = own(listener), listener.endpoints[0].mac
        mac = liar.endpoints[0].mac

        def frame(source: str = own(liar), sender: str = mac, text: bytes = b"lie") -> bytes:
            packet = IPv6(src=source, dst=to) / UDP(sport=9, dport=53) / Raw(text)
            return bytes(Ether(src=sender, dst=to_mac) / packet)

        head = Ether(src=mac, dst=to_mac) / IPv6(src=own(liar), dst=to, hlim=255)
        claim = ICMPv6ND_NA(tgt=own(other), R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
        lies = [
            frame(source=own(other)),
            frame(sender=other.endpoints[0].mac),
            frame(source="fe80::1"),
            bytes(head / claim),
            bytes(Ether(src=mac, dst=to_mac) / IPv6(dst="ff02::1", hlim=255) / ICMPv6ND_RA()),
        ]
        send = _sender(bed.at(liar))
        # The listener knows its neighbour: only then would it believe another address of it.
        inside(bed.at(listener).parent, listener.key, f"ping -6 -c1 -W10 {own(other)}")
        ear.settimeout(NOT_LONG)
        for _ in range(100):
            send([frame(text=b"first")])
            with contextlib.suppress(TimeoutError):
                assert ear.recvfrom(9)[0] == b"first"
                break
        ear.settimeout(LONG)
        send([*lies, frame(text=b"truth")])
        assert ear.recvfrom(9)[0] == b"truth"
        known = inside(bed.at(listener).parent, listener.key, f"ip -6 neighbour show {own(other)}")
        assert other.endpoints[0].mac in known

    on_a_host(tmp_path, story)


def _sender(space: Path) -> Callable[[list[bytes]], None]:
    def send(frames: list[bytes]) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.bind(("eth0", 0))
            for each in frames:
                wire.send(each)

    return lambda frames: netns.run_in(space, lambda: send(frames))
