"""`UserspaceEngine`: the engine's process as `linux.base.EspEngine`. Starts an engine, or finds the
one that a former daemon left.

    apply ──> handle.find or handle.start ──> Apply
    engine ends ──> watcher: start again, Apply the last protection again (the engine keeps no keys on disk, so nobody else could)

An engine that keeps ending is started ever more slowly, since each start takes a block of sequence
numbers from each key.
"""

import asyncio
import logging
from pathlib import Path
from typing import Literal

from weft.errors import OperationFailed
from weft.esp.gateway import COUNTERS
from weft.linux.esp import tap
from weft.linux.esp.control import Apply, Ask, Implementation, Stop
from weft.linux.esp.handle import EngineHandle, find, start
from weft.model.encryption import Protection
from weft.system.supervision import ended

log = logging.getLogger(__name__)

_SLOWEST = 64.0
"""The longest pause, in seconds, before an engine that keeps ending is started again. So it takes
less than a thousand blocks in the twelve hours of a key."""


class UserspaceEngine:
    name: Literal["userspace"] = "userspace"

    def __init__(
        self,
        run_dir: Path,
        state_dir: Path,
        device: str = "esp0",
        *,
        implementation: Implementation = "auto",
        namespace: Path | None = None,
    ) -> None:
        """`namespace`: the namespace with the device, which others make then. Without it, the
        engine makes the device in the current namespace. `run_dir` is for the control socket and
        the log, `state_dir` for the ledger, which must outlive a reboot. Nothing happens before
        `apply`."""
        self._socket, self._log, self._state = run_dir / "esp.sock", run_dir / "esp.log", state_dir
        self._device, self._implementation, self._namespace = device, implementation, namespace
        self._wanted: Protection | None = None
        self._handle: EngineHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def apply(self, protection: Protection | None) -> None:
        """See `EspEngine.apply`. After a failure, the protection is applied again after the
        engine's next start, or by the next call."""
        async with self._turn:
            self._wanted = protection
            if protection is None:
                await self._remove()
            else:
                await self._put_in_force(protection)

    async def counters(self) -> dict[str, int]:
        """Counted since the engine began; all zero if there is no engine."""
        async with self._turn:
            try:
                handle = await self._find()
                return (
                    (await handle.ask(Ask())).counters
                    if handle is not None
                    else dict.fromkeys(COUNTERS, 0)
                )
            except OperationFailed:
                return dict.fromkeys(COUNTERS, 0)

    async def implementation(self) -> Implementation | None:
        """The implementation that moves the packets now; None if no engine runs."""
        async with self._turn:
            handle = await self._find()
            return (await handle.ask(Ask())).implementation if handle is not None else None

    async def close(self) -> None:
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            await ended(watcher)
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    async def _find(self) -> EngineHandle | None:
        if self._handle is not None and self._handle.ended.is_set():
            self._handle.close()
            self._handle = None
        if self._handle is None:
            self._handle = await find(self._socket)
        return self._handle

    async def _put_in_force(self, protection: Protection) -> None:
        handle = await self._find()
        if handle is None:
            arguments = (
                str(self._state),
                self._device,
                self._implementation,
                str(self._namespace or ""),
            )
            handle = self._handle = await start(self._socket, self._log, *arguments)
            log.info("esp.engine_started pid=%d device=%s", handle.pid, self._device)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        await handle.ask(Apply(protection))

    async def _remove(self) -> None:
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            await ended(watcher)
        handle = await self._find()
        if handle is not None:
            try:
                await handle.ask(Stop())
            except OperationFailed as error:
                log.warning("esp.engine_killed cause=%s", error)
                handle.kill()
            await handle.end()
            handle.close()
            self._handle = None
        if self._namespace is None:
            tap.remove(self._device)

    async def _watch(self) -> None:
        """Restarts the engine whenever it ends, until cancelled. An engine that lived for a while
        is restarted at once."""
        loop, pause = asyncio.get_running_loop(), 0.0
        while True:
            since = loop.time()
            if self._handle is not None:
                await self._handle.ended.wait()
                log.error("esp.engine_ended pid=%d", self._handle.pid)
            pause = 0.0 if loop.time() - since > _SLOWEST else pause
            await asyncio.sleep(pause)
            pause = min(max(1.0, pause * 2), _SLOWEST)
            async with self._turn:
                if self._wanted is not None:
                    await self._restart(self._wanted)

    async def _restart(self, wanted: Protection) -> None:
        try:
            await self._put_in_force(wanted)
        except OperationFailed as error:
            log.error("esp.engine_not_restarted cause=%s", error)
