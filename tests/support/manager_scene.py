"""A whole manager in memory, with agents that are a few queues away, in virtual time: for tests
that play a scene with them."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import msgspec

from tests.support import virtual_time
from tests.support.fake_agent import Behaviour, FakeAgent, admitted, obedient
from tests.support.fake_authority import FakeAuthority
from weft.errors import (
    OperationFailed,
)
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.manager import Manager
from weft.manager.ports import ManagerPorts
from weft.model.cluster import RootCa
from weft.model.ids import NetworkId, ServiceId
from weft.model.membership import InitRequest
from weft.model.node import NodeDescription, NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
)
from weft.model.state import Object, Remove
from weft.model.task import Task, TaskState
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

    async def join(
        self, behaviour: Behaviour = obedient, routes: tuple[str, ...] = ()
    ) -> FakeAgent:
        number = len(self.agents)
        hostname, address = f"node{number + 2}", IPv4Address("10.59.72.12") + number
        identity = await admitted(
            self.manager, (await self.manager.swarm.join_tokens()).worker, hostname, address
        )
        agent = FakeAgent(
            self.manager, identity, hostname, address, virtual_time.clock, behaviour, routes
        )
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
        found = self.manager.swarm.state.named("service", service)
        return (
            list(self.manager.swarm.state.tasks_of(ServiceId(found.id)).values()) if found else []
        )

    def running(self, service: str) -> list[Task]:
        return [
            t
            for t in self.tasks(service)
            if t.state == TaskState.RUNNING and t.desired == TaskState.RUNNING
        ]

    async def until(self, condition: Callable[..., object], seconds: float = 30) -> float:
        """Gives how long it took."""
        start = asyncio.get_running_loop().time()
        while not condition():
            assert asyncio.get_running_loop().time() < start + seconds, f"not after {seconds} s"
            await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - start


def ports_of(entropy: Callable[[int], bytes], authority: FakeAuthority) -> ManagerPorts:
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
    _, node = await create_swarm(
        store, InitRequest(), founder, RootCa("root", "key"), authority, entropy
    )
    async with Manager(
        node.id, store, SoleLeader(node.id), ports_of(entropy, authority)
    ) as manager:
        await manager.swarm.update_node(
            node.id, node.meta.version, msgspec.structs.replace(node.spec, availability="drain")
        )
        swarm = Swarm(store, manager)
        for _ in range(size):
            await swarm.join()
        await swarm.until(
            lambda: all(
                manager.swarm.state.nodes[a.node].status.state is NodeState.READY
                for a in swarm.agents
            )
        )
        await swarm.until(
            lambda: manager.swarm.state.ingress and manager.swarm.state.ingress.segments
        )
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


def web(
    replicas: int,
    networks: tuple[str, ...] = (),
    ports: tuple[PublishedPort, ...] = (),
    name: str = "web",
) -> ServiceSpec:
    attached = tuple(NetworkAttachmentSpec(NetworkId(n)) for n in networks)
    return ServiceSpec(
        name=name,
        replicas=replicas,
        task=TaskSpec(container=ContainerSpec(image="demo"), networks=attached),
        endpoint=EndpointSpec(ports=ports),
    )
