"""Writers that each want the lowest free slot: an invariant across objects, which only the order of
commits upholds.

None of them writes what another one has written, so comparing versions is not enough: whoever
decided on an old state would give a slot twice.
"""

import asyncio
import random
from collections.abc import Sequence

import msgspec

from weft.errors import OutOfSequence, Unavailable
from weft.model.ids import ServiceId, TaskId
from weft.model.service import ContainerSpec, TaskSpec
from weft.model.state import ClusterState, Put
from weft.model.task import Task, TaskState, TaskStatus
from weft.store.base import Store

_SPEC = TaskSpec(container=ContainerSpec(image="demo"))
_NEW = TaskStatus(TaskState.NEW)


class SlotWriters:
    def __init__(self, stores: Sequence[Store], randomness: random.Random, pause: float) -> None:
        """`pause`: seconds after a failure, at most."""
        self._stores, self._random, self._pause = stores, randomness, pause
        self.acknowledged: set[TaskId] = set()

    async def write(self, writer: int, count: int) -> None:
        """So many tasks, through one of the stores, whatever it takes."""
        store = self._stores[writer % len(self._stores)]
        for id in [TaskId(f"w{writer}-{number}") for number in range(count)]:
            while id not in store.state.tasks:
                task = Task(
                    id=id,
                    service=ServiceId("s"),
                    service_name="web",
                    spec=_SPEC,
                    status=_NEW,
                    slot=_lowest(store.state),
                )
                try:
                    await store.commit([Put(task)])
                    self.acknowledged.add(id)
                except (OutOfSequence, Unavailable):
                    await asyncio.sleep(self._random.random() * self._pause)

    async def touch(self, count: int) -> None:
        """Commits between them that look at nothing but what they write."""
        for _ in range(count):
            await asyncio.sleep(self._random.random() * self._pause)
            store = self._random.choice(self._stores)
            if store.state.tasks:
                chosen = self._random.choice(list(store.state.tasks.values()))
                try:
                    await store.commit(
                        [Put(msgspec.structs.replace(chosen, service_name="seen"))],
                        independent=True,
                    )
                except (OutOfSequence, Unavailable):
                    continue

    def check(self, state: ClusterState) -> None:
        """Raises `AssertionError` if a slot was given twice, or if what was acknowledged is not
        there."""
        taken = sorted(task.slot for task in state.tasks.values())
        assert taken == list(range(len(taken))), taken
        assert self.acknowledged <= set(state.tasks), self.acknowledged - set(state.tasks)


def _lowest(state: ClusterState) -> int:
    taken = {task.slot for task in state.tasks.values()}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)
