"""Running containers that have lost their places on networks of the swarm: they get new ones as soon
as a manager grants them, and no later than they end or are disconnected.

A place is lost if the managers have given the container up: its node was down for a day, was removed
from the swarm, or had its tasks ended otherwise. When the node leaves the swarm, its containers go on
without the swarm's networks, as in Docker."""

import asyncio
import logging

from weft.engine.engine import Engine
from weft.engine.local_book import HOST, NONE
from weft.engine.plain_containers import PlainContainers
from weft.errors import WeftError
from weft.model.container import Container, ContainerState
from weft.model.ids import ContainerId
from weft.model.meta import SECOND
from weft.model.plain_container import restart_pause
from weft.system.supervision import contained, ended

log = logging.getLogger(__name__)


class Reattachment:
    def __init__(self, engine: Engine, plain: PlainContainers) -> None:
        self._engine = engine
        self._plain = plain
        self._tasks: set[asyncio.Task[None]] = set()
        engine.local.lost = self._begin

    def resume(self) -> None:
        """Looks for places that were lost under the last daemon."""
        for container in self._engine.containers.values():
            plain = container.config.plain
            if plain is None or container.state is not ContainerState.RUNNING:
                continue
            for settings in plain.networks:
                known = settings.network in (HOST, NONE)
                if not known and not self._engine.local.is_on(container.id, settings.network):
                    self._begin(container.id, settings.network)

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, set()
        await asyncio.gather(*(ended(task) for task in tasks))

    async def leave_swarm(self) -> None:
        """Takes the containers off the swarm's networks, for good."""
        await self.close()
        for place in self._engine.local.overlays.held().values():
            container = self._engine.container(place.container)
            if container is not None:
                for endpoint in place.overlays:
                    await self._disconnect(container, endpoint.name)

    async def _disconnect(self, container: Container, network: str) -> None:
        try:
            await self._plain.disconnect(container, network, force=True)
        except WeftError as error:
            ids = (container.id, network, error)
            log.warning("container.not_disconnected container=%s network=%s cause=%s", *ids)

    def _begin(self, container: ContainerId, network: str) -> None:
        name = f"network {network} of container {container[:12]}"
        work = contained(name, self._until_connected(container, network))
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_connected(self, container: ContainerId, network: str) -> None:
        pause = 0
        while True:
            try:
                await self._plain.connect_again(container, network)
                return
            except WeftError as error:
                ids = (container, network, error)
                log.warning("container.not_connected container=%s network=%s cause=%s", *ids)
            pause = restart_pause(pause, 0)
            await asyncio.sleep(pause / SECOND)
