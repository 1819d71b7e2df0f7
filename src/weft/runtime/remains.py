"""What a daemon that was killed has left of containers that were not made whole."""

import logging
import signal

from weft.errors import OperationFailed
from weft.runtime.mounts import unmount
from weft.runtime.oci import Oci, processes_with_argument
from weft.runtime.record import Directory
from weft.system.process import Process

log = logging.getLogger(__name__)


async def kill_makers(directory: Directory) -> None:
    """conmon, and the runtime that it had started, of a container half made."""
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
    """All traces of a container that was not made whole."""
    await end_unmade(oci, id, directory)
    directory.remove()


async def end_unmade(oci: Oci, id: str, directory: Directory) -> None:
    """All but its files."""
    await kill_makers(directory)
    try:
        await oci.delete(id)
    except OperationFailed as error:
        log.warning("container.delete container=%s cause=%s", id[:12], error)
    unmount(directory.merged)
