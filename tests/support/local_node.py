"""A node's own networks on whatever kernel the caller has: a loop that runs, and `LocalNetworks`."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from weft.engine.adapters import NameAdapters, NetworkAdapters, Origin
from weft.engine.events import EventLog
from weft.engine.local_networks import LocalNetworks
from weft.engine.name_tally import NameTally
from weft.engine.network import NetworkLoop
from weft.linux.base import Kernel
from weft.model.container import Container, ContainerConfig, ContainerState
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId, NetworkId
from weft.model.local_sandbox import LocalSandbox
from weft.model.service import ContainerSpec, PublishedPort
from weft.network.diff import diff
from weft.network.plan import Planner
from weft.system.supervision import ended

DEFAULT = NetworkId("d" * 64)


class LocalNode:
    """`networks` is what the tests ask; `running` are the containers that the next daemon finds."""

    def __init__(self, kernel: Kernel, adapters: NetworkAdapters) -> None:
        self.kernel = kernel
        self.adapters = adapters
        self.running: list[Container] = []
        self._clock = itertools.count(1)
        self._new()

    def _new(self) -> None:
        origin = Origin(clock=self._clock.__next__, entropy=os.urandom)
        self.loop = NetworkLoop(self.kernel, Planner().plan, diff, self.adapters.flush_flows)
        self.events = EventLog(origin.clock)
        self.networks = LocalNetworks(
            self.loop,
            self.adapters,
            self.events,
            lambda: self.running,
            origin,
            DEFAULT,
            NameTally(),
        )

    def start(self) -> None:
        self.networks.load()
        self.networks.resume()
        self._run = asyncio.get_running_loop().create_task(self.loop.run())

    async def stop(self) -> None:
        await ended(self._run)
        self.networks.close()

    async def restart(self) -> None:
        """Another daemon on the same disk and kernel."""
        await self.stop()
        self._new()
        self.start()

    async def run(
        self,
        name: str,
        *networks: str | EndpointSettings,
        ports: Iterable[PublishedPort] = (),
        **spec: Any,
    ) -> LocalSandbox:
        """A container's network. The container has its name as the beginning of its id."""
        wanted = [EndpointSettings(network=n) if isinstance(n, str) else n for n in networks]
        id = container_id(name)
        made = ContainerSpec(image="demo", **spec)
        place = await self.networks.connect(id, name, made, wanted, tuple(ports))
        config = ContainerConfig(id=id, name=name, spec=made, hostname=name, namespace=None)
        self.running.append(
            Container(config=config, image="demo", args=(), state=ContainerState.RUNNING)
        )
        return place

    def told(self) -> list[tuple[str, str]]:
        return [(event.action, event.attributes["name"]) for event in self.events.past]


def container_id(name: str) -> ContainerId:
    return ContainerId(name.encode().hex().ljust(64, "0")[:64])


@asynccontextmanager
async def local_node(
    kernel: Kernel, names: NameAdapters, records: Path | None = None, **adapters: Any
) -> AsyncIterator[LocalNode]:
    """A node that is in no swarm."""
    node = LocalNode(
        kernel, NetworkAdapters(kernel=kernel, names=names, records=records, **adapters)
    )
    node.start()
    node.loop.desire_swarm(None)
    try:
        yield node
    finally:
        await node.stop()
