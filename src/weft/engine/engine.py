"""The engine: what a node is without a swarm. Its containers, images, volumes and networks, and
events about them.

The engine lives as long as the daemon. It has the one network loop, and a part there for the node's
own networks. A member of a swarm makes a `Networking` (`networking.py`) with the engine, which has
the swarm's part there for as long as the node is a member."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from signal import SIGKILL, SIGTERM

from weft.engine import views
from weft.engine.adapters import EngineAdapters
from weft.engine.container_config import Host
from weft.engine.events import EventLog
from weft.engine.health import HealthMonitor
from weft.engine.images import RecordedImages
from weft.engine.local_networks import LocalNetworks
from weft.engine.name_tally import NameTally
from weft.engine.network import NetworkLoop
from weft.engine.volumes import Volumes
from weft.errors import InvalidArgument, NotFound, OperationFailed, WeftError
from weft.model.bridge_network import DEFAULT_NETWORK
from weft.model.container import Container, ContainerConfig, ContainerState, MemoryFile
from weft.model.ids import CONTAINER_ID_BYTES, ContainerId, NetworkId, hex_id
from weft.model.local_network import LocalNetwork
from weft.model.meta import SECOND, Nanoseconds
from weft.model.signals import signal_number
from weft.network.diff import diff
from weft.network.plan import Planner
from weft.system.supervision import lasting
from weft.system.tally import Histograms

KILL_PATIENCE = 10.0
"""Seconds that a killed container may take to end: moby's limit."""
KILLED = 137
"""Exit code of a program that SIGKILL has ended."""


class Engine:
    def __init__(self, id: str, adapters: EngineAdapters) -> None:
        """`id`: the host's, as `docker info` shows it."""
        self.id = id
        self.adapters = adapters
        self.runtime = adapters.runtime
        self.events = EventLog(adapters.origin.clock)
        self.images = RecordedImages(adapters.images, self.events)
        self.volumes = Volumes(
            adapters.volumes, self.runtime.containers, self.events, self.now, self.new_id
        )
        self.health = HealthMonitor(
            adapters.runtime,
            adapters.images,
            self.events,
            adapters.origin.clock,
            adapters.health_records,
        )
        network = adapters.network
        self.network = NetworkLoop(network.kernel, Planner().plan, diff, network.flush_flows)
        self.names = NameTally()
        self.local = LocalNetworks(
            self.network,
            network,
            self.events,
            self.runtime.containers,
            adapters.origin,
            NetworkId(views.digest(id, DEFAULT_NETWORK)),
            self.names,
        )
        self.container_actions = Histograms("create", "delete", "start")
        self.network_actions = Histograms("connect", "release")
        self._dead: set[ContainerId] = set()
        """Containers whose end was told."""

    async def run(self) -> None:
        """Keeps the network as it is desired, until cancelled; then leaves it as it is."""
        await lasting("network", self.network.run)

    def resume(self) -> None:
        """Goes on with what the last daemon did for its running containers."""
        self.local.load()
        self.local.resume()
        self.health.forget_all_but(self.containers.keys())
        for container in self.runtime.containers():
            if container.state is ContainerState.RUNNING:
                self.health.begin(container, resumed=True)

    async def close(self) -> None:
        """Ends the engine's own work; containers go on."""
        self.local.close()
        await self.health.close()

    @cached_property
    def started_at(self) -> Nanoseconds:
        """When the engine's networks were first asked for, which is soon after the daemon began:
        Docker dates them so."""
        return self.now()

    def now(self) -> Nanoseconds:
        return self.adapters.origin.clock()

    def new_id(self) -> str:
        """A new id for a container, a sandbox or an anonymous volume."""
        return hex_id(self.adapters.origin.entropy(CONTAINER_ID_BYTES))

    def host(self, hostname: str) -> Host:
        network = self.adapters.network
        return Host(hostname, network.names.host_resolver(), network.namespaces)

    # --- containers. Each change is an event.

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """All containers on this node, those of other owners included."""
        return {c.id: c for c in self.runtime.containers()}

    def container(self, id: ContainerId) -> Container | None:
        try:
            return self.runtime.get(id)
        except NotFound:
            return None

    async def create(self, config: ContainerConfig, files: Sequence[MemoryFile] = ()) -> None:
        """Also makes the volumes that are missing. All or nothing, but for the volumes that have a
        name. `files`: see `Runtime.create`."""
        with self.container_actions.timed("create"):
            await self._create(config, files)

    async def _create(self, config: ContainerConfig, files: Sequence[MemoryFile]) -> None:
        image = self.images.find(config.spec.image)
        config = await self.volumes.claimed(config, image.config)
        try:
            container = (
                await self.runtime.create(config, files)
                if config.plain is None
                else await self.runtime.prepare(config)
            )
        except BaseException:
            self.volumes.release(config.id)
            await asyncio.shield(self.volumes.remove_anonymous(config.mounts))
            raise
        self.volumes.release(config.id)
        self.events.container("create", container)

    async def start(self, id: ContainerId, files: Sequence[MemoryFile] = ()) -> None:
        with self.container_actions.timed("start"):
            container = await self.runtime.start(id, files)
        self._dead.discard(id)
        self.volumes.mounted(container)
        self.events.container("start", container)
        self.health.begin(container)

    async def wait(self, id: ContainerId) -> Container:
        """Waits until a container has ended. The caller must then call `died`; without a caller, as
        when the daemon ends, there is no event."""
        return await self.runtime.wait(id)

    async def stop(
        self, container: Container, grace: Nanoseconds | None = None, signal: str = ""
    ) -> None:
        """`grace`, `signal`: other than the container's own."""
        patience = container.stop_grace_period if grace is None else grace
        clock = asyncio.get_running_loop().time
        begun, present = clock(), self.container(container.id)
        was_running = present is not None and present.state is ContainerState.RUNNING
        if was_running:
            number = signal_number(signal) if signal else self._stop_signal(container)
            self._tell_kill(container, number)
        ended = await self.runtime.stop(container.id, patience, signal)
        if was_running and ended.exit_code == KILLED and clock() - begun >= patience / SECOND:
            self._tell_kill(container, SIGKILL)
        self.died(ended)
        if was_running:
            self.events.container("stop", ended)

    def ends(self, container: Container, name: str) -> bool:
        """Whether a signal means that the container is to end."""
        return signal_number(name) in (SIGKILL, self._stop_signal(container))

    def _stop_signal(self, container: Container) -> int:
        """As the runtime chooses it."""
        name = container.config.spec.stop_signal or self._image_signal(container) or "SIGTERM"
        try:
            return signal_number(name)
        except InvalidArgument:
            return SIGTERM

    def _image_signal(self, container: Container) -> str:
        try:
            return self.images.find(container.image).config.stop_signal
        except NotFound:
            return ""

    async def kill(self, container: Container, name: str) -> None:
        """`name`: the signal's name. With SIGKILL this returns when the container has ended, as in
        Docker. Raises `OperationFailed` if the kernel does not end the process."""
        number = signal_number(name)
        await self.runtime.kill(container.id, name)
        self._tell_kill(container, number)
        if number == SIGKILL:
            await self._killed(container.id)

    async def _killed(self, id: ContainerId) -> None:
        try:
            async with asyncio.timeout(KILL_PATIENCE):
                with suppress(NotFound):  # it has been removed at its end
                    await self.runtime.wait(id)
        except TimeoutError:
            raise OperationFailed(
                f"cannot kill container: {id}: tried to kill container, but did not receive an"
                " exit event"
            ) from None

    def _tell_kill(self, container: Container, signal: int) -> None:
        self.events.container("kill", container, signal=str(int(signal)))

    def died(self, container: Container) -> None:
        """Tells of a container's end, unless that was told: several callers may see it. `remove`
        tells of the end that it makes."""
        if self.container(container.id) is not None:
            self._tell_end(container)

    def _tell_end(self, container: Container) -> None:
        if container.id in self._dead:
            return
        self._dead.add(container.id)
        self.volumes.unmounted(container)
        if container.oom_killed:
            self.events.container("oom", container)
        seconds = max(container.finished_at - container.started_at, 0) // SECOND
        self.events.container(
            "die", container, execDuration=str(seconds), exitCode=str(container.exit_code)
        )

    async def remove(self, id: ContainerId, *, volumes: bool = True) -> None:
        """Removes a container and its log; a missing container is no error. One that runs dies
        first. `volumes`: also removes the volumes that have no name."""
        with self.container_actions.timed("delete"):
            await self._remove(id, volumes)

    async def _remove(self, id: ContainerId, volumes: bool) -> None:
        container = self.container(id)
        if container is not None and container.state is ContainerState.RUNNING:
            await self._kill_and_remove(container)
        else:
            await self.runtime.remove(id)
        self._dead.discard(id)
        self.health.forget(id)
        if container is not None:
            if volumes:
                await self.volumes.remove_anonymous(container.config.mounts)
            self.events.container("destroy", container)

    async def _kill_and_remove(self, container: Container) -> None:
        ended = asyncio.ensure_future(self.runtime.wait(container.id))
        self._tell_kill(container, SIGKILL)
        try:
            await self.runtime.remove(container.id)
            self._tell_end(await ended)
        finally:
            ended.cancel()

    # --- images

    def has_image(self, reference: str) -> bool:
        try:
            self.images.find(reference)
        except WeftError:  # also for an invalid reference: the pull will report it
            return False
        return True

    # --- networks

    def local_networks(self) -> list[LocalNetwork]:
        """The networks that only this node has. They are the same in a swarm and after it."""
        own = [*views.predefined_networks(self.id, self.started_at), *self.local.shown()]
        return sorted(own, key=lambda network: network.name)
