"""Hosts in memory: each has a `FakeKernel` that is brought to what the plan says, and all are on
one underlay."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

import msgspec

from tests.support.swarms import Swarm
from weft.linux.fake import FakeKernel
from weft.linux.fake_underlay import FakeUnderlay, Journey, Place
from weft.model.encryption import DataKey
from weft.model.ids import TaskId
from weft.model.trace import ANY, Packet
from weft.network.diff import diff
from weft.network.kernel_state import HOST, KernelState
from weft.network.plan import plan

CLIENT = IPv4Address("192.0.2.7")
NOBODY = TaskId("nobody")


class Cluster:
    """A swarm and its kernels. `engine`: what seals encrypted networks on every host."""

    def __init__(
        self, swarm: Swarm, engine: str | None = None, keys: Sequence[DataKey] = ()
    ) -> None:
        self.swarm = swarm
        self.engine = engine
        self.keys = keys
        self.underlay = FakeUnderlay()
        for i, node in enumerate(swarm.nodes, 1):
            self.underlay.join(
                f"node{i}", FakeKernel(IPv4Interface(f"{swarm.vtep(node)}/24"), swarm.underlay_mtu)
            )
        self.apply()

    def desired(self, i: int) -> KernelState:
        facts = msgspec.structs.replace(self.swarm.facts(i), esp_engine=self.engine)
        assignment = msgspec.structs.replace(self.swarm.assignment(i), keys=tuple(self.keys))
        return plan(assignment, facts, self.swarm.residents(i))

    def apply(self) -> None:
        async def run() -> None:
            for i, kernel in enumerate(self.underlay.hosts.values(), 1):
                desired = self.desired(i)
                await kernel.apply(diff(await kernel.read(desired), desired))
                assert diff(await kernel.read(desired), desired) == []

        asyncio.run(run())

    def kernel(self, host: str) -> FakeKernel:
        return self.underlay.hosts[host]

    # --- packets

    def from_outside(
        self,
        host: str,
        port: int,
        protocol: str = "tcp",
        source: tuple[IPv4Address, int] = (CLIENT, 40000),
    ) -> Journey:
        return self.underlay.trace(Packet(protocol, *source, self.address(host), port))

    def from_host(
        self, host: str, address: str | IPv4Address, port: int, protocol: str = "tcp"
    ) -> Journey:
        return self.underlay.trace(
            Packet(protocol, ANY, 40000, IPv4Address(address), port), Place(host, HOST)
        )

    def from_task(
        self, task: TaskId, address: str | IPv4Address, port: int, protocol: str = "tcp"
    ) -> Journey:
        return self.underlay.trace(
            Packet(protocol, ANY, 40000, IPv4Address(address), port), self.place(task)
        )

    def round_trip(self, request: Journey, at: TaskId | None = None) -> bool:
        """Whether the request arrives (at that task) and its answer comes back to where the request
        came from, as what was asked."""
        if request.end != "delivered" or (at is not None and self.task_at(request) != at):
            return False
        answer = self.underlay.answer(request)
        asked = next(s.packet for s in request.steps if s.packet.source != ANY)
        home = answer.place == request.steps[0].place and answer.end in ("delivered", "left")
        return home and answer.packet == asked.reversed()

    # --- names

    def address(self, host: str) -> IPv4Address:
        return self.swarm.vtep(self.swarm.nodes[int(host.removeprefix("node")) - 1])

    def place(self, task: TaskId) -> Place:
        number = self.swarm.nodes.index(self.swarm.tasks[task].node) + 1
        return Place(f"node{number}", self.swarm.sandbox(task).key)

    def task_at(self, journey: Journey) -> TaskId:
        return next((t for t in self.swarm.tasks if self.place(t) == journey.place), NOBODY)

    def told(self, journey: Journey) -> str:
        """The journey as text, with the containers' names for the digits of their namespaces."""
        text = "\n".join(
            f"{s.place.host} {s.place.namespace}: {s.what}: {s.packet}" for s in journey.steps
        )
        for task in self.swarm.tasks:
            text = text.replace(self.swarm.sandbox(task).key, task.rstrip("0"))
        return text.replace("outside :", "outside:")


def only_task(cluster: Cluster, service: str) -> TaskId:
    [task] = [t.id for t in cluster.swarm.tasks.values() if t.service_name == service]
    return task


def arrived(journey: Journey) -> Packet:
    """The packet at the end of the journey."""
    assert journey.packet is not None
    return journey.packet


def text(block: str) -> str:
    """A block of a test as lines, with single spaces."""
    return "\n".join(" ".join(line.split()) for line in block.strip().splitlines())
