"""A container runtime and an image store in memory, with the contract of `runtime/base.py`. Both
behave like the real ones: a container's states follow the same order, errors are those of the real
runtime, and the content outlives its users, so that a second agent on the same `FakeRuntime` finds
the containers that the first one left.

No process runs. A container lives until somebody stops it or a test calls `die`, its log holds what
a test lets it `say`, and `outcomes` tells what becomes of commands in it.
 `latency` makes each effect take (virtual) time, and the caller can be
cancelled before the effect. `fail` makes the next calls of an effect fail. `history` records the
effects.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Literal

import msgspec

from weft.errors import Conflict, NotFound, OperationFailed, Unauthorized, Unsupported, WeftError
from weft.model.container import (
    END_NOT_SEEN,
    Container,
    ContainerConfig,
    ContainerState,
    Image,
    ImageConfig,
    LogLine,
    MemoryFile,
    check_files,
)
from weft.model.health import health_check
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.model.references import parse
from weft.model.registry import Distribution, RegistryAuth
from weft.model.start_failure import start_exit_code
from weft.runtime.base import Attached, Exec, Images
from weft.runtime.box import check_name_free
from weft.runtime.fake_exec import KILLED, FakeExec, Outcomes
from weft.runtime.limits import memory_and_swap

Effect = Literal["create", "start", "stop", "remove"]
FIRST_PID = 1000
_INDEX = "application/vnd.oci.image.index.v1+json"


def _no_clock() -> Nanoseconds:
    return 0


class FakeImages:
    def __init__(self, *references: str) -> None:
        self.registry: set[str] = set()
        """References that can be pulled."""
        self.private: dict[str, RegistryAuth] = {}
        """References that can be pulled with these credentials only."""
        self.pulls: list[str] = []
        self.shown: list[RegistryAuth | None] = []
        """The credentials of each pull."""
        self.latency = 0.0
        """Seconds per pull."""
        self._images: dict[str, Image] = {}
        for reference in references:
            self.add(reference)

    def add(self, reference: str, config: ImageConfig | None = None) -> Image:
        tag = _full(reference)
        image = Image(
            id=f"sha256:{len(self._images):064x}",
            tags=(tag,),
            size=1 << 20,
            config=config or ImageConfig(),
        )
        self._images[tag] = image
        return image

    def all(self) -> list[Image]:
        return list(self._images.values())

    def find(self, reference: str) -> Image:
        for tag, image in self._images.items():
            if tag == _full(reference) or image.id == reference:
                return image
        raise NotFound(f"No such image: {reference}")

    async def layer_sizes(self) -> dict[str, int]:
        return {}

    async def log_in(self, server: str, auth: RegistryAuth) -> str:
        """A registry knows the users of its private images."""
        if auth not in self.private.values():
            raise Unauthorized(
                f'Get "https://{server}/v2/": unauthorized: incorrect username or password'
            )
        return ""

    async def distribution(self, reference: str, auth: RegistryAuth | None = None) -> Distribution:
        self._check(reference, auth)
        digest = f"sha256:{hashlib.sha256(_full(reference).encode()).hexdigest()}"
        return Distribution(media_type=_INDEX, digest=digest, size=len(reference))

    def _check(self, reference: str, auth: RegistryAuth | None) -> None:
        wanted = {_full(known): auth for known, auth in self.private.items()}.get(_full(reference))
        is_there = wanted or _full(reference) in {_full(known) for known in self.registry}
        if not is_there or (wanted is not None and auth != wanted):
            raise NotFound(f"No such image: {reference}")

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> AsyncIterator[str]:
        self.pulls.append(reference)
        self.shown.append(auth)
        yield f"Pulling {reference}"
        await asyncio.sleep(self.latency)
        self._check(reference, auth)
        self.add(reference)
        yield "Done"

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        """The archive's content is the tag."""
        return [self.add(b"".join([part async for part in archive]).decode()).tags[0]]

    async def tag(self, reference: str, new: str) -> None:
        self._images[_full(new)] = self.find(reference)

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        image = self.find(reference)
        for tag in [tag for tag, known in self._images.items() if known.id == image.id]:
            del self._images[tag]
        return [("Untagged", image.tags[0]), ("Deleted", image.id)]


class FakeRuntime:
    def __init__(self, images: Images, clock: Callable[[], Nanoseconds] = _no_clock) -> None:
        self.latency = 0.0
        """Seconds per effect."""
        self.stop_latency = 0.0
        """Seconds from the stop signal to the end; a container that takes longer than its grace
        period is killed."""
        self.kill_latency = 0.0
        """Seconds from a signal to the end."""
        self.history: list[tuple[str, ContainerId]] = []
        """The effects in their order: create, start, stop, die, remove."""
        self.outcomes: Outcomes | None = None
        """None: no command can be run."""
        self.commands: list[FakeExec] = []
        """All that were made."""
        self.files: dict[ContainerId, tuple[MemoryFile, ...]] = {}
        """The files in memory of containers that have not ended."""
        self._images = images
        self._clock = clock
        self._containers: dict[ContainerId, Container] = {}
        self._removed: dict[ContainerId, Container] = {}
        """As they were at last, for those that wait for their ends."""
        self._ended: dict[ContainerId, asyncio.Event] = {}
        self._said: dict[ContainerId, list[LogLine]] = {}
        self._news = asyncio.Event()
        """Set and replaced when a container writes to its log or ends."""
        self._failures: dict[Effect, list[str]] = {}
        self._pids = FIRST_PID

    # --- for tests

    def fail(self, effect: Effect, cause: str, times: int = 1) -> None:
        """The next calls raise `OperationFailed` with this message and change nothing, but that a
        container knows why it was not started."""
        self._failures.setdefault(effect, []).extend([cause] * times)

    def die(self, id: ContainerId, exit_code: int = 0, oom_killed: bool = False) -> None:
        """The container's process ends by itself."""
        self._end(id, exit_code, "die", oom_killed)

    def say(self, id: ContainerId, text: str | bytes, stream: int = 1) -> None:
        """Adds a line to the container's log; a text without a newline is a piece of a line."""
        self.get(id)
        data = text.encode() if isinstance(text, str) else text
        self._said.setdefault(id, []).append(LogLine(stream, self._clock(), data))
        self._tell()

    def lose(self) -> None:
        """The host loses power, so no end is observed."""
        for container in self.running():
            self._end(container.id, 255, "die")
            self._containers[container.id] = msgspec.structs.replace(
                self.get(container.id), error=END_NOT_SEEN
            )

    def running(self) -> list[Container]:
        return [c for c in self._containers.values() if c.state is ContainerState.RUNNING]

    # --- Runtime

    def containers(self) -> list[Container]:
        return list(self._containers.values())

    def get(self, id: ContainerId) -> Container:
        found = self._containers.get(id)
        if found is None:
            raise NotFound(f"No such container: {id}")
        return found

    async def create(self, config: ContainerConfig, files: Sequence[MemoryFile] = ()) -> Container:
        await self._effect("create")
        check_files(config, files)
        others = self.containers() if config.plain is not None else ()
        check_name_free(config, [*others, *(c for c in self.containers() if c.id == config.id)])
        image = self._images.find(config.spec.image)
        args = (
            *(config.spec.command or image.config.entrypoint),
            *(config.spec.args or image.config.cmd),
        )
        env = (*image.config.env, *config.spec.env)
        made = Container(
            config=config,
            image=image.id,
            args=args,
            env=env,
            healthcheck=health_check(config.spec.healthcheck, image.config.healthcheck),
            memory_swap=_swap(config),
            created_at=self._clock(),
        )
        self._removed.pop(config.id, None)
        self._put(made, "create")
        self.files[config.id] = tuple(files)
        return made

    async def prepare(self, config: ContainerConfig) -> Container:
        return await FakeRuntime.create(self, config)

    async def configure(self, config: ContainerConfig) -> Container:
        check_name_free(config, (c for c in self.containers() if c.id != config.id))
        self._containers[config.id] = msgspec.structs.replace(
            self.get(config.id), config=config, memory_swap=_swap(config)
        )
        return self.get(config.id)

    async def pause(self, id: ContainerId) -> Container:
        self._require(id, ContainerState.RUNNING, "pause")
        return self._set_paused(id, True)

    async def unpause(self, id: ContainerId) -> Container:
        return self._set_paused(id, False)

    def _set_paused(self, id: ContainerId, paused: bool) -> Container:
        self._containers[id] = msgspec.structs.replace(self.get(id), paused=paused)
        return self.get(id)

    async def start(self, id: ContainerId, files: Sequence[MemoryFile] = ()) -> Container:
        self._check_can_start(id)
        try:
            await self._effect("start")
            return await self._start(self._check_can_start(id), files)
        except OperationFailed as error:
            if id in self._containers:
                await self.not_started(id, error, start_exit_code(str(error)))
            raise

    async def not_started(self, id: ContainerId, error: WeftError, exit_code: int) -> None:
        self._containers[id] = msgspec.structs.replace(
            self.get(id), error=str(error), exit_code=exit_code
        )

    async def _start(self, container: Container, files: Sequence[MemoryFile]) -> Container:
        id = container.id
        if container.state is ContainerState.EXITED:
            check_files(container.config, files)
            self.files[id] = tuple(files)
        pid = await self._spawn(container)
        started = msgspec.structs.replace(
            container,
            state=ContainerState.RUNNING,
            pid=pid,
            started_at=self._clock(),
            exit_code=0,
            error="",
            finished_at=0,
        )
        self._ended.pop(id, None)
        self._put(started, "start")
        return started

    async def stop(self, id: ContainerId, grace: Nanoseconds, signal: str = "") -> Container:
        await self._effect("stop")
        container = self.get(id)
        if container.state is ContainerState.RUNNING:
            seconds = grace / 1e9
            await asyncio.sleep(min(self.stop_latency, seconds))
            if self.get(id).state is ContainerState.RUNNING:
                self._end(id, KILLED if self.stop_latency > seconds else 0, "stop")
        return self.get(id)

    async def kill(self, id: ContainerId, signal: str) -> None:
        self._require(id, ContainerState.RUNNING, "kill")
        if self.kill_latency:
            asyncio.get_running_loop().call_later(self.kill_latency, self._end, id, KILLED, "die")
        else:
            self._end(id, KILLED, "die")

    async def remove(self, id: ContainerId) -> None:
        await self._effect("remove")
        if id in self._containers:
            if self._containers[id].state is ContainerState.RUNNING:
                self._end(id, KILLED, "die")
            self._removed[id] = self._containers.pop(id)
            self.files.pop(id, None)
            self._event(id).set()
            self._tell()
            self.history.append(("remove", id))

    async def wait(self, id: ContainerId) -> Container:
        container = self.get(id)
        while container.state in (ContainerState.CREATED, ContainerState.RUNNING):
            await self._event(id).wait()
            if id in self._removed:
                return self._removed[id]
            container = self.get(id)
        return container

    async def attach(self, id: ContainerId) -> Attached:
        raise Unsupported(f"cannot attach to container {id}: nothing runs in it")

    async def logs(
        self,
        id: ContainerId,
        *,
        follow: bool = False,
        since: Nanoseconds = 0,
        until: Nanoseconds = 0,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        self.get(id)
        lines = self._said.setdefault(id, [])
        position = 0 if tail is None else max(len(lines) - tail, 0)
        while True:
            for line in lines[position:]:
                position += 1
                if line.timestamp >= since and (not until or line.timestamp <= until):
                    yield line
            if position < len(lines):
                continue
            if (
                not follow
                or id not in self._containers
                or self._containers[id].state is ContainerState.EXITED
            ):
                return
            await self._news.wait()

    async def resize(self, id: ContainerId, rows: int, columns: int) -> None:
        self._require(id, ContainerState.RUNNING, "resize")

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
    ) -> Exec:
        self._require(id, ContainerState.RUNNING, "run a command in")
        if self.outcomes is None:
            raise Unsupported(f"cannot run {argv} in container {id}: nothing runs in it")
        made = FakeExec(f"{len(self.commands):064x}", id, argv, self.outcomes(id, argv))
        self.commands.append(made)
        return made

    async def top(self, id: ContainerId) -> list[int]:
        return [self._require(id, ContainerState.RUNNING, "list processes of").pid]

    async def close(self) -> None:
        """Nothing to release."""

    # ---

    async def _spawn(self, container: Container) -> int:
        """Gives the pid."""
        self._pids += 1
        return self._pids

    async def _effect(self, effect: Effect) -> None:
        await asyncio.sleep(self.latency)
        causes = self._failures.get(effect)
        if causes:
            raise OperationFailed(causes.pop(0))

    def _require(self, id: ContainerId, state: ContainerState, verb: str) -> Container:
        container = self.get(id)
        if container.state is not state:
            raise Conflict(f"cannot {verb} container {id}: it is {container.state}")
        return container

    def _check_can_start(self, id: ContainerId) -> Container:
        """An ended container is made again from its own files."""
        ended = self.get(id).state is ContainerState.EXITED
        return self._require(
            id, ContainerState.EXITED if ended else ContainerState.CREATED, "start"
        )

    def _put(self, container: Container, happened: str) -> None:
        self._containers[container.id] = container
        self.history.append((happened, container.id))

    def _end(self, id: ContainerId, exit_code: int, how: str, oom_killed: bool = False) -> None:
        container = self._require(id, ContainerState.RUNNING, "end")
        ended = msgspec.structs.replace(
            container,
            state=ContainerState.EXITED,
            paused=False,
            pid=0,
            exit_code=exit_code,
            finished_at=self._clock(),
            oom_killed=oom_killed,
        )
        self._put(ended, how)
        self.files.pop(id, None)
        self._event(id).set()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _event(self, id: ContainerId) -> asyncio.Event:
        return self._ended.setdefault(id, asyncio.Event())


def _swap(config: ContainerConfig) -> int:
    return memory_and_swap(config.limits, True, config.further.memory_swap)


def _full(reference: str) -> str:
    try:
        name, tag, digest = parse(reference)
    except WeftError:
        return reference
    return f"{name}:{tag}" if tag else f"{name}@{digest}"
