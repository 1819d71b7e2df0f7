"""Streams from nodes to a manager, whatever they carry: whom they reach, and how each node's part
ends. In virtual time, and at the end over real TLS on loopback."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from tests.simulation.cluster import SimCluster
from tests.support import virtual_time
from tests.support.members import Host, until
from weft.linux.fake import FakeKernel
from weft.manager.engine_states import EngineStates, engine_states
from weft.manager.manager import Manager
from weft.manager.streams import End, How, Targets, TheseNodes
from weft.manager.subscription import RETRY
from weft.model.engine_state import EngineState
from weft.model.ids import NetworkId, NodeId, ServiceId
from weft.model.network import NetworkSpec
from weft.model.node import NodeState
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.state import ClusterState, Event, Kind
from weft.network.kernel_state import Vxlan
from weft.network.operations import AddLink, Operation, RemoveLink
from weft.session.messages import MAX_FAILURES


def play(
    directory: Path,
    managers: int,
    workers: int,
    scene: Callable[[SimCluster], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with SimCluster.of(directory, managers, workers) as cluster:
            await scene(cluster)

    virtual_time.run(main())


def manager_of(cluster: SimCluster, name: str) -> Manager:
    manager = cluster.hosts[name].manager
    assert manager is not None
    return manager


def makes_vxlan(operation: Operation) -> bool:
    return isinstance(operation, AddLink) and isinstance(operation.link.kind, Vxlan)


def take_vxlan(kernel: FakeKernel) -> None:
    """Somebody removes the VXLAN interfaces, and there can be no others."""
    for _ in range(10_000):
        kernel.fail_next(makes_vxlan, "Operation not supported")
    for name, space in kernel.state().namespaces.items():
        for link in space.links.values():
            if isinstance(link.kind, Vxlan):
                kernel.damage(RemoveLink(name, link.name))


async def service(cluster: SimCluster, replicas: int | None) -> ServiceId:
    """On a network of its own, beside the ingress network; global if there is no number."""
    network = await cluster.ask(
        lambda manager: manager.swarm.create_network(NetworkSpec(name="net"))
    )
    task = TaskSpec(
        container=ContainerSpec(image="demo"),
        networks=(NetworkAttachmentSpec(NetworkId(network.id)),),
    )
    return await cluster.ask(
        lambda manager: manager.swarm.create_service(
            ServiceSpec(name="web", replicas=replicas, task=task)
        )
    )


class FollowedStates(EngineStates):
    """Asked for again and again: no kind of stream that Weft has is followed, but for logs."""

    follow = True


class Follower:
    def __init__(self, manager: Manager, targets: Targets) -> None:
        self.items: list[Any] = []
        self._batches = manager.streams.read(FollowedStates(), targets)
        self.task = asyncio.create_task(self._read())

    def of(self, node: NodeId) -> list[str]:
        """What came of the node, in a word each."""
        ends = (
            (i.node, i.how.value) if isinstance(i, End) else (i[0], "state") for i in self.items
        )
        return [word for each, word in ends if each == node]

    async def _read(self) -> None:
        async with aclosing(self._batches):
            async for batch in self._batches:
                self.items += batch


def test_any_manager_is_told_the_state_of_every_engine(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        broken = cluster.hosts["node5"]
        await service(cluster, None)
        await cluster.settle(60)
        take_vxlan(broken.kernel)
        await asyncio.sleep(30)
        nodes = list(cluster.state.nodes)
        for host in cluster.managers:
            states = await engine_states(manager_of(cluster, host.name).streams, nodes)
            assert states.keys() == set(nodes)
            for other in cluster.hosts.values():
                assert other.node is not None
                assert other.agent is not None
                state = states[other.node]
                assert isinstance(state, EngineState)
                assert state.revision == other.agent.assignment.revision > 0
                assert (state.settled, state.networks, state.sandboxes) == (True, 2, 1)
                causes = {failure.cause for failure in state.failures}
                if other is broken:
                    assert len(state.failures) == min(state.failed, MAX_FAILURES) > 0
                    assert any("Operation not supported" in cause for cause in causes)
                    assert all(failure.operation for failure in state.failures)
                else:
                    assert (state.failed, causes) == (0, set())

    play(tmp_path, 3, 2, scene)


def test_each_node_has_an_end_that_says_what_became_of_it(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        lost, there = cluster.hosts["node3"], cluster.hosts["node2"]
        assert lost.node is not None
        assert there.node is not None
        await cluster.power_off("node3")
        await cluster.until(
            lambda: cluster.state.nodes[lost.node or NodeId("")].status.state is NodeState.DOWN, 60
        )
        nobody = NodeId("nobody")
        found = await engine_states(
            manager_of(cluster, "node1").streams, [lost.node, nobody, there.node, there.node]
        )
        assert found.pop(lost.node) == End(
            lost.node, How.GONE, f"node {lost.node} is not available"
        )
        assert found.pop(nobody) == End(nobody, How.UNKNOWN, "node nobody is not part of the swarm")
        assert [*found] == [there.node]
        assert isinstance(found[there.node], EngineState)

    play(tmp_path, 1, 2, scene)


class Active:
    """`Targets`: the nodes that may get tasks."""

    kinds: tuple[Kind, ...] = ("node",)

    def nodes(self, state: ClusterState) -> list[NodeId]:
        return [node.id for node in state.nodes.values() if node.spec.availability == "active"]

    def concerns(self, event: Event) -> bool:
        return True

    def is_over(self, state: ClusterState) -> bool:
        return True


def test_a_stream_follows_its_targets(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        nodes = list(cluster.state.nodes)
        leaving = nodes[-1]

        async def drain(id: NodeId) -> None:
            node = cluster.state.nodes[id]
            drained = msgspec.structs.replace(node.spec, availability="drain")
            await cluster.ask(
                lambda manager: manager.swarm.update_node(id, node.meta.version, drained)
            )

        follower = Follower(manager_of(cluster, "node1"), Active())
        await cluster.until(lambda: follower.of(leaving) == ["state", "ended"], 10)
        await asyncio.sleep(3 * RETRY)
        assert follower.of(leaving).count("state") >= 3, "asked again"
        await drain(leaving)
        await cluster.until(lambda: follower.of(leaving)[-1:] == ["cancelled"], 30)
        before = len(follower.of(leaving))
        await asyncio.sleep(3 * RETRY)
        assert len(follower.of(leaving)) == before
        assert all("cancelled" not in follower.of(other) for other in nodes[:-1])
        for other in nodes[:-1]:
            await drain(other)
        await cluster.until(follower.task.done, 10)
        follower.task.result()
        assert {follower.of(node)[-1] for node in nodes} == {"cancelled"}

    play(tmp_path, 1, 2, scene)


def test_a_followed_node_that_does_not_exist_is_asked_once(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        nobody, there = NodeId("nobody"), cluster.hosts["node1"].node
        assert there is not None
        follower = Follower(manager_of(cluster, "node1"), TheseNodes([nobody, there]))
        await asyncio.sleep(5 * RETRY)
        assert follower.of(nobody) == ["unknown"]
        assert follower.of(there).count("state") > 3
        follower.task.cancel()
        await asyncio.wait((follower.task,))

    play(tmp_path, 1, 0, scene)


def test_over_tls(tmp_path: Path) -> None:
    async def main() -> None:
        hosts = [Host(tmp_path, number, None) for number in (41, 42)]
        try:
            await hosts[0].init()
            await hosts[1].join(
                hosts[0].listen, (await hosts[0].manager.swarm.join_tokens()).worker
            )
            await until(lambda: all(host.up.agent.uplink.connected for host in hosts))
            nodes = [host.up.member.node for host in hosts]
            found = await engine_states(hosts[0].manager.streams, nodes)
            assert [type(found[node]) for node in nodes] == [EngineState] * 2
        finally:
            for host in hosts:
                await host.stop()

    asyncio.run(main())
