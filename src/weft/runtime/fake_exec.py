"""A command in a container of `FakeRuntime`: takes its (virtual) time, writes what a test wants and
ends with the exit code that the test wants."""

import asyncio
import math
from collections.abc import Callable

import msgspec

from weft.errors import Conflict, OperationFailed
from weft.model.ids import ContainerId

KILLED = 137
"""Exit code of a process that SIGKILL ended."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int = 0
    output: bytes = b""
    seconds: float = 0.0
    """From the start to the end; infinite for a command that hangs."""
    refused: str = ""
    """Why the command cannot be started."""


Outcomes = Callable[[ContainerId, tuple[str, ...]], Outcome]
"""What becomes of a command in a container."""


class FakeExec:
    """Implements `runtime.base.Exec`, and `Attached` as its own streams."""

    tty, stdin, privileged = False, False, False

    def __init__(
        self, id: str, container: ContainerId, argv: tuple[str, ...], outcome: Outcome
    ) -> None:
        self.id, self.container, self.argv = id, container, argv
        self.running = False
        self.pid = 1
        self.exit_code: int | None = None
        self._outcome = outcome
        self._over = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._unread = outcome.output

    async def start(self) -> "FakeExec":
        if self._life is not None:
            raise Conflict(f"Error: Exec command {self.id} is already running")
        await asyncio.sleep(0)
        if self._outcome.refused:
            raise OperationFailed(self._outcome.refused)
        self.running = True
        self._life = asyncio.create_task(self._live())
        return self

    async def _live(self) -> None:
        if math.isinf(self._outcome.seconds):
            await asyncio.Event().wait()
        await asyncio.sleep(self._outcome.seconds)
        self._end(self._outcome.exit_code)

    def _end(self, code: int) -> None:
        self.running, self.exit_code = False, code
        self._over.set()

    async def wait(self) -> int:
        await self._over.wait()
        return self.exit_code or 0

    async def kill(self) -> None:
        if self.running and self._life is not None:
            self._life.cancel()
            self._end(KILLED)

    async def read(self) -> tuple[int, bytes]:
        if self._unread:
            data, self._unread = self._unread, b""
            return 1, data
        await self._over.wait()
        return 0, b""

    async def write(self, data: bytes) -> None:
        """Nothing reads it."""

    async def close_stdin(self) -> None:
        """There is none."""

    async def resize(self, rows: int, columns: int) -> None:
        """There is no terminal."""

    def close(self) -> None:
        """The command runs on."""
