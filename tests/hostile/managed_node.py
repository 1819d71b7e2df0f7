"""A whole node that leads a swarm: what hostile requests are sent to.

Its containers run no command that a request names. What requests make of services, an obedient
agent of another node runs: a task costs nothing there.
"""

import asyncio
import os
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from tests.support.fake_agent import FakeAgent, admitted
from tests.support.fake_images import IMAGE, demo_image
from tests.support.whole_node import WholeNode, asked_for
from weft.model.container import Container, ContainerConfig, ContainerState
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId, NetworkId, NodeId
from weft.model.membership import InitRequest
from weft.model.meta import Nanoseconds
from weft.model.network import NetworkSpec
from weft.model.plain_container import PlainContainer
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.pki import authority
from weft.runtime.base import Images
from weft.runtime.fake import FakeRuntime
from weft.runtime.fake_processes import Process, ProcessExec, ProcessRuntime

MANY = 12
"""Objects of one kind that requests may leave behind, before they are cleared away."""
AGENT_ADDRESS = IPv4Address("10.59.72.12")


class CautiousRuntime(ProcessRuntime):
    """No process of a container runs, and of commands in one only `cat`, whatever a hostile request
    names."""

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self._attached: list[Process] = []

    async def _spawn(self, container: Container) -> int:
        return await FakeRuntime._spawn(self, container)

    async def stop(self, id: ContainerId, grace: Nanoseconds, signal: str = "") -> Container:
        return await FakeRuntime.stop(self, id, grace, signal)

    async def kill(self, id: ContainerId, signal: str) -> None:
        await FakeRuntime.kill(self, id, signal)

    async def resize(self, id: ContainerId, rows: int, columns: int) -> None:
        await FakeRuntime.resize(self, id, rows, columns)

    async def attach(self, id: ContainerId) -> Process:
        self._require(id, ContainerState.RUNNING, "attach to")
        process = Process(("cat",), (), tty=False, stdin=True)
        await process.start()
        self._attached.append(process)
        return process

    async def exec(self, id: ContainerId, argv: tuple[str, ...], **options: Any) -> ProcessExec:
        return await super().exec(id, ("cat",), tty=options["tty"], stdin=options["stdin"])

    async def close(self) -> None:
        for process in self._attached:
            await process.end()
        await super().close()


class ManagedNode(WholeNode):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, runtime=CautiousRuntime)
        self.container = ""
        """Of a container that runs here."""
        self._agent: asyncio.Task[None] | None = None

    async def init(self, request: InitRequest) -> NodeId:
        own = await super().init(msgspec.structs.replace(request, availability="pause"))
        if self._agent is None:
            self._agent = asyncio.create_task((await self._second_node()).run())
        return own

    async def _second_node(self) -> FakeAgent:
        csr = authority.request(authority.make_key(os.urandom))
        token = (await self.manager.swarm.join_tokens()).worker
        identity = await admitted(self.manager, token, "node2", AGENT_ADDRESS, csr)
        return FakeAgent(self.manager, identity, "node2", AGENT_ADDRESS, time.time_ns)

    async def leave(self, force: bool) -> None:
        await super().leave(force)
        await self._end_agent()

    async def close(self) -> None:
        await self._end_agent()
        await super().close()

    async def _end_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.cancel()
            await asyncio.wait((agent,))

    # --- something to ask for

    async def furnish(self) -> None:
        """What requests are about, as far as it is not there: a swarm with a network and a
        service, an agent, and a container."""
        if self._agent is not None and not self._has_agent():
            await self.leave(True)
        if self._agent is None:
            await self.init(InitRequest())
        await self._furnish_swarm()
        running = [container.id for container in self.processes.running()]
        if self.container not in running:
            await self._run_container()
        for image in self.images.all()[MANY:]:
            await self.images.remove(image.id)

    def _has_agent(self) -> bool:
        """One that may be given tasks."""
        return any(
            (node.spec.role, node.spec.availability) == ("worker", "active")
            for node in self.manager.swarm.state.nodes.values()
            if node.id != self.membership.node
        )

    async def _furnish_swarm(self) -> None:
        manager = self.manager
        state = manager.swarm.state
        if len(state.services) > MANY or len(state.networks) > MANY:
            for service in list(state.services):
                await manager.swarm.remove_service(service)
            await self.until(lambda state: not state.tasks)
            for network in list(manager.swarm.state.networks.values()):
                if not network.spec.ingress:
                    await manager.swarm.remove_network(network.id)
        if manager.swarm.state.ingress is None:
            await manager.swarm.create_network(NetworkSpec(name="ingress", ingress=True))
        if manager.swarm.state.named("network", "net") is None:
            await manager.swarm.create_network(NetworkSpec(name="net", attachable=True))
        if manager.swarm.state.named("service", "web") is None:
            await self._run_service()

    async def _run_service(self) -> None:
        network = self.manager.swarm.state.named("network", "net")
        assert network is not None
        attached = (NetworkAttachmentSpec(NetworkId(network.id)),)
        task = TaskSpec(container=ContainerSpec(image=IMAGE, open_stdin=True), networks=attached)
        await self.manager.swarm.create_service(ServiceSpec(name="web", task=task, replicas=2))
        async with asyncio.timeout(60):
            await self.until_started("web")

    async def _run_container(self) -> None:
        """One of no task."""
        for container in self.processes.containers():
            await self.processes.remove(container.id)
        others = [image for image in self.image_store.images if IMAGE not in image.tags]
        self.image_store.images[:] = [*others, demo_image()]
        self.container = self.engine.new_id()
        config = ContainerConfig(
            id=ContainerId(self.container),
            name="here",
            spec=ContainerSpec(image=IMAGE, open_stdin=True),
            hostname="here",
            namespace=None,
            plain=PlainContainer(networks=(EndpointSettings(network="bridge"),)),
        )
        await self.engine.create(config)
        await self.plain.start(config.id)

    def versions(self) -> dict[str, int]:
        """Of the service `web`, the node `node2` and the swarm."""
        state = self.manager.swarm.state
        web = state.named("service", "web")
        agent = next((node for node in state.nodes.values() if node.hostname == "node2"), None)
        found = {"services": web, "nodes": agent, "swarm": self.manager.swarm.cluster}
        return {kind: obj.meta.version for kind, obj in found.items() if obj is not None}

    def specs(self) -> dict[str, object]:
        """What users have asked for, which a refused request must leave as it is."""
        images = [(image.id, image.tags) for image in self.images.all()]
        containers = [
            (c.id, c.config.name, c.config.limits, c.config.plain)
            for c in self.processes.containers()
        ]
        networks = [(network.name, network.spec) for network in self.networks.all()]
        swarm = asked_for(self.manager.swarm.state) if self._agent is not None else {}
        return {"images": images, "containers": containers, "local": networks, **swarm}
