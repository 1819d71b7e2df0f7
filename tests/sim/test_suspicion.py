"""A session has ended: is it the daemon or the host? In virtual time, with a host that answers or does not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address

import msgspec

from weft.control.dispatcher import network_views
from weft.manager.suspicion import PAUSE, Suspicion
from weft.manager.transaction import transact
from weft.model.ids import NodeId
from weft.model.network import NetworkSpec
from weft.model.node import NodeState, NodeStatus
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.state import Put
from weft.store.memory import MemoryStore
from weft.testing import virtual_time
from weft.testing.control_room import ControlRoom

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
        task = TaskSpec(container=ContainerSpec(image="demo"), networks=(NetworkAttachmentSpec(network),))
        room.service(ServiceSpec(name="web", task=task, replicas=2))
        room.settle()
        store = MemoryStore(virtual_time.clock)
        await store.commit([Put(_unstored(obj)) for obj in room.state.objects()])
        host = Host()
        suspicion = Suspicion(store, virtual_time.clock, host.answers)
        running = asyncio.create_task(suspicion.run())
        await scene(store, suspicion, host)
        running.cancel()
        await asyncio.wait([running])

    virtual_time.run(main())


def _unstored(obj):  # type: ignore[no-untyped-def]
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
        views, events = network_views(store.state), store.subscribe(("node",))
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


def test_a_node_that_has_gone_to_another_manager_is_that_ones() -> None:
    async def scene(store: MemoryStore, suspicion: Suspicion, host: Host) -> None:
        host.is_up = False
        suspicion.lost(NODE)
        await asyncio.sleep(ANSWER / 2)
        await transact(store, lambda state: [Put(_with_manager(state.nodes[NODE], NodeId("m2")))])
        await asyncio.sleep(ANSWER)
        assert state_of(store) is NodeState.READY

    play(scene)


def _with_manager(node, manager):  # type: ignore[no-untyped-def]
    return msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, manager=manager))
