"""Networks of one node in a real kernel: who reaches whom, and by which address."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from tests.kernel.adapter_bed import inside, sh, with_kernel
from tests.kernel.throwaway import in_throwaway
from tests.support.local_node import LocalNode, container_id, local_node
from weft.daemon.node import _gateway
from weft.dns import codec
from weft.engine.adapters import NameAdapters
from weft.errors import WeftError
from weft.linux import host, netns
from weft.linux.host_ports import check_free
from weft.linux.kernel import RealKernel
from weft.model.bridge_network import BridgeNetworkSpec
from weft.model.endpoint_settings import EndpointSettings
from weft.model.local_sandbox import LocalSandbox
from weft.model.service import PublishedPort

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
"""The host's address on its wire, and that of a machine there."""
NOT_LONG, LONG = 0.3, 10.0
"""Seconds to wait for what must not come, and for what must."""


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Bed:
    """The host is the test's own namespace; containers and the machine outside are files."""

    def __init__(self, node: LocalNode, directory: Path, outside: Path) -> None:
        self.node, self._directory, self.outside = node, directory, outside
        self._open: list[socket.socket] = []

    def at(self, place: LocalSandbox) -> Path:
        return self._directory / place.key

    def serve(
        self, place: Path | None, port: int, kind: int = socket.SOCK_STREAM, any: str = "0.0.0.0"
    ) -> socket.socket:
        """`any`: `::` for IPv6."""

        def listening() -> socket.socket:
            made = socket.socket(family_of(any), kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((any, port))
            if kind == socket.SOCK_STREAM:
                made.listen()
            made.settimeout(LONG)
            return made

        made = listening() if place is None else netns.run_in(place, listening)
        self._open.append(made)
        return made

    def meet(
        self, place: Path | None, to: str, port: int, server: socket.socket, seen: str | None
    ) -> None:
        """Calls the server, which must see that address; None: it must not be reached."""

        def calling() -> socket.socket | None:
            made = socket.socket(family_of(to))
            made.settimeout(LONG if seen else NOT_LONG)
            try:
                made.connect((to, port))
            except OSError:
                made.close()
                return None
            return made

        made = calling() if place is None else netns.run_in(place, calling)
        if made is None:
            assert seen is None, f"nobody answers {place} at {to}:{port}"
            return
        with made:
            accepted, (address, *_) = server.accept()
            accepted.close()
            assert address == seen, f"{place} at {to}:{port}"

    def close(self) -> None:
        for each in self._open:
            each.close()


@contextlib.asynccontextmanager
async def bed(kernel: RealKernel, path: Path, directory: Path) -> AsyncIterator[Bed]:
    outside = directory / "0123456789ef"
    netns.create(outside, lambda: None)
    sh("ip link add eth0 type veth peer name far")
    sh(f"ip link set far netns {outside}")
    inside(directory, outside.name, f"ip addr add {OUTSIDE}/24 dev far")
    inside(directory, outside.name, "ip link set far up")
    sh(f"ip addr add {HOST}/24 dev eth0 && ip link set eth0 up")
    names = NameAdapters(open_resolver=_open_resolver, open_socket=netns.open_socket)
    async with local_node(
        kernel,
        names,
        path / "networks",
        namespaces=directory,
        routes=host.routes,
        ipv6_routes=host.ipv6_routes,
        foreign_links=lambda: [each.name for each in host.all_interfaces()],
        check_port=check_free,
    ) as node:
        made = Bed(node, directory, outside)
        try:
            yield made
        finally:
            made.close()


async def _open_resolver(
    path: Path, address: IPv4Address, port: int
) -> tuple[socket.socket, socket.socket]:
    return await netns.open_udp_tcp(path, address, port)


def on_a_host(tmp_path: Path, story: Callable[[Bed], Awaitable[None]]) -> None:
    directory = tmp_path / "netns"
    directory.mkdir()

    async def body(kernel: RealKernel) -> None:
        async with bed(kernel, tmp_path, directory) as made:
            await story(made)

    with_kernel(directory, body)


FILTERS_BRIDGES = pytest.mark.parametrize("setting", ["0", "1"])
"""The host's `bridge-nf-call-iptables`: whether packets within a bridge pass the host's rules."""


@FILTERS_BRIDGES
def test_who_reaches_whom(tmp_path: Path, setting: str) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        sh(f"sysctl -qw net.bridge.bridge-nf-call-iptables={setting} || true")
        await node.networks.create(BridgeNetworkSpec(name="blue"))
        await node.networks.create(BridgeNetworkSpec(name="red"))
        await node.networks.create(BridgeNetworkSpec(name="inner", internal=True))
        await node.networks.create(BridgeNetworkSpec(name="mute", talks=False))
        one, two = [await node.run(name, "blue") for name in ("one", "two")]
        red = await node.run("red1", "red")
        deep, deeper = [await node.run(name, "inner") for name in ("deep", "deeper")]
        mute, muter = [await node.run(name, "mute") for name in ("mute", "muter")]
        plain = await node.run("plain", "bridge")
        server, inner = bed.serve(bed.at(two), 80), bed.serve(bed.at(deeper), 80)
        quiet, away = bed.serve(bed.at(muter), 80), bed.serve(bed.outside, 80)
        own, secret = bed.serve(None, 8000), bed.serve(None, 9000)
        inside(bed.at(deep).parent, deep.key, "ip route add default via 172.20.0.1")
        inside(bed.outside.parent, bed.outside.name, f"ip route add 172.16.0.0/12 via {HOST}")
        at = {
            place.name: str(place.endpoints[0].address.ip)
            for place in (one, two, red, deep, deeper, mute, muter, plain)
        }
        assert (at["one"], at["plain"]) == ("172.18.0.2", "172.17.0.2")
        for caller, to, port, listener, seen in (
            (one, at["two"], 80, server, at["one"]),
            (red, at["two"], 80, server, None),
            (plain, at["two"], 80, server, None),
            (deep, at["two"], 80, server, None),
            (deep, at["deeper"], 80, inner, at["deep"]),
            (one, at["deeper"], 80, inner, None),
            (mute, at["muter"], 80, quiet, None),
            (one, OUTSIDE, 80, away, HOST),
            (plain, OUTSIDE, 80, away, HOST),
            (mute, OUTSIDE, 80, away, HOST),
            (deep, OUTSIDE, 80, away, None),
            (one, HOST, 8000, own, at["one"]),
            (one, "172.18.0.1", 8000, own, at["one"]),
        ):
            bed.meet(bed.at(caller), to, port, listener, seen)
        bed.meet(None, at["two"], 80, server, "172.18.0.1")
        bed.meet(bed.outside, at["two"], 80, server, None)
        # The host's own loopback, by a frame that no rule of the container's kernel holds back.
        space = bed.at(one)
        inside(space.parent, space.name, "ip addr del 127.0.0.1/8 dev lo")
        inside(space.parent, space.name, "sysctl -qw net.ipv4.conf.all.route_localnet=1")
        inside(space.parent, space.name, "ip route add 127.0.0.0/8 via 172.18.0.1 src " + at["one"])
        inside(
            space.parent, space.name, "ip route del local 127.0.0.0/8 dev lo table local || true"
        )
        bed.meet(space, "127.0.0.1", 9000, secret, None)

    on_a_host(tmp_path, story)


def test_published_ports(tmp_path: Path) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        await node.networks.create(BridgeNetworkSpec(name="blue"))
        await node.networks.create(BridgeNetworkSpec(name="red"))
        ports = [
            PublishedPort(80, 8080),
            PublishedPort(80, 8081, host_address=IPv4Address("127.0.0.1")),
            PublishedPort(80),
            PublishedPort(53, 5353, "udp"),
        ]
        web = await node.run("web", "blue", ports=ports)
        near, red = await node.run("near", "blue"), await node.run("red1", "red")
        server = bed.serve(bed.at(web), 80)
        chosen = node.networks.ports(web.container)[2].published
        assert chosen >= 32768
        for caller, to, port, seen in (
            (bed.outside, HOST, 8080, OUTSIDE),
            (bed.outside, HOST, chosen, OUTSIDE),
            (bed.outside, HOST, 8081, None),
            (None, "127.0.0.1", 8080, "172.18.0.1"),
            (None, "127.0.0.1", 8081, "172.18.0.1"),
            (None, HOST, 8080, HOST),
            (bed.at(near), HOST, 8080, "172.18.0.1"),
            (bed.at(web), HOST, 8080, "172.18.0.1"),
            (bed.at(red), HOST, 8080, "172.18.0.1"),
            (bed.at(red), "172.19.0.1", 8080, "172.18.0.1"),
            (bed.at(red), "172.18.0.2", 80, None),
        ):
            bed.meet(caller, to, port, server, seen)
        datagrams = bed.serve(bed.at(web), 53, socket.SOCK_DGRAM)

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"?", (HOST, 5353))

        netns.run_in(bed.outside, send)
        assert datagrams.recvfrom(9)[1][0] == OUTSIDE
        with pytest.raises(WeftError, match=r"Bind for 0.0.0.0:8080 failed: port is already alloc"):
            await node.run("again", "blue", ports=ports[:1])
        bed.serve(None, 7000)
        with pytest.raises(WeftError, match=r"0.0.0.0:7000/tcp: address already in use"):
            await node.run("again", "blue", ports=[PublishedPort(80, 7000)])
        assert node.networks.sandbox(container_id("again")) is None
        await node.restart()
        node.loop.desire_swarm(None)
        await node.loop.settled()
        bed.meet(bed.outside, HOST, 8080, server, OUTSIDE)
        await node.networks.disconnect(web.container)
        bed.meet(bed.outside, HOST, 8080, server, None)
        assert not bed.at(web).exists()

    on_a_host(tmp_path, story)


def test_names_and_changes_while_a_container_runs(tmp_path: Path) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        await node.networks.create(BridgeNetworkSpec(name="blue"))
        await node.networks.create(BridgeNetworkSpec(name="red"))
        one = await node.run("one", "blue")
        two = await node.run("two", EndpointSettings(network="red", aliases=("db",)))
        assert await asked(bed.at(one), "two") == []
        await node.networks.attach(
            one.container, EndpointSettings(network="red", address=IPv4Address("172.19.0.9"))
        )
        own = str(two.endpoints[0].address.ip)
        assert [await asked(bed.at(one), n) for n in ("two", "DB", "two.red")] == [[own]] * 3
        assert await asked(bed.at(two), "one") == ["172.19.0.9"]
        server = bed.serve(bed.at(two), 80)
        bed.meet(bed.at(one), own, 80, server, "172.19.0.9")
        await node.restart()
        node.loop.desire_swarm(None)
        await node.loop.settled()
        async with asyncio.timeout(10):
            while await asked(bed.at(one), "two") != [own]:
                await asyncio.sleep(0)
        await node.networks.detach(one.container, "red")
        assert await asked(bed.at(one), "two") == []
        bed.meet(bed.at(one), own, 80, server, None)
        assert "eth1" not in inside(bed.at(one).parent, bed.at(one).name, "ip link")

    on_a_host(tmp_path, story)


@FILTERS_BRIDGES
def test_nobody_sends_as_another_one(tmp_path: Path, setting: str) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        sh(f"sysctl -qw net.bridge.bridge-nf-call-iptables={setting} || true")
        await node.networks.create(BridgeNetworkSpec(name="blue"))
        liar, other, listener = [await node.run(name, "blue") for name in ("liar", "two", "ear")]
        ear = bed.serve(bed.at(listener), 53, socket.SOCK_DGRAM)
        (own, own_mac), (his, his_mac), (to, to_mac) = (
            (str(place.endpoints[0].address.ip), place.endpoints[0].mac)
            for place in (liar, other, listener)
        )

        def frame(
            mac: str = own_mac, address: str = own, text: bytes = b"lie", tagged: bool = False
        ) -> bytes:
            head = (
                Ether(src=mac, dst=to_mac) / Dot1Q(vlan=1) if tagged else Ether(src=mac, dst=to_mac)
            )
            return bytes(head / IP(src=address, dst=to) / UDP(sport=9, dport=53) / Raw(text))

        arp = ARP(op=2, hwsrc=own_mac, psrc=his, hwdst=to_mac, pdst=to)
        lies = [
            frame(mac=his_mac),
            frame(address=his),
            frame(mac=his_mac, address=his),
            frame(tagged=True),
            bytes(Ether(src=own_mac, dst=to_mac) / arp),
            bytes(Ether(src=own_mac, dst=to_mac) / IPv6(src="fe80::1", dst="ff02::1")),
        ]

        def send(frames: list[bytes]) -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
                wire.bind(("eth0", 0))
                for each in frames:
                    wire.send(each)

        # The kernel opens a bridge's port some time after the link is up.
        ear.settimeout(NOT_LONG)
        for _ in range(100):
            netns.run_in(bed.at(liar), lambda: send([frame(text=b"first")]))
            with contextlib.suppress(TimeoutError):
                assert ear.recvfrom(9) == (b"first", (own, 9))
                break
        ear.settimeout(LONG)
        netns.run_in(bed.at(liar), lambda: send([*lies, frame(text=b"truth")]))
        assert ear.recvfrom(9) == (b"truth", (own, 9))
        known = inside(bed.at(listener).parent, bed.at(listener).name, "ip neighbour show dev eth0")
        assert his not in known

    on_a_host(tmp_path, story)


async def asked(space: Path, name: str) -> list[str]:
    """The addresses that the name server in the container gives for a name."""
    asking = await netns.open_socket(space, socket.AF_INET, socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    question = codec.Message(
        id=7, recursion_desired=True, questions=(codec.Question(name, codec.A, codec.IN),)
    )
    with asking:
        await loop.sock_sendto(asking, codec.encode(question), ("127.0.0.11", 53))
        try:
            async with asyncio.timeout(5):
                answer = codec.decode(await loop.sock_recv(asking, 512))
        except OSError:
            return []
    return [str(record.data) for record in answer.answers]


@in_throwaway
def test_docker_gwbridge_stays_where_it_is() -> None:
    """Also once the node's own network that was there first is gone."""
    own = [IPv4Network("172.18.0.0/16")]
    assert str(_gateway(own)) == "172.19.0.1/16"
    assert str(_gateway(())) == "172.18.0.1/16"
    sh("ip link add docker_gwbridge type bridge && ip addr add 172.19.0.1/16 dev docker_gwbridge")
    sh("ip link set docker_gwbridge up")
    assert str(_gateway(())) == "172.19.0.1/16"
    sh("ip link add eth0 type bridge && ip addr add 172.19.7.1/24 dev eth0 && ip link set eth0 up")
    assert str(_gateway(())) == "172.18.0.1/16"


def test_what_others_made_is_left_alone(tmp_path: Path) -> None:
    async def story(bed: Bed) -> None:
        node = bed.node
        sh("ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0")
        sh("ip link set docker0 up")
        with pytest.raises(WeftError, match=r"cannot make bridge docker0 of network bridge"):
            await node.run("one", "bridge")
        made = await node.networks.create(BridgeNetworkSpec(name="blue", device="mine0"))
        assert made.device in sh("ip link")
        await node.run("two", "blue")
        await node.networks.disconnect(container_id("two"))
        await node.networks.remove("blue")
        assert "mine0" not in sh("ip link")
        assert "172.17.0.1/16" in sh("ip addr show docker0")
        assert not sh("nft list tables").strip()

    on_a_host(tmp_path, story)
