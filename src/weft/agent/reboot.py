"""Decides what becomes of tasks whose containers had ended when the agent began, as after a reboot
of the host (`RebootVerdict`).

A manager that is reached within `ALONE` seconds hears of the ends first, and replaces the tasks.
Without a manager the containers are started again."""

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
"""Seconds until a rebooted host goes on without a manager. After that its tasks are as they were,
but the swarm may have given them up."""
SETTLE = 1.0
"""Seconds that the first message to a manager waits for ends that are yet to be noticed."""


class Reboot:
    def __init__(self, engine: Engine, records: Records, wake: Callable[[TaskId], None]) -> None:
        """`wake` is called for each task once its restart is decided."""
        self._engine = engine
        self._records = records
        self._wake = wake
        self._verdict = RebootVerdict.OPEN
        self._ended: set[TaskId] = set()
        self._reported = asyncio.Event()

    def look(self) -> None:
        """Notes the tasks whose containers have ended. Call this before any container is
        started."""
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
        """A manager was reached. Returns when the ends are known, at the latest after `SETTLE`
        seconds."""
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
