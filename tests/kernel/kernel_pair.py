"""The two kernels of test_fake_kernel.py: runs in a network namespace of its own, does the same to
both, and prints where they differ.

The argument is an empty directory for the namespaces' files. Nothing is printed if the fake one
behaves like the real one.
"""

import asyncio
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import msgspec

from tests.support.swarms import Swarm
from weft.errors import OperationFailed
from weft.linux.fake import FakeKernel
from weft.linux.kernel import RealKernel
from weft.model.service import PublishedPort
from weft.network import operations as op
from weft.network.diff import diff
from weft.network.kernel_state import (
    HOST,
    BridgePort,
    ForwardingEntry,
    KernelState,
    Link,
    Namespace,
    Route,
    Vxlan,
)
from weft.network.plan import plan

EMPTY = KernelState({HOST: Namespace(name=HOST)})
NINE = IPv4Network("9.0.0.0/8")
PATIENCE = 5.0
"""Seconds: the kernel takes a namespace apart some time after it is removed, the fake one at
once."""


class Pair:
    def __init__(self, directory: Path) -> None:
        self.kernels = (RealKernel(directory), FakeKernel(IPv4Interface("10.59.72.11/24")))
        swarm = Swarm(3)
        net = swarm.network("mynet", "10.10.10.0/24")
        wide = swarm.network("wide", "10.20.0.0/24", "10.20.1.0/24")
        udp = PublishedPort(target=53, published=9001, protocol="udp")
        tasks = swarm.service(
            "web", net, wide, ports=[PublishedPort(target=80, published=8080), udp], on=[1, 2]
        )
        task = tasks[0]
        self.desired = plan(swarm.assignment(1), swarm.facts(1), swarm.residents(1))
        swarm.set_serving(tasks[1], False)
        self.fewer = plan(swarm.assignment(1), swarm.facts(1), swarm.residents(1))
        self.box = swarm.sandbox(task).key
        self.port = f"wgw-{self.box[:10]}"

    async def do(self, what: str, *operations: op.Operation) -> None:
        """The same to both, and then the comparison."""
        refused = [await attempt(kernel, operations) for kernel in self.kernels]
        if refused[0] != refused[1]:
            print(f"{what}: refused by the real one {refused[0]}, by the fake {refused[1]}")
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while found := await self.differences():
            if asyncio.get_running_loop().time() > deadline:
                print("\n".join(f"{what}: {difference}" for difference in found))
                break
            await asyncio.sleep(0.02)

    async def differences(self) -> list[str]:
        real, fake = [await kernel.read(self.desired) for kernel in self.kernels]
        found = [
            f"namespace {name} is only in one"
            for name in real.namespaces.keys() ^ fake.namespaces.keys()
        ]
        for name in real.namespaces.keys() & fake.namespaces.keys():
            found += self.compare(real[name], fake[name])
        return found

    def compare(self, real: Namespace, fake: Namespace) -> Iterator[str]:
        for field in ("links", "neighbours", "forwarding", "routes", "rules", "tables", "sysctls"):
            values = [getattr(space, field) for space in (real, fake)]
            if field == "links":
                values = [self.without_chance(space) for space in (real, fake)]
            if field == "sysctls":
                values = [
                    {k: v for k, v in value.items() if "bridge-nf-call" not in k}
                    for value in values
                ]
            if values[0] != values[1]:
                yield f"{field} of {real.name} are {values[0]}, in the fake {values[1]}"

    def without_chance(self, space: Namespace) -> dict[str, Link]:
        """MACs only where they were asked for: the others are the kernel's choice."""
        asked = self.desired[space.name].links if space.name in self.desired.namespaces else {}
        return {
            name: link
            if name in asked and asked[name].mac
            else msgspec.structs.replace(link, mac=None)
            for name, link in space.links.items()
        }

    async def repair(self, what: str) -> None:
        await self.do(what, *diff(await self.kernels[0].read(self.desired), self.desired))


async def attempt(
    kernel: RealKernel | FakeKernel, operations: tuple[op.Operation, ...]
) -> list[str]:
    """What was refused; the reasons' wording is each kernel's own."""
    try:
        await kernel.apply(operations)
    except OperationFailed as error:
        return [text.split("`: ")[0] for text in (str(error), *getattr(error, "__notes__", ()))]
    return []


async def main(directory: Path) -> None:
    pair = Pair(directory)
    box, net = pair.box, "1-mynet00000"
    try:
        await pair.do("plan", *diff(EMPTY, pair.desired))
        await pair.do("a task less", *diff(pair.desired, pair.fewer))
        await pair.do("the same again", *diff(pair.desired, pair.fewer))
        await pair.do(
            "not what is expected",
            *diff(pair.desired, pair.fewer)[:1],
            *diff(pair.fewer, pair.desired),
        )
        await pair.do("new MAC", op.SetLink(namespace=box, name="eth0", mac="02:42:0a:00:00:99"))
        await pair.do("last address", op.RemoveAddress(box, "eth0", IPv4Interface("10.0.0.6/24")))
        await pair.repair("repair of an address")
        await pair.do("down", op.SetLink(namespace=box, name="eth3", up=False))
        await pair.do("tunnel down", op.SetLink(namespace=net, name="vxlan0", up=False))
        await pair.do("tunnel up", op.SetLink(namespace=net, name="vxlan0", up=True))
        await pair.repair("repair of links that were down")
        await pair.do("out of the bridge", op.SetLink(namespace=HOST, name=pair.port, master=""))
        await pair.do(
            "what is refused",
            op.SetLink(namespace=HOST, name=pair.port, port=BridgePort(isolated=True)),
            op.SetLink(namespace=box, name="eth9", up=True),
            op.AddRoute(box, Route(destination=NINE, via=IPv4Address("9.0.0.1"), device="eth0")),
            op.AddRoute(box, Route(destination=NINE, source=IPv4Address("9.0.0.1"), device="eth0")),
            op.AddForwarding(
                box, ForwardingEntry("eth0", "02:42:0a:00:00:99", IPv4Address("192.0.2.1"))
            ),
            op.AddForwarding(box, ForwardingEntry("eth0", "02:42:0a:00:00:99")),
            op.AddAddress(box, "eth9", IPv4Interface("9.0.0.1/8")),
            op.SetSysctl(box, "net.ipv4.conf.eth9.rp_filter", "0"),
            op.AddLink(
                box,
                Link(name="again", kind=Vxlan(4097, IPv4Address("10.59.72.11"), 4789), mtu=1450),
            ),
            op.RemoveLink(box, "eth9"),
            op.RemoveNamespace("000000000000"),
        )
        mac = "02:42:0a:00:00:98"
        await pair.do("by a port", op.AddForwarding(net, ForwardingEntry("veth1", mac)))
        await pair.do("by another", op.AddForwarding(net, ForwardingEntry("veth0", mac)))
        await pair.do("by the first", op.RemoveForwarding(net, ForwardingEntry("veth1", mac)))
        await pair.do(
            "none of the bridge's ports", op.SetLink(namespace=net, name="veth0", master="")
        )
        await pair.repair("repair of a port")
        await pair.do("links", op.RemoveLink(net, "vxlan0"), op.RemoveLink(net, "veth1"))
        await pair.do("a bridge", op.RemoveLink("1-ingress000", "br0"))
        await pair.do("a namespace", op.RemoveNamespace("lb_mynet0000"))
        await pair.repair("repair of links that were gone")
        await pair.do("everything", *diff(pair.desired, EMPTY))
    finally:
        await pair.kernels[0].apply(diff(await pair.kernels[0].read(EMPTY), EMPTY))
        await pair.kernels[0].close()


asyncio.run(main(Path(sys.argv[1])))
