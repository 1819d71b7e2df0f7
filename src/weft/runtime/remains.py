"""Removes what a killed daemon left of half made containers."""

import logging
import signal

from weft.errors import OperationFailed
from weft.runtime.container_mounts import put_away
from weft.runtime.mounts import unmount
from weft.runtime.oci import Oci, processes_with_argument
from weft.runtime.record import Directory
from weft.system.process import Process

log = logging.getLogger(__name__)


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
        await oci.delete(id)
    except OperationFailed as error:
        log.warning("container.delete container=%s cause=%s", id[:12], error)
    put_away(directory.places)
    unmount(directory.merged)
    unmount(directory.memory)
