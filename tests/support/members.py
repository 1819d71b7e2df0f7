"""Whole members of a swarm in one process, on loopback: real certificates, sessions and stores, and
no kernel below the agents."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from tests.support.certified import free_port
from tests.support.engines import engine_on_fakes
from weft.daemon.environment import HostAdapters, NodeEnvironment
from weft.daemon.swarm_node import SwarmNode
from weft.errors import Unavailable, WeftError
from weft.manager.manager import Manager
from weft.model.cluster import RootCa
from weft.model.membership import InitRequest, JoinRequest
from weft.model.node import NodeDescription
from weft.model.sandbox import NodeFacts
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.session.base import Connect
from weft.session.client import Connector
from weft.session.identity import CredentialSource
from weft.session.tls import IsRevoked
from weft.store.etcd.external import ExternalEtcd
from weft.system.supervision import ended


class Host:
    """What a daemon has around it, but for the kernel; on 127.0.0.`number`."""

    def __init__(self, directory: Path, number: int, where: ExternalEtcd | None) -> None:
        self.address = IPv4Address("127.0.0.0") + number
        self.listen = f"{self.address}:{free_port()}"
        images = FakeImages("demo")
        self.runtime = FakeRuntime(images, time.time_ns)
        self.connect: Connect | None = None
        """Gives the agent its sessions, where a test is its manager."""

        self.environment = NodeEnvironment(
            data=directory / f"host{number}" / "swarm",
            run=directory / f"host{number}" / "run",
            engine=engine_on_fakes(str(self.address), self.runtime, images),
            host=HostAdapters(description=self.description, connector=self._connector),
            facts=lambda node, address: NodeFacts(
                node=node, data_path_address=address, underlay_mtu=1500
            ),
            external_etcd=where,
        )
        self.member: SwarmNode | None = None
        self._engine: asyncio.Task[None] | None = None

    def _connector(
        self,
        credential_source: CredentialSource,
        managers: Callable[[], Sequence[str]],
        is_revoked: IsRevoked,
    ) -> Connect:
        connector = Connector(credential_source, managers, is_revoked)
        return lambda: (self.connect or connector)()

    def description(self) -> NodeDescription:
        return NodeDescription(hostname=str(self.address))

    @property
    def up(self) -> SwarmNode:
        assert self.member is not None
        return self.member

    @property
    def manager(self) -> Manager:
        manager = self.up.manager
        if manager is None:
            raise Unavailable(f"{self.address} is no manager, or not yet")
        return manager

    def _begin(self) -> None:
        """The engine's own work, which goes on while the host enters and leaves swarms."""
        if self._engine is None:
            self.environment.engine.local.load()
            self._engine = asyncio.create_task(self.environment.engine.run())

    def open_root(self, root: RootCa) -> RootCa:
        return self.manager._vault.opened_root(root)

    async def init(self) -> SwarmNode:
        self._begin()
        request = InitRequest(listen_address=self.listen)
        self.member = await SwarmNode.found(self.environment, request, self.address, self.address)
        return self.member

    async def join(self, manager: str, token: str) -> SwarmNode:
        """`manager`: where one listens."""
        self._begin()
        request = JoinRequest(listen_address=self.listen, remote_addresses=(manager,), token=token)
        self.member = await SwarmNode.enter(self.environment, request, self.address, self.address)
        return self.member

    async def resume(self) -> SwarmNode:
        self._begin()
        self.member = await SwarmNode.resume(self.environment)
        return self.up

    async def leave(self) -> None:
        member, self.member = self.up, None
        await member.leave(force=True)

    async def stop(self) -> None:
        member, self.member = self.member, None
        if member is not None:
            await member.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            await ended(engine)

    def leads(self) -> bool:
        manager = self.up.manager
        return manager is not None and manager.swarm.leadership_status.leader == self.up.member.node


async def until(condition: Callable[..., object | Awaitable[object]], seconds: float = 30) -> None:
    """Until it is true, or no coroutine that raises."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(WeftError):
                result = condition()
                if (await result if isinstance(result, Awaitable) else result) is not False:
                    return
            await asyncio.sleep(0.05)
