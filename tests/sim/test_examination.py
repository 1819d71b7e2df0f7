"""`weft doctor` in a whole cluster on virtual time: faults are found on the node that has them, and
nothing is found while nothing is wrong."""

import asyncio
from pathlib import Path

from tests.sim.test_streams import manager_of, play, service
from tests.simulation.cluster import SimCluster
from weft.manager import examination
from weft.manager.examination import GREETING, Asked
from weft.manager.streams import End, How
from weft.model.finding import Report
from weft.model.ids import NodeId
from weft.model.node import NodeState
from weft.network.kernel_state import HOST
from weft.network.operations import RemoveTable


async def examine(cluster: SimCluster, repair: bool = False) -> Report:
    return await manager_of(cluster, "node1").examine(repair)


def test_nothing_is_found_in_a_cluster_that_is_well_and_grows(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        assert (await examine(cluster)).findings == ()
        created = await service(cluster, 1)
        for replicas in (3, 9, 2):
            current = cluster.state.services[created]
            spec = current.spec.__class__(
                **{f: getattr(current.spec, f) for f in current.spec.__struct_fields__}
                | {"replicas": replicas}
            )
            await cluster.ask(
                lambda m, c=current, s=spec: m.swarm.update_service(created, c.meta.version, s)  # type: ignore[misc]
            )
            for _ in range(3):
                assert (await examine(cluster)).findings == ()
        await cluster.settle(60)
        assert await examine(cluster, repair=True) == Report()

    play(tmp_path, 1, 2, scene)


def test_what_others_change_is_found_and_mended(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        await service(cluster, None)
        await cluster.settle(60)
        await asyncio.sleep(1)
        broken = cluster.hosts["node2"].kernel
        space = next(n for n in broken.state().namespaces if n.startswith("1-"))
        broken.spaces[space].set_sysctl("net.ipv6.conf.all.disable_ipv6", "0")
        report = await examine(cluster)
        assert [str(f) for f in report.findings] == [
            f"error node2 sysctl net.ipv6.conf.all.disable_ipv6 in {space} (network ingress)"
            " (should be 1): it is not as it should be; weft doctor --repair"
        ]
        report = await examine(cluster, repair=True)
        assert report.mended == (
            (
                "node2",
                f"sysctl net.ipv6.conf.all.disable_ipv6 in {space} (network ingress)"
                " (should be 1): it was not as it should be",
            ),
        )
        assert all("it was mended" in f.cause for f in report.findings)
        name = next(iter(broken.state()[HOST].tables))
        broken.damage(RemoveTable(HOST, *name))
        await asyncio.sleep(2)
        [_, table] = (await examine(cluster)).findings or (None, None)
        assert "another program changed it, and it was mended" in str(table)

    play(tmp_path, 1, 2, scene)


def test_nodes_that_do_not_answer_are_shown_and_the_others_too(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        silent = cluster.hosts["node3"]
        await cluster.settle(60)
        cluster.isolate("node3")
        begun = cluster.now()
        report = await examine(cluster)
        assert cluster.now() - begun <= GREETING + 1
        assert [(f.node, f.cause) for f in report.findings] == [
            ("node3", "it is disconnected: its host does not answer")
        ]
        there = Asked(cluster.state.nodes)
        there.take(End(NodeId(next(iter(cluster.state.nodes))), How.FAILED, "no"), {})
        told = {f.node: f.cause for f in examination.findings(cluster.state, there)}
        assert told == {"node1": "no", "node2": "it did not answer within 2 s"}
        await cluster.until(
            lambda: cluster.state.nodes[silent.node or NodeId("")].status.state is NodeState.DOWN,
            60,
        )
        assert [f.cause for f in (await examine(cluster)).findings] == [
            "it is down: heartbeat failure"
        ]

    play(tmp_path, 1, 2, scene)


def test_a_clock_that_is_wrong_is_found_from_afar(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        node = cluster.hosts["node2"].node
        assert node is not None
        manager = manager_of(cluster, "node1")
        behind = await examination.ask(
            manager.streams, [node], lambda: round((cluster.now() + 4000) * 10**9), False
        )
        found = list(examination.findings(cluster.state, behind))
        ahead = behind.skews[node]
        assert [f.what for f in found] == ["clock"]
        assert ("ahead of" if ahead > 0 else "behind") in found[0].cause

    play(tmp_path, 1, 1, scene)
