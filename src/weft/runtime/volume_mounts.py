"""Mounts and unmounts the file systems of volumes, and looks at paths of the host, with a bound on
the time: whatever a file server does, the caller goes on.

The work is done by `mount_program.py`, a process of its own. A process that the kernel does not let
end, although it is killed, is left to itself.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from weft.errors import OperationFailed
from weft.model.volume import Volume
from weft.runtime.mounts import is_mount_point
from weft.system.process import Process, read, spawn

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a file server may take to be mounted, to list one directory, or to find a path."""
PROGRAM = (sys.executable, "-I", "-S", str(Path(__file__).with_name("mount_program.py")))
_HIDDEN = "********"


class _Reply(msgspec.Struct):
    empty: bool = False
    path: str = ""
    error: str = ""


class VolumeMounts:
    def __init__(self, patience: float = PATIENCE, program: Sequence[str] = PROGRAM) -> None:
        self._patience = patience
        self._program = program
        self._left: set[asyncio.Task[None]] = set()
        """Waiting for the ends of killed programs."""

    async def mount(self, volume: Volume, target: Path) -> bool:
        """Mounts the volume, unless it is mounted; returns whether it is empty. Raises
        `OperationFailed`, and then it is not mounted."""
        options = volume.options
        device, words = options.get("device", ""), options.get("o", "")
        if is_mount_point(target):
            return (await self._ask(f"look into volume {volume.name}", "look", target)).empty
        shown = _without_password(f"mount {device}:{target}, data: {words}", words)
        try:
            kind = options.get("type", "")
            reply = await self._ask(shown, "mount", target, device=device, type=kind, options=words)
            return reply.empty
        except BaseException as error:
            await asyncio.shield(self._undo(target))
            if isinstance(error, OperationFailed):
                raise OperationFailed(
                    f"error while mounting volume '{target}': failed to mount local volume: {error}"
                ) from error
            raise

    async def unmount(self, target: Path) -> None:
        """No mount is no error. Raises `OperationFailed` if the volume stays mounted."""
        if is_mount_point(target):
            await self._ask(f"unmount {target}", "unmount", target)

    async def find(self, path: str, *, make: bool) -> Path:
        """The path of the host without symbolic links. `make`: a missing one is made, as a
        directory. Raises `OperationFailed`."""
        reply = await self._ask(f"cannot find {path}", "find", Path(path), make=make)
        return Path(reply.path)

    async def _undo(self, target: Path) -> None:
        try:
            await self.unmount(target)
        except OperationFailed as error:
            log.warning("volume.unmount path=%s cause=%s", target, error)

    async def _ask(self, what: str, verb: str, target: Path, **more: str | bool) -> _Reply:
        request = msgspec.json.encode({"verb": verb, "target": str(target), **more}).decode()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            process = spawn(self._program, {1: write_end}, {**os.environ, "WEFT_MOUNT": request})
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        try:
            async with asyncio.timeout(self._patience):
                said = await read(read_end, line=True)
        except TimeoutError:
            raise OperationFailed(
                f"{what}: no answer within {self._patience:g} s: the file server does not respond"
            ) from None
        finally:
            self._leave(process)
        reply = _decoded(said)
        if reply.error:
            raise OperationFailed(f"{what}: {reply.error}")
        return reply

    def _leave(self, process: Process) -> None:
        """Kills the program, and reaps it when the kernel lets it end."""
        process.kill(signal.SIGKILL)
        task = asyncio.get_running_loop().create_task(_reaped(process), name="mount program")
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    @property
    def left_over(self) -> int:
        """How many killed programs the kernel has not let end yet."""
        return len(self._left)

    async def close(self) -> None:
        for task in self._left:
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)


async def _reaped(process: Process) -> None:
    try:
        await process.wait()
    finally:
        process.close()


def _decoded(said: bytes) -> _Reply:
    try:
        return msgspec.json.decode(said, type=_Reply)
    except msgspec.DecodeError:
        return _Reply(error="the program that mounts volumes ended without an answer")


def _without_password(text: str, options: str) -> str:
    for word in options.split(","):
        if word.startswith("password="):
            text = text.replace(word, f"password={_HIDDEN}")
    return text
