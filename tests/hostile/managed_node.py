"""A node in memory whose swarm is led by a real manager: what hostile requests are sent to.

Containers, images and streams are those of `FakeNode`. Store, control loops, dispatcher and all
that checks a request are the daemon's own, and one obedient agent runs what they assign.
"""

import asyncio
import os
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from tests.support.fake_agent import FakeAgent, admitted
from tests.support.fake_images import IMAGE, demo_image
from tests.support.fake_node import ALREADY, FakeNode
from weft.errors import Unavailable
from weft.manager.authority import PkiAuthority
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.manager import Manager
from weft.manager.ports import ManagerPorts
from weft.model.container import ContainerState
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.membership import InitRequest, Membership
from weft.model.network import NetworkSpec
from weft.model.node import NodeDescription
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.task import Task, TaskState
from weft.pki import authority
from weft.runtime.fake_processes import ProcessExec, ProcessRuntime
from weft.store.memory import MemoryStore
from weft.store.sole import SoleLeader

MANY = 12
"""Objects of one kind that requests may leave behind, before they are cleared away."""
OWN_ADDRESS, AGENT_ADDRESS = IPv4Address("10.59.72.11"), IPv4Address("10.59.72.12")


class CautiousRuntime(ProcessRuntime):
    """Containers are processes of this machine: whatever command a hostile request names, `cat` is
    run."""

    async def exec(self, id: ContainerId, argv: tuple[str, ...], **options: Any) -> ProcessExec:
        return await super().exec(id, ("cat",), tty=options["tty"], stdin=options["stdin"])


class ManagedNode(FakeNode):
    def __init__(self) -> None:
        super().__init__(CautiousRuntime)
        self.manager: Manager | None = None
        self.container = ""
        """Of a container that runs here."""
        self._store = MemoryStore(time.time_ns)
        self._agent: asyncio.Task[None] | None = None

    async def init(self, request: InitRequest) -> NodeId:
        if self.manager is not None:
            raise Unavailable(ALREADY)
        self._store = MemoryStore(time.time_ns)
        founder = Founder(
            description=NodeDescription(hostname="node1"),
            data_path_address=OWN_ADDRESS,
            manager_address=f"{OWN_ADDRESS}:2377",
        )
        root = authority.root(
            authority.make_key(os.urandom), time.time_ns(), authority.make_serial(os.urandom)
        )
        _, own = await create_swarm(self._store, request, founder, root, PkiAuthority(), os.urandom)
        self.manager = Manager(
            own.id,
            self._store,
            SoleLeader(own.id),
            ManagerPorts(clock=time.time_ns, entropy=os.urandom, authority=PkiAuthority()),
        )
        await self.manager.start()
        self._swarm = self.manager  # type: ignore[assignment]
        self.membership = Membership(
            state="active",
            node=own.id,
            address=str(OWN_ADDRESS),
            is_manager=True,
            managers=((own.id, own.manager_address),),
        )
        csr = authority.request(authority.make_key(os.urandom))
        identity = await admitted(
            self.manager, self.manager.cluster.join_tokens.worker, "node2", AGENT_ADDRESS, csr
        )
        agent = FakeAgent(self.manager, identity, "node2", AGENT_ADDRESS, time.time_ns)
        self._agent = asyncio.create_task(agent.run())
        return own.id

    async def leave(self, force: bool) -> None:
        await super().leave(force)
        await self._end_swarm()

    async def close(self) -> None:
        await self._end_swarm()
        await super().close()

    async def _end_swarm(self) -> None:
        if self._agent is not None:
            self._agent.cancel()
            await asyncio.wait((self._agent,))
        if self.manager is not None:
            await self.manager.close()
            await self._store.close()
        self.manager = self._agent = self._swarm = None

    # --- something to ask for

    async def furnish(self) -> None:
        """What requests are about, as far as it is not there: a swarm with a network and a
        service, an agent, and a container."""
        if self.manager is not None and not self._has_agent(self.manager):
            await self.leave(True)
        if self.manager is None:
            await self.init(InitRequest())
        assert self.manager is not None
        await self._furnish_swarm(self.manager)
        if not any(
            c.id == self.container and c.state == ContainerState.RUNNING
            for c in self.containers.containers()
        ):
            self.container = await self._run_container()
        for image in self.images.all()[MANY:]:
            await self.images.remove(image.id)

    def _has_agent(self, manager: Manager) -> bool:
        """One that may be given tasks."""
        agents = [node for node in manager.state.nodes.values() if node.id != self.membership.node]
        return any(
            (node.spec.role, node.spec.availability) == ("worker", "active") for node in agents
        )

    async def _furnish_swarm(self, manager: Manager) -> None:
        state = manager.state
        if len(state.services) > MANY or len(state.networks) > MANY:
            for service in list(state.services):
                await manager.remove_service(service)
            await self._until(lambda: not manager.state.tasks)
            for network in list(manager.state.networks.values()):
                if not network.spec.ingress:
                    await manager.remove_network(network.id)
        if state.ingress is None:
            await manager.create_network(NetworkSpec(name="ingress", ingress=True))
        if state.named("network", "net") is None:
            await manager.create_network(NetworkSpec(name="net", attachable=True))
        if state.named("service", "web") is None:
            await self._run_service(manager)

    async def _run_service(self, manager: Manager) -> None:
        network = manager.state.named("network", "net")
        assert network is not None
        attached = (NetworkAttachmentSpec(NetworkId(network.id)),)
        task = TaskSpec(container=ContainerSpec(image=IMAGE, open_stdin=True), networks=attached)
        id = await manager.create_service(ServiceSpec(name="web", task=task, replicas=2))
        await self._until(
            lambda: any(
                task.state == TaskState.RUNNING for task in manager.state.tasks_of(id).values()
            )
        )

    async def _run_container(self) -> str:
        spec = TaskSpec(container=ContainerSpec(image=IMAGE, open_stdin=True))
        task = Task(
            id=TaskId(self.new_id()),
            service=ServiceId("s"),
            service_name="here",
            spec=spec,
            node=self.membership.node,
        )
        for container in self.containers.containers():
            await self.containers.remove(container.id)
        others = [image for image in self.image_store.images if IMAGE not in image.tags]
        self.image_store.images[:] = [*others, demo_image()]
        status = await self.run(task)
        assert status.container is not None
        return status.container.id

    async def _until(self, condition: Callable[[], bool]) -> None:
        changes = self._store.subscribe(("network", "node", "service", "task"))
        try:
            async with asyncio.timeout(60):
                while not condition():
                    await changes.next()
        finally:
            changes.close()

    def versions(self) -> dict[str, int]:
        """Of the service `web`, the node `node2` and the swarm."""
        assert self.manager is not None
        state = self.manager.state
        web = state.named("service", "web")
        agent = next((node for node in state.nodes.values() if node.hostname == "node2"), None)
        found = {"services": web, "nodes": agent, "swarm": self.manager.cluster}
        return {kind: obj.meta.version for kind, obj in found.items() if obj is not None}

    def specs(self) -> dict[str, object]:
        """What users have asked for, which a refused request must leave as it is. The loops change
        the rest when they like."""
        found: dict[str, object] = {
            "images": [(image.id, image.tags) for image in self.images.all()]
        }
        found["containers"] = [container.id for container in self.containers.containers()]
        if self.manager is not None:
            state = self.manager.state
            for table in (state.networks, state.services, state.nodes):
                found |= {str(obj.id): obj.spec for obj in table.values()}
            found["cluster"] = (self.manager.cluster.spec, self.manager.cluster.join_tokens)
        return found
