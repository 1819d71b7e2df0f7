"""What users ask of a whole manager in memory, in virtual time: networks, services and nodes are
had, changed, or refused with a reason."""

import asyncio
import random
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.fake_authority import FakeAuthority
from tests.support.manager_scene import Swarm, play, web
from weft.control.requests import networks
from weft.errors import (
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    OutOfSequence,
    Unavailable,
    Unsupported,
)
from weft.manager.bootstrap import Founder, create_swarm
from weft.model.cluster import ClusterSpec, RootCa
from weft.model.ids import NetworkId, ServiceId, TaskId
from weft.model.membership import InitRequest
from weft.model.network import Network, NetworkSpec, Pool
from weft.model.node import NodeDescription, NodeSpec, NodeState
from weft.model.service import (
    ContainerSpec,
    PublishedPort,
    Service,
    ServiceSpec,
    TaskSpec,
    UpdateState,
)
from weft.model.state import ClusterState, Remove
from weft.model.task import Attachment, Task, TaskState, TaskStatus
from weft.session.base import AdmissionRequest
from weft.store.memory import MemoryStore

# --- networks


def test_a_network_is_complete_when_it_is_created() -> None:
    async def scene(swarm: Swarm) -> None:
        network = await swarm.manager.swarm.create_network(NetworkSpec(name="demo"))
        assert [str(s.subnet) for s in network.segments] == ["10.0.1.0/24"]
        assert [s.vni for s in network.segments] == [4097]

    play(1, scene)


def test_networks_that_cannot_be_are_refused_and_leave_nothing() -> None:
    async def scene(swarm: Swarm) -> None:
        create = swarm.manager.swarm.create_network
        await create(
            NetworkSpec(name="demo", pools=(Pool(IPv4Network("10.7.0.0/16")),), vnis=(5000,))
        )
        before = dict(swarm.manager.swarm.state.networks)
        with pytest.raises(
            Forbidden, match="bridge is a pre-defined network and cannot be created"
        ):
            await create(NetworkSpec(name="bridge"))
        with pytest.raises(Conflict, match="network with name demo already exists"):
            await create(NetworkSpec(name="demo"))
        with pytest.raises(
            Conflict, match=r"cannot create network x: subnet 10.7.1.0/24 overlaps network demo"
        ):
            await create(NetworkSpec(name="x", pools=(Pool(IPv4Network("10.7.1.0/24")),)))
        with pytest.raises(Conflict, match=r"ingress network \(.*\) is already present"):
            await create(NetworkSpec(name="x", ingress=True))
        assert not swarm.manager.swarm.cluster.data_keys
        with pytest.raises(Conflict, match="5000"):
            await create(
                NetworkSpec(name="x", pools=(Pool(IPv4Network("10.9.0.0/16")),), vnis=(5000,))
            )
        assert dict(swarm.manager.swarm.state.networks) == before

    play(1, scene)


def test_the_routes_of_every_host_are_kept_clear() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.join(routes=("10.0.1.0/24", "0.0.0.0/0", "fe80::/64", "nonsense"))
        await swarm.until(lambda: swarm.agents[0].changes)
        automatic = await swarm.manager.swarm.create_network(NetworkSpec(name="demo"))
        assert str(automatic.segments[0].subnet) == "10.0.2.0/24"
        assert swarm.manager.swarm.network_warnings(automatic) == []
        chosen = await swarm.manager.swarm.create_network(
            NetworkSpec(name="x", pools=(Pool(IPv4Network("10.0.1.128/25")),))
        )
        [warning] = swarm.manager.swarm.network_warnings(chosen)
        assert warning.startswith("subnet 10.0.1.128/25 overlaps routes of node2 (10.0.1.0/24): ")

    play(0, scene)


def test_a_network_in_use_stays() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        network = await manager.swarm.create_network(NetworkSpec(name="demo"))
        id = await manager.swarm.create_service(web(1, (network.id,), (PublishedPort(80, 8080),)))
        await swarm.until(lambda: swarm.running("web"))
        with pytest.raises(
            FailedPrecondition, match=f"network {network.id} is in use by service {id}"
        ):
            await manager.swarm.remove_network(network.id)
        assert manager.swarm.state.ingress is not None
        with pytest.raises(
            FailedPrecondition,
            match=f"ingress network cannot be removed because service {id} depends on it",
        ):
            await manager.swarm.remove_network(manager.swarm.state.ingress.id)
        await manager.swarm.remove_service(id)
        assert any(task.is_live for task in manager.swarm.state.tasks.values()), (
            "nobody has told it to stop yet"
        )
        await manager.swarm.remove_network(network.id)
        await swarm.until(
            lambda: all(network.id not in agent.assignment.networks for agent in swarm.agents)
        )
        with pytest.raises(NotFound, match=f"network {network.id} not found"):
            await manager.swarm.remove_network(network.id)

    play(1, scene)


@pytest.mark.parametrize(
    ("desired", "state", "is_used"),
    [
        (TaskState.RUNNING, TaskState.RUNNING, True),
        (TaskState.READY, TaskState.PENDING, True),
        (TaskState.SHUTDOWN, TaskState.RUNNING, False),
        (TaskState.RUNNING, TaskState.FAILED, False),
    ],
)
def test_a_task_uses_a_network_while_it_is_meant_to_run(
    desired: TaskState, state: TaskState, is_used: bool
) -> None:
    network = Network(id=NetworkId("n"), spec=NetworkSpec(name="demo"))
    task = Task(
        id=TaskId("t"),
        service=ServiceId("s"),
        service_name="web",
        spec=TaskSpec(container=ContainerSpec(image="demo")),
        attachments=(Attachment(network.id, IPv4Interface("10.0.1.3/24")),),
        desired=desired,
        status=TaskStatus(state),
    )
    external_etcd = ServiceSpec(name="web", task=task.spec)
    swarm = ClusterState([network, task, Service(id=task.service, spec=external_etcd)])
    if is_used:
        with pytest.raises(FailedPrecondition, match="network n is in use by task t"):
            networks.removal(swarm, network.id)
    else:
        assert networks.removal(swarm, network.id) == [Remove("network", "n", 0)]
    assert networks.removal(ClusterState([network, task]), network.id) == [
        Remove("network", "n", 0)
    ]


# --- services


def test_services_that_cannot_be_are_refused() -> None:
    async def scene(swarm: Swarm) -> None:
        create = swarm.manager.swarm.create_service
        id = await create(web(1, ports=(PublishedPort(80, 8080),)))
        with pytest.raises(Conflict) as taken:
            await create(web(1))
        assert (
            str(taken.value)
            == "rpc error: code = AlreadyExists desc = name conflicts with an existing object:"
            " service web already exists"
        )
        with pytest.raises(
            InvalidArgument,
            match=rf"port '8080' is already in use by service 'web' \({id}\) as an ingress port",
        ):
            await create(web(1, ports=(PublishedPort(80, 8080),), name="other"))
        with pytest.raises(NotFound, match="network nowhere not found"):
            await create(web(1, ("nowhere",), name="other"))
        assert swarm.manager.swarm.state.ingress is not None
        with pytest.raises(
            InvalidArgument, match="Service cannot be explicitly attached to the ingress network"
        ):
            await create(web(1, (swarm.manager.swarm.state.ingress.id,), name="other"))
        assert list(swarm.manager.swarm.state.services) == [id]

    play(1, scene)


def test_a_service_is_updated_and_rolled_back() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        id = await manager.swarm.create_service(web(1))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(10)
        first = manager.swarm.state.services[id]
        with pytest.raises(OutOfSequence, match="update out of sequence"):
            await manager.swarm.update_service(id, first.meta.version + 1, web(2))
        with pytest.raises(Unsupported, match="renaming services is not supported"):
            await manager.swarm.update_service(id, first.meta.version, web(2, name="other"))
        with pytest.raises(Unsupported, match="service mode change is not allowed"):
            await manager.swarm.update_service(
                id, first.meta.version, msgspec.structs.replace(web(2), replicas=None)
            )
        with pytest.raises(FailedPrecondition, match="does not have a previous spec"):
            await manager.swarm.update_service(id, first.meta.version, web(2), "previous")
        await manager.swarm.update_service(id, first.meta.version, web(2))
        second = manager.swarm.state.services[id]
        assert (second.spec, second.previous_spec, second.spec_version) == (
            web(2),
            web(1),
            second.meta.version,
        )
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        current = manager.swarm.state.services[id]
        await manager.swarm.update_service(id, current.meta.version, web(9), "previous")
        third = manager.swarm.state.services[id]
        assert (third.spec, third.previous_spec) == (web(1), web(2))
        assert third.update_status is not None
        assert third.update_status.state == UpdateState.ROLLBACK_STARTED

    play(2, scene)


def test_the_same_spec_again_puts_no_task_out_of_date() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        id = await manager.swarm.create_service(web(1))
        await asyncio.sleep(10)
        before = manager.swarm.state.services[id]
        tasks = set(manager.swarm.state.tasks)
        await manager.swarm.update_service(id, before.meta.version, web(1))
        await asyncio.sleep(10)
        assert manager.swarm.state.services[id].spec_version > before.spec_version
        assert set(manager.swarm.state.tasks) == tasks

    play(1, scene)


# --- nodes and the swarm


def test_a_node_is_removed_only_when_it_is_down_or_by_force() -> None:
    async def scene(swarm: Swarm) -> None:
        manager, agent = swarm.manager, swarm.agents[0]
        with pytest.raises(
            FailedPrecondition, match=f"node {agent.node} is not down and can't be removed"
        ):
            await manager.swarm.remove_node(agent.node, False)
        founder = next(iter(manager.swarm.state.nodes))
        with pytest.raises(FailedPrecondition, match="is a cluster manager"):
            await manager.swarm.remove_node(founder, True)
        await manager.swarm.remove_node(agent.node, True)
        await swarm.until(lambda: swarm.sessions[0].done())
        assert agent.farewell == f"node {agent.node} was removed from the swarm"
        swarm.connect(agent)
        agent.farewell = ""
        await swarm.until(lambda: swarm.sessions[1].done())
        assert agent.farewell == f"node {agent.node} is not part of the swarm"

    play(1, scene)


def test_the_last_manager_is_not_demoted_and_not_removed() -> None:
    async def scene(swarm: Swarm) -> None:
        manager, promoted = swarm.manager, swarm.agents[0].node
        last = next(
            node for node in manager.swarm.state.nodes.values() if node.spec.role == "manager"
        )
        with pytest.raises(
            FailedPrecondition, match="attempting to demote the last manager of the swarm"
        ):
            await manager.swarm.update_node(last.id, last.meta.version, NodeSpec(role="worker"))
        # One that is to be a manager and does not serve yet is no help.
        await manager.swarm.update_node(
            promoted, manager.swarm.state.nodes[promoted].meta.version, NodeSpec(role="manager")
        )
        with pytest.raises(
            FailedPrecondition, match="attempting to demote the last manager of the swarm"
        ):
            await manager.swarm.update_node(last.id, last.meta.version, NodeSpec(role="worker"))
        with pytest.raises(FailedPrecondition, match="must be demoted to worker before removal"):
            await manager.swarm.remove_node(promoted, force=True)
        await manager.swarm.update_node(
            promoted, manager.swarm.state.nodes[promoted].meta.version, NodeSpec(role="worker")
        )
        assert manager.swarm.state.nodes[promoted].role == "worker"

    play(1, scene)


def test_a_node_is_changed() -> None:
    async def scene(swarm: Swarm) -> None:
        manager, id = swarm.manager, swarm.agents[0].node
        node = manager.swarm.state.nodes[id]
        await manager.swarm.update_node(id, node.meta.version, NodeSpec(labels={"zone": "a"}))
        assert manager.swarm.state.nodes[id].spec.labels == {"zone": "a"}
        with pytest.raises(OutOfSequence):
            await manager.swarm.update_node(id, node.meta.version, NodeSpec())

    play(1, scene)


def test_a_node_is_changed_by_who_has_read_it_before_its_status_changed() -> None:
    """As it does when it likes: `docker node update` reads, and writes what it has read."""

    async def scene(swarm: Swarm) -> None:
        manager, id = swarm.manager, swarm.agents[0].node
        read = manager.swarm.state.nodes[id]
        await swarm.kill(0)
        await swarm.until(lambda: manager.swarm.state.nodes[id].status.state is NodeState.DOWN)
        assert manager.swarm.state.nodes[id].meta.version > read.meta.version
        await manager.swarm.update_node(id, read.meta.version, NodeSpec(labels={"zone": "a"}))
        for version in (0, read.meta.version, manager.swarm.state.revision + 1):
            with pytest.raises(OutOfSequence):
                await manager.swarm.update_node(id, version, NodeSpec())
        assert manager.swarm.state.nodes[id].spec.labels == {"zone": "a"}

    play(1, scene)


def test_join_tokens_are_checked_and_rotated() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        old = await manager.swarm.join_tokens()
        await manager.swarm.update_cluster(
            manager.swarm.cluster.meta.version, ClusterSpec(), True, False
        )
        assert (await manager.swarm.join_tokens()).manager == old.manager
        count = len(manager.swarm.state.nodes)
        for token in (old.worker, ""):
            request = AdmissionRequest(
                token=token, csr="", hostname="x", data_path_address=IPv4Address("10.59.72.99")
            )
            with pytest.raises(Forbidden):
                await manager.admit(request)
        assert len(manager.swarm.state.nodes) == count
        assert (
            await manager.admit(msgspec.structs.replace(request, token=old.manager))
        ).role == "manager"
        await swarm.join()
        with pytest.raises(OutOfSequence):
            await manager.swarm.update_cluster(1, ClusterSpec(), False, False)
        with pytest.raises(InvalidArgument):
            await manager.swarm.update_cluster(
                manager.swarm.cluster.meta.version, ClusterSpec(name="x"), False, False
            )

    play(0, scene)


def test_the_swarm_is_created_once_and_from_sense() -> None:
    async def main() -> None:
        store = MemoryStore(virtual_time.clock)
        founder = Founder(
            description=NodeDescription(hostname="node1"),
            data_path_address=IPv4Address("10.59.72.11"),
            manager_address="a:1",
        )

        async def create(request: InitRequest) -> object:
            return await create_swarm(
                store,
                request,
                founder,
                RootCa("root", "key"),
                FakeAuthority(),
                random.Random(1).randbytes,
            )

        pool = IPv4Network("10.20.0.0/16")
        for bad in (
            InitRequest(data_path_port=80),
            InitRequest(subnet_size=30),
            InitRequest(default_pool=(pool,), subnet_size=12),
            InitRequest(default_pool=(pool, pool)),
        ):
            with pytest.raises(InvalidArgument):
                await create(bad)
        assert not store.state.revision
        await create(
            InitRequest(
                default_pool=(pool,), subnet_size=26, data_path_port=5789, availability="drain"
            )
        )
        assert [node.spec.availability for node in store.state.nodes.values()] == ["drain"]
        with pytest.raises(Unavailable, match="already part of a swarm"):
            await create(InitRequest())
        assert store.state.cluster is not None
        assert (store.state.cluster.default_pool, store.state.cluster.subnet_size) == ((pool,), 26)

    virtual_time.run(main())


def test_events_show_what_users_can_see() -> None:
    async def scene(swarm: Swarm) -> None:
        shown: list[tuple[str, str, str]] = []

        async def watch() -> None:
            async for event in swarm.manager.swarm.events():
                shown.append((event.type, event.action, event.attributes["name"]))

        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0)
        network = await swarm.manager.swarm.create_network(NetworkSpec(name="demo"))
        id = await swarm.manager.swarm.create_service(web(1, (network.id,)))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(1)
        assert shown == [("network", "create", "demo"), ("service", "create", "web")]
        service = swarm.manager.swarm.state.services[id]
        assert service.meta.version > service.spec_version, "the allocator has written it as well"
        await swarm.manager.swarm.update_service(id, service.meta.version, web(2, (network.id,)))
        await asyncio.sleep(30)
        assert ("service", "update", "web") in shown[2:]
        await swarm.manager.swarm.remove_service(id)
        await asyncio.sleep(0.01)
        assert shown[-1] == ("service", "remove", "web")
        watcher.cancel()
        await asyncio.wait([watcher])

    play(1, scene)
