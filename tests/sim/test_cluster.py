"""Whole swarms in virtual time: what each fault alone does, and what it must not do."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulation.cluster import SimCluster
from tests.simulation.steps import rotated_root
from tests.support import virtual_time
from weft.errors import InvalidArgument, Unavailable
from weft.manager.manager import Manager
from weft.model.ids import NetworkId, ServiceId
from weft.model.network import NetworkSpec
from weft.model.node import NodeState, Role
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
)
from weft.model.task import TaskState


def play(
    managers: int, workers: int, scene: Callable[[SimCluster], Coroutine[Any, Any, None]]
) -> None:
    """With the fixed seed: scenes say who leads and who is whose manager, which another seed would
    change."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with SimCluster.of(Path(directory), managers, workers) as cluster:
                await scene(cluster)
                cluster.check()

    virtual_time.run(main())


async def web(cluster: SimCluster, replicas: int) -> ServiceId:
    network = await cluster.ask(
        lambda manager: manager.swarm.create_network(NetworkSpec(name="net"))
    )
    spec = ServiceSpec(
        name="web",
        replicas=replicas,
        task=TaskSpec(
            container=ContainerSpec(image="demo"),
            networks=(NetworkAttachmentSpec(NetworkId(network.id)),),
        ),
        endpoint=EndpointSpec(ports=(PublishedPort(80, 8080),)),
    )
    id = await cluster.ask(lambda manager: manager.swarm.create_service(spec))
    await cluster.settle(30)
    return id


async def scale(cluster: SimCluster, id: ServiceId, replicas: int, at: str = "") -> None:
    await cluster.ask(partial(scaled, id=id, replicas=replicas), at)


def leader(cluster: SimCluster) -> str:
    """Empty while there is none."""
    leading = (
        h.name
        for h in cluster.managers
        if h.manager is not None and h.manager.swarm.leadership_status.leader == h.node
    )
    return next(leading, "")


@pytest.mark.parametrize("managers", [1, 3])
def test_an_agent_that_is_cut_off_keeps_containers_and_networks(managers: int) -> None:
    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 8)
        host = list(cluster.hosts.values())[-1]
        containers, namespaces = {c.id for c in host.runtime.running()}, set(host.kernel.spaces)
        assert containers
        cluster.isolate(host.name)
        for _ in range(400):
            await asyncio.sleep(1)
            assert {c.id for c in host.runtime.running()} == containers
            assert set(host.kernel.spaces) == namespaces
        cluster.heal(host.name)
        await cluster.settle(60)

    play(managers, 2, scene)


def test_a_manager_that_starts_without_a_majority_answers_reads_and_nothing_else() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 4)
        before = cluster.state
        for host in cluster.managers:
            await cluster.power_off(host.name)
        cluster.power_on("node1")
        await cluster.until(lambda: cluster.hosts["node1"].manager is not None, 30)
        manager = cluster.hosts["node1"].manager
        assert manager is not None
        assert manager.swarm.state.services == before.services
        assert {node.id for node in manager.swarm.state.nodes.values()} == {
            node.id for node in before.nodes.values()
        }
        assert manager.swarm.leadership_status.leader is None
        with pytest.raises(Unavailable, match="The swarm does not have a leader"):
            await scale(cluster, id, 5, at="node1")
        for _ in range(60):
            await asyncio.sleep(1)
            assert not manager.is_serving
            assert {service.spec.replicas for service in manager.swarm.state.services.values()} == {
                4
            }
        cluster.power_on("node2")
        await cluster.until(lambda: manager.is_serving, 30)
        await cluster.insist(partial(scaled, id=id, replicas=6))
        cluster.repair()
        await cluster.settle(120)
        assert {service.spec.replicas for service in manager.swarm.state.services.values()} == {6}

    play(3, 2, scene)


def test_the_loss_of_the_leader_is_noticed_by_nobody_who_uses_a_service() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 6)
        lost = leader(cluster)
        before = {
            c.id
            for host in cluster.hosts.values()
            for c in host.runtime.running()
            if host.name != lost
        }
        await cluster.power_off(lost)
        await cluster.until(lambda: leader(cluster), 10)
        other = leader(cluster)
        await scale(cluster, id, 9, at=other)
        await asyncio.sleep(60)
        running = {c.id for host in cluster.hosts.values() for c in host.runtime.running()}
        assert before <= running
        assert len(running) == 9
        states = {
            host.name: cluster.state.nodes[host.node].status.state
            for host in cluster.members
            if host.node
        }
        assert states == {
            name: NodeState.DOWN if name == lost else NodeState.READY for name in cluster.hosts
        }
        cluster.power_on(lost)
        await cluster.settle(60)

    play(3, 2, scene)


def test_without_a_majority_nothing_is_written_and_nothing_stops() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 6)
        running = {c.id for host in cluster.hosts.values() for c in host.runtime.running()}
        for name in ("node2", "node3"):
            cluster.isolate(name)
        await asyncio.sleep(10)
        commits = cluster.invariants.commits
        for manager in ("node1", "node2"):
            with pytest.raises(Unavailable):
                await scale(cluster, id, 1, at=manager)
        await asyncio.sleep(120)
        assert {c.id for host in cluster.hosts.values() for c in host.runtime.running()} == running
        assert cluster.invariants.commits == commits
        for name in ("node2", "node3"):
            cluster.heal(name)
        await cluster.settle(30)
        assert {c.id for host in cluster.hosts.values() for c in host.runtime.running()} == running

    play(3, 2, scene)


@pytest.mark.parametrize(("who", "seconds"), [("worker", 1.0), ("manager", 1.2), ("leader", 6.0)])
def test_nobody_sends_anything_new_to_a_host_that_is_cut_off(who: str, seconds: float) -> None:
    """Within a second: of the managers' leader when there is another one. When it is back it has
    all of its tasks."""

    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 10)
        leading = leader(cluster)
        managers = (host.name for host in cluster.managers if host.name != leading)
        host = cluster.hosts[{"worker": "node5", "manager": next(managers), "leader": leading}[who]]
        before = {c.id for c in host.runtime.running()}

        def senders() -> set[str]:
            """Hosts that take it for one that serves."""
            views = {
                h.name: h.agent.assignment.networks
                for h in cluster.members
                if h.agent is not None and h is not host
            }
            return {
                name
                for name, networks in views.items()
                if any(
                    e.serving and e.node == host.node
                    for view in networks.values()
                    for e in view.endpoints.values()
                )
            }

        assert len(senders()) == 4
        cluster.isolate(host.name)
        await cluster.until(lambda: not senders(), seconds)
        assert {c.id for c in host.runtime.running()} == before
        cluster.heal(host.name)
        await cluster.until(lambda: len(senders()) == 4, 10)
        await cluster.settle(30)
        assert {c.id for c in host.runtime.running()} == before

    play(3, 2, scene)


def test_a_moment_without_a_leader_ends_no_session() -> None:
    async def scene(cluster: SimCluster) -> None:
        etcd = cluster.etcd
        assert etcd is not None
        before = set(cluster.network._links)
        for name in ("node2", "node3"):
            etcd.cut(name)
        await asyncio.sleep(1.8)
        for name in ("node2", "node3"):
            etcd.heal(name)
        await cluster.settle(30)
        assert cluster.network._links == before
        for name in ("node2", "node3"):
            etcd.cut(name)
        await asyncio.sleep(6)
        assert cluster.network._links == set(), "a manager without a majority serves nobody"
        for name in ("node2", "node3"):
            etcd.heal(name)
        await cluster.settle(30)

    play(3, 2, scene)


def test_a_host_that_reboots_gets_other_tasks_in_place_of_those_it_lost() -> None:
    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 6)
        before = {c.id for c in cluster.hosts["node3"].runtime.running()}
        await cluster.power_off("node3")
        await asyncio.sleep(5)
        cluster.power_on("node3")
        await cluster.settle(60)
        assert not before & {c.id for c in cluster.hosts["node3"].runtime.running()}

    play(1, 2, scene)


def test_a_host_that_reboots_out_of_reach_runs_what_its_disk_says() -> None:
    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 8)
        host = list(cluster.hosts.values())[-1]
        before = {c.id for c in host.runtime.running()}
        assert before
        cluster.isolate(host.name)
        await cluster.power_off(host.name)
        assert not host.runtime.running()
        cluster.power_on(host.name)
        await cluster.until(lambda: {c.id for c in host.runtime.running()} == before, 12)
        cluster.heal(host.name)
        await cluster.settle(60)

    play(1, 3, scene)


def test_a_host_whose_agent_has_lost_its_files_goes_on_with_the_containers_that_are_there() -> None:
    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 8)
        host = list(cluster.hosts.values())[-1]
        before = {c.id for c in host.runtime.running()}
        assert before
        await host.kill()
        shutil.rmtree(host.disk / "agent")
        host.start()
        await cluster.settle(30)
        assert {c.id for c in host.runtime.running()} == before

    play(3, 2, scene)


def test_agents_hear_of_what_their_manager_learned_by_loading_anew() -> None:
    """Its watch was behind when history was thrown away."""

    async def scene(cluster: SimCluster) -> None:
        assert cluster.etcd is not None
        etcd_leader = cluster.etcd.leader
        assert etcd_leader is not None
        behind = next(
            h for h in cluster.managers if h.name not in (leader(cluster), etcd_leader.name)
        )
        for _ in range(30):  # an agent asks the managers in any order
            if any(node.status.manager == behind.node for node in cluster.state.nodes.values()):
                break
            await cluster.hosts["node6"].kill()
            cluster.hosts["node6"].start()
            await cluster.settle(30)
        else:
            pytest.fail("no agent has its session with the manager that is to be behind")
        cluster.etcd.cut(behind.name)
        spec = ServiceSpec(
            name="web", replicas=20, task=TaskSpec(container=ContainerSpec(image="demo"))
        )
        await cluster.ask(lambda manager: manager.swarm.create_service(spec), at=leader(cluster))
        await asyncio.sleep(0.5)
        assert len(cluster.state.tasks_in(TaskState.ASSIGNED)) < 20, "some agents run theirs by now"
        assert all(task.node is not None for task in cluster.state.tasks.values())
        cluster.etcd.compact()
        cluster.etcd.heal(behind.name)
        await cluster.settle(30)

    play(3, 3, scene)


def test_what_is_asked_of_two_managers_at_the_same_moment_is_given_once() -> None:
    """Each of them sees that the port is free."""

    def spec(name: str) -> ServiceSpec:
        task = TaskSpec(container=ContainerSpec(image="demo"))
        return ServiceSpec(
            name=name, task=task, endpoint=EndpointSpec(ports=(PublishedPort(80, 8080),))
        )

    def creation(name: str) -> Callable[[Manager], Coroutine[None, None, ServiceId]]:
        return lambda manager: manager.swarm.create_service(spec(name))

    def removal(id: ServiceId) -> Callable[[Manager], Coroutine[None, None, None]]:
        return lambda manager: manager.swarm.remove_service(id)

    async def scene(cluster: SimCluster) -> None:
        for turn in range(5):
            asked = [
                cluster.ask(creation(f"{turn}-{host.name}"), host.name) for host in cluster.managers
            ]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(result, str) for result in results) == 1
            assert sum(isinstance(result, InvalidArgument) for result in results) == 2
            await cluster.settle(30)
            [service] = cluster.state.services.values()
            await cluster.ask(removal(service.id))
            await cluster.settle(30)

    play(3, 1, scene)


def test_a_worker_is_promoted_and_a_leader_demoted() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 6)
        before = {c.id for host in cluster.hosts.values() for c in host.runtime.running()}
        await give_role(cluster, "node4", "manager")
        await cluster.settle(30)
        assert cluster.etcd is not None
        assert [(m.name, m.is_learner) for m in cluster.etcd.roster] == [
            (f"node{n}", False) for n in (1, 2, 3, 4)
        ]
        demoted = leader(cluster)
        await give_role(cluster, demoted, "worker")
        await cluster.settle(30)
        assert demoted not in [member.name for member in cluster.etcd.roster]
        await scale(cluster, id, 8, at="node4")
        await cluster.settle(30)
        assert before <= {c.id for host in cluster.hosts.values() for c in host.runtime.running()}
        await give_role(cluster, demoted, "manager")
        await cluster.settle(30)

    play(3, 2, scene)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.4])
def test_a_new_root_reaches_everybody_although_the_leader_dies_on_the_way(after: float) -> None:
    async def scene(cluster: SimCluster) -> None:
        await web(cluster, 6)
        containers = {c.id for host in cluster.hosts.values() for c in host.runtime.running()}
        away, lost = cluster.hosts["node5"], cluster.hosts[leader(cluster)]
        old = {host.credentials.root for host in cluster.members if host.credentials is not None}
        assert len(old) == 1
        cluster.isolate(away.name)
        await cluster.insist(rotated_root)
        await asyncio.sleep(after)
        await lost.kill()
        await asyncio.sleep(8)
        lost.start()
        assert cluster.state.cluster is not None
        assert cluster.state.cluster.rotation is not None, "it waits for who is away"
        cluster.heal(away.name)
        await cluster.settle(60)
        new = {host.credentials.root for host in cluster.members if host.credentials is not None}
        assert len(new) == 1
        assert new.isdisjoint(old)
        assert {
            c.id for host in cluster.hosts.values() for c in host.runtime.running()
        } == containers

    play(3, 2, scene)


async def give_role(cluster: SimCluster, name: str, role: Role) -> None:
    node = cluster.hosts[name].node
    assert node is not None

    async def operation(manager: Manager) -> None:
        found = manager.swarm.state.nodes[node]
        await manager.swarm.update_node(
            node, found.meta.version, msgspec.structs.replace(found.spec, role=role)
        )

    await cluster.insist(operation)


@pytest.mark.parametrize("killed", ["node1", "node2"])
def test_a_daemon_that_is_killed_at_any_moment_of_a_scaling_goes_on_where_it_was(
    killed: str,
) -> None:
    """The manager's and a worker's, a little later each time."""

    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 2)
        for turn in range(60):
            scaling = asyncio.create_task(
                cluster.insist(partial(scaled, id=id, replicas=6 if turn % 2 == 0 else 2))
            )
            await asyncio.sleep(turn * 0.003)
            await cluster.hosts[killed].kill()
            await asyncio.sleep(0.5)
            cluster.hosts[killed].start()
            await scaling
            await cluster.settle(30)

    play(1, 2, scene)


async def scaled(manager: Manager, id: ServiceId, replicas: int) -> None:
    service = manager.swarm.state.services[id]
    await manager.swarm.update_service(
        id, service.meta.version, msgspec.structs.replace(service.spec, replicas=replicas)
    )


def test_what_an_agent_says_does_not_undo_what_was_decided_meanwhile() -> None:
    """Its manager is slow: the task that it writes back has changed since it was read."""

    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 0)
        assert cluster.etcd is not None
        for turn in range(12):
            leading = leader(cluster)
            for host in cluster.managers:
                cluster.etcd.slow(host.name, 0.001 if host.name == leading else 0.2)
            await cluster.ask(partial(scaled, id=id, replicas=6), leading)
            await asyncio.sleep(0.1 + turn * 0.05)
            await cluster.ask(partial(scaled, id=id, replicas=0), leading)
            await cluster.settle(60)

    play(3, 2, scene)


def test_an_agent_that_comes_to_a_manager_that_is_behind_is_not_taken_back() -> None:
    """From it, to another one, and back: it has not heard of that either, and would have nothing to
    write."""

    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 2)
        assert cluster.etcd is not None
        for turn in range(8):
            behind = next(host.name for host in cluster.managers if host.name != leader(cluster))
            cluster.etcd.slow(behind, 1.5)
            await cluster.ask(
                partial(scaled, id=id, replicas=6 if turn % 2 == 0 else 2), leader(cluster)
            )
            for _ in range(6):
                await asyncio.sleep(0.2)
                for host in cluster.hosts.values():
                    for manager in cluster.managers:
                        cluster.network.reset(host.name, manager.name)
            await asyncio.sleep(3)
            cluster.etcd.slow(behind)
            await cluster.settle(60)

    play(3, 2, scene)
