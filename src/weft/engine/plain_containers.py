"""The plain containers of this node: those that users make, start, stop and remove. Containers of
tasks belong to the agent and are never touched here.

    create   record and file system; nothing runs, nothing has an address
    start    network → configuration → container; all or nothing
    end      network released → restart after a pause, or removal, or nothing

All that outlives the daemon is in the container's own record (`ContainerConfig.plain`): a daemon
that was killed at any point leaves a container that the next one starts again, removes, or leaves
as it is, as the record says. What only this daemon needs is in a container's `Life`.
"""

import asyncio
import logging
from collections.abc import Callable
from signal import SIGKILL
from typing import Any

import msgspec

from weft.engine.engine import Engine
from weft.engine.plain_config import (
    named_config,
    plain_config,
    started_config,
    wanted_ports,
    with_names_of,
)
from weft.engine.plain_life import Life
from weft.engine.plain_places import exposed_ports, place_of
from weft.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    OperationFailed,
    Unavailable,
    Unsupported,
    WeftError,
    described,
)
from weft.model.container import Container, ContainerConfig, ContainerState
from weft.model.container_request import ContainerRequest
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId
from weft.model.limits import FurtherLimits
from weft.model.meta import Nanoseconds
from weft.model.plain_container import PlainContainer, RestartRule, restart_pause, restarting
from weft.model.service import Resources
from weft.model.signals import signal_number
from weft.model.start_failure import UNKNOWN, start_exit_code
from weft.system.supervision import contained, ended

log = logging.getLogger(__name__)

ChangeLimits = Callable[[Container], tuple[Resources, FurtherLimits]]


class PlainContainers:
    def __init__(self, engine: Engine, hostname: str) -> None:
        """`hostname`: the host's."""
        self._engine = engine
        self._hostname = hostname
        self._lives: dict[ContainerId, Life] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the daemon begins and ends

    def resume(self) -> None:
        """Goes on with the containers of the last daemon: follows those that run, and starts again
        or removes those that have ended since."""
        for container in self._all():
            life = self._life(container.id)
            if container.state is ContainerState.RUNNING:
                self._follow(container.id, life)
            elif container.started_at:
                life.released = asyncio.Event()
                work = self._after_end(container, life, life.released)
                life.follower = self._spawn(f"end of container {container.id[:12]}", work)

    async def close(self) -> None:
        """Containers go on."""
        tasks, self._tasks = self._tasks, set()
        await asyncio.gather(*(ended(task) for task in tasks))

    def _spawn(self, name: str, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(contained(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _all(self) -> list[Container]:
        return [c for c in self._engine.containers.values() if c.is_plain]

    def _life(self, id: ContainerId) -> Life:
        if id not in self._lives:
            self._lives[id] = Life()
        return self._lives[id]

    # --- what the API asks for

    async def create(self, request: ContainerRequest) -> ContainerId:
        """Raises `NotFound` for an image or volume that is missing, `Conflict` for a name that is
        taken, `InvalidArgument`, `OperationFailed`. All or nothing."""
        engine = self._engine
        image = engine.images.find(request.spec.image)
        id = ContainerId(engine.new_id())
        await engine.create(plain_config(request, id, image.config, self._hostname))
        return id

    async def start(self, id: ContainerId) -> None:
        """A container that runs is no error; one that waits for its restart is started at once. A
        container that is removed when it ends is removed also if it cannot be started."""
        life = self._life(id)
        while not await self._start_now(id, life):
            pass

    async def _start_now(self, id: ContainerId, life: Life) -> bool:
        """False if the container has just ended, and what it had is not put away yet."""
        if self._get(id).state is not ContainerState.RUNNING:
            await life.released.wait()
        await self._call_off(id, life)
        async with life.lock:
            container = self._get(id)
            if container.state is ContainerState.RUNNING:
                return True
            if life.is_restarting or not life.released.is_set():
                return False
            life.pause = 0
            try:
                await self._start(container, life, restarts=0)
            except WeftError:
                if _settings(container).auto_remove:
                    await self._remove_after(id, life)
                raise
        return True

    async def stop(
        self, container: Container, grace: Nanoseconds | None = None, signal: str = ""
    ) -> None:
        """Returns when the container has ended and its network is free."""
        life = self._life(container.id)
        await self._call_off(container.id, life)
        await self._mark_stopped(container.id)
        if self._get(container.id).state is ContainerState.RUNNING:
            life.no_restart.set()
            await self._engine.stop(container, grace, signal)
            await life.released.wait()

    async def restart(
        self, container: Container, grace: Nanoseconds | None = None, signal: str = ""
    ) -> None:
        life = self._life(container.id)
        life.is_kept = True
        try:
            await self._call_off(container.id, life)
            if self._get(container.id).state is ContainerState.RUNNING:
                life.no_restart.set()
                await self._engine.stop(container, grace, signal)
                await life.released.wait()
            await self.start(container.id)
        finally:
            life.is_kept = False
        self._engine.events.container("restart", self._get(container.id))

    async def kill(self, container: Container, signal: str) -> None:
        """SIGKILL and the stop signal mean that the user wants the container to stay ended; one
        that waits for its restart has no process to take another signal: `Conflict`."""
        life, ends = self._life(container.id), self._engine.ends(container, signal)
        if is_over := self.is_restarting(container.id):
            if not ends:
                raise Conflict(restarting(container.id))
            await self._call_off(container.id, life)
        if ends:
            await self._mark_stopped(container.id)
            life.no_restart.set()
        if not is_over:
            await self._engine.kill(container, signal)
            if signal_number(signal) == SIGKILL:
                await life.released.wait()

    async def pause(self, container: Container) -> None:
        """Raises `Conflict` with Docker's texts."""
        if container.paused:
            raise Conflict(f"container {container.id} is already paused")
        self._engine.events.container("pause", await self._engine.runtime.pause(container.id))

    async def unpause(self, container: Container) -> None:
        if not container.paused:
            raise Conflict(f"container {container.id} is not paused")
        self._engine.events.container("unpause", await self._engine.runtime.unpause(container.id))

    async def rename(self, container: Container, name: str) -> None:
        """Raises `Conflict` if the name is taken."""
        async with self._life(container.id).lock:
            present = self._get(container.id).config
            old = present.name
            config = msgspec.structs.replace(present, name=name)
            renamed = await self._engine.runtime.configure(config)
            self._engine.local.rename(container.id, name)
        self._engine.events.container("rename", renamed, oldName=f"/{old}")

    async def update(
        self, container: Container, change: ChangeLimits, restart: RestartRule | None
    ) -> None:
        """Limits and restart policy (None: as it is) from now on, also of one that runs."""
        async with self._life(container.id).lock:
            present = self._get(container.id)
            plain = _settings(present)
            if restart is not None and restart.name != "no" and plain.auto_remove:
                raise Conflict(
                    f"Cannot update container {present.id}: Restart policy cannot be updated"
                    " because AutoRemove is enabled for the container"
                )
            if restart is not None:
                plain = msgspec.structs.replace(plain, restart=restart)
            limits, further = change(present)
            config = msgspec.structs.replace(
                present.config, limits=limits, further=further, plain=plain
            )
            updated = await self._engine.runtime.configure(config)
        self._engine.events.container("update", updated)

    async def connect(self, container: Container, settings: EndpointSettings) -> None:
        """Connects to one more network, at once if the container runs and else when it is started.
        Raises `Forbidden` with Docker's texts."""
        async with self._life(container.id).lock:
            present = self._get(container.id)
            plain = _settings(present)
            if plain.modes.is_alone:
                raise Forbidden(
                    f"container {present.id} has the network mode {plain.modes.network}: it cannot"
                    " be connected to other networks"
                )
            name = self._name(settings.network)
            if name in self._networks(plain):
                raise Forbidden(f"endpoint with name {present.config.name} already exists in"
                                f" network {name}")  # fmt: skip
            if present.state is ContainerState.RUNNING:
                await self._engine.local.attach(present.id, settings)
            await self._keep_networks(present.id, (*plain.networks, settings))

    async def disconnect(self, container: Container, network: str, force: bool) -> None:
        """`force`: takes it off a network that this node does not know any more. Raises `NotFound`
        if the container is not connected to it."""
        async with self._life(container.id).lock:
            present = self._get(container.id)
            plain, name, local = _settings(present), self._name(network), self._engine.local
            if name not in self._networks(plain):
                raise NotFound(f"container {present.id} is not connected to network {name}")
            if present.state is ContainerState.RUNNING:
                is_lost = not local.is_on(present.id, network)
                await local.detach(present.id, network, force or is_lost)
            kept = tuple(each for each in plain.networks if self._name(each.network) != name)
            await self._keep_networks(present.id, kept)

    async def connect_again(self, id: ContainerId, network: str) -> None:
        """Puts a container back on a network that it has lost, unless it has ended or its user has
        disconnected it meanwhile. Raises a `WeftError`."""
        async with self._life(id).lock:
            present, local = self._engine.container(id), self._engine.local
            if present is not None and present.state is ContainerState.RUNNING:
                wanted = _settings(present).networks
                for settings in wanted:
                    is_it = network in (settings.network, self._name(settings.network))
                    if is_it and not local.is_on(id, network):
                        await local.attach(id, settings)
                        await self._keep_networks(id, wanted)

    def _networks(self, plain: PlainContainer) -> set[str]:
        return {self._name(settings.network) for settings in plain.networks}

    def _name(self, reference: str) -> str:
        """The network's name, or the reference itself if this node does not know the network."""
        try:
            return self._engine.local.name_of(reference) or reference
        except WeftError:
            return reference

    async def _keep_networks(self, id: ContainerId, networks: tuple[EndpointSettings, ...]) -> None:
        present = self._get(id)
        plain = msgspec.structs.replace(_settings(present), networks=networks)
        config = msgspec.structs.replace(present.config, plain=plain)
        if present.state is ContainerState.RUNNING:
            config = named_config(config, place_of(self._engine, config, self._hostname))
        for each in (config, *with_names_of(config, self._all())):
            await self._engine.runtime.configure(each)

    async def remove(self, id: ContainerId, *, volumes: bool) -> None:
        """One that runs dies first."""
        life = self._life(id)
        life.no_restart.set()
        await self._call_off(id, life)
        life.is_kept = True
        async with life.lock:
            await self._remove(id, life, volumes=volumes)
            await self._release(id)

    async def _remove(self, id: ContainerId, life: Life, *, volumes: bool) -> None:
        last = self._engine.container(id)
        await self._engine.remove(id, volumes=volumes)
        if self._lives.pop(id, None) is not None and last is not None:
            life.tell_removal(last)

    async def prune(self, wanted: Callable[[Container], bool]) -> list[ContainerId]:
        """Removes the containers that do not run and are wanted. Gives those that were removed."""
        removed = []
        for container in self._all():
            if container.state is ContainerState.RUNNING or self.is_restarting(container.id):
                continue
            if wanted(container):
                try:
                    await self.remove(container.id, volumes=False)
                    removed.append(container.id)
                except WeftError as error:
                    log.warning("container.not_pruned container=%s cause=%s", container.id, error)
        return removed

    def is_restarting(self, id: ContainerId) -> bool:
        """Whether the container has ended and is to be started again, from the moment of its end
        on."""
        life, container = self._lives.get(id), self._engine.container(id)
        if life is None or container is None or life.is_restarting:
            return life is not None and life.is_restarting
        is_over = container.state is ContainerState.EXITED and not life.released.is_set()
        return is_over and self._is_restarted(id, life)

    async def next_end(self, id: ContainerId) -> Container:
        """Returns at the next end of the container, also of one that does not run, or at its
        removal."""
        return await asyncio.shield(self._life(id).next_end)

    async def removal(self, id: ContainerId) -> Container:
        """Returns when the container has been removed: how it was at last."""
        return await asyncio.shield(self._life(id).removal)

    # --- start

    async def _start(self, container: Container, life: Life, restarts: int) -> None:
        """All or nothing. The caller holds the life's lock."""
        plain = msgspec.structs.replace(
            _settings(container), stopped_by_user=False, restart_count=restarts
        )
        config = msgspec.structs.replace(container.config, plain=plain)
        life.no_restart.clear()
        try:
            await self._prepare(config)
            await self._run(container.id)
        except BaseException:
            await asyncio.shield(self._release(container.id))
            raise
        self._follow(container.id, life)

    async def _prepare(self, config: ContainerConfig) -> None:
        """The container is configured as it is to start."""
        runtime = self._engine.runtime
        try:
            await runtime.configure(await self._connected(config))
        except WeftError as error:
            await runtime.not_started(config.id, error, UNKNOWN)
            raise

    async def _run(self, id: ContainerId) -> None:
        """Raises `InvalidArgument` for a program that is not there or may not be run, as Docker."""
        try:
            await self._engine.start(id)
        except OperationFailed as error:
            if start_exit_code(str(error)) == UNKNOWN:
                raise
            raise InvalidArgument(str(error)) from error

    async def _connected(self, config: ContainerConfig) -> ContainerConfig:
        """The configuration with the network that the container has from now on."""
        local, plain = self._engine.local, config.plain or PlainContainer()
        if plain.networks:
            ports = wanted_ports(plain, exposed_ports(self._engine, config))
            await local.connect(config.id, config.name, config.spec, plain.networks, ports)
            config = msgspec.structs.replace(config, ports=local.ports(config.id))
        return started_config(config, place_of(self._engine, config, self._hostname))

    # --- the end

    def _follow(self, id: ContainerId, life: Life) -> None:
        life.released = asyncio.Event()
        work = self._until_end(id, life, life.released)
        life.follower = self._spawn(f"container {id[:12]}", work)

    async def _until_end(self, id: ContainerId, life: Life, released: asyncio.Event) -> None:
        try:
            container = await self._engine.wait(id)
            self._engine.died(container)
            await self._after_end(container, life, released)
        except NotFound:  # it has been removed
            released.set()

    async def _after_end(self, container: Container, life: Life, released: asyncio.Event) -> None:
        """Releases what the ended container had, and does what its record says."""
        try:
            async with life.lock:
                await self._release(container.id)
        finally:
            is_restarted = self._is_restarted(container.id, life)
            life.is_restarting = is_restarted
            released.set()
        present = self._engine.container(container.id)
        if present is None:
            return
        life.tell_end(container)
        if is_restarted:
            await self._restart(present, life)
        elif _settings(present).auto_remove and not life.is_kept:
            await self._remove_after(present.id, life)

    async def _release(self, id: ContainerId) -> None:
        """Takes the container's network away. What is left of it in the kernel is the network
        loop's, which goes on trying: that holds up nobody."""
        try:
            await self._engine.local.disconnect(id)
        except WeftError as error:
            log.warning("container.network_left container=%s cause=%s", id[:12], error)

    def _is_restarted(self, id: ContainerId, life: Life) -> bool:
        container = self._engine.container(id)
        if container is None:
            return False
        plain = _settings(container)
        return not life.no_restart.is_set() and plain.restart.applies(
            container.exit_code, restarts=plain.restart_count, by_user=plain.stopped_by_user
        )

    async def _restart(self, container: Container, life: Life) -> None:
        ran = max(container.finished_at - container.started_at, 0)
        life.pause = restart_pause(life.pause, ran)
        try:
            while not await life.called_off_in_pause() and not await self._start_again(
                container.id, life
            ):
                life.pause = restart_pause(life.pause, 0)
        finally:
            life.is_restarting = False
        present = self._engine.container(container.id)
        if present is not None and present.state is not ContainerState.RUNNING:
            life.tell_end(present)  # to those who have begun to wait since it ended

    async def _start_again(self, id: ContainerId, life: Life) -> bool:
        """False if the network of this host cannot be set up yet: later it can be."""
        async with life.lock:
            present = self._engine.container(id)
            is_over = present is not None and present.state is not ContainerState.RUNNING
            if present is None or not is_over or life.no_restart.is_set():
                return True
            count = _settings(present).restart_count + 1
            log.info("container.restart container=%s count=%d", id[:12], count)
            try:
                await self._start(present, life, restarts=count)
            except WeftError as error:
                log.warning("container.not_restarted container=%s cause=%s", id[:12], error)
                return not isinstance(error, Unavailable)
        return True

    async def _remove_after(self, id: ContainerId, life: Life) -> None:
        """Removes an ended container whose user wants that, with its anonymous volumes."""
        try:
            await self._remove(id, life, volumes=True)
        except WeftError as error:
            log.warning("container.not_removed container=%s cause=%s", id, described(error))

    # ---

    async def _call_off(self, id: ContainerId, life: Life) -> None:
        """No restart is pending when this returns."""
        if self.is_restarting(id):
            life.no_restart.set()
            follower = life.follower
            if follower is not None and follower is not asyncio.current_task():
                await asyncio.wait((follower,))

    async def _mark_stopped(self, id: ContainerId) -> None:
        async with self._life(id).lock:
            container = self._get(id)
            plain = msgspec.structs.replace(_settings(container), stopped_by_user=True)
            if plain != container.config.plain:
                config = msgspec.structs.replace(container.config, plain=plain)
                await self._engine.runtime.configure(config)

    def _get(self, id: ContainerId) -> Container:
        return self._engine.runtime.get(id)


def _settings(container: Container) -> PlainContainer:
    """Raises `Unsupported` for the container of a task."""
    if container.config.plain is None:
        raise Unsupported(
            f"cannot change container {container.config.name}: not supported by Weft: it is a"
            " task's, update its service"
        )
    return container.config.plain
