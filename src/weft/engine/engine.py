"""What a node is without a swarm: its containers, its images, and what happened to them.

It lives as long as the daemon. Who wants containers connected makes a `Networking`
(`networking.py`) with it: a member of a swarm does so, for as long as it is one.
"""

from collections.abc import Mapping
from signal import Signals

from weft.engine import views
from weft.engine.adapters import EngineAdapters
from weft.engine.container_config import Host
from weft.engine.events import EventLog
from weft.engine.images import RecordedImages
from weft.errors import NotFound, WeftError
from weft.model.container import Container, ContainerConfig
from weft.model.ids import CONTAINER_ID_BYTES, ContainerId, hex_id
from weft.model.local_network import LocalNetwork
from weft.model.meta import Nanoseconds


class Engine:
    def __init__(self, id: str, adapters: EngineAdapters) -> None:
        """`id`: of the host, as `docker info` shows it."""
        self.id = id
        self.adapters = adapters
        self.runtime = adapters.runtime
        self.events = EventLog(adapters.origin.clock)
        self.images = RecordedImages(adapters.images, self.events)

    def now(self) -> Nanoseconds:
        return self.adapters.origin.clock()

    def new_id(self) -> str:
        """For a container or a sandbox."""
        return hex_id(self.adapters.origin.entropy(CONTAINER_ID_BYTES))

    def host(self, hostname: str) -> Host:
        network = self.adapters.network
        return Host(hostname, network.names.host_resolver(), network.namespaces)

    # --- containers. What happens to them is an event.

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """All of this node, those of other people included."""
        return {c.id: c for c in self.runtime.containers()}

    def container(self, id: ContainerId) -> Container | None:
        try:
            return self.runtime.get(id)
        except NotFound:
            return None

    async def create(self, config: ContainerConfig) -> None:
        self.events.container("create", await self.runtime.create(config))

    async def start(self, id: ContainerId) -> None:
        self.events.container("start", await self.runtime.start(id))

    async def wait(self, id: ContainerId) -> Container:
        """Its end, which who waits has to tell by `died`: nobody may, for example when the daemon
        ends."""
        return await self.runtime.wait(id)

    async def stop(self, container: Container) -> None:
        self.died(await self.runtime.stop(container.id, container.stop_grace_period))

    async def kill(self, container: Container, name: str) -> None:
        """`name`: of the signal."""
        await self.runtime.kill(container.id, name)
        self.events.container("kill", container, signal=str(int(Signals[name])))

    def died(self, container: Container) -> None:
        self.events.container("die", container, exitCode=str(container.exit_code))

    async def remove(self, id: ContainerId) -> None:
        """And its log; fine if it is not there."""
        container = self.container(id)
        await self.runtime.remove(id)
        if container is not None:
            self.events.container("destroy", container)

    # --- images

    def has_image(self, reference: str) -> bool:
        try:
            self.images.find(reference)
        except WeftError:  # also of a reference that makes no sense: the pull will say so
            return False
        return True

    # --- networks

    def local_networks(self) -> list[LocalNetwork]:
        """Those that every host has. They are the same in a swarm and after it."""
        return views.predefined_networks(self.id)
