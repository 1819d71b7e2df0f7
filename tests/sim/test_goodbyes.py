"""Goodbyes: whatever ends a task, its connections end in good order. First no node sends new
connections to it, then it is stopped, and until it has ended the established ones are forwarded."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.sim.test_cluster import scale
from tests.simulation.cluster import SimCluster
from tests.simulation.host import SimHost
from tests.support import virtual_time
from tests.support.manager_scene import Swarm, play, web
from weft.manager.manager import Manager
from weft.model.assignment import NetworkView, TaskAssignment
from weft.model.container import Container
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.network import NetworkSpec
from weft.model.node import Availability, NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.task import TaskState
from weft.model.workload import TASK_LABEL
from weft.network.kernel_state import HOST
from weft.network.service_table import Published, service_table

WEB = Published("tcp", 8080)


class Lingering:
    """An agent's containers, which take their time to end."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, task: TaskAssignment) -> TaskState:
        if task.desired <= TaskState.RUNNING:
            return TaskState.RUNNING if task.desired == TaskState.RUNNING else TaskState.READY
        return TaskState.SHUTDOWN if self.done else TaskState.RUNNING


def test_a_removed_services_ports_are_forwarded_until_its_tasks_have_ended() -> None:
    linger = Lingering()

    async def scene(swarm: Swarm) -> None:
        slow = await swarm.join(linger)
        network = await swarm.manager.swarm.create_network(NetworkSpec(name="net"))
        ports = (PublishedPort(80, 8080),)
        service = await swarm.manager.swarm.create_service(web(2, (network.id,), ports))
        await swarm.until(lambda: len(swarm.running("web")) == 2)

        def view() -> NetworkView:
            ingress = swarm.manager.swarm.state.ingress
            assert ingress is not None
            return swarm.agents[0].assignment.networks[ingress.id]

        await swarm.until(lambda: len(view().backends(service)) == 2)
        await swarm.manager.swarm.remove_service(service)
        await swarm.until(lambda: not view().backends(service))
        await asyncio.sleep(60)
        assert len(swarm.manager.swarm.state.tasks) == 1, "the other task has ended"
        assert service_table(view()).published[WEB].backends == ()
        # Another service may have the port at once.
        next_one = await swarm.manager.swarm.create_service(web(1, (), ports, "next"))
        await swarm.until(lambda: view().backends(next_one))
        assert service_table(view()).published[WEB].id == next_one
        linger.done = True
        swarm.connect(slow)
        await swarm.until(lambda: service not in view().services)

    play(1, scene)


@pytest.mark.parametrize("ends", [True, False])
def test_a_network_is_removed_after_the_last_tasks_of_a_removed_service(ends: bool) -> None:
    """As `docker stack rm` asks for it. A container that will not end keeps nobody waiting."""
    linger = Lingering()

    async def scene(swarm: Swarm) -> None:
        slow = await swarm.join(linger)
        network = await swarm.manager.swarm.create_network(NetworkSpec(name="net"))
        service = await swarm.manager.swarm.create_service(web(1, (network.id,)))
        await swarm.until(lambda: len(swarm.running("web")) == 1)
        await swarm.manager.swarm.remove_service(service)
        begun = asyncio.get_running_loop().time()
        removing = asyncio.create_task(swarm.manager.swarm.remove_network(network.id))
        await asyncio.sleep(8)
        assert network.id in slow.assignment.networks
        if ends:
            linger.done = True
            swarm.connect(slow)
        await removing
        assert network.id not in swarm.manager.swarm.state.networks
        took = asyncio.get_running_loop().time() - begun
        assert 8 <= took < 9 if ends else 30 <= took < 31

    play(0, scene)


# --- whole swarms: the rules of every host's kernel when a container gets its stop signal


class Witness:
    """Sees each stop signal, and which hosts would still send the container new connections."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.stopped: list[TaskId] = []
        self.late: list[tuple[str, TaskId]] = []
        """(host, task): the host's mesh had the task when it was stopped, or the task's own host let
        new connections reach its container."""
        for host in cluster.hosts.values():
            self._watch(host)

    def _watch(self, host: SimHost) -> None:
        stop = host.runtime.stop

        async def seen(id: ContainerId, grace: Nanoseconds, signal: str = "") -> Container:
            labels = host.runtime.get(id).config.labels
            self._stopping(host, TaskId(labels[TASK_LABEL]))
            return await stop(id, grace, signal)

        host.runtime.stop = seen  # type: ignore[method-assign]

    def _stopping(self, own: SimHost, task: TaskId) -> None:
        known = self.cluster.state.tasks[task]
        addresses = {attachment.address.ip for attachment in known.attachments}
        self.stopped.append(task)
        for host in self.cluster.hosts.values():
            if host.identity is not None and addresses & targets(host):
                self.late.append((host.name, task))
        if open_ports(own, task):
            self.late.append((own.name, task))


def open_ports(host: SimHost, task: TaskId) -> int:
    """How many of its ports take new connections by the mesh at the task's container."""
    found = [r.sandbox.key for r in host.agent.connections.residents if r.workload.id == task]  # type: ignore[union-attr]
    return len(host.kernel.spaces[found[0]].tables["ip", "weft"].sets["mesh-targets"].elements)


def targets(host: SimHost) -> set[IPv4Address]:
    """Where the host's mesh sends new connections."""
    table = host.kernel.spaces[HOST].tables.get(("ip", "weft"))
    services = table.services.values() if table is not None else ()
    return {backend.address for service in services for backend in service.backends}


def served(
    managers: int, workers: int, scene: Callable[[SimCluster, ServiceId], Coroutine[Any, Any, None]]
) -> None:
    """A scene with a published service of three tasks that is updated start-first."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with SimCluster.of(Path(directory), managers, workers) as cluster:
                await scene(cluster, await published(cluster))
                cluster.check()

    virtual_time.run(main())


async def published(cluster: SimCluster) -> ServiceId:
    network = await cluster.ask(
        lambda manager: manager.swarm.create_network(NetworkSpec(name="net"))
    )
    spec = ServiceSpec(
        name="web",
        replicas=3,
        task=TaskSpec(
            container=ContainerSpec(image="demo"),
            networks=(NetworkAttachmentSpec(NetworkId(network.id)),),
        ),
        update=UpdateConfig(order="start-first"),
        endpoint=EndpointSpec(ports=(PublishedPort(80, 8080),)),
    )
    id = await cluster.ask(lambda manager: manager.swarm.create_service(spec))
    await cluster.settle(30)
    return id


def tasks_on(cluster: SimCluster, node: NodeId | None) -> set[TaskId]:
    tasks = cluster.state.tasks.values()
    return {t.id for t in tasks if t.node == node and t.state == TaskState.RUNNING}


async def remove_node(cluster: SimCluster, node: NodeId) -> None:
    await cluster.ask(lambda manager: manager.swarm.remove_node(node, force=False))


@pytest.mark.parametrize(("managers", "force"), [(1, False), (3, True)])
def test_a_node_that_leaves_gets_no_connections_before_its_containers_end(
    managers: int, force: bool
) -> None:
    """The node is a worker, or one of three managers."""

    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        host = cluster.hosts["node3"]
        node, witness, begun = host.node, Witness(cluster), cluster.now()
        assert node is not None
        own = tasks_on(cluster, node)
        assert own
        await host.leave(force)
        assert cluster.now() - begun < 3
        assert (set(witness.stopped) == own, witness.late) == (True, [])
        assert cluster.state.nodes[node].status.message == "the node has left the swarm"
        assert cluster.state.nodes[node].status.state is NodeState.DOWN
        ended = [cluster.state.tasks[task].state for task in own if task in cluster.state.tasks]
        assert set(ended) <= {TaskState.SHUTDOWN}
        if managers == 1:
            await remove_node(cluster, node)
        await cluster.until(lambda: len(cluster.running()) == 3, 10)

    served(managers, 3, scene)


@pytest.mark.parametrize(("force", "seconds"), [(False, 4.5), (True, 1.5)])
def test_a_manager_out_of_reach_does_not_keep_a_node_from_leaving(
    force: bool, seconds: float
) -> None:
    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        host = cluster.hosts["node2"]
        assert host.agent is not None
        agent = host.agent
        cluster.isolate("node2")
        await cluster.until(lambda: not agent.uplink.connected, 30)
        begun = cluster.now()
        await host.leave(force)
        assert cluster.now() - begun < seconds
        assert (host.runtime.running(), host.runtime.containers()) == ([], [])

    served(1, 3, scene)


def test_a_container_that_takes_long_to_end_is_waited_for_and_one_that_will_not_is_killed() -> None:
    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        host = cluster.hosts["node2"]
        assert host.node is not None
        own = tasks_on(cluster, host.node)
        host.runtime.stop_latency, begun = 30.0, cluster.now()
        await host.leave()
        assert 10 < cluster.now() - begun < 12, "its grace period is ten seconds"
        states = {cluster.state.tasks[task].state for task in own if task in cluster.state.tasks}
        assert states <= {TaskState.SHUTDOWN}

    served(1, 3, scene)


def test_a_host_that_is_shut_down_gets_no_connections_but_keeps_its_tasks() -> None:
    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        host, witness = cluster.hosts["node2"], Witness(cluster)
        assert host.node is not None
        assert host.agent is not None
        tasks = [cluster.state.tasks[task] for task in tasks_on(cluster, host.node)]
        own = {a.address.ip for task in tasks for a in task.attachments}
        await host.agent.host_stops()
        others = [other for other in cluster.hosts.values() if other is not host]
        assert not any(own & targets(other) for other in others)
        status = cluster.state.nodes[host.node].status
        assert status.message == "its host is being shut down"
        await cluster.power_off("node2")
        await asyncio.sleep(5)
        assert {task.id for task in tasks} <= cluster.state.tasks.keys(), "none is given up"
        assert witness.stopped == []
        cluster.power_on("node2")
        await cluster.settle(60)

    served(1, 3, scene)


async def drain(cluster: SimCluster, node: NodeId, availability: Availability = "drain") -> None:
    async def drained(manager: Manager) -> None:
        found = manager.swarm.state.nodes[node]
        spec = msgspec.structs.replace(found.spec, availability=availability)
        await manager.swarm.update_node(node, found.meta.version, spec)

    await cluster.ask(drained)


def test_a_drained_nodes_task_is_replaced_before_it_is_stopped_if_that_is_the_order() -> None:
    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        host, witness = cluster.hosts["node2"], Witness(cluster)
        assert host.node is not None
        least = 3
        await drain(cluster, host.node)
        while host.runtime.running() or len(cluster.running()) < 3:
            serving = [t for t in cluster.state.tasks.values() if t.state == TaskState.RUNNING]
            least = min(least, len(serving))
            await asyncio.sleep(0.01)
        assert (least, len(witness.stopped), witness.late) == (3, 1, [])

    served(1, 3, scene)


def test_a_drained_node_without_a_better_place_keeps_its_task_only_so_long() -> None:
    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        for host in list(cluster.hosts.values())[1:]:
            assert host.node is not None
            await drain(cluster, host.node, "pause")
        node = cluster.hosts["node1"].node
        assert node is not None
        begun = cluster.now()
        await drain(cluster, node)
        await cluster.until(lambda: not cluster.hosts["node1"].runtime.running(), 90)
        assert 59 < cluster.now() - begun < 65

    served(1, 2, scene)


def test_a_service_that_shrinks_or_goes_is_left_by_every_host_before_its_tasks_stop() -> None:
    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        witness = Witness(cluster)
        await scale(cluster, id, 1)
        await cluster.until(lambda: len(cluster.running()) == 1, 10)
        await cluster.ask(lambda manager: manager.swarm.remove_service(id))
        await cluster.until(lambda: not cluster.running(), 10)
        assert (len(witness.stopped), witness.late) == (3, [])

    served(1, 3, scene)


@pytest.mark.parametrize(("still", "seconds"), [(0.0, 0.5), (1.0, 1.9), (60.0, 2.9)])
def test_a_task_that_is_still_asked_is_stopped_later_but_not_much(
    still: float, seconds: float
) -> None:
    """A host that is behind sends it new connections for `still` seconds."""

    async def scene(cluster: SimCluster, id: ServiceId) -> None:
        witness, begun = Witness(cluster), cluster.now()
        for host in cluster.hosts.values():
            host.accepted = lambda pid: int(min(cluster.now() - begun, still) * 10) if pid else 0
        await scale(cluster, id, 2)
        await cluster.until(lambda: bool(witness.stopped), 10)
        assert (round(cluster.now() - begun, 1) <= seconds, witness.late) == (True, [])
        assert cluster.now() - begun > min(still, 2)
        await cluster.settle(30)

    served(1, 3, scene)
