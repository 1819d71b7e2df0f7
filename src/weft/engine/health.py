"""Runs the health checks of this node's containers, whoever owns them.

Each running container with a check has one task here: pause, probe, result, pause, … So a container
never has two probes at once. `model/health.py` decides what a result means; this file runs commands
and keeps the latest health of each container. A container that is started again, and one that goes
on under another daemon, is `starting` again and has its last results (`health_records.py`), as in
Docker; nothing happens to it for that.

A probe that cannot be run has failed, whatever the reason: a full disk, an OCI runtime that fails or
hangs. A container that is paused is not probed, and a probe during which it was paused says nothing,
as in Docker: users pause it, and so does a commit. To start a command costs the host about as much as to start a container, so
only as many commands are started at a time as there are CPUs, and after each start its slot rests as
long as the start took: probes take half of the CPUs at the most, and are late if that is not enough.
Only a container's first probe gives its slot back at once: a task is waited for until it is healthy,
and there are no more of these than starts of containers.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import msgspec

from weft.engine.events import EventLog
from weft.engine.health_records import HealthRecords
from weft.errors import WeftError, described
from weft.model.container import Container, ContainerState
from weft.model.health import (
    MAX_OUTPUT,
    Health,
    HealthCheck,
    HealthStatus,
    ProbeResult,
    go_duration,
)
from weft.model.ids import ContainerId
from weft.model.meta import SECOND, Nanoseconds
from weft.runtime.base import Attached, Exec, Images, Runtime
from weft.system.supervision import ended, lasting
from weft.system.tally import Histogram
from weft.system.waiting import first

log = logging.getLogger(__name__)

START_PATIENCE = 30.0
"""Seconds that the OCI runtime may take to start a probe; they do not count towards the probe's
timeout."""
MOST_REST = 1.0
"""Seconds that a slot rests at most."""
FLOOD_PAUSE = 0.005
"""Seconds between reads of output that is thrown away: at most 64 KiB each, so a probe that floods
its output keeps the event loop busy for a hundredth of the time."""


class _Watch:
    """One container's health, and the task that finds it out."""

    def __init__(
        self, container: Container, check: HealthCheck, health: Health, age: Nanoseconds
    ) -> None:
        """`health`: before the first probe. `age`: of the container now, by the host's clock."""
        self.container = container
        self.check = check
        self.health = health
        self.has_result = False
        """Whether a probe has ended since."""
        self.turned = asyncio.Event()
        """Set, and replaced, when the status changes."""
        self.task: asyncio.Task[None] | None = None
        self._age_at_first = max(age, 0)
        self._first = asyncio.get_running_loop().time()

    @property
    def age(self) -> Nanoseconds:
        """Since the container's start, whatever becomes of the host's clock meanwhile."""
        passed = asyncio.get_running_loop().time() - self._first
        return self._age_at_first + round(passed * SECOND)

    def put(self, health: Health) -> None:
        before, self.health = self.health, health
        if before.status is not health.status:
            self.turned.set()
            self.turned = asyncio.Event()


class HealthMonitor:
    def __init__(
        self,
        runtime: Runtime,
        images: Images,
        events: EventLog,
        clock: Callable[[], Nanoseconds],
        directory: Path | None = None,
    ) -> None:
        """`directory`: for the results, which survives a reboot; None: they are kept in memory."""
        self._records = HealthRecords(directory)
        self._runtime = runtime
        self._images = images
        self._events = events
        self._clock = clock
        self._watches: dict[ContainerId, _Watch] = {}
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)
        self.start_seconds = Histogram()
        """How long it took to start each probe's command."""
        self.probes = self.failed_probes = 0

    def of(self, container: Container) -> Health | None:
        """The container's health; None if it has no check or has not been started. A container that
        has ended is unhealthy, as in Docker."""
        watch = self._watches.get(container.id)
        if watch is not None:
            return watch.health
        is_over = container.state is ContainerState.EXITED
        if is_over and container.healthcheck is not None and container.healthcheck.is_run:
            found = self._records.of(container.id) or Health()
            return msgspec.structs.replace(found, status=HealthStatus.UNHEALTHY)
        return None

    async def turned(self, container: Container, status: HealthStatus | None) -> None:
        """Returns when the status is another one than `status`; waits for ever if the container has
        no check."""
        watch = self._watches.get(container.id)
        if watch is None:
            await asyncio.Event().wait()
            return
        while watch.health.status is status:
            await watch.turned.wait()

    def begin(self, container: Container, resumed: bool = False) -> None:
        """Begins to check a container that has been started. `resumed`: by a former daemon; then
        the first probes of all containers are spread over their intervals."""
        self._end(container.id)
        check = container.healthcheck
        if check is None or not check.is_run:
            return
        found = self._records.of(container.id) or Health()
        age = self._clock() - container.started_at
        watch = _Watch(container, check, Health(log=found.log), age)
        self._watches[container.id] = watch
        name = f"health of container {container.id[:12]}"
        wait = self._first_pause(watch) * (int(container.id[:8], 16) / 2**32 if resumed else 1)
        watch.task = asyncio.create_task(lasting(name, lambda: self._run(watch, wait)), name=name)

    def forget(self, id: ContainerId) -> None:
        """The container has been removed."""
        self._end(id)
        self._records.forget(id)

    def forget_all_but(self, ids: Collection[ContainerId]) -> None:
        """Containers that a former daemon has removed."""
        self._records.keep_only(ids)

    def _end(self, id: ContainerId) -> None:
        watch = self._watches.pop(id, None)
        if watch is not None and watch.task is not None:
            watch.task.cancel()

    async def close(self) -> None:
        """Ends all probes."""
        watches, self._watches = self._watches, {}
        await asyncio.gather(*(ended(w.task) for w in watches.values() if w.task is not None))

    async def _run(self, watch: _Watch, wait: float) -> None:
        """Until the container has ended."""
        try:
            await first(self._runtime.wait(watch.container.id), self._probe_on(watch, wait))
        except WeftError as error:  # the container has been removed
            log.debug("health.ended container=%s cause=%s", watch.container.id[:12], error)
        watch.put(msgspec.structs.replace(watch.health, status=HealthStatus.UNHEALTHY))

    def _first_pause(self, watch: _Watch) -> float:
        return watch.check.pause(HealthStatus.STARTING, watch.age) / SECOND

    async def _probe_on(self, watch: _Watch, wait: float) -> None:
        while True:
            await asyncio.sleep(wait)
            if not self._is_paused(watch):
                age = watch.age
                result = await self._probe(watch)
                if not self._is_paused(watch):
                    self._take(watch, result, age)
            wait = watch.check.pause(watch.health.status, watch.age) / SECOND

    def _is_paused(self, watch: _Watch) -> bool:
        try:
            return self._runtime.get(watch.container.id).paused
        except WeftError:  # removed: the container's end is found out elsewhere
            return False

    def _take(self, watch: _Watch, result: ProbeResult, age: Nanoseconds) -> None:
        before, container = watch.health, watch.container
        self.probes += 1
        self.failed_probes += result.exit_code != 0
        watch.has_result = True
        watch.put(before.after(result, watch.check, age))
        self._records.keep(container.id, watch.health)
        if watch.health.status is not before.status:
            log.info("health.turned container=%s status=%s", container.id[:12], watch.health.status)
            self._events.container(f"health_status: {watch.health.status}", container)

    # --- one probe

    async def _probe(self, watch: _Watch) -> ProbeResult:
        """Runs the check's command once. Never fails: a failure is a result."""
        start, id = self._clock(), watch.container.id
        try:
            async with self._slot(rests=watch.has_result):
                started = self._clock()
                command, streams = await self._start(watch, self._argv(watch))
        except Exception as error:
            log.debug("health.probe_failed container=%s cause=%s", id[:12], described(error))
            return self._result(start, -1, described(error))
        try:
            return await self._finish(watch, command, streams, started)
        except Exception as error:
            log.debug("health.probe_failed container=%s cause=%s", id[:12], described(error))
            return self._result(started, -1, described(error))
        finally:
            streams.close()

    @asynccontextmanager
    async def _slot(self, *, rests: bool) -> AsyncIterator[None]:
        """The right to start a command. `rests`: nobody has it afterwards for as long as it was
        held."""
        loop = asyncio.get_running_loop()
        await self._slots.acquire()
        began = loop.time()
        try:
            yield
        finally:
            rest = min(loop.time() - began, MOST_REST) if rests else 0.0
            loop.call_later(rest, self._slots.release)

    def _argv(self, watch: _Watch) -> tuple[str, ...]:
        try:
            shell = self._images.find(watch.container.image).config.shell
        except WeftError:  # removed meanwhile
            shell = ()
        return watch.check.command(shell)

    async def _start(self, watch: _Watch, argv: tuple[str, ...]) -> tuple[Exec, Attached]:
        """Raises `WeftError`."""
        container = watch.container
        if not argv:
            raise WeftError(f"healthcheck for container {container.id} has no command")
        command = await self._runtime.exec(container.id, argv)
        line = f"{argv[0]} {' '.join(argv[1:])}"
        self._events.container(f"exec_create: {line}", container, execID=command.id)
        self._events.container(f"exec_start: {line}", container, execID=command.id)
        begun = perf_counter()
        try:
            async with asyncio.timeout(START_PATIENCE):
                streams = await command.start()
                self.start_seconds.add(perf_counter() - begun)
                return command, streams
        except TimeoutError:
            raise WeftError(
                f"timed out starting health check for container {container.id}"
            ) from None

    async def _finish(
        self, watch: _Watch, command: Exec, streams: Attached, start: Nanoseconds
    ) -> ProbeResult:
        output, timeout = _Output(), watch.check.probe_timeout
        try:
            async with asyncio.timeout(timeout / SECOND):
                await output.read(streams)
                code = await command.wait()
            return self._result(start, code, output.text)
        except TimeoutError:
            text = f"Health check exceeded timeout ({go_duration(timeout)})"
            return self._result(start, -1, f"{text}: {output.text}" if output.text else text)
        finally:
            await asyncio.shield(command.kill())
            code = -1 if command.exit_code is None else command.exit_code
            self._events.container(
                "exec_die", watch.container, execID=command.id, exitCode=str(code)
            )

    def _result(self, start: Nanoseconds, code: int, output: str) -> ProbeResult:
        return ProbeResult(start=start, end=self._clock(), exit_code=code, output=output)


class _Output:
    """The beginning of what a probe writes; the rest is read and thrown away."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._is_cut = False

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace") + ("..." if self._is_cut else "")

    async def read(self, streams: Attached) -> None:
        while (packet := await streams.read())[0]:
            room = MAX_OUTPUT - len(self._kept)
            self._kept += packet[1][:room]
            self._is_cut = self._is_cut or len(packet[1]) > room
            if self._is_cut:
                await asyncio.sleep(FLOOD_PAUSE)
