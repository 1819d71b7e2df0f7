"""Makes a container: its root file system, and from that the OCI container with its conmon.

    prepare   overlay mounted → image's files into empty volumes → overlay unmounted
    make      overlay mounted → files written → conmon, which has runc make the container

The caller holds the container's lock and has mounted its volumes.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from weft.model.container import Image, MemoryFile
from weft.model.plain_container import PlainContainer
from weft.runtime.box import Box, ImageFiles
from weft.runtime.cdi import injected
from weft.runtime.confinement import Confiner
from weft.runtime.container_logs import ContainerLogs
from weft.runtime.container_mounts import ContainerMounts, put_away
from weft.runtime.devices import find_devices
from weft.runtime.init_files import make_init_files
from weft.runtime.memory import mounted
from weft.runtime.mounts import mount_overlay, mount_shared_memory, unmount
from weft.runtime.oci import Oci
from weft.runtime.spec import capabilities_of, container_document
from weft.runtime.system_mounts import shm_size
from weft.runtime.users import find_user, read_accounts
from weft.system.process import ProcessId


class Maker:
    def __init__(
        self,
        oci: Oci,
        images: ImageFiles,
        mounts: ContainerMounts,
        logs: ContainerLogs,
        confiner: Callable[[], Confiner],
    ) -> None:
        self._oci = oci
        self._images = images
        self._mounts = mounts
        self._logs = logs
        self._confiner = confiner

    async def prepare(self, box: Box, image: Image) -> None:
        """Makes the file system of a new container, which is not mounted afterwards. What this
        writes is in the file system's journal before the record says that it is done."""
        self._mount(box, image, volatile=True)
        try:
            await self._fill(box)
        finally:
            unmount(box.directory.merged)

    def _mount(self, box: Box, image: Image, *, volatile: bool) -> None:
        directory, layers = box.directory, self._images.layer_directories(image)
        mount_overlay(layers, directory.upper, directory.work, directory.merged, volatile=volatile)

    async def _fill(self, box: Box) -> None:
        directory = box.directory
        await asyncio.to_thread(make_init_files, directory.merged)
        await self._mounts.populate(directory.merged, box.container.config.mount_points)

    async def make(
        self, box: Box, image: Image, files: Sequence[MemoryFile], *, is_new: bool = False
    ) -> None:
        """Writes the record when the container is made. `is_new`: has not been prepared."""
        directory, container = box.directory, box.container
        directory.forget_exit()
        self._mount(box, image, volatile=container.is_transient)
        if is_new:
            await self._fill(box)
        config = container.config
        accounts = await asyncio.to_thread(read_accounts, directory.merged)
        user = find_user(accounts, config.spec.user or image.config.user, config.spec.groups)
        mode = "" if config.plain is None else config.plain.modes.cgroup
        confinement = await self._confiner().confine(config.spec, mode)
        container = msgspec.structs.replace(container, confinement=confinement)
        box.record = msgspec.structs.replace(box.record, container=container)
        seccomp = self._confiner().filter(capabilities_of(config.spec), config.spec.privileges)
        mounts = await self._mounts.prepared(directory.places, config.mount_points)
        if config.shm_owner == config.id:
            mount_shared_memory(directory.shm, shm_size(config))
        group = await self._oci.groups.parent()
        # Users name devices by any path of the host, also of a file server that does not answer.
        plain = config.plain or PlainContainer()
        devices = await asyncio.to_thread(find_devices, config.spec, plain.device_rules)
        given = await asyncio.to_thread(injected, plain.device_requests)
        document = await asyncio.to_thread(
            container_document,
            *(container, image, user, directory.path, seccomp, devices, mounts, group, given),
        )
        directory.write_files({
            "hosts": config.hosts.encode(), "resolv.conf": config.resolv_conf.encode(),
            "hostname": f"{config.hostname}\n".encode(), "config.json": document,
        })  # fmt: skip
        log_bytes = self._logs.conmon_begins(directory, config)
        with mounted(directory.memory, files):
            with self._oci.groups.making(config.group):
                conmon, init = await self._oci.create(
                    config.id,
                    directory.path,
                    log_bytes=log_bytes,
                    tty=config.spec.tty,
                    stdin=config.spec.open_stdin,
                    stdin_once=config.stdin_once,
                )
        put_away(directory.places)
        try:
            box.write(made=True, started=False, init=init, conmon=ProcessId.of(conmon.pid))
        except BaseException:
            conmon.kill_and_reap()
            raise
        finally:
            conmon.close()
