"""What a daemon that was killed has left: finds its containers, and removes what is left of half
made ones."""

import asyncio
import logging
import signal
from collections.abc import Collection
from pathlib import Path

from weft.errors import Damaged, OperationFailed
from weft.model.container import Container, ContainerState
from weft.runtime.box import Box
from weft.runtime.container_mounts import put_away
from weft.runtime.mounts import mount_points_below, unmount, unmount_shared_memory
from weft.runtime.oci import Oci, processes_with_argument
from weft.runtime.record import Directory
from weft.system.process import Process

log = logging.getLogger(__name__)


async def found(oci: Oci, directory: Directory) -> Box | None:
    """The container of the directory. None if it was half made, and is gone now; or if its record
    is damaged: then its files stay, unless it was to be removed at its end."""
    id = directory.path.name
    try:
        record = directory.read()
    except Damaged as error:
        if directory.is_transient:
            await dissolve(oci, id, directory)
            return None
        log.error(
            "container.damaged container=%s cause=%s; its files stay in %s",
            id[:12],
            error,
            directory.path,
        )
        await end_unmade(oci, id, directory)
        return None
    if record is None or not record.made:
        log.warning("container.cleared container=%s cause=%r", id[:12], "half made")
        await dissolve(oci, id, directory)
        return None
    box = Box(directory, record)
    if box.is_prepared:
        await end_unmade(oci, id, directory)
        box.has_mounts = False
    return box


def unmount_below(containers: Path, used: Collection[Path]) -> None:
    """Unmounts what no container has mounted now. `used`: directories of those that have."""
    for point in mount_points_below(containers):
        if point.name == Directory(point.parent).memory.name or point.parent not in used:
            unmount(point)


async def kill_makers(directory: Directory) -> None:
    """Kills conmon, and the runtime that conmon started, of a half made container."""
    while pids := processes_with_argument(str(directory.path)):
        for pid in pids:
            try:
                process = Process(pid)
            except ProcessLookupError:
                continue
            process.kill(signal.SIGKILL)
            await process.wait()
            process.close()


async def dissolve(oci: Oci, id: str, directory: Directory) -> None:
    """Removes all traces of a half made container."""
    await end_unmade(oci, id, directory)
    directory.remove()


async def end_unmade(oci: Oci, id: str, directory: Directory) -> None:
    """Removes all traces except the files."""
    await kill_makers(directory)
    try:
        await oci.delete(id, _group(id, directory))
    except OperationFailed as error:
        log.warning("container.delete container=%s cause=%s", id[:12], error)
    unmount_own(directory)
    unmount(directory.memory)


def _group(id: str, directory: Directory) -> str:
    """The container's control group, as its record says; without one, where most have theirs: the
    runtime itself knows of any other."""
    try:
        record = directory.read()
    except Damaged:
        return id
    return id if record is None else record.container.config.group


async def forget(oci: Oci, container: Container) -> None:
    """What the OCI runtime still has of a container that has ended. Raises `OperationFailed`."""
    if container.state is ContainerState.EXITED and "pid" not in container.config.shared:
        try:
            await oci.forget(container.id, container.config.group)
        except OSError as error:
            log.warning("container.forget container=%s cause=%s", container.id[:12], error)
        else:
            return
    await oci.delete(container.id, container.config.group)


async def unmount_ended(box: Box) -> None:
    """What an ended container has mounted. The kernel may write out all of the file system below
    (`mount_overlay`), so this does not hold up the event loop."""
    if box.container.is_transient:
        unmount_own(box.directory)
    else:
        await asyncio.to_thread(unmount_own, box.directory)


def unmount_own(directory: Directory) -> None:
    """What a container has mounted, but for its volumes."""
    put_away(directory.places)
    unmount(directory.merged)
    unmount_shared_memory(directory.shm)
