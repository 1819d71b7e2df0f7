"""A whole manager in memory, with agents that are a few queues away, in virtual time."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.fake_agent import Behaviour, FakeAgent, admitted, obedient
from tests.support.fake_authority import FakeAuthority
from weft.control.requests import networks
from weft.errors import (
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    OperationFailed,
    OutOfSequence,
    Unavailable,
    Unsupported,
)
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.manager import Manager
from weft.manager.ports import ManagerPorts
from weft.manager.session import BURST, CERTIFICATE, RATE, STATUSES_PER_TOKEN
from weft.model.assignment import TaskAssignment
from weft.model.cluster import ClusterSpec, RootCa
from weft.model.ids import NetworkId, ServiceId, TaskId
from weft.model.membership import InitRequest
from weft.model.meta import Meta
from weft.model.network import Network, NetworkSpec, Pool
from weft.model.node import Node, NodeDescription, NodeSpec, NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    Service,
    ServiceSpec,
    TaskSpec,
    UpdateState,
)
from weft.model.state import ClusterState, Object, Put, Remove
from weft.model.task import Attachment, Task, TaskState, TaskStatus
from weft.session.base import AdmissionRequest, SessionClosed
from weft.session.fake import WINDOW, MemoryAgentSession, session_pair
from weft.session.messages import (
    MAX_STATUSES,
    AssignmentUpdate,
    CertificateRequest,
    FromAgent,
    Heartbeat,
    StatusAccepted,
    StatusUpdate,
    Welcome,
)
from weft.store.memory import MemoryStore
from weft.store.sole import SoleLeader

GRACE = 15
"""Seconds: three heartbeats of five."""


class Disk(MemoryStore):
    """A store that can run out of space."""

    full = False

    def _write(self, revision: int, put: Sequence[Object], removed: Sequence[Remove]) -> None:
        if self.full:
            raise OperationFailed("cannot commit: database or disk is full")


class Swarm:
    """A manager and its agents. Node i has the address 10.59.72.(11+i)."""

    def __init__(self, store: Disk, manager: Manager) -> None:
        self.store = store
        self.manager = manager
        self.agents: list[FakeAgent] = []
        self.sessions: list[asyncio.Task[None]] = []

    async def join(self, behaviour: Behaviour = obedient, routes: tuple[str, ...] = ()) -> FakeAgent:
        number = len(self.agents)
        hostname, address = f"node{number + 2}", IPv4Address("10.59.72.12") + number
        identity = await admitted(self.manager, self.manager.cluster.join_tokens.worker, hostname, address)
        agent = FakeAgent(self.manager, identity, hostname, address, virtual_time.clock, behaviour, routes)
        self.agents.append(agent)
        self.connect(agent)
        return agent

    def connect(self, agent: FakeAgent) -> asyncio.Task[None]:
        self.sessions.append(asyncio.create_task(agent.run()))
        return self.sessions[-1]

    async def kill(self, number: int) -> None:
        """The agent's host is gone."""
        self.sessions[number].cancel()
        await asyncio.wait([self.sessions[number]])

    def tasks(self, service: str) -> list[Task]:
        found = self.manager.state.named("service", service)
        return list(self.manager.state.tasks_of(ServiceId(found.id)).values()) if found else []

    def running(self, service: str) -> list[Task]:
        return [t for t in self.tasks(service) if t.state == TaskState.RUNNING and t.desired == TaskState.RUNNING]

    async def until(self, condition: Callable[[], object], seconds: float = 30) -> float:
        """Gives how long it took."""
        start = asyncio.get_running_loop().time()
        while not condition():
            assert asyncio.get_running_loop().time() < start + seconds, f"not after {seconds} s"
            await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - start


def _ports(entropy: Callable[[int], bytes], authority: FakeAuthority) -> ManagerPorts:
    return ManagerPorts(clock=virtual_time.clock, entropy=entropy, authority=authority)


@asynccontextmanager
async def swarm_of(size: int) -> AsyncIterator[Swarm]:
    entropy = random.Random(1).randbytes
    store = Disk(virtual_time.clock)
    founder = Founder(
        description=NodeDescription(hostname="node1"),
        data_path_address=IPv4Address("10.59.72.11"),
        manager_address="10.59.72.11:2377",
    )
    authority = FakeAuthority()
    _, node = await create_swarm(store, InitRequest(), founder, RootCa("root", "key"), authority, entropy)
    async with Manager(node.id, store, SoleLeader(node.id), _ports(entropy, authority)) as manager:
        await manager.update_node(node.id, node.meta.version, msgspec.structs.replace(node.spec, availability="drain"))
        swarm = Swarm(store, manager)
        for _ in range(size):
            await swarm.join()
        await swarm.until(lambda: all(manager.state.nodes[a.node].status.state is NodeState.READY for a in swarm.agents))
        await swarm.until(lambda: manager.state.ingress and manager.state.ingress.segments)
        yield swarm
        for session in swarm.sessions:
            session.cancel()
        await asyncio.wait(swarm.sessions) if swarm.sessions else None
    await store.close()


def play(size: int, scene: Callable[[Swarm], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with swarm_of(size) as swarm:
            await scene(swarm)

    virtual_time.run(main())


def web(replicas: int, networks: tuple[str, ...] = (), ports: tuple[PublishedPort, ...] = (), name: str = "web") -> ServiceSpec:
    attached = tuple(NetworkAttachmentSpec(NetworkId(n)) for n in networks)
    return ServiceSpec(
        name=name,
        replicas=replicas,
        task=TaskSpec(container=ContainerSpec(image="demo"), networks=attached),
        endpoint=EndpointSpec(ports=ports),
    )


# --- services from creation to the agents


def test_a_service_runs_on_all_nodes_and_each_knows_its_backends() -> None:
    async def scene(swarm: Swarm) -> None:
        network = await swarm.manager.create_network(NetworkSpec(name="demo"))
        await swarm.manager.create_service(web(6, (network.id,), (PublishedPort(80, 8080),)))
        await swarm.until(lambda: len(swarm.running("web")) == 6)
        await asyncio.sleep(1)
        service = swarm.manager.state.named("service", "web")
        assert service is not None
        for agent in swarm.agents:
            assert len(agent.assignment.tasks) == 2
            view = agent.assignment.networks[network.id]
            assert len(view.backends(ServiceId(service.id))) == 6
            assert {view.load_balancer(a.node) is not None for a in swarm.agents} == {True}
            assert [p.published for s in agent.assignment.networks.values() for r in s.services.values() for p in r.ports] == [
                8080
            ]

    play(3, scene)


def test_thirty_replicas_settle_in_tens_of_milliseconds() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(30))
        assert await swarm.until(lambda: len(swarm.running("web")) == 30) < 0.2

    play(3, scene)


def test_a_node_that_is_told_nothing_new_is_sent_nothing() -> None:
    async def scene(swarm: Swarm) -> None:
        a = await swarm.manager.create_network(NetworkSpec(name="a"))
        await swarm.manager.create_service(web(1, (a.id,)))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(1)
        on, off = sorted(swarm.agents, key=lambda agent: -len(agent.assignment.tasks))
        assert a.id in on.assignment.networks
        assert a.id not in off.assignment.networks
        received = len(off.changes)
        service = swarm.manager.state.named("service", "web")
        assert service is not None
        await swarm.manager.remove_service(ServiceId(service.id))
        await swarm.until(lambda: not on.assignment.tasks and a.id not in on.assignment.networks)
        assert len(off.changes) == received

    play(2, scene)


def test_a_session_that_begins_with_a_commit_begins_with_all_of_it() -> None:
    """The state is ahead of the events that the dispatcher has taken: what a newcomer is sent must not be made of both."""

    async def scene(swarm: Swarm) -> None:
        network = await swarm.manager.create_network(NetworkSpec(name="demo"))
        await swarm.manager.create_service(web(1, (network.id,)))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(1)
        await swarm.kill(0)
        [task] = swarm.running("web")
        [attachment] = task.attachments
        newer = msgspec.structs.replace(attachment, address=IPv4Interface(f"{attachment.address.ip + 50}/24"))
        second = msgspec.structs.replace(task, id=TaskId("second"), slot=2, attachments=(newer,), meta=Meta())
        ours, theirs = session_pair(swarm.agents[0].identity, "10.59.72.12")
        await theirs.send(swarm.agents[0].hello)

        async def commit_and_serve() -> None:
            await swarm.store.commit([Put(second)])
            await swarm.manager.serve(ours)

        serving = asyncio.create_task(commit_and_serve())
        await theirs.receive()
        update = await theirs.receive()
        assert isinstance(update, AssignmentUpdate)
        assert second.id in {known.id for known in update.change.tasks}
        assert any(second.id in view.value.endpoints for view in update.change.views)
        await theirs.close("done")
        await asyncio.wait([serving])
        serving.exception()

    play(1, scene)


def test_an_agent_that_waits_for_its_first_assignment_is_answered_meanwhile() -> None:
    """A thousand come together when a manager has gone, and take their turns. One that hears nothing for long would go elsewhere."""

    async def scene(swarm: Swarm) -> None:
        await swarm.kill(0)
        turns = swarm.manager._dispatcher._turns = asyncio.Semaphore(0)
        ours, theirs = session_pair(swarm.agents[0].identity, "10.59.72.12")
        await theirs.send(swarm.agents[0].hello)
        serving = asyncio.create_task(swarm.manager.serve(ours))
        assert isinstance(await theirs.receive(), Welcome)
        for _ in range(10):
            await asyncio.sleep(2)
            await theirs.send(Heartbeat())
            assert isinstance(await theirs.receive(), Heartbeat)
        turns.release()
        assert isinstance(await theirs.receive(), AssignmentUpdate)
        await theirs.close("done")
        await asyncio.wait([serving])
        serving.exception()

    play(1, scene)


def test_the_tasks_of_a_dead_node_move_after_the_grace() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        dead = swarm.agents[0].node
        await swarm.kill(0)
        await asyncio.sleep(GRACE - 6)
        assert swarm.manager.state.nodes[dead].status.state is NodeState.READY
        await swarm.until(lambda: swarm.manager.state.nodes[dead].status.state is NodeState.DOWN, 10)
        await swarm.until(lambda: len([t for t in swarm.running("web") if t.node != dead]) == 4, 10)

    play(2, scene)


def test_a_node_that_comes_back_in_time_keeps_its_tasks() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        before = {task.id for task in swarm.running("web")}
        await swarm.kill(0)
        await asyncio.sleep(GRACE - 6)
        swarm.connect(swarm.agents[0])
        await asyncio.sleep(60)
        assert {task.id for task in swarm.running("web")} == before

    play(2, scene)


def test_a_node_that_was_down_is_ready_again_when_it_says_hello() -> None:
    async def scene(swarm: Swarm) -> None:
        node = swarm.agents[0].node
        await swarm.kill(0)
        await swarm.until(lambda: swarm.manager.state.nodes[node].status.state is NodeState.DOWN)
        swarm.connect(swarm.agents[0])
        await swarm.until(lambda: swarm.manager.state.nodes[node].status.state is NodeState.READY)
        await asyncio.sleep(60)
        assert swarm.manager.state.nodes[node].status.state is NodeState.READY

    play(1, scene)


def test_the_next_manager_goes_on_where_the_last_one_stopped() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        before = {task.id for task in swarm.running("web")}
        here, gone = (agent.node for agent in swarm.agents)
        await swarm.manager.close()
        await asyncio.sleep(300)
        own = next(node.id for node in swarm.store.state.nodes.values() if node.spec.role == "manager")
        randbytes = random.Random(2).randbytes
        async with Manager(own, swarm.store, SoleLeader(own), _ports(randbytes, FakeAuthority())) as successor:
            await swarm.kill(0)
            await swarm.kill(1)
            swarm.agents[0].manager = successor
            swarm.connect(swarm.agents[0])
            await asyncio.sleep(2 * GRACE - 1)
            assert {task.id for task in swarm.running("web")} == before
            assert swarm.store.state.nodes[gone].status.state is NodeState.READY
            await asyncio.sleep(10)
            assert swarm.store.state.nodes[gone].status.state is NodeState.DOWN
            assert swarm.store.state.nodes[here].status.state is NodeState.READY
            assert {task.node for task in swarm.running("web") if task.id not in before} == {here}

    play(2, scene)


def test_a_task_that_fails_is_replaced_when_its_time_has_come() -> None:
    async def scene(swarm: Swarm) -> None:
        failed: list[TaskId] = []

        def fail_once(task: TaskAssignment) -> TaskState:
            if not failed:
                failed.append(task.id)
            return TaskState.FAILED if task.id in failed else obedient(task)

        await swarm.join(fail_once)
        await swarm.manager.create_service(web(1))
        await swarm.until(lambda: failed)
        await swarm.until(lambda: any(task.desired == TaskState.READY for task in swarm.tasks("web")), 1)
        assert 4 < await swarm.until(lambda: swarm.running("web")) < 6

    play(0, scene)


# --- sessions


def test_a_newer_session_supersedes_the_older() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        twin = FakeAgent(swarm.manager, agent.identity, "node2", IPv4Address("10.59.72.12"), virtual_time.clock)
        first, second = swarm.sessions[0], asyncio.create_task(twin.session())
        await swarm.until(lambda: agent.farewell)
        assert agent.farewell == f"superseded by a newer session of node {agent.node}"
        first.cancel()
        await swarm.until(lambda: twin.changes)
        await swarm.manager.create_service(web(1))
        await swarm.until(lambda: swarm.running("web"))
        second.cancel()
        await asyncio.wait([first, second])

    play(1, scene)


def test_a_slow_reader_skips_what_it_missed() -> None:
    async def scene(swarm: Swarm) -> None:
        slow = swarm.agents[0]
        slow.reading.clear()
        for number in range(50):
            await swarm.manager.create_service(web(2, ports=(PublishedPort(80, 9000 + number),), name=f"s{number}"))
            await asyncio.sleep(0.2)
        received = len(slow.changes)
        slow.reading.set()
        await swarm.until(lambda: all(len(swarm.running(f"s{number}")) == 2 for number in range(50)))
        assert len(slow.changes) - received < 25
        assert len(slow.assignment.tasks) == 50

    play(2, scene)


def test_what_a_host_has_lost_is_known_with_the_word_that_it_is_ready_again() -> None:
    """In one commit, or somebody would be sent to containers that are not there. Of its own tasks only, and of those once."""

    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        agent, other = swarm.agents
        mine = [task for task in swarm.tasks("web") if task.node == agent.node]
        theirs = next(task for task in swarm.tasks("web") if task.node == other.node)
        await swarm.kill(0)
        await swarm.until(lambda: swarm.manager.state.nodes[agent.node].status.state is NodeState.DOWN, 60)
        lost = TaskStatus(TaskState.FAILED, virtual_time.clock(), "lost", "the host was started again")
        ended = tuple((id, lost) for id in (mine[0].id, theirs.id, TaskId("nobody")))
        agent.hello = msgspec.structs.replace(agent.hello, ended=ended)
        agent.states = {}
        events = swarm.store.subscribe(("node", "task"))
        swarm.connect(agent)
        await swarm.until(lambda: swarm.manager.state.nodes[agent.node].status.state is NodeState.READY)
        (node,) = [obj for event in events.take() if isinstance(obj := event.after, Node) and obj.id == agent.node]
        first, second = (swarm.manager.state.tasks[task.id] for task in mine)
        assert (first.status, first.meta.version) == (lost, node.meta.version)
        assert second.state == TaskState.RUNNING
        assert swarm.manager.state.tasks[theirs.id].state == TaskState.RUNNING
        await swarm.kill(2)
        session = swarm.connect(agent)
        await asyncio.sleep(5)
        assert not session.done()
        assert swarm.manager.state.tasks.get(first.id, first).meta.version == node.meta.version

    play(2, scene)


def test_a_silent_session_is_ended() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        agent.beating.clear()
        await swarm.until(lambda: agent.farewell, 3 * GRACE)
        assert "has been silent for 15 s" in agent.farewell

    play(1, scene)


def test_statuses_count_only_from_the_node_that_owns_the_task_and_only_grow() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        liar, victim = swarm.agents
        stolen, own = next(iter(victim.assignment.tasks)), next(iter(liar.assignment.tasks))
        await swarm.kill(0)
        before = {task.id: task.status for task in swarm.tasks("web")}
        lies = (
            (stolen, TaskStatus(TaskState.FAILED, err="stolen")),
            (own, TaskStatus(TaskState.STARTING)),
            (TaskId("nobody"), TaskStatus(TaskState.FAILED)),
        )
        ours, theirs = session_pair(liar.identity, "10.59.72.12")
        serving = asyncio.create_task(swarm.manager.serve(ours))
        await theirs.send(liar.hello)
        await theirs.send(StatusUpdate(7, lies))
        while await theirs.receive() != StatusAccepted(7):
            pass
        assert {task.id: task.status for task in swarm.tasks("web")} == before
        serving.cancel()
        await asyncio.wait([serving])

    play(2, scene)


def test_only_a_node_that_says_who_it_is_gets_a_session() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        founder = next(iter(swarm.manager.state.nodes))
        for first, error in (
            (msgspec.structs.replace(agent.hello, node=founder), Forbidden),
            (msgspec.structs.replace(agent.hello, data_path_address="here"), InvalidArgument),
            (Heartbeat(), SessionClosed),
        ):
            ours, theirs = session_pair(agent.identity, "10.59.72.12")
            await theirs.send(first)
            with pytest.raises(error):
                await swarm.manager.serve(ours)
        ours, _ = session_pair(agent.identity, "10.59.72.12")
        with pytest.raises(SessionClosed, match="did not say hello within 10 s"):
            await swarm.manager.serve(ours)

    play(1, scene)


def test_an_agent_that_reports_and_does_not_listen_is_cut_off() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        await swarm.kill(0)
        ours, theirs = session_pair(agent.identity, "10.59.72.12")
        serving = asyncio.create_task(swarm.manager.serve(ours))
        await theirs.send(agent.hello)
        for number in range(1, 1000):
            if serving.done():
                break
            await theirs.send(StatusUpdate(number, ()))
            await asyncio.sleep(0.02)
        with pytest.raises(SessionClosed, match="does not take the answers"):
            await serving

    play(1, scene)


# --- networks


def test_a_network_is_complete_when_it_is_created() -> None:
    async def scene(swarm: Swarm) -> None:
        network = await swarm.manager.create_network(NetworkSpec(name="demo"))
        assert [str(s.subnet) for s in network.segments] == ["10.0.1.0/24"]
        assert [s.vni for s in network.segments] == [4097]

    play(1, scene)


def test_networks_that_cannot_be_are_refused_and_leave_nothing() -> None:
    async def scene(swarm: Swarm) -> None:
        create = swarm.manager.create_network
        await create(NetworkSpec(name="demo", pools=(Pool(IPv4Network("10.7.0.0/16")),), vnis=(5000,)))
        before = dict(swarm.manager.state.networks)
        with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be created"):
            await create(NetworkSpec(name="bridge"))
        with pytest.raises(Conflict, match="network with name demo already exists"):
            await create(NetworkSpec(name="demo"))
        with pytest.raises(Conflict, match=r"cannot create network x: subnet 10.7.1.0/24 overlaps network demo"):
            await create(NetworkSpec(name="x", pools=(Pool(IPv4Network("10.7.1.0/24")),)))
        with pytest.raises(Conflict, match=r"ingress network \(.*\) is already present"):
            await create(NetworkSpec(name="x", ingress=True))
        assert not swarm.manager.cluster.data_keys
        with pytest.raises(Conflict, match="5000"):
            await create(NetworkSpec(name="x", pools=(Pool(IPv4Network("10.9.0.0/16")),), vnis=(5000,)))
        assert dict(swarm.manager.state.networks) == before

    play(1, scene)


def test_the_routes_of_every_host_are_kept_clear() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.join(routes=("10.0.1.0/24", "0.0.0.0/0", "fe80::/64", "nonsense"))
        await swarm.until(lambda: swarm.agents[0].changes)
        automatic = await swarm.manager.create_network(NetworkSpec(name="demo"))
        assert str(automatic.segments[0].subnet) == "10.0.2.0/24"
        assert swarm.manager.network_warnings(automatic) == []
        chosen = await swarm.manager.create_network(NetworkSpec(name="x", pools=(Pool(IPv4Network("10.0.1.128/25")),)))
        [warning] = swarm.manager.network_warnings(chosen)
        assert warning.startswith("subnet 10.0.1.128/25 overlaps routes of node2 (10.0.1.0/24): ")

    play(0, scene)


def test_a_network_in_use_stays() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        network = await manager.create_network(NetworkSpec(name="demo"))
        id = await manager.create_service(web(1, (network.id,), (PublishedPort(80, 8080),)))
        await swarm.until(lambda: swarm.running("web"))
        with pytest.raises(FailedPrecondition, match=f"network {network.id} is in use by service {id}"):
            await manager.remove_network(network.id)
        assert manager.state.ingress is not None
        with pytest.raises(FailedPrecondition, match=f"ingress network cannot be removed because service {id} depends on it"):
            await manager.remove_network(manager.state.ingress.id)
        await manager.remove_service(id)
        assert any(task.is_live for task in manager.state.tasks.values()), "nobody has told it to stop yet"
        await manager.remove_network(network.id)
        await swarm.until(lambda: all(network.id not in agent.assignment.networks for agent in swarm.agents))
        with pytest.raises(NotFound, match=f"network {network.id} not found"):
            await manager.remove_network(network.id)

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
def test_a_task_uses_a_network_while_it_is_meant_to_run(desired: TaskState, state: TaskState, is_used: bool) -> None:
    network = Network(id=NetworkId("n"), spec=NetworkSpec(name="demo"))
    task = Task(
        id=TaskId("t"), service=ServiceId("s"), service_name="web", spec=TaskSpec(container=ContainerSpec(image="demo")),
        attachments=(Attachment(network.id, IPv4Interface("10.0.1.3/24")),), desired=desired, status=TaskStatus(state),
    )  # fmt: skip
    elsewhere = ServiceSpec(name="web", task=task.spec)
    swarm = ClusterState([network, task, Service(id=task.service, spec=elsewhere)])
    if is_used:
        with pytest.raises(FailedPrecondition, match="network n is in use by task t"):
            networks.removal(swarm, network.id)
    else:
        assert networks.removal(swarm, network.id) == [Remove("network", "n", 0)]
    assert networks.removal(ClusterState([network, task]), network.id) == [Remove("network", "n", 0)]


# --- services


def test_services_that_cannot_be_are_refused() -> None:
    async def scene(swarm: Swarm) -> None:
        create = swarm.manager.create_service
        id = await create(web(1, ports=(PublishedPort(80, 8080),)))
        with pytest.raises(Conflict) as taken:
            await create(web(1))
        assert str(taken.value) == (
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
        )
        with pytest.raises(
            InvalidArgument, match=rf"port '8080' is already in use by service 'web' \({id}\) as an ingress port"
        ):
            await create(web(1, ports=(PublishedPort(80, 8080),), name="other"))
        with pytest.raises(NotFound, match="network nowhere not found"):
            await create(web(1, ("nowhere",), name="other"))
        assert swarm.manager.state.ingress is not None
        with pytest.raises(InvalidArgument, match="Service cannot be explicitly attached to the ingress network"):
            await create(web(1, (swarm.manager.state.ingress.id,), name="other"))
        assert list(swarm.manager.state.services) == [id]

    play(1, scene)


def test_a_service_is_updated_and_rolled_back() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        id = await manager.create_service(web(1))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(10)
        first = manager.state.services[id]
        with pytest.raises(OutOfSequence, match="update out of sequence"):
            await manager.update_service(id, first.meta.version + 1, web(2))
        with pytest.raises(Unsupported, match="renaming services is not supported"):
            await manager.update_service(id, first.meta.version, web(2, name="other"))
        with pytest.raises(Unsupported, match="service mode change is not allowed"):
            await manager.update_service(id, first.meta.version, msgspec.structs.replace(web(2), replicas=None))
        with pytest.raises(FailedPrecondition, match="does not have a previous spec"):
            await manager.update_service(id, first.meta.version, web(2), "previous")
        await manager.update_service(id, first.meta.version, web(2))
        second = manager.state.services[id]
        assert (second.spec, second.previous_spec, second.spec_version) == (web(2), web(1), second.meta.version)
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        current = manager.state.services[id]
        await manager.update_service(id, current.meta.version, web(9), "previous")
        third = manager.state.services[id]
        assert (third.spec, third.previous_spec) == (web(1), web(2))
        assert third.update_status is not None
        assert third.update_status.state == UpdateState.ROLLBACK_STARTED

    play(2, scene)


def test_the_same_spec_again_puts_no_task_out_of_date() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        id = await manager.create_service(web(1))
        await asyncio.sleep(10)
        before = manager.state.services[id]
        tasks = set(manager.state.tasks)
        await manager.update_service(id, before.meta.version, web(1))
        await asyncio.sleep(10)
        assert manager.state.services[id].spec_version > before.spec_version
        assert set(manager.state.tasks) == tasks

    play(1, scene)


# --- nodes and the swarm


def test_a_node_is_removed_only_when_it_is_down_or_by_force() -> None:
    async def scene(swarm: Swarm) -> None:
        manager, agent = swarm.manager, swarm.agents[0]
        with pytest.raises(FailedPrecondition, match=f"node {agent.node} is not down and can't be removed"):
            await manager.remove_node(agent.node, False)
        founder = next(iter(manager.state.nodes))
        with pytest.raises(FailedPrecondition, match="is a cluster manager"):
            await manager.remove_node(founder, True)
        await manager.remove_node(agent.node, True)
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
        last = next(node for node in manager.state.nodes.values() if node.spec.role == "manager")
        with pytest.raises(FailedPrecondition, match="attempting to demote the last manager of the swarm"):
            await manager.update_node(last.id, last.meta.version, NodeSpec(role="worker"))
        # One that is to be a manager and does not serve yet is no help.
        await manager.update_node(promoted, manager.state.nodes[promoted].meta.version, NodeSpec(role="manager"))
        with pytest.raises(FailedPrecondition, match="attempting to demote the last manager of the swarm"):
            await manager.update_node(last.id, last.meta.version, NodeSpec(role="worker"))
        with pytest.raises(FailedPrecondition, match="must be demoted to worker before removal"):
            await manager.remove_node(promoted, force=True)
        await manager.update_node(promoted, manager.state.nodes[promoted].meta.version, NodeSpec(role="worker"))
        assert manager.state.nodes[promoted].role == "worker"

    play(1, scene)


def test_a_node_is_changed() -> None:
    async def scene(swarm: Swarm) -> None:
        manager, id = swarm.manager, swarm.agents[0].node
        node = manager.state.nodes[id]
        await manager.update_node(id, node.meta.version, NodeSpec(labels={"zone": "a"}))
        assert manager.state.nodes[id].spec.labels == {"zone": "a"}
        with pytest.raises(OutOfSequence):
            await manager.update_node(id, node.meta.version, NodeSpec())

    play(1, scene)


def test_a_node_is_changed_by_who_has_read_it_before_its_status_changed() -> None:
    """As it does when it likes: `docker node update` reads, and writes what it has read."""

    async def scene(swarm: Swarm) -> None:
        manager, id = swarm.manager, swarm.agents[0].node
        read = manager.state.nodes[id]
        await swarm.kill(0)
        await swarm.until(lambda: manager.state.nodes[id].status.state is NodeState.DOWN)
        assert manager.state.nodes[id].meta.version > read.meta.version
        await manager.update_node(id, read.meta.version, NodeSpec(labels={"zone": "a"}))
        for version in (0, read.meta.version, manager.state.revision + 1):
            with pytest.raises(OutOfSequence):
                await manager.update_node(id, version, NodeSpec())
        assert manager.state.nodes[id].spec.labels == {"zone": "a"}

    play(1, scene)


def test_join_tokens_are_checked_and_rotated() -> None:
    async def scene(swarm: Swarm) -> None:
        manager = swarm.manager
        old = manager.cluster.join_tokens
        await manager.update_cluster(manager.cluster.meta.version, ClusterSpec(), True, False)
        assert manager.cluster.join_tokens.manager == old.manager
        count = len(manager.state.nodes)
        for token in (old.worker, ""):
            request = AdmissionRequest(token=token, csr="", hostname="x", data_path_address=IPv4Address("10.59.72.99"))
            with pytest.raises(Forbidden):
                await manager.admit(request)
        assert len(manager.state.nodes) == count
        assert (await manager.admit(msgspec.structs.replace(request, token=old.manager))).role == "manager"
        await swarm.join()
        with pytest.raises(OutOfSequence):
            await manager.update_cluster(1, ClusterSpec(), False, False)
        with pytest.raises(InvalidArgument):
            await manager.update_cluster(manager.cluster.meta.version, ClusterSpec(name="x"), False, False)

    play(0, scene)


def test_the_swarm_is_created_once_and_from_sense() -> None:
    async def main() -> None:
        store = MemoryStore(virtual_time.clock)
        founder = Founder(
            description=NodeDescription(hostname="node1"), data_path_address=IPv4Address("10.59.72.11"), manager_address="a:1"
        )

        async def create(request: InitRequest) -> object:
            return await create_swarm(
                store, request, founder, RootCa("root", "key"), FakeAuthority(), random.Random(1).randbytes
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
        await create(InitRequest(default_pool=(pool,), subnet_size=26, data_path_port=5789, availability="drain"))
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
            async for event in swarm.manager.events():
                shown.append((event.type, event.action, event.attributes["name"]))

        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0)
        network = await swarm.manager.create_network(NetworkSpec(name="demo"))
        id = await swarm.manager.create_service(web(1, (network.id,)))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(1)
        assert shown == [("network", "create", "demo"), ("service", "create", "web")]
        service = swarm.manager.state.services[id]
        assert service.meta.version > service.spec_version, "the allocator has written it as well"
        await swarm.manager.update_service(id, service.meta.version, web(2, (network.id,)))
        await asyncio.sleep(30)
        assert ("service", "update", "web") in shown[2:]
        await swarm.manager.remove_service(id)
        await asyncio.sleep(0.01)
        assert shown[-1] == ("service", "remove", "web")
        watcher.cancel()
        await asyncio.wait([watcher])

    play(1, scene)


# --- when the store refuses


def test_a_manager_outlives_a_full_disk() -> None:
    async def scene(swarm: Swarm) -> None:
        swarm.store.full = True
        with pytest.raises(OperationFailed, match="disk is full"):
            await swarm.manager.create_service(web(2))
        swarm.store.full = False
        assert not swarm.manager.state.services
        await swarm.manager.create_service(web(2))
        await swarm.until(lambda: swarm.agents[0].assignment.tasks)
        swarm.store.full = True
        await asyncio.sleep(10)
        assert not swarm.running("web")
        swarm.store.full = False
        await swarm.until(lambda: len(swarm.running("web")) == 2)

    play(2, scene)


def test_what_is_put_into_the_store_by_hand_reaches_the_agents() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        ingress = swarm.manager.state.ingress
        assert ingress is not None
        changed = msgspec.structs.replace(ingress, spec=msgspec.structs.replace(ingress.spec, mtu=1300))
        await swarm.store.commit([Put(changed)])
        await swarm.until(lambda: agent.assignment.networks[ingress.id].definition.mtu == 1300, 1)

    play(1, scene)


# --- what fails ends nobody else


def fail_once(holder: Any, name: str) -> list[str]:
    """The next call of the method raises; those after it do what they did. Gives whether it has."""
    method, failed = getattr(holder, name), list[str]()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if failed:
            return method(*args, **kwargs)
        failed.append(name)
        raise KeyError("a mistake")

    setattr(holder, name, failing)
    return failed


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("_statuses", "_commit"), ("_membership", "_settle"), ("_dispatcher", "_gather"), ("_liveness", "reconcile"),
        ("_suspicion", "_look"),
    ],
)  # fmt: skip
def test_no_part_of_a_manager_that_fails_ends_the_manager(part: str, method: str) -> None:
    async def scene(swarm: Swarm) -> None:
        failed = fail_once(getattr(swarm.manager, part), method)
        await swarm.manager.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        await swarm.kill(0)
        swarm.connect(swarm.agents[0])
        node = swarm.manager.state.nodes[swarm.agents[1].node]
        promoted = msgspec.structs.replace(node.spec, role="manager")
        await swarm.store.commit([Put(msgspec.structs.replace(node, spec=promoted))])
        await asyncio.sleep(10)
        assert failed
        assert swarm.manager._running is not None
        assert not swarm.manager._running.done()
        await swarm.manager.create_service(web(4, name="later"))
        await swarm.until(lambda: len(swarm.running("later")) == 4)

    play(2, scene)


def test_sessions_opened_one_after_the_other_by_a_host_that_answers_no_probe() -> None:
    """Each supersedes the last one, or ends while the host is being asked about the one before."""

    async def scene(swarm: Swarm) -> None:
        async def no_answer(asked: Sequence[IPv4Address]) -> bool:
            await asyncio.sleep(0.3)
            return False

        swarm.manager._suspicion._probe = no_answer
        agent = swarm.agents[0]
        await swarm.kill(0)
        for pause in (0.01, 0.1, 0.29, 0.3, 0.31) * 3:
            session = asyncio.create_task(agent.session())
            await asyncio.sleep(0.1)
            session.cancel()
            await asyncio.wait([session])
            await asyncio.sleep(pause)
        assert swarm.manager._running is not None
        assert not swarm.manager._running.done()
        swarm.connect(agent)
        await swarm.until(lambda: swarm.manager.state.nodes[agent.node].status.state is NodeState.READY)
        await swarm.manager.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)

    play(2, scene)


# --- one node that sends as fast as it can

SECONDS = 20
MOST = BURST + RATE * SECONDS


async def session_of(swarm: Swarm, agent: FakeAgent) -> tuple[MemoryAgentSession, asyncio.Task[None]]:
    """In place of its own."""
    ours, theirs = session_pair(agent.identity, agent.hello.data_path_address)
    await theirs.send(agent.hello)
    serving = asyncio.create_task(swarm.manager.serve(ours))
    assert isinstance(await theirs.receive(), Welcome)
    return theirs, serving


async def pour(session: MemoryAgentSession, messages: Iterable[FromAgent]) -> int:
    """How many were taken in so many seconds; what comes back is read."""

    async def read() -> None:
        while True:
            await session.receive()

    sent, reading = 0, asyncio.create_task(read())
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            for message in itertools.islice(messages, 10 * int(MOST)):
                await session.send(message)
                sent += 1
                await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return sent


def flip(task: TaskId) -> Iterator[StatusUpdate]:
    """Each says something new."""
    for number in itertools.count():
        yield StatusUpdate(number, ((task, TaskStatus(TaskState.RUNNING, message=f"again {number}")),))


@pytest.mark.parametrize("kind", ["heartbeats", "statuses", "many statuses", "certificates"])
def test_a_node_is_heard_no_more_often_than_makes_sense_and_the_others_as_ever(kind: str) -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        agent = swarm.agents[0]
        task = next(task.id for task in swarm.running("web") if task.node == agent.node)
        await swarm.kill(0)
        session, serving = await session_of(swarm, agent)
        revision, issued = swarm.store.state.revision, []
        certify = swarm.manager._certificates.answer
        swarm.manager._certificates.answer = lambda *args: issued.append(args) or certify(*args)  # type: ignore[func-returns-value]
        many = tuple((TaskId(f"t{n}"), TaskStatus(TaskState.RUNNING)) for n in range(MAX_STATUSES))
        flood: dict[str, Iterable[FromAgent]] = {
            "heartbeats": itertools.repeat(Heartbeat()),
            "statuses": flip(task),
            "many statuses": (StatusUpdate(number, many) for number in itertools.count()),
            "certificates": itertools.repeat(CertificateRequest("")),
        }
        pouring = asyncio.create_task(pour(session, flood[kind]))
        await swarm.manager.create_service(web(1, name="later"))
        assert await swarm.until(lambda: swarm.running("later")) < 1
        sent = await pouring
        assert not serving.done()
        most = {"many statuses": MOST * STATUSES_PER_TOKEN / MAX_STATUSES, "certificates": MOST / CERTIFICATE}.get(kind, MOST)
        assert most / 2 < sent <= most + WINDOW + 2
        assert swarm.store.state.revision - revision < MOST + 100
        assert len(issued) <= MOST / CERTIFICATE + 1
        await session.close("done")
        await asyncio.gather(serving, return_exceptions=True)

    play(2, scene)


def test_who_breaks_the_rules_in_the_middle_is_sent_away_and_nothing_of_it_is_kept() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        agent = swarm.agents[0]
        task = next(task for task in swarm.running("web") if task.node == agent.node)
        await swarm.kill(0)
        for status, cause in (
            (TaskStatus(TaskState.ORPHANED), "state ORPHANED of task .* is not a node's to say"),
            (TaskStatus(TaskState.RUNNING, timestamp=2**63), "timestamp"),
        ):
            session, serving = await session_of(swarm, agent)
            await session.send(StatusUpdate(1, ((task.id, status),)))
            with pytest.raises(InvalidArgument, match=f"cannot accept StatusUpdate: {cause}"):
                await serving
            assert swarm.manager.state.tasks[task.id].status == task.status
            await session.close("done")
        swarm.connect(agent)
        await swarm.manager.create_service(web(2, name="later"))
        await swarm.until(lambda: len(swarm.running("later")) == 2)

    play(2, scene)


def test_a_node_cannot_take_anothers_address_and_loses_one_that_it_took_while_the_other_was_away() -> None:
    async def scene(swarm: Swarm) -> None:
        nodes, (liar, victim) = swarm.manager.state.nodes, swarm.agents
        honest = liar.hello
        liar.hello = msgspec.structs.replace(honest, data_path_address=victim.hello.data_path_address)
        liar.source = honest.data_path_address
        await swarm.kill(0)
        async with asyncio.timeout(5):
            await liar.session()
        assert liar.farewell == f"cannot open session: data path address 10.59.72.13 is that of node {victim.node}"
        assert str(nodes[liar.node].data_path_address) == honest.data_path_address
        await swarm.kill(1)
        await swarm.until(lambda: nodes[victim.node].status.state is NodeState.DOWN, 60)
        swarm.connect(liar)
        await swarm.until(lambda: str(nodes[liar.node].data_path_address) == "10.59.72.13")
        swarm.connect(victim)
        await swarm.until(lambda: nodes[victim.node].status.state is NodeState.READY)
        assert nodes[liar.node].status.state is NodeState.DOWN
        assert nodes[liar.node].status.message == f"its data path address is that of node {victim.node}"
        await asyncio.sleep(60)
        assert nodes[victim.node].status.state is NodeState.READY
        assert nodes[liar.node].status.state is NodeState.DOWN

    play(2, scene)


def test_a_host_that_leaves_and_joins_again_is_ready_at_once() -> None:
    async def scene(swarm: Swarm) -> None:
        [before] = swarm.agents
        await swarm.kill(0)
        swarm.agents.clear()
        again = await swarm.join()
        assert again.hello.data_path_address == before.hello.data_path_address
        nodes = swarm.manager.state.nodes
        assert await swarm.until(lambda: nodes[again.node].status.state is NodeState.READY) < 1
        assert nodes[before.node].status.state is NodeState.DOWN

    play(1, scene)
