"""The records of the agent's tasks: a container id, a sandbox, and the status last reported. Kept
on disk.

A task's record is written before anything in it is used. The sandbox is removed from the record
only when the kernel has forgotten the namespace. So whenever a daemon is killed, the next one finds
every container and every address that is held. `engine/sandboxes.py` chooses the values; `Records`
only remembers, and writes many changes at once."""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from weft.engine.sandboxes import new_sandbox
from weft.model.ids import ContainerId, TaskId
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.task import TaskStatus
from weft.model.workload import Workload
from weft.system.value_file import ValueFile

FLUSH_DELAY = 0.005
"""Seconds that a change waits for others to be written with it."""


class TaskRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    container: ContainerId
    """Chosen once; the container may not exist yet, or no longer."""
    status: TaskStatus
    sandbox: Sandbox | None = None
    """None before the task got a sandbox, on the host's network, and after the release."""


class RecordBook(msgspec.Struct, frozen=True):
    """The content of the file."""

    records: dict[TaskId, TaskRecord]
    cursor: int = 0
    """The gateway address given last, as an integer: the next search begins behind it."""


class Records:
    def __init__(self, file: ValueFile[RecordBook]) -> None:
        self._file = file
        book = file.read() or RecordBook({})
        self._records = dict(book.records)
        self._cursor = book.cursor
        self._flush: asyncio.Task[None] | None = None

    @property
    def all(self) -> Mapping[TaskId, TaskRecord]:
        return self._records

    def get(self, task: TaskId) -> TaskRecord | None:
        return self._records.get(task)

    def put(self, task: TaskId, record: TaskRecord) -> None:
        """Remembers a record at once. The record is on disk when `saved` returns, or soon."""
        self._records[task] = record
        self._schedule()

    def forget(self, task: TaskId) -> None:
        if self._records.pop(task, None) is not None:
            self._schedule()

    def give(
        self, workload: Workload, facts: NodeFacts, id: str, others: Iterable[Sandbox] = ()
    ) -> Sandbox:
        """A new sandbox for a task that has a record. `others`: sandboxes here that are not tasks'.
        Raises `Exhausted`."""
        task = TaskId(workload.id)
        record = self._records[task]
        own = (r.sandbox for r in self._records.values() if r.sandbox is not None)
        held = [*own, *others]
        sandbox = new_sandbox(id, workload, record.container, facts, held, self._cursor)
        self._cursor = int(sandbox.gateway.ip)
        self.put(task, msgspec.structs.replace(record, sandbox=sandbox))
        return sandbox

    async def saved(self) -> None:
        """Returns when everything put so far is on disk. Raises `OperationFailed`."""
        if self._flush is not None:
            await asyncio.shield(self._flush)

    def close(self) -> None:
        """Writes what has not been written yet."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
            self._write()

    def _schedule(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._flush_soon())
            self._flush.add_done_callback(_retrieve)

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_DELAY)
        self._flush = None
        self._write()

    def _write(self) -> None:
        self._file.write(RecordBook(self._records, self._cursor))


def _retrieve(task: asyncio.Task[None]) -> None:
    """Ignores the error of a write that nobody awaits: callers that need the write await `saved`,
    and the next change writes again."""
    if not task.cancelled():
        task.exception()
