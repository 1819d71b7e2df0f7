"""Child processes that the event loop does not own: a child here may outlive the daemon (conmon),
or be a grandchild that became our child when its parent ended (a command in a container).

posix_spawn starts them and a pidfd tells when they end. So there is no SIGCHLD handler and no
thread per child, and no signal can hit a process that merely got the same number later.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import select
import shutil
import signal
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.model.numbers import decimal

log = logging.getLogger(__name__)
_PR_SET_CHILD_SUBREAPER = 36
_LINE_MAX = 1 << 20
_CHUNK = 1 << 16
_END_PATIENCE = 10.0
"""Seconds that killed processes may take to end; a process in an uninterruptible wait does not
end."""
_STOP_TRIES, _STOP_PAUSE = 50, 0.002
"""How often, and with which pause in seconds, it is checked whether a process has stopped."""
_ABOVE_TARGETS = 64
"""Descriptors to be passed on are first copied to numbers from here on, above any number that they
get in the child."""
UNKNOWN = -1
"""Exit code of a process that was not our child."""


class ProcessId(msgspec.Struct, frozen=True):
    """Identifies a process for good: the kernel uses numbers again, but not number and start time
    together (within one boot)."""

    pid: int
    started: int
    """Clock ticks after boot."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """None if there is no such process."""
        fields = _stat(pid)
        return cls(pid, int(fields[19]), boot_id()) if fields else None

    @property
    def lives(self) -> bool:
        return ProcessId.of(self.pid) == self


class Process:
    """A running process that we may wait for and signal."""

    def __init__(self, pid: int) -> None:
        """Raises `ProcessLookupError` if there is no such process."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._ended: asyncio.Future[int] | None = None

    def kill(self, number: int) -> None:
        """Sends a signal. Does nothing if the process has ended."""
        if self._fd < 0:
            return
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return

    @property
    def has_ended(self) -> bool:
        """True also for a zombie, whose parent has not yet asked for its exit code."""
        if self._fd < 0:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait(self) -> int:
        """The exit code, or 128 + signal if a signal ended the process; `UNKNOWN` if it is not our
        child."""
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            loop.add_reader(self._fd, self._on_end)
        return await asyncio.shield(self._ended)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._reap())

    def _reap(self) -> int:
        try:
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        except ChildProcessError:
            return UNKNOWN
        if result is None:
            return UNKNOWN
        return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status

    def kill_and_reap(self) -> None:
        """Kills our own child and waits for its end."""
        self.kill(signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """Closes the pidfd. Nothing may wait for the process any longer."""
        if self._fd >= 0:
            if self._ended is not None and not self._ended.done():
                self._ended.get_loop().remove_reader(self._fd)
                self._ended.cancel()
            os.close(self._fd)
            self._fd = -1


class Output(msgspec.Struct, frozen=True):
    code: int
    raw: bytes
    """Standard output, and standard error unless it was kept apart."""
    errors: bytes = b""

    @property
    def text(self) -> str:
        return (self.errors or self.raw).decode(errors="replace").strip()


def spawn(
    argv: Sequence[str], fds: Mapping[int, int], env: Mapping[str, str] | None = None
) -> Process:
    """Starts a program in a session of its own. `fds`: number in the child -> descriptor here;
    numbers 0 to 2 that are not in `fds` are /dev/null. Raises `OperationFailed`."""
    program = shutil.which(argv[0])
    if program is None:
        raise OperationFailed(
            f"cannot run {argv[0]}: not found in $PATH; install the package {Path(argv[0]).name}"
        )
    sources = {
        number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_TARGETS) for number, fd in fds.items()
    }
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in range(3) if n not in sources
    ]
    actions += [(os.POSIX_SPAWN_DUP2, source, number) for number, source in sources.items()]
    try:
        pid = os.posix_spawn(
            program,
            list(argv),
            dict(os.environ if env is None else env),
            file_actions=actions,
            setsid=True,
        )
    except OSError as error:
        raise OperationFailed(f"cannot run {argv[0]}: {cause_of(error)}") from error
    finally:
        for source in sources.values():
            os.close(source)
    return Process(pid)


async def run(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    fds: Mapping[int, int] = MappingProxyType({}),
) -> Output:
    """Runs a program to its end. If the caller is cancelled, the program is killed. `fds`: as
    `spawn`; the program gets them besides its output."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        process = spawn(argv, {**fds, 1: write_end, 2: write_end}, env)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        data = await read(read_end)
        return Output(await process.wait(), data)
    except BaseException:
        process.kill_and_reap()
        raise
    finally:
        process.close()


async def read(fd: int, *, line: bool = False, said: bytearray | None = None) -> bytes:
    """Reads a pipe until its last writer closes it, or only its first line; closes the descriptor.
    `said` grows with each part, for callers that do not wait for the end.

    This does not use `connect_read_pipe`: uvloop closes the descriptor and then the file object,
    which closes the same number once more. In between, another thread may have got that number for
    something of its own."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    os.set_blocking(fd, False)
    loop.add_reader(fd, readable.set)
    said = bytearray() if said is None else said
    try:
        while not (line and (b"\n" in said or len(said) > _LINE_MAX)):
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                part = os.read(fd, _CHUNK)
                if not part:
                    break
                said += part
        return bytes(said[: said.find(b"\n") + 1 or None] if line else said)
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def end_family(process: Process) -> None:
    """Kills a child of ours with everything that it has started, and reaps them all. If it leads a
    session, that includes processes of the session whose parents have ended. Processes in a
    container must be reaped: a zombie keeps the container's first process from ending. Waits at
    most `_END_PATIENCE`."""
    family = {process.pid: process}
    await _stop(process)
    # Repeat until there is no new process: a child may have given its parent another child
    # (CLONE_PARENT) before it was stopped.
    while found := await asyncio.to_thread(_offspring, process.pid, frozenset(family)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                family[pid] = Process(pid)
                await _stop(family[pid])
    try:
        async with asyncio.timeout(_END_PATIENCE):
            for member in (
                family.values()
            ):  # parents first: children of an ended process are ours, see `adopt_orphans`
                member.kill(signal.SIGKILL)
                await member.wait()
    except TimeoutError:
        log.warning(
            "process.not_ended pids=%s",
            [member.pid for member in family.values() if not member.has_ended],
        )
    finally:
        for member in family.values():
            if member is not process:
                member.close()


async def _stop(process: Process) -> None:
    """Stops a process so that it starts no more children. A process that cannot be stopped, as in
    an uninterruptible wait, starts none either."""
    process.kill(signal.SIGSTOP)
    for _ in range(_STOP_TRIES):
        if _stat(process.pid)[:1] not in (["R"], ["S"]):
            return
        await asyncio.sleep(_STOP_PAUSE)


def _offspring(leader: int, family: Collection[int]) -> list[int]:
    """The children of the processes in `family`, and the processes of the leader's session, that
    are not in it yet. Reads /proc of every process of the host."""
    numbers = [
        number for path in Path("/proc").iterdir() if (number := decimal(path.name)) is not None
    ]
    others = {
        number: (int(fields[1]), int(fields[3]))
        for number in numbers
        if number not in family and (fields := _stat(number))
    }
    return [
        number
        for number, (parent, session) in others.items()
        if parent in family or session == leader
    ]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent, …; empty if there is no such
    process. See proc_pid_stat(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def adopt_orphans(yes: bool = True) -> None:
    """Makes descendants our children when their parents end; so we learn the exit code of a
    command. False leaves them to the next process above, as it was in the beginning."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
