"""Mounts and unmounts the file systems of volumes, and looks at paths of the host, with a bound on
the time: whatever a file server does, the caller goes on.

The work is done by `mount_program.py` and `path_program.py`, processes of their own. A process that
the kernel does not let end, although it is killed, is left to itself.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from weft.errors import OperationFailed
from weft.model.volume import Volume
from weft.runtime.mounts import is_mount_point
from weft.system.process import Process, read, spawn

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a file server may take to be mounted, to list one directory, or to find a path."""
_PYTHON = (sys.executable, "-I", "-S")
PROGRAM = (*_PYTHON, str(Path(__file__).with_name("mount_program.py")))
_PATH_PROGRAM = (*_PYTHON, str(Path(__file__).with_name("path_program.py")))
_HIDDEN = "********"


class _Reply(msgspec.Struct):
    empty: bool = False
    error: str = ""


class HostPath(NamedTuple):
    """A path of the host that somebody asks for."""

    path: str
    make: bool = False
    """Whether a missing one is to be made, as a directory."""


class Sight(NamedTuple):
    """What was found there."""

    real: Path
    """Without symbolic links."""
    trouble: str = ""
    """Why there is nothing."""


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

    async def find(self, wanted: Sequence[HostPath]) -> list[Sight]:
        """What is at each path, up to the first at which there is nothing. Raises
        `OperationFailed`."""
        if not wanted:
            return []
        if any("\0" in path for path, _ in wanted):
            raise OperationFailed("a path has a NUL in it")
        questions = os.memfd_create("paths")
        said = bytearray()
        try:
            for path, make in wanted:
                os.write(questions, (b"+" if make else b".") + os.fsencode(path) + b"\0")
            os.lseek(questions, 0, os.SEEK_SET)
            await self._run(_PATH_PROGRAM, {0: questions}, dict(os.environ), said, line=False)
        except TimeoutError:
            late = wanted[said.count(b"\0")].path
            raise OperationFailed(f"cannot find {late}: {self._no_answer}") from None
        finally:
            os.close(questions)
        answers = bytes(said).split(b"\0")[:-1]
        sights = [_sight(*pair) for pair in zip(wanted, answers, strict=False)]
        if len(sights) < len(wanted) and not any(sight.trouble for sight in sights):
            path = wanted[len(sights)].path
            raise OperationFailed(f"cannot find {path}: the program that looks for it ended")
        return sights

    async def _undo(self, target: Path) -> None:
        try:
            await self.unmount(target)
        except OperationFailed as error:
            log.warning("volume.unmount path=%s cause=%s", target, error)

    async def _ask(self, what: str, verb: str, target: Path, **more: str) -> _Reply:
        request = msgspec.json.encode({"verb": verb, "target": str(target), **more}).decode()
        said = bytearray()
        try:
            environment = {**os.environ, "WEFT_MOUNT": request}
            await self._run(self._program, {}, environment, said, line=True)
        except TimeoutError:
            raise OperationFailed(f"{what}: {self._no_answer}") from None
        reply = _decoded(bytes(said))
        if reply.error:
            raise OperationFailed(f"{what}: {reply.error}")
        return reply

    @property
    def _no_answer(self) -> str:
        return f"no answer within {self._patience:g} s: the file server does not respond"

    async def _run(
        self,
        program: Sequence[str],
        files: Mapping[int, int],
        environment: Mapping[str, str],
        said: bytearray,
        *,
        line: bool,
    ) -> None:
        """Runs a program until it has `said` one line, or all. Raises `TimeoutError`, and then what
        it has said so far is there."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            process = spawn(program, {**files, 1: write_end}, environment)
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        try:
            async with asyncio.timeout(self._patience):
                await read(read_end, line=line, said=said)
        finally:
            self._leave(process)

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


def _sight(wanted: HostPath, answer: bytes) -> Sight:
    if answer.startswith(b"="):
        return Sight(Path(os.fsdecode(answer[1:])))
    return Sight(Path(wanted.path), answer[1:].decode(errors="replace"))


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
