"""The commands that this API started in containers, kept until their container is gone or many
newer commands have ended."""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from weft.errors import NotFound
from weft.model.ids import ContainerId
from weft.runtime.base import Exec

KEPT = 1024
"""Ended commands whose exit code remains available. Docker keeps them until their container is
removed."""


class ExecEntry:
    def __init__(self, exec: Exec, attached: tuple[bool, bool, bool], keys: bytes) -> None:
        self.exec = exec
        self.attached = attached
        """Whether stdin, stdout and stderr are attached."""
        self.keys = keys
        """With these a client leaves the command, which goes on; empty: with none."""
        self.started = False
        self.failed: int | None = None
        """Exit code of a command that could not be started: 126 or 127, as in a shell."""

    @property
    def exit_code(self) -> int | None:
        return self.exec.exit_code if self.failed is None else self.failed


class Execs:
    def __init__(self) -> None:
        self._entries: OrderedDict[str, ExecEntry] = OrderedDict()
        self._watching: set[asyncio.Task[None]] = set()

    def add(self, entry: ExecEntry) -> None:
        self._entries[entry.exec.id] = entry
        ended = [id for id, old in self._entries.items() if old.exit_code is not None]
        for id in ended[: max(len(ended) - KEPT, 0)]:
            del self._entries[id]

    def get(self, id: str) -> ExecEntry:
        """Raises `NotFound` with Docker's text."""
        if id not in self._entries:
            raise NotFound(f"No such exec instance: {id}")
        return self._entries[id]

    def of(self, container: ContainerId) -> tuple[str, ...]:
        """Ids of the commands that run in a container."""
        return tuple(
            id
            for id, entry in self._entries.items()
            if entry.exec.container == container and entry.exec.running
        )

    def watch(self, until_the_end: Coroutine[Any, Any, None]) -> None:
        """Runs what waits for the end of a command, whether or not a client does."""
        task = asyncio.create_task(until_the_end)
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def close(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    def forget(self, container: ContainerId) -> None:
        for id in [id for id, entry in self._entries.items() if entry.exec.container == container]:
            del self._entries[id]
