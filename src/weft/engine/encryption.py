"""Keeps the ESP engine in step with the overlays, and says whether encrypted networks may be up.

With the userspace engine they always may: their VXLAN sockets are in a namespace whose only way out
is the engine. With the kernel's engine they may once its policies are in force. Until then, and
whenever the engine fails, the network loop gets overlays without keys, and plans networks that do
not leave this host. New keys, new peers and departing peers concern only this loop and the engine.
They delay only packets that could not be encrypted anyway.

The policies of the kernel's engine refuse the datagrams of plain networks that are not marked. So
the first encrypted network's policies wait until the network loop has made the marks, and the marks
stay until the last one's policies are gone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from weft.errors import OperationFailed, WeftError
from weft.linux.base import EspEngine
from weft.model.assignment import Overlays
from weft.model.encryption import Protection
from weft.model.sandbox import NodeFacts
from weft.network.encryption import protection
from weft.network.trace.host import Seals

log = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 0.1, 5.0
PATIENCE = 10.0
"""Seconds that a task waits for the engine."""


class Encryption:
    def __init__(
        self,
        engine: EspEngine | None,
        why_not: str,
        facts: NodeFacts,
        changed: Callable[[], None],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        """`why_not`: the reason, if there is no engine. `changed` is called when `desire` would
        give another result; `settled` returns when the network loop has dealt with the last
        result."""
        self._engine = engine
        self._why_not = why_not
        self._facts = facts
        self._changed = changed
        self._settled = settled
        self._wanted: Protection | None = None
        self._applied: Protection | None = None
        self._is_first = True
        self._failure = ""
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        """Set, and replaced, after each try."""

    def desire(self, overlays: Overlays) -> Overlays | None:
        """The overlays to plan the network from: the same, or without keys; None: wait for
        `changed`. A restarted daemon must not take the network down only because it does not know
        yet which policies are in force."""
        self._wanted = protection(overlays, self._facts)
        if self._wanted != self._applied or self._is_first:
            self._wake.set()
        if self._wanted is None or self._facts.esp_engine != "kernel":
            return overlays
        if self._is_first and not self._failure:
            return None
        return overlays if self._applied is not None else msgspec.structs.replace(overlays, keys=())

    @property
    def policies_in_force(self) -> bool:
        """Whether the kernel's engine has policies, as far as is known."""
        return self._facts.esp_engine == "kernel" and self._applied is not None

    @property
    def failure(self) -> str:
        """Why the engine failed last; empty if it did not."""
        return self._failure

    @property
    def seals(self) -> Seals | None:
        """What the engine in force has keys for; None if there is no engine."""
        if self._facts.esp_engine is None:
            return None
        applied = self._applied
        return Seals(
            by_kernel=self._facts.esp_engine == "kernel",
            outbound={one.destination: one.spi for one in applied.outbound} if applied else {},
            inbound=frozenset(one.spi for one in applied.inbound) if applied else frozenset(),
        )

    async def ready(self, network: str) -> None:
        """Returns when the engine protects the present overlays. Raises `OperationFailed` if there
        is no engine or the engine fails."""
        if self._engine is None:
            raise OperationFailed(f"cannot join encrypted network {network}: {self._why_not}")
        try:
            async with asyncio.timeout(PATIENCE):
                while self._wanted is None or self._applied is None or self._failure:
                    await self._progress.wait()
        except TimeoutError:
            cause = self._failure or "encryption keys not present"
            raise OperationFailed(f"cannot join encrypted network {network}: {cause}") from None

    async def run(self) -> None:
        """Runs until cancelled. The engine goes on."""
        retry = FIRST_RETRY
        while self._engine is not None:
            await self._wake.wait()
            self._wake.clear()
            if await self._apply(self._engine):
                retry = FIRST_RETRY
            else:
                await asyncio.sleep(retry)
                retry = min(2 * retry, LAST_RETRY)
                self._wake.set()

    async def teardown(self) -> None:
        """Ends all protection. Call this when no encrypted network is left, and `run` has ended."""
        if self._engine is not None:
            await self._engine.apply(None)

    async def _apply(self, engine: EspEngine) -> bool:
        if self._facts.esp_engine == "kernel" and self._applied is None and not self._is_first:
            await self._marks_made()
        wanted = self._wanted
        try:
            if wanted is not None or self._applied is not None or self._is_first:
                await engine.apply(wanted)
        except WeftError as error:
            self._note(str(error))
            return False
        was_up = self._applied is not None
        self._applied, self._is_first = wanted, False
        self._note("", again=was_up != (wanted is not None))
        return True

    async def _marks_made(self) -> None:
        """A network loop that cannot keep up must not keep encrypted networks down."""
        try:
            async with asyncio.timeout(PATIENCE / 2):
                await self._settled()
        except TimeoutError:
            log.warning("encryption.marks_late")

    def _note(self, failure: str, again: bool = False) -> None:
        if failure:
            log.error("encryption.failed engine=%s cause=%s", self._facts.esp_engine, failure)
        if failure != self._failure or again:
            self._failure = failure
            self._changed()
        self._progress.set()
        self._progress = asyncio.Event()
