"""Processes in a simulation: groups of tasks in one event loop that die together, at any await,
without a word.

A task belongs to the process of the one that made it. `kill` cancels all tasks of a process; what
they still do because of that (`finally`) must reach nobody: whoever kills first takes away what the
process has to the outside (`SimHost.kill`).
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

OUTSIDE = ""
"""What belongs to no process: the test, the network, etcd."""


class Processes:
    def __init__(self) -> None:
        """Inside the running loop, whose tasks it counts from then on."""
        self._current = contextvars.ContextVar("process", default=OUTSIDE)
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}
        # of Python 3.11
        asyncio.get_running_loop().set_task_factory(self._make)  # type: ignore[arg-type]

    def spawn(self, process: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task in that process, whoever asks for it."""
        context = contextvars.copy_context()
        context.run(self._current.set, process)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def kill(self, process: str) -> None:
        """Returns when nothing of it is left."""
        while alive := [task for task in self._tasks.pop(process, ()) if not task.done()]:
            for task in alive:
                task.cancel()
            _, left = await asyncio.wait(alive, timeout=0.001)
            self._tasks.setdefault(process, set()).update(left)

    def _make(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, context=context)
        process = self._current.get() if context is None else context.get(self._current, OUTSIDE)
        if process != OUTSIDE:
            tasks = self._tasks.setdefault(process, set())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task
