"""Looks at all nodes through a manager: who is asked, who is shown as silent, and how a look ends.
The simulated nodes track no connections."""

import asyncio
from contextlib import aclosing
from pathlib import Path

from tests.sim.test_streams import manager_of, play, service
from tests.simulation.cluster import SimCluster
from weft.manager.looks import GREETING
from weft.model.flows import FlowsFrame, FlowsWanted
from weft.model.look import LookBegun, LookEvent, NodeDone, NodeSaid, NodeSilent


async def look(cluster: SimCluster, wanted: FlowsWanted, seconds: float) -> list[LookEvent]:
    """What is said in that time, or until the look ends."""
    found: list[LookEvent] = []
    async with aclosing(manager_of(cluster, "node1").swarm.flows(wanted)) as events:
        try:
            async with asyncio.timeout(seconds):
                async for event in events:
                    found.append(event)
        except TimeoutError:
            assert wanted.follow
    return found


def ids(cluster: SimCluster) -> dict[str, str]:
    return {node.hostname: id for id, node in cluster.state.nodes.items()}


def done(events: list[LookEvent]) -> set[str]:
    return {event.node for event in events if isinstance(event, NodeDone)}


def silent(events: list[LookEvent]) -> dict[str, str]:
    return {event.node: event.cause for event in events if isinstance(event, NodeSilent)}


def test_all_nodes_are_asked_and_one_that_is_silent_is_shown_as_such(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, None)
        await cluster.settle(60)
        nodes = ids(cluster)
        events = await look(cluster, FlowsWanted(service=id), 30)
        first = events[0]
        assert isinstance(first, LookBegun)
        assert first.service == "web"
        assert {(each[0], each[1]) for each in first.nodes} == {(i, n) for n, i in nodes.items()}
        assert all(addresses for _, _, addresses in first.nodes)
        assert done(events) == set(nodes.values())
        opened = [
            (event.node, name)
            for event in events
            if isinstance(event, NodeSaid) and isinstance(event.frame, FlowsFrame)
            for _, name in event.frame.opened
        ]
        assert len(opened) == 2 * len(nodes)  # the host and a task on each
        await cluster.power_off("node3")
        began = asyncio.get_running_loop().time()
        events = await look(cluster, FlowsWanted(), 30)
        assert asyncio.get_running_loop().time() - began < GREETING + 1
        assert silent(events) == {nodes["node3"]: "it did not answer within 2 s"}
        assert done(events) == {nodes["node1"], nodes["node2"]}

    play(tmp_path, 1, 2, scene)


def test_a_look_goes_on_and_nodes_that_come_are_in_it(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        await cluster.settle(60)
        nodes = ids(cluster)
        await cluster.power_off("node3")
        going_on = asyncio.create_task(look(cluster, FlowsWanted(follow=True), 300))
        await asyncio.sleep(60)
        cluster.power_on("node3")
        events = await going_on
        assert nodes["node3"] in silent(events)
        said = {event.node for event in events if isinstance(event, NodeSaid)}
        assert said == set(nodes.values())
        assert not done(events)

    play(tmp_path, 1, 2, scene)
