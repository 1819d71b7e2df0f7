"""Captures through a manager: which nodes it asks, and how each node's part and the whole end. The
simulated nodes have no packets, and say so."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.sim.test_streams import manager_of, play, service
from tests.simulation.cluster import SimCluster
from weft.api.captures import find
from weft.errors import InvalidArgument, NotFound
from weft.model.capture import CaptureEvent, CaptureNames, CaptureWanted, NodeGone, NodePackets
from weft.model.ids import NetworkId, ServiceId
from weft.model.network import NetworkSpec


class Watch:
    """A capture that is read."""

    def __init__(self, cluster: SimCluster, wanted: CaptureWanted) -> None:
        self.events: list[CaptureEvent] = []
        self._events = manager_of(cluster, "node1").swarm.capture(wanted)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._events):
            async for event in self._events:
                self.events.append(event)

    @property
    def nodes(self) -> set[str]:
        """Those that have said what they can watch, or cannot."""
        return {e.node for e in self.events if isinstance(e, NodePackets) and e.frame.failed}

    async def until_heard(self, *nodes: str) -> None:
        async with asyncio.timeout(60):
            while not set(nodes) <= self.nodes:
                await asyncio.sleep(0.1)


async def network_of(cluster: SimCluster) -> NetworkId:
    return next(id for id, each in cluster.state.networks.items() if each.name == "net")


def test_every_node_of_a_network_is_asked_and_the_capture_ends_with_the_network(
    tmp_path: Path,
) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, None)
        await cluster.settle(60)
        network = await network_of(cluster)
        watch = Watch(cluster, CaptureWanted(network=network))
        await watch.until_heard("node1", "node2", "node3")
        first = watch.events[0]
        assert isinstance(first, CaptureNames)
        addresses = dict(first.names)
        tasks = cluster.state.tasks_of(id).values()
        for task in tasks:
            (attachment,) = task.attachments
            assert addresses[str(attachment.address.ip)] == f"web.{task.node}"
        await cluster.ask(lambda manager: manager.swarm.remove_service(ServiceId(id)))
        await cluster.settle(60)
        await cluster.ask(lambda manager: manager.swarm.remove_network(network))
        async with asyncio.timeout(60):
            await watch.task

    play(tmp_path, 1, 2, scene)


def test_a_node_that_is_lost_is_told_of_and_the_others_go_on(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, None)
        await cluster.settle(60)
        watch = Watch(cluster, CaptureWanted(service=id))
        await watch.until_heard("node1", "node2", "node3")
        await cluster.power_off("node3")
        async with asyncio.timeout(120):
            while not any(isinstance(e, NodeGone) and e.node == "node3" for e in watch.events):
                await asyncio.sleep(0.1)
        count = len(watch.events)
        await asyncio.sleep(5)
        assert {e.node for e in watch.events[count:] if isinstance(e, NodePackets)} == {
            "node1",
            "node2",
        }
        watch.task.cancel()
        await asyncio.wait((watch.task,))

    play(tmp_path, 1, 2, scene)


def test_what_a_name_stands_for(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 2)
        await cluster.settle(60)
        state = cluster.state
        network = await network_of(cluster)
        assert find(state, "net") == find(state, "network:net") == CaptureWanted(network=network)
        assert find(state, "web") == find(state, id[:10]) == CaptureWanted(service=id)
        task = next(task for task in state.tasks.values() if task.slot == 2)
        for reference in (task.id, "web.2", f"task:{task.name}"):
            assert find(state, reference) == CaptureWanted(task=task.id)
        with pytest.raises(NotFound, match="cannot capture web.3: no network, service or task"):
            find(state, "web.3")
        with pytest.raises(NotFound, match="network nope not found"):
            find(state, "network:nope")
        await cluster.ask(lambda manager: manager.swarm.create_network(NetworkSpec(name="web")))
        with pytest.raises(InvalidArgument, match="ambiguous; write network:web or service:web"):
            find(cluster.state, "web")
        assert find(cluster.state, "service:web") == CaptureWanted(service=id)

    play(tmp_path, 1, 0, scene)
