"""A session has ended: is it the daemon or the host? A host falls silent, and nobody says goodbye.
In virtual time, with hosts that answer or do not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address
from typing import Never, TypeVar

import msgspec

from tests.support import virtual_time
from tests.support.control_room import ControlRoom
from weft.control.assignments.views import network_views
from weft.control.requests.nodes import farewell
from weft.errors import OutOfSequence, Unavailable
from weft.linux.fake_echo import FakeEcho
from weft.manager.suspicion import PAUSE, Suspicion, addresses
from weft.manager.transaction import transact
from weft.model.ids import NodeId
from weft.model.network import NetworkSpec
from weft.model.node import Node, NodeState, NodeStatus
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.state import Change, Object, Put
from weft.session.host_monitor import PERIOD
from weft.store.memory import MemoryStore

NODE = NodeId("node1")
ANSWER = 0.3
"""Seconds that the host takes for no answer."""


class Host:
    def __init__(self) -> None:
        self.is_up = True
        self.asked: list[tuple[IPv4Address, ...]] = []

    async def answers(self, addresses: Sequence[IPv4Address]) -> bool:
        self.asked.append(tuple(addresses))
        if self.is_up:
            return True
        await asyncio.sleep(ANSWER)
        return False


Scene = Callable[[MemoryStore, Suspicion, Host], Awaitable[None]]


def play(scene: Scene) -> None:
    """With a service of two tasks on two nodes, and on an overlay."""

    async def main() -> None:
        room = ControlRoom(2)
        network = room.network(NetworkSpec(name="net"))
        task = TaskSpec(
            container=ContainerSpec(image="demo"), networks=(NetworkAttachmentSpec(network),)
        )
        room.service(ServiceSpec(name="web", task=task, replicas=2))
        room.settle()
        store = MemoryStore(virtual_time.clock)
        await store.commit([Put(_unstored(obj)) for obj in room.state.objects()])
        host = Host()
        suspicion = Suspicion(NodeId("node3"), store, virtual_time.clock, host.answers)
        running = asyncio.create_task(suspicion.run())
        await scene(store, suspicion, host)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])

    virtual_time.run(main())


T = TypeVar("T", bound=Object)


def _unstored(obj: T) -> T:
    return msgspec.structs.replace(obj, meta=msgspec.structs.replace(obj.meta, version=0))


def state_of(store: MemoryStore) -> NodeState:
    return store.state.nodes[NODE].status.state


def serving(store: MemoryStore) -> set[str]:
    """Nodes to which new connections go."""
    views = network_views(store.state).values()
    return {e.node for view in views for e in view.endpoints.values() if e.serving}


def test_a_host_that_does_not_answer_gets_no_new_connections_and_loses_nothing() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        assert serving(store) == {"node1", "node2"}
        views, events = network_views(store.state), store.subscribe(["node"])
        host.is_up = False
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER + 0.01)
        assert state_of(store) is NodeState.DISCONNECTED
        assert serving(store) == {"node2"}
        assert network_views(store.state, views, events.take()) == network_views(store.state), (
            "views brought up to date are the same"
        )
        assert all(task.is_live for task in store.state.tasks.values())
        node = store.state.nodes[NODE]
        await store.commit([Put(msgspec.structs.replace(node, status=NodeStatus(NodeState.READY)))])
        assert serving(store) == {"node1", "node2"}

    play(scene)


def test_a_daemon_that_restarts_is_not_suspected() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        revision = store.state.revision
        suspicion.lost(NODE)
        await asyncio.sleep(5)
        suspicion.back(NODE)
        asked = len(host.asked)
        await asyncio.sleep(5)
        assert store.state.revision == revision
        assert len(host.asked) <= asked + 1, "who is back is asked no more"
        assert asked > 5

    play(scene)


def test_a_host_that_dies_after_its_daemon_is_found_as_well() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        suspicion.lost(NODE)
        await asyncio.sleep(1)
        host.is_up = False
        await asyncio.sleep(PAUSE + ANSWER + 0.01)
        assert state_of(store) is NodeState.DISCONNECTED

    play(scene)


def test_whoever_is_back_while_it_is_asked_is_not_suspected() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        host.is_up = False
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER / 2)
        suspicion.back(NODE)
        await asyncio.sleep(ANSWER)
        assert state_of(store) is NodeState.READY

    play(scene)


def test_sessions_that_end_and_begin_while_the_host_is_asked() -> None:
    """As at each renewal of a certificate, on hosts that answer no echo requests."""

    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        host.is_up = False
        for _ in range(3):
            suspicion.lost(NODE)
            await asyncio.sleep(ANSWER / 2)
            suspicion.back(NODE)
            suspicion.lost(NODE)
            suspicion.back(NODE)
            await asyncio.sleep(2 * ANSWER)
        assert state_of(store) is NodeState.READY
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER / 2)
        suspicion.back(NODE)
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER * 0.9)
        assert state_of(store) is NodeState.READY, "the last end has its own probe"
        await asyncio.sleep(ANSWER * 0.2)
        assert state_of(store) is NodeState.DISCONNECTED

    play(scene)


def test_whoever_is_back_before_the_verdict_is_committed_is_not_suspected() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        host.is_up = False
        suspicion.lost(NODE)
        commit = store.commit

        async def late(changes: Sequence[Change], *, independent: bool = False) -> Never:
            suspicion.back(NODE)
            store.commit = commit  # type: ignore[method-assign]
            raise OutOfSequence("update out of sequence")

        store.commit = late  # type: ignore[method-assign]
        await asyncio.sleep(2 * ANSWER)
        assert store.commit is commit
        assert state_of(store) is NodeState.READY

    play(scene)


def test_a_probe_that_fails_in_an_unexpected_way_concerns_one_node_only() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        async def broken(asked: Sequence[IPv4Address]) -> bool:
            suspicion._probe = host.answers
            raise KeyError("a mistake")

        suspicion._probe = broken
        host.is_up = False
        suspicion.lost(NodeId("node2"))
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER + 0.01)
        assert state_of(store) is NodeState.DISCONNECTED
        suspicion.lost(NodeId("node2"))
        await asyncio.sleep(ANSWER + 0.01)
        assert store.state.nodes[NodeId("node2")].status.state is NodeState.DISCONNECTED

    play(scene)


def test_a_node_that_has_gone_to_another_manager_is_that_ones() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        host.is_up = False
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER / 2)
        await transact(store, lambda state: [Put(_with_manager(state.nodes[NODE], NodeId("m2")))])
        await asyncio.sleep(ANSWER)
        assert state_of(store) is NodeState.READY

    play(scene)


def _with_manager(node: Node, manager: NodeId) -> Node:
    return msgspec.structs.replace(
        node, status=msgspec.structs.replace(node.status, manager=manager)
    )


# --- hosts that fall silent

OWN, WORKER, EXTERNAL, MANAGER = map(NodeId, ("node1", "node2", "node3", "node7"))
"""Of seven hosts: ours, a manager's; one with a session with us; one with a session with another
manager; that manager's."""
WITHIN = 0.8
"""Seconds."""


class Busy(MemoryStore):
    """A store that has lost its leader: commits get no answer until there is another."""

    leaderless = False
    commits = 0

    async def commit(self, changes: Sequence[Change], *, independent: bool = False) -> int:
        self.commits += 1
        if self.leaderless:
            await asyncio.sleep(7)
            raise Unavailable("no answer")
        return await super().commit(changes, independent=independent)


class Hosts:
    def __init__(self, store: Busy) -> None:
        self.store = store
        self.down: set[NodeId] = set()
        self.suspicion = Suspicion(
            OWN, store, virtual_time.clock, self.answers, lambda: FakeEcho(self.reaches)
        )

    def reaches(self, address: IPv4Address) -> bool:
        names = [
            node.id
            for node in self.store.state.nodes.values()
            if address in addresses(self.store.state, node)
        ]
        return bool(names) and not self.down.intersection(names)

    async def answers(self, asked: Sequence[IPv4Address]) -> bool:
        await asyncio.sleep(0 if any(map(self.reaches, asked)) else ANSWER)
        return any(map(self.reaches, asked))

    def states(self) -> dict[NodeId, NodeState]:
        return {id: node.status.state for id, node in self.store.state.nodes.items()}

    def disconnected(self) -> set[str]:
        return {id for id, state in self.states().items() if state is NodeState.DISCONNECTED}


def watch(scene: Callable[[Hosts], Awaitable[None]]) -> None:
    async def main() -> None:
        room = ControlRoom(7)
        room.settle()
        store = Busy(virtual_time.clock)
        await store.commit([Put(_unstored(obj)) for obj in room.state.objects()])
        hosts = Hosts(store)
        nodes = [
            _with_manager(node, OWN if id in (OWN, WORKER) else MANAGER)
            for id, node in store.state.nodes.items()
        ]
        listening = [
            msgspec.structs.replace(n, manager_address=f"{n.id}:2377")
            if n.id in (OWN, MANAGER)
            else n
            for n in nodes
        ]
        await store.commit([Put(node) for node in listening])
        for id in (OWN, WORKER):
            hosts.suspicion.back(id)
        running = asyncio.create_task(hosts.suspicion.run())
        await asyncio.sleep(2)
        assert hosts.disconnected() == set()
        await scene(hosts)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])

    virtual_time.run(main())


def test_a_host_that_falls_silent_is_suspected_within_a_second_and_believed_again_at_once() -> None:
    async def scene(hosts: Hosts) -> None:
        hosts.down.add(WORKER)
        await asyncio.sleep(WITHIN)
        assert hosts.disconnected() == {WORKER}
        assert hosts.store.state.nodes[WORKER].status.manager == OWN
        hosts.down.clear()
        await asyncio.sleep(0.7)
        assert hosts.disconnected() == set()
        revision = hosts.store.state.revision
        await asyncio.sleep(60)
        assert hosts.store.state.revision == revision, "and that is all"

    watch(scene)


def test_the_host_of_another_manager_is_watched_as_well_but_not_that_ones_nodes() -> None:
    async def scene(hosts: Hosts) -> None:
        hosts.down |= {MANAGER, EXTERNAL}
        await asyncio.sleep(WITHIN)
        assert hosts.disconnected() == {MANAGER}
        hosts.down.clear()
        await asyncio.sleep(60)
        assert hosts.disconnected() == {MANAGER}, "whose session is not with us"

    watch(scene)


def test_a_manager_that_is_cut_off_suspects_nobody() -> None:
    async def scene(hosts: Hosts) -> None:
        revision, commits = hosts.store.state.revision, hosts.store.commits
        hosts.down |= set(hosts.states()) - {OWN}
        await asyncio.sleep(30)
        hosts.down.clear()
        await asyncio.sleep(30)
        assert (hosts.store.state.revision, hosts.store.commits) == (revision, commits)

    watch(scene)


def test_whoever_has_no_session_any_more_is_believed_when_it_has_one() -> None:
    async def scene(hosts: Hosts) -> None:
        hosts.down.add(WORKER)
        hosts.suspicion.lost(WORKER)
        await asyncio.sleep(WITHIN)
        hosts.down.clear()
        await asyncio.sleep(5)
        assert hosts.disconnected() == {WORKER}
        hosts.suspicion.back(WORKER)
        await asyncio.sleep(2 * PERIOD)
        assert hosts.disconnected() == set()

    watch(scene)


def test_a_managers_own_host_that_others_suspect_is_believed_when_it_hears_of_it() -> None:
    async def scene(hosts: Hosts) -> None:
        own = hosts.store.state.nodes[OWN]
        status = msgspec.structs.replace(own.status, state=NodeState.DISCONNECTED)
        await hosts.store.commit([Put(msgspec.structs.replace(own, status=status))])
        await asyncio.sleep(0.5)
        assert hosts.disconnected() == set()

    watch(scene)


def test_a_host_that_has_said_that_it_is_shut_down_is_not_believed_because_it_answers() -> None:
    """Before its session ends, and while its containers take their time to end; a manager's own
    host as well."""

    async def scene(hosts: Hosts) -> None:
        for id in (WORKER, OWN):
            await transact(hosts.store, partial(farewell, id=id, said="stopping", now=1))
        await asyncio.sleep(30)
        assert hosts.disconnected() == {WORKER, OWN}
        for id in (WORKER, OWN):
            hosts.suspicion.lost(id)
        await asyncio.sleep(30)
        assert hosts.disconnected() == {WORKER, OWN}

    watch(scene)


def test_a_verdict_that_the_store_does_not_take_is_repeated_while_it_holds() -> None:
    async def scene(hosts: Hosts) -> None:
        hosts.store.leaderless = True
        hosts.down.add(WORKER)
        await asyncio.sleep(3)
        assert hosts.disconnected() == set()
        hosts.store.leaderless = False
        await asyncio.sleep(0.5)
        assert hosts.disconnected() == {WORKER}

    watch(scene)


def test_a_verdict_that_no_longer_holds_is_dropped() -> None:
    async def scene(hosts: Hosts) -> None:
        hosts.store.leaderless = True
        hosts.down.add(WORKER)
        await asyncio.sleep(3)
        hosts.down.clear()
        await asyncio.sleep(1)
        commits, hosts.store.leaderless = hosts.store.commits, False
        await asyncio.sleep(20)
        assert hosts.store.commits == commits
        assert hosts.disconnected() == set()

    watch(scene)
