"""A host's namespace for `RealKernel`, which ends with the test, and the state of a whole node to
bring it to."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from weft.linux import netns
from weft.linux.kernel import RealKernel
from weft.network.diff import diff
from weft.network.kernel_state import (
    HOST,
    Bridge,
    BridgePort,
    ForwardingEntry,
    KernelState,
    Link,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Table,
    Veth,
    Vxlan,
)

OVERLAY, SANDBOX = "1-overlay000", "0123456789ab"
NOTHING = KernelState({})
DEADLINE = 20
ZONES = (
    'chain a {\ntype filter hook prerouting priority raw;\niifname "eth0" ct original zone set 7\n}'
)


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def inside(directory: Path, name: str, command: str) -> str:
    return sh(f"nsenter --net={directory / name} {command}")


def with_kernel(path: Path, body: Callable[[RealKernel], Awaitable[None]]) -> None:
    """Run `body(kernel)` in a fresh host's namespace; afterwards the directory is emptied, whatever
    happened."""

    async def main() -> None:
        sh("ip link set lo up")
        kernel = RealKernel(path)
        try:
            async with asyncio.timeout(DEADLINE):
                await body(kernel)
        finally:
            await kernel.close()

    try:
        netns.run_in_throwaway(lambda: asyncio.run(main()))
    finally:
        for left in path.iterdir():
            netns.remove(left)


def veth(name: str, peer_namespace: str, peer: str, **settings: Any) -> Link:
    return Link(name=name, kind=Veth(peer_namespace, peer), mtu=1450, **settings)


def cluster_node(vtep: str = "127.0.0.1", own: int = 2, vni: int = 4097) -> KernelState:
    """One of everything: what a node with one container on one overlay network could look like."""
    container = f"10.0.0.{own}"
    overlay = Namespace(
        name=OVERLAY,
        links={
            "br0": Link(
                name="br0",
                kind=Bridge(),
                mtu=1450,
                addresses=frozenset({IPv4Interface("10.0.0.1/24")}),
            ),
            "vxlan0": Link(
                name="vxlan0",
                kind=Vxlan(vni=vni, local=IPv4Address(vtep), port=4789),
                mtu=1450,
                master="br0",
                port=BridgePort(isolated=True, learning=False),
            ),
            "veth1": veth("veth1", SANDBOX, "eth0", master="br0"),
        },
        neighbours=frozenset({Neighbour("vxlan0", IPv4Address("10.0.0.77"), "02:42:0a:00:00:4d")}),
        forwarding=frozenset(
            {
                ForwardingEntry("vxlan0", "02:42:0a:00:00:4d", IPv4Address("192.0.2.12")),
                ForwardingEntry("veth1", f"02:42:0a:00:00:{own:02x}"),
            }
        ),
        sysctls={"net.ipv4.ip_forward": "0"},
    )
    sandbox = Namespace(
        name=SANDBOX,
        links={
            "eth0": veth(
                "eth0",
                OVERLAY,
                "veth1",
                mac=f"02:42:0a:00:00:{own:02x}",
                addresses=frozenset({IPv4Interface(f"{container}/24")}),
            ),
            "eth1": veth(
                "eth1",
                HOST,
                "wgw-0123456789",
                addresses=frozenset({IPv4Interface("172.18.0.3/16")}),
            ),
        },
        neighbours=frozenset({Neighbour("eth0", IPv4Address("10.0.0.254"), "02:42:0a:00:00:fe")}),
        routes=frozenset(
            {
                Route(
                    destination=IPv4Network("0.0.0.0/0"),
                    device="eth1",
                    via=IPv4Address("172.18.0.1"),
                ),
                Route(
                    destination=IPv4Network("0.0.0.0/0"),
                    device="eth0",
                    via=IPv4Address("10.99.0.1"),
                    onlink=True,
                    table=100,
                ),
            }
        ),
        rules=frozenset(
            {
                Rule(priority=1000, table=100, mark=0x10000, mask=0xFFFF0000),
                Rule(
                    priority=1001,
                    table=110,
                    input_device="lo",
                    protocol=17,
                    source_ports=(7001, 7001),
                ),
            }
        ),
        sysctls={
            "net.ipv4.conf.eth0.rp_filter": "0",
            "net.ipv4.ip_local_port_range": "20000 30000",
        },
        tables={
            ("ip", "ret"): Table("ip", "ret", ZONES),
            ("netdev", "ret"): Table(
                "netdev", "ret", 'chain out {\ntype filter hook egress device "eth0" priority 0;\n}'
            ),
        },
    )
    host = Namespace(
        name=HOST,
        links={
            "docker_gwbridge": Link(
                name="docker_gwbridge",
                kind=Bridge(),
                mtu=1500,
                addresses=frozenset({IPv4Interface("172.18.0.1/16")}),
            ),
            "wgw-0123456789": veth(
                "wgw-0123456789",
                SANDBOX,
                "eth1",
                master="docker_gwbridge",
                port=BridgePort(isolated=True),
            ),
        },
        routes=frozenset(
            {Route(destination=IPv4Network("10.0.0.0/24"), device="docker_gwbridge", table=5917)}
        ),
        rules=frozenset({Rule(priority=900, table=5917, mark=0x20000, mask=0xFFFFFFFF)}),
        tables={
            ("ip", "weft"): Table(
                "ip", "weft", "chain n {\ntype nat hook prerouting priority dstnat;\n}"
            )
        },
    )
    return KernelState({OVERLAY: overlay, SANDBOX: sandbox, HOST: host})


async def become(kernel: RealKernel, desired: KernelState) -> None:
    await kernel.apply(diff(await kernel.read(desired), desired))
