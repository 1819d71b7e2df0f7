"""A runtime whose containers are plain processes of this machine: without images, namespaces or
root, but with real streams, logs and exit codes. For tests of the layers above a runtime.

Containers start in `create` order, their output is kept line by line, and `attach` shows only later
output. An image's command runs as it is, so tests choose commands of this machine (`sh -c …`).
"""

import asyncio
import fcntl
import itertools
import os
import signal as signals
import struct
import termios
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec

from weft.errors import Conflict, NotFound, OperationFailed, cause_of
from weft.model.container import Container, ContainerConfig, ContainerState, Image, LogLine
from weft.model.health import health_check
from weft.model.ids import ContainerId
from weft.model.meta import SECOND, Nanoseconds


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
        return self.process.process.pid if self.process.process else 0

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

    def __init__(self, process: Process) -> None:
        self._process = process
        self.queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    async def read(self) -> tuple[int, bytes]:
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        await self._process.write(data)

    async def close_stdin(self) -> None:
        await self._process.close_stdin()

    async def resize(self, rows: int, columns: int) -> None:
        await self._process.resize(rows, columns)

    def close(self) -> None:
        self.queue.put_nowait((0, b""))


class _Running:
    def __init__(self, container: Container) -> None:
        self.container = container
        self.process: Process | None = None
        self.lines: list[LogLine] = []
        self.changed = asyncio.Condition()
        self.watchers: list[Watcher] = []
        self.follower: asyncio.Task[None] | None = None


class ProcessRuntime:
    """`runtime.base.Runtime`. `images`: the images with their commands."""

    def __init__(self, images: list[Image]) -> None:
        self._images = images
        self._all: dict[ContainerId, _Running] = {}
        self._execs: list[ProcessExec] = []
        self._count = itertools.count(1)

    def containers(self) -> list[Container]:
        return [running.container for running in self._all.values()]

    def get(self, id: ContainerId) -> Container:
        return self._entry(id).container

    def _entry(self, id: ContainerId) -> _Running:
        if id not in self._all:
            raise NotFound(f"No such container: {id}")
        return self._all[id]

    async def create(self, config: ContainerConfig) -> Container:
        image = next((i for i in self._images if config.spec.image in i.tags), None)
        if image is None:
            raise NotFound(f"No such image: {config.spec.image}")
        args = (
            *(config.spec.command or image.config.entrypoint),
            *(config.spec.args or image.config.cmd),
        )
        container = Container(
            config=config,
            image=image.id,
            args=args,
            env=(*image.config.env, *config.spec.env),
            healthcheck=health_check(config.spec.healthcheck, image.config.healthcheck),
            created_at=time.time_ns(),
            log_path=f"/nowhere/{config.id}/{config.id}-json.log",
        )
        self._all[config.id] = _Running(container)
        return container

    async def start(self, id: ContainerId) -> Container:
        entry = self._entry(id)
        spec = entry.container.config.spec
        entry.process = Process(
            entry.container.args, entry.container.env, spec.tty, spec.open_stdin
        )
        await entry.process.start()
        assert entry.process.process is not None
        entry.container = msgspec.structs.replace(
            entry.container,
            state=ContainerState.RUNNING,
            pid=entry.process.process.pid,
            started_at=time.time_ns(),
        )
        entry.follower = asyncio.create_task(self._follow(entry, entry.process))
        return entry.container

    async def _follow(self, entry: _Running, process: Process) -> None:
        rest = {1: b"", 2: b""}
        while True:
            stream, data = await process.read()
            if not stream:
                break
            *lines, rest[stream] = (rest[stream] + data).split(b"\n")
            entry.lines += [LogLine(stream, time.time_ns(), line + b"\n") for line in lines]
            for watcher in entry.watchers:
                watcher.queue.put_nowait((stream, data))
            await self._tell(entry)
        code = await process.wait()
        entry.lines += [
            LogLine(stream, time.time_ns(), line) for stream, line in rest.items() if line
        ]
        entry.container = msgspec.structs.replace(
            entry.container,
            state=ContainerState.EXITED,
            pid=0,
            exit_code=code,
            finished_at=time.time_ns(),
        )
        for watcher in entry.watchers:
            watcher.close()
        await self._tell(entry)

    @staticmethod
    async def _tell(entry: _Running) -> None:
        async with entry.changed:
            entry.changed.notify_all()

    async def stop(self, id: ContainerId, grace: Nanoseconds) -> Container:
        await self.kill(id, self._entry(id).container.config.spec.stop_signal or "SIGTERM")
        with suppress(TimeoutError):
            async with asyncio.timeout(grace / SECOND):
                return await self.wait(id)
        await self.kill(id, "SIGKILL")
        return await self.wait(id)

    async def kill(self, id: ContainerId, signal: str) -> None:
        number = (
            signals.Signals[signal] if signal.startswith("SIG") else signals.Signals(int(signal))
        )
        pid = self._entry(id).container.pid
        if pid:  # killing group 0 would kill the caller's own group
            with suppress(ProcessLookupError):
                os.killpg(pid, number)

    async def remove(self, id: ContainerId) -> None:
        entry = self._all.pop(id, None)
        if entry is not None and entry.process is not None:
            await entry.process.end()
            if entry.follower is not None:
                entry.follower.cancel()
                await asyncio.gather(entry.follower, return_exceptions=True)

    async def wait(self, id: ContainerId) -> Container:
        entry = self._entry(id)
        async with entry.changed:
            await entry.changed.wait_for(lambda: entry.container.state == ContainerState.EXITED)
        return entry.container

    async def attach(self, id: ContainerId) -> Watcher:
        entry = self._entry(id)
        assert entry.process is not None
        watcher = Watcher(entry.process)
        entry.watchers.append(watcher)
        return watcher

    async def logs(
        self,
        id: ContainerId,
        *,
        follow: bool = False,
        since: Nanoseconds = 0,
        until: Nanoseconds = 0,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        entry = self._entry(id)
        position = 0 if tail is None else max(len(entry.lines) - tail, 0)
        while True:
            while position < len(entry.lines):
                line = entry.lines[position]
                position += 1
                if line.timestamp >= since and (not until or line.timestamp <= until):
                    yield line
            if not follow or entry.container.state == ContainerState.EXITED:
                return
            async with entry.changed:
                await entry.changed.wait()

    async def resize(self, id: ContainerId, rows: int, columns: int) -> None:
        process = self._entry(id).process
        if process is not None:
            await process.resize(rows, columns)

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
        exec = ProcessExec(
            f"{next(self._count):064x}", self._entry(id).container.id, process, privileged
        )
        self._execs.append(exec)
        return exec

    async def top(self, id: ContainerId) -> list[int]:
        return [self._entry(id).container.pid]

    async def close(self) -> None:
        """Ends all processes: these containers do not outlive the test."""
        for exec in self._execs:
            await exec.process.end()
        for id in list(self._all):
            await self.remove(id)
