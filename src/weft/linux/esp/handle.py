"""The engine's process as the daemon sees it: find or start it, send it requests, notice its end,
end it.

The engine is the process that answers at the control socket. From then on a pidfd holds it, so that
no signal ever goes to a process that merely got its number. The engine is started in a session of
its own, so nothing that ends the daemon ends the engine.
"""

import asyncio
import fcntl
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from weft.errors import OperationFailed, cause_of
from weft.linux.esp.control import (
    PROTOCOL_VERSION,
    Ask,
    Refused,
    Reply,
    Request,
    Status,
    peer,
    receive,
    send,
)
from weft.linux.esp.process import READY_FD
from weft.system import scopes

_START = 90.0
_ANSWER = 15.0
_END = 5.0
"""Timeouts in seconds. An engine that ends is noticed at once; one that is ended because it starts
slowly will not start faster the next time."""
_FIRST_FREE = 16
"""Descriptors for the child are first copied to numbers from here on, above those that it gets."""


class EngineHandle:
    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Raises `ProcessLookupError`."""
        self._reader, self._writer = reader, writer
        self._turn = asyncio.Lock()
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        with suppress(ChildProcessError):  # an earlier daemon's engine is not our child
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self.ended.set()

    async def ask(self, request: Request) -> Status:
        """Sends a request and gives the answer. Raises `OperationFailed` if the engine refuses or
        is gone."""
        async with self._turn:
            try:
                async with asyncio.timeout(_ANSWER):
                    await send(self._writer, request)
                    reply: Reply = await receive(self._reader, Reply)
            except TimeoutError:
                self.kill()  # a late answer would be taken for that of the next request
                raise OperationFailed(
                    f"cannot reach the ESP engine: no answer in {_ANSWER:g} s"
                ) from None
            except OSError as error:
                raise OperationFailed(f"cannot reach the ESP engine: {error}") from error
        if isinstance(reply, Refused):
            raise OperationFailed(reply.message)
        return reply

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def end(self) -> None:
        """Waits for the process's end, and kills it if that takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END):
                await self.ended.wait()
        if not self.ended.is_set():
            self.kill()
            await self.ended.wait()

    def close(self) -> None:
        """Disconnects; the engine lives on."""
        self._writer.close()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def find(socket: Path) -> EngineHandle | None:
    """The engine that an earlier daemon started; None if there is none. An engine of another
    version is ended."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return None
    pid, user = peer(writer.get_extra_info("socket"))
    if user != os.geteuid():
        writer.close()
        raise OperationFailed(f"cannot use ESP engine at {socket}: it runs as user {user}")
    try:
        handle = EngineHandle(pid, reader, writer)
    except OSError:
        writer.close()
        return None
    # An answer now proves that the pidfd, opened before, belongs to the process at the other end.
    try:
        if (await handle.ask(Ask())).version == PROTOCOL_VERSION:
            return handle
    except OperationFailed:
        pass
    if not handle.ended.is_set():
        handle.kill()
    await handle.end()
    handle.close()
    return None


async def start(socket: Path, log: Path, *arguments: str) -> EngineHandle:
    """Starts an engine. Raises `OperationFailed` with the engine's own reason."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    pid = _spawn(log, write_end, [str(socket), *arguments])
    pidfd = os.pidfd_open(pid)  # before anybody can have reaped it
    try:
        async with asyncio.timeout(_START):
            said = await _read(read_end)
    except TimeoutError:
        said = f"it was not ready in {_START:g} s"
    try:
        handle = await find(socket) if said == "ready" else None
        if handle is not None:
            await scopes.move("encryption", pid)
            return handle
        _kill_child(pidfd)
    finally:
        os.close(pidfd)
    raise OperationFailed(f"cannot start the ESP engine: {said or f'it ended; see {log}'}")


def _kill_child(pidfd: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def _spawn(log: Path, ready: int, arguments: list[str]) -> int:
    source = fcntl.fcntl(ready, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    os.close(ready)
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, source, READY_FD),
    ]
    argv = [sys.executable, "-P", "-m", "weft.linux.esp.process", *arguments]
    try:
        return os.posix_spawn(
            sys.executable, argv, dict(os.environ), file_actions=actions, setsid=True
        )
    except OSError as error:
        raise OperationFailed(f"cannot start the ESP engine: {cause_of(error)}") from error
    finally:
        os.close(source)


async def _read(fd: int) -> str:
    """Reads a pipe until its last writer closes it."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, readable.set)
    said = b""
    try:
        while True:
            await readable.wait()
            readable.clear()
            with suppress(BlockingIOError):
                part = os.read(fd, select.PIPE_BUF)
                if not part:
                    return said.decode(errors="replace")
                said += part
    finally:
        loop.remove_reader(fd)
        os.close(fd)
