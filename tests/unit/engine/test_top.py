"""One node's part of `weft top`: which counters belong to what, and what is told when some cannot be
read."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.frames import on_a_loop
from tests.support.swarms import Swarm
from weft.engine import top
from weft.engine.top import Top
from weft.errors import OperationFailed
from weft.linux.base import LinkTraffic
from weft.model.ids import ContainerId, NodeId
from weft.model.sandbox import NodeFacts
from weft.model.service import PublishedPort
from weft.model.top import Carried, TcpCounts, TopFrame, TopWanted, Way
from weft.network.kernel_state import HOST
from weft.network.readings import Reading, readings

NODE, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
WEB = Reading("a", "web.1", "web", ContainerId("c" * 64), {"eth0": "mesh", "eth1": "overlay"})


def traffic(number: int) -> LinkTraffic:
    return LinkTraffic(1, 2, 100 * number, 10 * number, 1, 2, 3, 4)


class Node:
    facts = NodeFacts(node=NodeId("n1"), data_path_address=NODE)

    def __init__(self) -> None:
        self.places = [WEB]
        self.devices = {
            HOST: {"ens160": traffic(9), "ens161": traffic(1)},
            "a": {name: traffic(i) for i, name in enumerate(("lo", "eth0", "eth1", "eth2"))},
            "1-net": {"br0": traffic(1), "vxlan0": traffic(2), "vxlan1": traffic(3)},
        }
        self.answers = {OTHER: 0.002}
        self.fails = False

    def readings(self) -> Sequence[Reading]:
        return self.places

    def tunnels(self) -> Mapping[str, str]:
        return {"1-net": "net"}

    def peers(self) -> Mapping[NodeId, IPv4Address]:
        return {NodeId("n2"): OTHER, NodeId("n3"): IPv4Address("192.0.2.3")}

    def pid(self, container: ContainerId) -> int:
        return 4711

    # --- the adapters

    async def carried(self, spaces: Iterable[str]) -> Mapping[str, Mapping[str, LinkTraffic]]:
        if self.fails:
            raise OperationFailed("cannot read network namespace a: it is gone")
        return {name: self.devices[name] for name in spaces if name in self.devices}

    async def round_trips(
        self, addresses: Collection[IPv4Address], seconds: float
    ) -> Mapping[IPv4Address, float]:
        return {a: took for a, took in self.answers.items() if a in addresses}

    def top(self, once: bool = True) -> Top:
        adapters: Any = SimpleNamespace(
            kernel=self, round_trips=self.round_trips, uplink=lambda address: "ens160",
            count_tcp=lambda pid: TcpCounts(accepted=pid),
        )  # fmt: skip
        names: Any = SimpleNamespace(
            answers=SimpleNamespace(
                by_labels=Counter({("noerror", "here", "udp"): 3, ("servfail", "here", "udp"): 1})
            )
        )
        return Top(self, adapters, names, lambda: 7, TopWanted(once=once))

    async def frames(self) -> list[TopFrame]:
        return [frame async for frame in self.top().frames()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "BETWEEN", 0.0)


@on_a_loop
async def test_two_readings_of_all_that_is_counted() -> None:
    first, tasks, rest, *second = await Node().frames()
    assert first == TopFrame(now=7)
    assert [frame.is_last for frame in (tasks, rest, *second)] == [False, True, False, True]
    (web,) = tasks.tasks
    assert (web.name, web.service, web.tcp.accepted) == ("web.1", "web", 4711)
    assert web.mesh == Carried(100, 10, 1, 2, 7, 3)
    assert (web.overlay.received, web.outside.received) == (200, 300)
    assert rest.networks[0].tunnel.received == 500
    assert rest.underlay is not None
    assert rest.underlay.received == 900
    assert rest.ways == (Way("n2", 2_000_000), Way("n3", -1))
    assert (rest.names_answered, rest.names_failed) == (4, 1)


@on_a_loop
async def test_what_cannot_be_read_is_named_and_the_rest_is_told() -> None:
    node = Node()
    node.fails = True
    _, rest, _ = await node.frames()
    assert rest.failed == ("cannot read network namespace a: it is gone",)
    assert rest.ways
    assert rest.tasks == ()


@on_a_loop
async def test_many_tasks_come_in_several_frames_and_no_more_than_a_limit() -> None:
    node = Node()
    node.places = [WEB._replace(name=f"web.{i}") for i in range(top.MOST_TASKS + 3)]
    frames = await node.frames()
    assert sum(len(frame.tasks) for frame in frames) == 2 * top.MOST_TASKS
    assert max(len(frame.tasks) for frame in frames) == top.TOGETHER
    assert {frame.left_out for frame in frames if frame.is_last} == {3}


@on_a_loop
async def test_a_look_goes_on_until_nobody_asks() -> None:
    frames = Node().top(once=False).frames()
    await anext(frames)
    await anext(frames)
    await frames.aclose()


def test_interfaces_belong_to_the_mesh_to_networks_or_lead_outside() -> None:
    made = Swarm(1)
    front = made.network("front", "10.1.0.0/24")
    made.service("web", front, ports=[PublishedPort(target=80, published=8080)], on=[1])
    (found,) = readings(made.assignment(1), made.residents(1))
    assert (found.name, found.service) == ("web.1", "web")
    assert dict(found.devices) == {"eth0": "mesh", "eth1": "overlay"}
