"""A runtime whose containers are plain processes of this machine: without images, namespaces or
root, but with real streams, logs and exit codes. For tests of the layers above a runtime.

States, errors and logs are those of `FakeRuntime`. Output is kept line by line, and `attach` shows
only later output. An image's command runs as it is, so tests choose commands of this machine
(`sh -c …`).
"""

import asyncio
import fcntl
import itertools
import os
import signal as signals
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from weft.errors import Conflict, OperationFailed, cause_of
from weft.model.container import Container, ContainerConfig, ContainerState, MemoryFile
from weft.model.ids import ContainerId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.signals import signal_number
from weft.runtime.base import Attached, Images
from weft.runtime.fake import FakeRuntime
from weft.runtime.spec import set_variables


class Process:
    """A process with its streams. Output is queued, so that none is lost before the first read; a
    full queue makes the process wait."""

    def __init__(
        self,
        argv: tuple[str, ...],
        env: tuple[str, ...],
        tty: bool,
        stdin: bool,
        directory: str = "",
    ) -> None:
        self.argv, self.tty, self.stdin = argv, tty, stdin
        self.env = dict(os.environ) | dict(entry.partition("=")[::2] for entry in env)
        self.directory = directory or None
        self.output: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(16)
        self.process: asyncio.subprocess.Process | None = None
        self._terminal = -1
        self._unheard = False
        self._pumps: list[asyncio.Task[None]] = []
        self._ended: asyncio.Task[None] | None = None

    async def start(self) -> None:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        inner = -1
        if self.tty:
            self._terminal, inner = os.openpty()
        stdin = inner if self.tty else (pipe if self.stdin else null)
        out = inner if self.tty else pipe
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=stdin,
                stdout=out,
                stderr=out,
                env=self.env,
                cwd=self.directory,
                start_new_session=True,
            )
        except OSError as error:
            if self.tty:
                os.close(self._terminal)
            raise OperationFailed(
                f'OCI runtime exec failed: exec: "{self.argv[0]}": executable file not found in'
                f" $PATH: {cause_of(error)}"
            ) from error
        finally:
            if inner >= 0:
                os.close(inner)
        if self.tty:
            self._pumps = [asyncio.create_task(self._pump_terminal())]
        else:
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            self._pumps = [
                asyncio.create_task(self._pump(1, self.process.stdout)),
                asyncio.create_task(self._pump(2, self.process.stderr)),
            ]
        self._ended = asyncio.create_task(self._end())

    async def _pump(self, stream: int, source: asyncio.StreamReader) -> None:
        while data := await source.read(65536):
            await self._say(stream, data)

    async def _say(self, stream: int, data: bytes) -> None:
        if not self._unheard:
            await self.output.put((stream, data))

    async def _pump_terminal(self) -> None:
        while data := await asyncio.to_thread(self._read_terminal):
            await self._say(1, data)

    def _read_terminal(self) -> bytes:
        try:
            return os.read(self._terminal, 65536)
        except OSError:
            return b""

    async def _end(self) -> None:
        await asyncio.gather(*self._pumps)
        await self._say(0, b"")

    @property
    def pid(self) -> int:
        """0 until it is started."""
        return self.process.pid if self.process is not None else 0

    @property
    def exit_code(self) -> int | None:
        code = None if self.process is None else self.process.returncode
        return code if code is None or code >= 0 else 128 - code

    async def wait(self) -> int:
        assert self.process is not None
        await self.process.wait()
        return self.exit_code or 0

    # --- `runtime.base.Attached`

    async def read(self) -> tuple[int, bytes]:
        item = await self.output.get()
        if item == (0, b""):
            self.output.put_nowait(item)
        return item

    async def write(self, data: bytes) -> None:
        if self.tty:
            await asyncio.to_thread(os.write, self._terminal, data)
            return
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            await self.process.stdin.drain()
        except ConnectionError as error:
            raise OperationFailed(f"cannot write to {self.argv[0]}: {error}") from error

    async def close_stdin(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    async def resize(self, rows: int, columns: int) -> None:
        if self._terminal >= 0:
            fcntl.ioctl(
                self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0)
            )

    def close(self) -> None:
        """Lets the process run on and drops its output."""
        self._unheard = True
        while not self.output.empty():
            self.output.get_nowait()

    async def end(self) -> None:
        """Kills the rest of the process group, and waits for the pumps."""
        self.close()
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signals.SIGKILL)
            await self.process.wait()
        for task in (*self._pumps, *([self._ended] if self._ended else [])):
            task.cancel()
        await asyncio.gather(
            *self._pumps, *([self._ended] if self._ended else []), return_exceptions=True
        )
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


class ProcessExec:
    """A command; implements `runtime.base.Exec`."""

    def __init__(self, id: str, container: ContainerId, process: Process, privileged: bool) -> None:
        self.id, self.container, self.process, self.privileged = id, container, process, privileged
        self.argv, self.tty, self.stdin = process.argv, process.tty, process.stdin
        self._started = False

    @property
    def running(self) -> bool:
        return self._started and self.process.exit_code is None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        return self.process.exit_code

    async def start(self) -> Process:
        if self._started:
            raise Conflict(f"exec {self.id} has already run")
        await self.process.start()
        self._started = True
        return self.process

    async def wait(self) -> int:
        return await self.process.wait()

    async def kill(self) -> None:
        if self.running:
            await self.process.end()

    async def resize(self, rows: int, columns: int) -> None:
        await self.process.resize(rows, columns)


class Watcher:
    """A client attached to a container: receives the output from now on."""

    def __init__(self, process: Process | None) -> None:
        """None: the container has not been started."""
        self._process = process
        self._started = asyncio.Event()
        if process is not None:
            self._started.set()
        self.queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def begin(self, process: Process) -> None:
        if self._process is None:
            self._process = process
            self._started.set()

    async def _writable(self) -> Process:
        await self._started.wait()
        assert self._process is not None
        return self._process

    async def read(self) -> tuple[int, bytes]:
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        await (await self._writable()).write(data)

    async def close_stdin(self) -> None:
        await (await self._writable()).close_stdin()

    async def resize(self, rows: int, columns: int) -> None:
        await (await self._writable()).resize(rows, columns)

    def close(self) -> None:
        self.queue.put_nowait((0, b""))


class ProcessRuntime(FakeRuntime):
    """A `FakeRuntime` whose containers run the image's command on this machine."""

    def __init__(self, images: Images) -> None:
        super().__init__(images, time.time_ns)
        self.execs: list[ProcessExec] = []
        """All commands that were made, in their order."""
        self._processes: dict[ContainerId, Process] = {}
        self._watchers: dict[ContainerId, list[Watcher]] = {}
        self._followers: dict[ContainerId, asyncio.Task[None]] = {}
        self._count = itertools.count(1)

    async def create(self, config: ContainerConfig, files: Sequence[MemoryFile] = ()) -> Container:
        return self._with_log(await super().create(config, files))

    async def prepare(self, config: ContainerConfig) -> Container:
        return self._with_log(await super().prepare(config))

    def _with_log(self, created: Container) -> Container:
        config = created.config
        path = f"/nowhere/{config.id}/{config.id}-json.log"
        self._containers[config.id] = msgspec.structs.replace(created, log_path=path)
        return self.get(config.id)

    async def _spawn(self, container: Container) -> int:
        spec = container.config.spec
        env = tuple(set_variables(container.env))
        process = Process(container.args, env, spec.tty, spec.open_stdin)
        await process.start()
        self._processes[container.id] = process
        for watcher in self._watchers.get(container.id, ()):
            watcher.begin(process)
        self._followers[container.id] = asyncio.create_task(self._follow(container.id, process))
        return process.pid

    async def _follow(self, id: ContainerId, process: Process) -> None:
        rest = {1: b"", 2: b""}
        while True:
            stream, data = await process.read()
            if not stream:
                break
            *lines, rest[stream] = (rest[stream] + data).split(b"\n")
            for line in lines:
                self.say(id, line + b"\n", stream)
            for watcher in self._watchers.get(id, ()):
                watcher.queue.put_nowait((stream, data))
        code = await process.wait()
        for stream, line in rest.items():
            if line:
                self.say(id, line, stream)
        for watcher in self._watchers.pop(id, ()):
            watcher.close()
        self.die(id, code)

    async def stop(self, id: ContainerId, grace: Nanoseconds, signal: str = "") -> Container:
        await self._effect("stop")
        if self.get(id).state is ContainerState.RUNNING:
            self._signal(id, signal or self.get(id).config.spec.stop_signal or "SIGTERM")
            with suppress(TimeoutError):
                async with asyncio.timeout(grace / SECOND):
                    return await self.wait(id)
            self._signal(id, "SIGKILL")
            return await self.wait(id)
        return self.get(id)

    async def kill(self, id: ContainerId, signal: str) -> None:
        self._require(id, ContainerState.RUNNING, "kill")
        self._signal(id, signal)

    def _signal(self, id: ContainerId, name: str) -> None:
        with suppress(ProcessLookupError):  # it has ended, and nobody has been told yet
            os.killpg(self._processes[id].pid, signal_number(name))

    async def remove(self, id: ContainerId) -> None:
        process = self._processes.pop(id, None)
        if process is not None:
            follower = self._followers.pop(id)
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await process.end()
        for watcher in self._watchers.pop(id, ()):
            watcher.close()
        await super().remove(id)

    async def attach(self, id: ContainerId) -> Attached:
        is_running = self.get(id).state is ContainerState.RUNNING
        if not self.get(id).is_plain:
            self._require(id, ContainerState.RUNNING, "attach to")
        watcher = Watcher(self._processes[id] if is_running else None)
        self._watchers.setdefault(id, []).append(watcher)
        return watcher

    async def resize(self, id: ContainerId, rows: int, columns: int) -> None:
        await super().resize(id, rows, columns)
        await self._processes[id].resize(rows, columns)

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
    ) -> ProcessExec:
        process = Process(argv, env, tty, stdin, directory)
        exec = ProcessExec(f"{next(self._count):064x}", self.get(id).id, process, privileged)
        self.execs.append(exec)
        return exec

    async def close(self) -> None:
        """Ends all processes: these containers do not outlive the test."""
        for exec in self.execs:
            await exec.process.end()
        for container in self.containers():
            await self.remove(container.id)
