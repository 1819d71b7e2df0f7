"""Clocks that are set, by an hour or a day, on one host of a whole swarm in virtual time; and hosts that
slept. Sessions and containers go on, what waits goes on waiting for as long as it was to, and silence is
still noticed."""

import asyncio

import msgspec
import pytest

from tests.sim.test_cluster import leader, play, scale, web
from tests.simulation.cluster import SimCluster
from tests.simulation.steps import rotated_root
from weft.model.ids import ServiceId
from weft.model.meta import SECOND, Nanoseconds, bounded
from weft.model.node import NodeState
from weft.model.service import UpdateConfig, UpdateState

HOUR: Nanoseconds = 3600 * SECOND
JUMPS = [HOUR, -HOUR, 24 * HOUR - SECOND, -24 * HOUR + SECOND]


def connected(cluster: SimCluster) -> bool:
    return all(host.agent is not None and host.agent.uplink.connected for host in cluster.members)


async def nothing_is_lost(cluster: SimCluster, seconds: float) -> None:
    """The sessions and the containers of now are those of then."""
    sessions = {host.name: host.agent and host.agent.uplink for host in cluster.members}
    running = {container.id for _, container in cluster.running()}
    end = cluster.now() + seconds
    while cluster.now() < end:
        assert connected(cluster), "a session was lost"
        assert {container.id for _, container in cluster.running()} == running
        assert all(n.status.state is NodeState.READY for n in cluster.state.nodes.values())
        await asyncio.sleep(0.5)
    assert {host.name: host.agent and host.agent.uplink for host in cluster.members} == sessions


async def certified_anew(cluster: SimCluster, seconds: float) -> None:
    """New certificates, of a new root, are issued now: none is of the future anywhere."""
    old = {host.credentials.root for host in cluster.members if host.credentials is not None}
    await cluster.ask(rotated_root)

    def are_new() -> bool:
        held = [host.credentials.root for host in cluster.members if host.credentials is not None]
        return old.isdisjoint(held) and connected(cluster)

    await cluster.until(are_new, seconds)


async def replaced(cluster: SimCluster, seconds: float) -> None:
    """A container ends; another takes its place in the time that is usual (a delay of 5 s)."""
    host = next(host for host in cluster.members if host.runtime.running())
    host.runtime.die(host.runtime.running()[0].id, 1)
    await asyncio.sleep(1)
    assert cluster.differences(), "not at once"
    await cluster.until(lambda: not cluster.differences(), seconds)


async def updated(cluster: SimCluster, id: ServiceId, seconds: float) -> None:
    """One task after the other, each watched for as long as is usual (5 s)."""
    service = cluster.state.services[id]
    container = msgspec.structs.replace(service.spec.task.container, env=(f"N={seconds}",))
    spec = msgspec.structs.replace(
        service.spec,
        task=msgspec.structs.replace(service.spec.task, container=container),
        update=UpdateConfig(parallelism=1, delay=2 * SECOND, monitor=5 * SECOND),
    )
    await cluster.ask(lambda m: m.swarm.update_service(id, service.meta.version, spec))

    def is_over() -> bool:
        status = cluster.state.services[id].update_status
        return status is not None and status.state is UpdateState.COMPLETED

    await cluster.until(is_over, seconds)


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("name", ["node1", "node3"])
def test_the_clock_of_a_sole_manager_or_of_a_worker_is_set(name: str, jump: Nanoseconds) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 4)
        # Something waits while the clock is set.
        cluster.hosts["node2"].runtime.die(cluster.hosts["node2"].runtime.running()[0].id, 1)
        await asyncio.sleep(1)
        cluster.hosts[name].ahead = jump
        await cluster.until(lambda: not cluster.differences(), 20)
        await nothing_is_lost(cluster, 40)
        await certified_anew(cluster, 60)
        await replaced(cluster, 20)
        await updated(cluster, id, 90)
        await cluster.power_off("node2")
        node = cluster.hosts["node2"].node
        assert node is not None
        await cluster.until(lambda: cluster.state.nodes[node].status.state is NodeState.DOWN, 40)
        await cluster.until(lambda: len(cluster.running()) == 4, 60)

    play(1, 2, scene)


@pytest.mark.parametrize("jump", [HOUR, -24 * HOUR + SECOND])
def test_the_clock_of_one_of_three_managers_is_set(jump: Nanoseconds) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 4)
        first = leader(cluster)
        cluster.hosts[first].ahead = jump
        await nothing_is_lost(cluster, 40)
        await replaced(cluster, 20)
        # And one with the right time takes over what the other has stored.
        await cluster.power_off(first)
        await cluster.until(lambda: leader(cluster) not in ("", first), 30)
        await cluster.until(lambda: len(cluster.running()) == 4, 90)
        await scale(cluster, id, 5)
        await cluster.until(lambda: len(cluster.running()) == 5, 30)

    play(3, 1, scene)


def test_a_host_that_slept_for_most_of_its_certificates_life_is_back_and_renews_it() -> None:
    """Its clock jumps, its timers have stood still, and nobody has heard of it meanwhile."""

    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 4)
        host = cluster.hosts["node2"]
        assert host.node is not None
        node = host.node
        cluster.isolate("node2")
        await cluster.until(lambda: cluster.state.nodes[node].status.state is NodeState.DOWN, 60)
        for each in cluster.hosts.values():
            each.ahead = 80 * 24 * HOUR  # of the ninety days
        before = host.credentials
        cluster.heal("node2")
        await cluster.until(lambda: cluster.state.nodes[node].status.state is NodeState.READY, 30)
        await cluster.until(lambda: host.credentials != before, 30)
        await cluster.until(lambda: not cluster.differences(), 60)

    play(1, 2, scene)


def test_a_wait_is_bounded_by_what_it_was_to_be() -> None:
    now = 1_000_000 * SECOND
    assert bounded(now + 5 * SECOND, 5 * SECOND, now) == now + 5 * SECOND
    assert bounded(now - HOUR, 5 * SECOND, now) == now - HOUR, "over anyway"
    assert bounded(now + 30 * SECOND, 5 * SECOND, now) == now + 30 * SECOND, "clocks differ"
    assert bounded(now + HOUR, 5 * SECOND, now) == now
