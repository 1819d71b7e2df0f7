"""After the host has rebooted: what becomes of tasks whose containers were over when the agent
began (`RebootVerdict`).

A manager that is reached within `ALONE` seconds puts others in their place, and hears of the ends
first. Where none is, the containers are started again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from weft.agent.records import Records
from weft.agent.task_steps import RebootVerdict
from weft.engine.engine import Engine
from weft.model.container import Container, ContainerState
from weft.model.ids import TaskId
from weft.model.task import TaskState

log = logging.getLogger(__name__)

ALONE = 5.0
"""Seconds until a host that has rebooted does without a manager. After that its tasks are as they
were, but may have been given up."""
SETTLE = 1.0
"""Seconds that a manager is let wait for the ends that are yet to be noticed."""


class Reboot:
    def __init__(self, engine: Engine, records: Records, wake: Callable[[TaskId], None]) -> None:
        """`wake` is called for each task of which it is decided whether it starts again."""
        self._engine = engine
        self._records = records
        self._wake = wake
        self._verdict = RebootVerdict.OPEN
        self._ended: set[TaskId] = set()
        self._reported = asyncio.Event()

    def look(self) -> None:
        """Before any container is started."""
        running = {
            c.id for c in self._engine.containers.values() if c.state is ContainerState.RUNNING
        }
        started = (TaskState.STARTING, TaskState.RUNNING)
        self._ended = {
            t for t, r in self._records.all.items() if r.status.state in started and r.container not in running
        }  # fmt: skip

    def verdict(self, container: Container | None) -> RebootVerdict:
        return self._verdict if container is not None and container.was_lost else RebootVerdict.OVER

    def reported(self) -> None:
        """The status of a task has changed."""
        self._reported.set()

    async def do_without_manager(self) -> None:
        await asyncio.sleep(ALONE)
        if self._verdict is RebootVerdict.OPEN:
            self._decide(RebootVerdict.REVIVED)

    async def reached(self) -> None:
        """A manager is there. Returns when the ends are known."""
        if self._verdict is RebootVerdict.OPEN:
            self._decide(RebootVerdict.OVER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while self._verdict is RebootVerdict.OVER and any(
                    self._is_ending(task) for task in self._ended
                ):
                    self._reported.clear()
                    await self._reported.wait()
        self._ended.clear()

    def _is_ending(self, task: TaskId) -> bool:
        record = self._records.get(task)
        return record is not None and not record.status.state.is_terminal

    def _decide(self, verdict: RebootVerdict) -> None:
        self._verdict = verdict
        log.info("agent.reboot_verdict verdict=%s ended=%d", verdict.name, len(self._ended))
        for task in self._ended:
            self._wake(task)
