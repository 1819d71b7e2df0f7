"""A command in a running container (`docker exec`).

The OCI runtime starts the process with the daemon's pipes, or with a terminal whose other end it
passes to the daemon, and exits. The process then becomes the daemon's child (see
`process.adopt_orphans`), so the daemon reads its exit code and needs no helper process. A command
goes on without its client, and ends with the daemon's connection to it: after a restart of the
daemon nobody could read its output.
"""

import array
import asyncio
import os
import re
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from weft.errors import Conflict, InvalidArgument, OperationFailed, cause_of
from weft.model.ids import ContainerId
from weft.runtime.oci import Oci
from weft.runtime.record import opened
from weft.runtime.streams import CommandStreams
from weft.system.files import replace_file
from weft.system.process import Process, end_family, spawn

_NOT_FOUND = re.compile(r"executable file not found|no such file or directory")
_FORBIDDEN = re.compile(r"permission denied|is a directory|exec format error")


class Command:
    """Implements `runtime.base.Exec`."""

    def __init__(
        self,
        id: str,
        container: ContainerId,
        document: dict[str, Any],
        oci: Oci,
        directory: Path,
        *,
        stdin: bool,
        privileged: bool,
    ) -> None:
        """`document`: `process` of the OCI runtime specification. `directory`: holds files during
        the start."""
        self.id = id
        self.container = container
        self.argv: tuple[str, ...] = tuple(document["args"])
        self.tty: bool = document["terminal"]
        self.stdin = stdin
        self.privileged = privileged
        self.running = False
        self.pid = 0
        self.exit_code: int | None = None
        self._document = document
        self._oci = oci
        self._directory = directory
        self._streams: CommandStreams | None = None
        self._process: Process | None = None
        self._started = False
        self._over = asyncio.Event()
        self._waiter: asyncio.Task[None] | None = None

    async def start(self) -> CommandStreams:
        """Raises `InvalidArgument` with Docker's text if the program does not exist or may not be
        run; `exit_code` is then 127 or 126."""
        if self._started:
            raise Conflict(f"Error: Exec command {self.id} is already running")
        self._started = True
        files = self._directory / f"exec-{self.id[:16]}"
        process_file, pid_file, log = (
            files.with_suffix(suffix) for suffix in (".json", ".pid", ".log")
        )
        try:
            replace_file(process_file, msgspec.json.encode(self._document), durable=False)
            if self.tty:
                self._streams = await self._start_with_terminal(
                    files.with_suffix(".tty"), process_file, pid_file, log
                )
            else:
                self._streams = await self._start_with_pipes(process_file, pid_file, log)
            process = _process_of(pid_file)
        except BaseException as error:
            await asyncio.shield(self._give_up(pid_file))
            if isinstance(error, OSError | ValueError):
                cause = "it is gone" if isinstance(error, ProcessLookupError) else cause_of(error)
                raise OperationFailed(
                    f"cannot run {self.argv[0]!r} in container {self.container[:12]}: {cause}"
                ) from error
            raise
        finally:
            for path in (process_file, pid_file, log):
                path.unlink(missing_ok=True)
        self.running, self.pid, self._process = True, process.pid, process
        self._waiter = asyncio.create_task(self._wait(process), name=f"exec {self.id[:12]}")
        return self._streams

    async def _give_up(self, pid_file: Path) -> None:
        """Ends the process if the runtime has started it already: nothing else would wait for
        it."""
        if self._streams is not None:
            self._streams.end()
            self._streams.close()
        with suppress(OSError, ValueError):
            process = _process_of(pid_file)
            await end_family(process)
            process.close()
        self.exit_code = self.exit_code or 126
        self._over.set()

    async def _start_with_pipes(self, process: Path, pid_file: Path, log: Path) -> CommandStreams:
        """The daemon keeps both ends of each pipe open until the runtime has passed the command's
        ends on; on failure it closes all ends."""
        with ExitStack() as theirs, ExitStack() as ours:
            reads: dict[int, int] = {}
            given: dict[int, int] = {}
            writes: int | None = None
            for number in (0, 1, 2) if self.stdin else (1, 2):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                kept, passed = (write_end, read_end) if number == 0 else (read_end, write_end)
                ours.callback(os.close, kept)
                theirs.callback(os.close, passed)
                given[number] = passed
                if number == 0:
                    writes = kept
                else:
                    reads[kept] = number
            await self._run(
                self._oci.exec_arguments(self.container, process, pid_file, log, None), given, log
            )
            ours.pop_all()
        return CommandStreams(writes, reads)

    async def _start_with_terminal(
        self, path: Path, process: Path, pid_file: Path, log: Path
    ) -> CommandStreams:
        """The runtime sends the terminal's other end over a socket that the daemon provides."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, ExitStack() as cleanup:
            fd = opened(path.parent)
            cleanup.callback(os.close, fd)
            listener.bind(f"/proc/self/fd/{fd}/{path.name}")
            cleanup.callback(path.unlink, missing_ok=True)
            listener.listen(1)
            listener.setblocking(False)
            console = Path(f"/proc/{os.getpid()}/fd/{fd}/{path.name}")
            await self._run(
                self._oci.exec_arguments(self.container, process, pid_file, log, console), {}, log
            )
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            with connection:
                connection.setblocking(True)
                terminal = _receive_descriptor(connection)
        return CommandStreams(terminal, {terminal: 1})

    async def _run(self, argv: list[str], fds: dict[int, int], log: Path) -> None:
        runtime = spawn(argv, fds)
        try:
            async with asyncio.timeout(self._oci.patience):
                code = await runtime.wait()
        except BaseException as error:
            await asyncio.shield(end_family(runtime))
            if isinstance(error, TimeoutError):
                raise OperationFailed(
                    f"cannot run {self.argv[0]!r} in container {self.container[:12]}:"
                    f" {self._oci.runtime} has not started it within {self._oci.patience:g} s"
                ) from None
            raise
        finally:
            runtime.close()
        if code != 0:
            raise self._failure(log)

    def _failure(self, log: Path) -> Exception:
        text = log.read_text(errors="replace").strip().rpartition("\n")[2] if log.exists() else ""
        reason = (text.partition('msg="')[2] or text).rstrip('"').replace('\\"', '"')
        reason = reason.removeprefix("exec failed: ") or "it did not say why"
        missing, forbidden = _NOT_FOUND.search(reason), _FORBIDDEN.search(reason)
        self.exit_code = 127 if missing else 126
        message = f"OCI runtime exec failed: exec failed: {reason}"
        return InvalidArgument(message) if missing or forbidden else OperationFailed(message)

    async def _wait(self, process: Process) -> None:
        try:
            self.exit_code = await process.wait()
            self.running = False
            if self._streams is not None:
                self._streams.end()
            self._over.set()
        finally:
            process.close()

    async def wait(self) -> int:
        await self._over.wait()
        return self.exit_code or 0

    async def kill(self) -> None:
        if self._process is not None and self.running:
            await end_family(self._process)
            if self._waiter is not None and self._process.has_ended:
                await self._over.wait()

    async def resize(self, rows: int, columns: int) -> None:
        if self._streams is not None:
            await self._streams.resize(rows, columns)


def _process_of(pid_file: Path) -> Process:
    """Raises `OSError`, `ValueError`."""
    return Process(int(pid_file.read_text()))


def _receive_descriptor(connection: socket.socket) -> int:
    _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", data[:4])[0]
    raise OperationFailed("cannot open a terminal: the OCI runtime sent none")
