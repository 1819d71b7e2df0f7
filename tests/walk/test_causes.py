"""Where a packet's way ends on damaged kernels in memory, and why; and that on healthy ones nothing
is found. tests/kernel/test_trace.py does the same to real kernels."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

import pytest

from tests.support.swarms import Swarm
from tests.walk.conftest import CLIENT, Cluster, only_task
from weft.linux.fake import FakeKernel
from weft.model.addresses import mac_for
from weft.model.ids import TaskId
from weft.model.service import PublishedPort
from weft.model.trace import Cause, CauseKind, Sent, Stopped
from weft.network import operations as op
from weft.network.kernel_state import HOST, Bridge, BridgePort, Link

NET, WEB, ADDRESS = "1-mynet00000", 8080, IPv4Address("10.10.10.5")
MAC = mac_for(ADDRESS)


@pytest.fixture
def cluster() -> Cluster:
    """`web` on the second of two hosts publishes 8080; `app` on the first is on the same network."""
    swarm = Swarm(2)
    net = swarm.network("mynet", "10.10.10.0/24")
    swarm.service("web", net, ports=[PublishedPort(target=80, published=WEB)], on=[2])
    swarm.service("app", net, on=[1])
    return Cluster(swarm)


def without(entries: Iterable[op.Operation]) -> Callable[[FakeKernel], None]:
    return lambda kernel: kernel.damage(*entries)


def no_forwarding(kernel: FakeKernel) -> None:
    found = [e for e in kernel.state()[NET].forwarding if e.mac == MAC]
    kernel.damage(*(op.RemoveForwarding(NET, entry) for entry in found))


def no_neighbour(kernel: FakeKernel) -> None:
    found = [n for n in kernel.state()[NET].neighbours if n.address == ADDRESS]
    kernel.damage(*(op.RemoveNeighbour(NET, entry) for entry in found))


def wrong_bridge(kernel: FakeKernel) -> None:
    other = Link(name="br7", kind=Bridge(), mtu=1450)
    moved = op.SetLink(namespace=NET, name="veth1", master="br7", port=BridgePort())
    kernel.damage(op.AddLink(NET, other), op.SetLink(namespace=NET, name="br7", up=True), moved)


FAULTS: dict[str, tuple[int, Callable[[FakeKernel], None], CauseKind, str, str]] = {
    "no forwarding entry": (1, no_forwarding, CauseKind.NO_FORWARDING, "vxlan0", MAC),
    "no neighbour": (1, no_neighbour, CauseKind.NO_NEIGHBOUR, "vxlan0", "no neighbour entry"),
    "the tunnel is down": (
        1, without([op.SetLink(namespace=NET, name="vxlan0", up=False)]),
        CauseKind.NO_NEIGHBOUR, "vxlan0", "interface vxlan0 is down"),
    "the tunnel is down where it ends": (
        2, without([op.SetLink(namespace=NET, name="vxlan0", up=False)]),
        CauseKind.DOWN, "vxlan0", "interface vxlan0 is down"),
    "the tunnel is missing where it ends": (
        2, without([op.RemoveLink(NET, "vxlan0")]), CauseKind.MISSING, "", "no VXLAN interface"),
    "no master": (
        1, without([op.SetLink(namespace=NET, name="veth1", master="")]),
        CauseKind.NO_NEIGHBOUR, "veth1", "veth1 is a port of no bridge"),
    "the wrong bridge": (
        1, wrong_bridge, CauseKind.NO_NEIGHBOUR, "veth1", "veth1 is a port of br7"),
    "the bridge is down": (
        1, without([op.SetLink(namespace=NET, name="br0", up=False)]),
        CauseKind.NO_NEIGHBOUR, "br0", "interface br0 is down"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(cluster: Cluster, name: str) -> None:
    host, damage, kind, device, words = FAULTS[name]
    damage(cluster.kernel(f"node{host}"))
    journey = cluster.from_task(only_task(cluster, "app"), ADDRESS, 80)
    exit = journey.passages[-1].exit
    assert isinstance(exit, Stopped)
    assert exit.cause.kind is kind
    assert words in exit.cause.missing
    assert not device or exit.cause.device == device
    assert exit.cause.repair


def test_what_is_too_large_is_told_although_a_small_packet_arrives(cluster: Cluster) -> None:
    cluster.kernel("node2").damage(op.SetLink(namespace=NET, name="veth1", mtu=1000))
    journey = cluster.from_task(only_task(cluster, "app"), ADDRESS, 80)
    assert journey.end == "delivered"
    [remark] = remarks(cluster, only_task(cluster, "app"))
    assert (remark.kind, remark.namespace, remark.device) == (CauseKind.TOO_LARGE, NET, "veth1")


def test_nothing_is_found_on_healthy_hosts(cluster: Cluster) -> None:
    assert remarks(cluster, only_task(cluster, "app")) == []
    for host in ("node1", "node2"):
        request = cluster.from_outside(host, WEB, source=(CLIENT, 40000 + int(host[-1])))
        back = cluster.underlay.answer(request)
        assert [p.remarks for j in (request, back) for p in j.passages if p.remarks] == []


def test_a_packet_without_its_route_leaves_the_hosts(cluster: Cluster) -> None:
    """That it is lost, only those can say who know the networks."""
    kernel = cluster.kernel("node1")
    routes = [route for route in kernel.state()[HOST].routes if route.table == 5917]
    kernel.damage(*(op.RemoveRoute(HOST, route) for route in routes))
    exit = cluster.from_outside("node1", WEB).passages[-1].exit
    assert isinstance(exit, Sent)
    assert str(exit.datagram.packet.destination) == "10.0.0.5"


def remarks(cluster: Cluster, task: TaskId) -> list[Cause]:
    journey = cluster.from_task(task, ADDRESS, 80)
    return [cause for passage in journey.passages for cause in passage.remarks]
