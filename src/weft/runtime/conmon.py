"""Containers by conmon and an OCI runtime: `runtime.base.Runtime` for a real host.

Each step of a container's life begins or ends with a write to its record (`record.py`). So a daemon
that is killed between two steps leaves a state that `load` understands:

    make     record "half made" → overlay mounted → conmon, which has runc make it → record "made"
    start    runc start → record "started"
    end      conmon writes the exit code and ends, the daemon's pidfd reports the end
             → record "exited" → runc forgets the container, overlay unmounted
    remove   process killed → as at the end → files removed, the record with them

A container whose conmon is gone is killed, because its end could not be observed. The runtime
restarts nothing by itself: its callers do, the agent and the engine.

When a host shuts down, the programs in its containers end, orderly or not. Such an end says nothing
about the program. So the runtime ignores ends from the moment that the daemon is told to stop.
conmon's exit codes count only until the next reboot, which deletes the runtime's state in /run. (If
only the daemon restarts, it finds that state and all the ends.)
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL

import msgspec

from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed, WeftError
from weft.model.container import (
    Container,
    ContainerConfig,
    ContainerState,
    Image,
    LogLine,
    MemoryFile,
    check_files,
)
from weft.model.ids import ContainerId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.signals import signal_number
from weft.model.volume import volumes_of
from weft.runtime.box import Box, ImageFiles, check_name_free, new_box, opened
from weft.runtime.command import Command
from weft.runtime.confinement import Confiner
from weft.runtime.container_logs import ContainerLogs
from weft.runtime.container_mounts import ContainerMounts
from weft.runtime.control_groups import are_version_2
from weft.runtime.host_stop import KILL_PATIENCE, end_with_host
from weft.runtime.limits import checked_limits, swap_is_accounted
from weft.runtime.logs import LogQuery
from weft.runtime.maker import Maker
from weft.runtime.mounts import make_private
from weft.runtime.oci import Oci
from weft.runtime.record import Directory
from weft.runtime.remains import dissolve, forget, found, unmount_below, unmount_ended
from weft.runtime.spec import command_document
from weft.runtime.streams import ContainerStreams, PendingStreams, resize_container
from weft.runtime.users import find_user, read_accounts
from weft.runtime.volumes import LocalVolumes
from weft.system.files import make_directory
from weft.system.process import adopt_orphans

log = logging.getLogger(__name__)


class ConmonRuntime:
    def __init__(
        self,
        root: Path,
        run: Path,
        images: ImageFiles,
        volumes: LocalVolumes,
        clock: Callable[[], Nanoseconds],
        patience: float = 60.0,
    ) -> None:
        """`root` survives a reboot, `run` does not. `clock`: returns the current time. `patience`:
        seconds for a step of the OCI runtime. Call `load` before any other method."""
        self._containers = root.resolve() / "containers"
        self._run = run.resolve()
        self._images = images
        self._clock = clock
        self._oci = Oci(self._run / "oci", "auto", "conmon", patience)
        self._boxes: dict[ContainerId, Box] = {}
        self.mounts = ContainerMounts(volumes, self._users_of)
        self._logs = ContainerLogs()
        self._loaded = False
        self._slots = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self.limits_swap = swap_is_accounted()
        self.confiner = Confiner(self._run, cgroup_namespaces=are_version_2())
        self._maker = Maker(self._oci, images, self.mounts, self._logs, lambda: self.confiner)
        self.version = self.conmon_version = ""
        """Versions of the OCI runtime and of conmon: `runc 1.1.5`."""
        images.set_users(
            lambda image: [
                box.container.id for box in self._boxes.values() if box.container.image == image
            ]
        )

    # finding existing containers

    async def load(self) -> None:
        """Finds the containers of the previous daemon and removes half made ones. Raises
        `OperationFailed` if conmon or the OCI runtime is missing."""
        for directory in (self._containers, self._run / "oci"):
            make_directory(directory, 0o700)
        make_private(self._containers)
        adopt_orphans()
        await self._load_profile()
        self.version, self.conmon_version = await self._oci.versions()
        self._logs.load(self.conmon_version)
        async with asyncio.TaskGroup() as group:
            for path in self._containers.iterdir():
                group.create_task(self._load(Directory(path)))
        used = {box.directory.path for box in self._boxes.values() if box.uses_mounts}
        unmount_below(self._containers, used)
        self._loaded = True
        await self.mounts.unmount_unused()

    async def _load_profile(self) -> None:
        """Loads the profile early, so that a host that cannot load it logs an error before it
        refuses its first container."""
        try:
            await self.confiner.apparmor.profile()
        except OperationFailed as error:
            log.error("apparmor.failed cause=%s", error)

    async def _load(self, directory: Directory) -> None:
        box = await found(self._oci, directory)
        if box is None:
            return
        self._boxes[id := box.container.id] = box
        if box.is_prepared:
            return
        if box.container.state is ContainerState.EXITED:
            await self._put_away(box)
            box.ended.set()
            return
        box.host_was_down = not self._oci.knows(id)
        init = box.record.init
        is_made = not box.record.started and init is not None and init.lives
        if is_made and await self._oci.has_started(id):
            self._mark_started(box, self._clock())
        self._watch(box)
        if box.conmon is None or box.conmon.has_ended or directory.exit_code is not None:
            await box.ended.wait()

    # making and starting

    def containers(self) -> list[Container]:
        return [box.container for box in self._boxes.values()]

    def get(self, id: ContainerId) -> Container:
        return self._box(id).container

    async def create(self, config: ContainerConfig, files: Sequence[MemoryFile] = ()) -> Container:
        check_files(config, files)
        box, image = self._new_box(config)
        async with self._undone_on_error(box):
            await self._maker.make(box, image, files, is_new=True)
        return box.container

    async def prepare(self, config: ContainerConfig) -> Container:
        check_files(config, ())
        box, image = self._new_box(config)
        async with self._undone_on_error(box):
            await self._maker.prepare(box, image)
            box.has_mounts = False
            await self.mounts.unmount(config.mount_points)
            box.write(made=True)
        return box.container

    def _new_box(self, config: ContainerConfig) -> tuple[Box, Image]:
        image = self._images.find(config.spec.image)
        check_name_free(config, self.containers())
        swap = checked_limits(config, self.limits_swap)
        directory = Directory(self._containers / config.id)
        box = new_box(directory, config, image, self._clock(), swap)
        self._boxes[config.id] = box
        return box, image

    @asynccontextmanager
    async def _undone_on_error(self, box: Box) -> AsyncIterator[None]:
        """Within this a new container is made, all or nothing."""
        directory, config = box.directory, box.container.config
        try:
            async with box.lock:
                directory.make()
                directory.write(box.record)
                await self.mounts.mount(config.mount_points)
                async with self._slots:
                    yield
        except BaseException:
            box.removed = True
            del self._boxes[config.id]
            await asyncio.shield(dissolve(self._oci, config.id, directory))
            await asyncio.shield(self.mounts.unmount(config.mount_points))
            raise
        self._watch_if_made(box)
        ids = (config.id[:12], config.name, box.container.image[7:19])
        log.info("container.created container=%s name=%s image=%s", *ids)

    async def configure(self, config: ContainerConfig) -> Container:
        box = self._box(config.id)
        check_name_free(config, (c for c in self.containers() if c.id != config.id))
        swap = box.container.memory_swap
        if box.has_other_limits(config):
            swap = checked_limits(config, self.limits_swap)
            if box.is_running:
                path = await asyncio.to_thread(box.write_resources, config, swap)
                await self._oci.update(config.id, path)
        box.configure(config, swap)
        return box.container

    async def start(self, id: ContainerId, files: Sequence[MemoryFile] = ()) -> Container:
        """Makes an ended container again from its own files. A running container is no error."""
        box = self._box(id)
        async with box.lock:
            box.check_not_removed()
            if box.is_running:
                return box.container
            if box.is_prepared or box.container.state is ContainerState.EXITED:
                check_files(box.container.config, files)
                await self._make_again(box, files)
            moment = self._clock()
            try:
                box.connect_clients()
                async with self._slots:
                    await self._oci.start(id, box.init)
            except OperationFailed as error:
                box.not_started(error)
                raise
            self._mark_started(box, moment)
        log.info("container.started container=%s pid=%d", id[:12], box.container.pid)
        return box.container

    async def not_started(self, id: ContainerId, error: WeftError, exit_code: int) -> None:
        self._box(id).not_started(error, exit_code)

    async def _make_again(self, box: Box, files: Sequence[MemoryFile]) -> None:
        """Makes a prepared or ended container. If that fails the container stays as it was but for
        its error, and can be removed."""
        before, ended = box.record, box.ended
        if ended.is_set():
            await self._put_away(box)
            box.ended, box.host_was_down = asyncio.Event(), False
        try:
            box.has_mounts = True
            box.begin_anew()
            await self.mounts.mount(box.container.config.mount_points)
            async with self._slots:
                image = self._images.find(box.container.image)
                await self._maker.make(box, image, files)
        except BaseException as error:
            box.record, box.ended = before, ended
            await asyncio.shield(self._put_away(box))
            box.not_started(error)
            raise
        self._watch_if_made(box)

    def _mark_started(self, box: Box, moment: Nanoseconds) -> None:
        """The container may have ended already."""
        if box.container.state is ContainerState.EXITED or box.record.init is None:
            box.write_container(started_at=moment)
            return
        container = msgspec.structs.replace(
            box.container, state=ContainerState.RUNNING, pid=box.record.init.pid, started_at=moment
        )
        box.write(started=True, container=container)

    # the end of a container

    def _watch_if_made(self, box: Box) -> None:
        if not box.is_prepared:
            self._watch(box)

    def _watch(self, box: Box) -> None:
        """Watches the container's conmon, even if another daemon started it."""
        box.conmon, box.init = opened(box.record.conmon), opened(box.record.init)
        self._logs.attend(box)
        box.watcher = asyncio.create_task(
            self._watch_end(box), name=f"container {box.container.id[:12]}"
        )

    async def _watch_end(self, box: Box) -> None:
        if box.conmon is not None:
            await box.conmon.wait()
        if box.init is not None:
            box.init.kill(SIGKILL)
        self._mark_ended(box)
        async with box.lock:
            if not box.removed and box.container.state is ContainerState.EXITED:
                await self._put_away(box)

    def _mark_ended(self, box: Box) -> None:
        container = box.ended_container(self._clock())
        try:
            box.write(container=container)
        except OperationFailed:
            log.exception("container.record container=%s", container.id[:12])
            box.record = msgspec.structs.replace(box.record, container=container)
        box.ended.set()
        said = (container.id[:12], container.exit_code, container.oom_killed)
        log.info("container.ended container=%s code=%d oom=%s", *said)

    async def _put_away(self, box: Box) -> None:
        """Releases the resources of an ended container: its state in the OCI runtime, its cgroup,
        its mount."""
        box.close_processes()
        await self._logs.leave(box.container.id)
        if self._oci.knows(box.container.id):
            try:
                await forget(self._oci, box.container)
            except OperationFailed as error:
                log.warning("container.delete container=%s cause=%s", box.container.id[:12], error)
        await unmount_ended(box)
        box.has_mounts = False
        if self._loaded:
            await self.mounts.unmount(box.container.config.mount_points)

    def _users_of(self, volume: str) -> int:
        """How many containers have the volume mounted."""
        return sum(
            volume in volumes_of(box.container.config.mount_points)
            for box in self._boxes.values()
            if box.uses_mounts
        )

    async def stop(self, id: ContainerId, grace: Nanoseconds, signal: str = "") -> Container:
        box = self._box(id)
        if box.is_running and box.init is not None:
            box.init.kill(signal_number(signal or box.record.stop_signal))
            await self._thaw(box)
            try:
                async with asyncio.timeout(grace / SECOND):
                    await box.ended.wait()
            except TimeoutError:
                log.info("container.killed container=%s cause=%r", id[:12], "grace period over")
        await self._end(box)
        return box.container

    async def _end(self, box: Box) -> None:
        """Sends SIGKILL and waits. Raises `OperationFailed` if the kernel cannot end the
        process."""
        if box.ended.is_set() or box.is_prepared:
            return
        if box.init is not None:
            box.init.kill(SIGKILL)
            await self._thaw(box)
        try:
            async with asyncio.timeout(KILL_PATIENCE):
                await box.ended.wait()
        except TimeoutError:
            raise OperationFailed(
                f"cannot stop container {box.container.id[:12]}: process does not end"
            ) from None

    async def pause(self, id: ContainerId) -> Container:
        box = self._box(id)
        async with box.lock:
            box.check_running()
            if not box.container.paused:
                await self._oci.pause(id)
                box.write_container(paused=True)
        return box.container

    async def unpause(self, id: ContainerId) -> Container:
        box = self._box(id)
        async with box.lock:
            await self._thaw(box)
        return box.container

    async def _thaw(self, box: Box) -> None:
        """Lets frozen processes run, to take a signal among other things."""
        if box.is_running and box.container.paused:
            await self._oci.resume(box.container.id)
            box.write_container(paused=False)

    async def kill(self, id: ContainerId, signal: str) -> None:
        box = self._box(id)
        number = signal_number(signal or "SIGKILL")
        if not box.is_running or box.init is None:
            raise Conflict(f"cannot kill container: {id}: container {id} is not running")
        box.init.kill(number)
        if number in (SIGKILL, signal_number(box.record.stop_signal)):
            await self._thaw(box)

    async def remove(self, id: ContainerId) -> None:
        box = self._boxes.get(id)
        if box is None:
            return
        async with box.lock:
            if box.removed:
                return
            await self._end(box)
            await self._put_away(box)
            box.ended.set()
            box.close_clients()
            await self._logs.forget(id)
            # The file system takes tens of milliseconds to remove an overlay's directories.
            await asyncio.to_thread(box.directory.remove)
            box.removed = True
            del self._boxes[id]
        log.info("container.removed container=%s", id[:12])

    async def wait(self, id: ContainerId) -> Container:
        await (box := self._box(id)).ended.wait()
        return box.container

    # streams, logs and commands

    async def attach(self, id: ContainerId) -> ContainerStreams | PendingStreams:
        return self._box(id).attach()

    def logs(
        self,
        id: ContainerId,
        *,
        follow: bool = False,
        since: Nanoseconds = 0,
        until: Nanoseconds = 0,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        query = LogQuery(follow=follow, since=since, until=until, tail=tail)
        return self._logs.read(self._box(id), query)

    async def resize(self, id: ContainerId, rows: int, columns: int) -> None:
        resize_container(self._box(id).directory.path, rows, columns)

    async def exec(
        self,
        id: ContainerId,
        argv: tuple[str, ...],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: tuple[str, ...] = (),
        user: str = "",
        directory: str = "",
        privileged: bool = False,
    ) -> Command:
        box = self._box(id)
        box.check_running()
        if not argv:
            raise InvalidArgument("No exec command specified")
        box.check_not_paused("exec")
        place = directory or box.container.config.spec.dir
        image = self._images.find(box.container.image).config
        accounts = await asyncio.to_thread(read_accounts, box.directory.merged)
        who = find_user(
            accounts,
            user or box.container.config.spec.user or image.user,
            box.container.config.spec.groups,
        )
        document = command_document(
            box.container, argv, env, place or image.working_dir or "/", who, tty, privileged
        )
        files = box.directory.path
        new = secrets.token_hex(32)
        return Command(new, id, document, self._oci, files, stdin=stdin, privileged=privileged)

    async def top(self, id: ContainerId) -> list[int]:
        (box := self._box(id)).check_running()
        return self._oci.processes(box.container.config.group)

    def look_away(self) -> None:
        """Ignores all ends from now on. The host may be shutting down; if not, the next daemon
        finds the containers that have ended."""
        for box in self._boxes.values():
            if box.watcher is not None:
                box.watcher.cancel()

    async def end_with_host(self) -> None:
        """Ends all containers, since the host is being shut down: see `host_stop.py`."""
        self.look_away()
        await end_with_host(self._boxes.values(), self._thaw, self._put_away)

    async def close(self) -> None:
        self.look_away()
        watchers = [box.watcher for box in self._boxes.values() if box.watcher is not None]
        await asyncio.gather(*watchers, return_exceptions=True)
        for box in self._boxes.values():
            box.close_processes()
        await self._logs.close()

    def box(self, id: ContainerId) -> Box:
        """For what looks into containers (`inside.py`)."""
        return self._box(id)

    def _box(self, id: ContainerId) -> Box:
        try:
            return self._boxes[id]
        except KeyError:
            raise NotFound(f"No such container: {id}") from None
