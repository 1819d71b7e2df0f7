"""A bounded queue from several producers to one consumer. `give` waits while too much is queued;
`take` gives everything that is queued.

Producers that have something to give at the same time share the room equally, and those that wait
are served in the order in which they came: a producer that always has more to give does not keep
the others out.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Waiting(Generic[T]):
    """An item for which there was no room yet. `taken` is done when the item is queued."""

    producer: Hashable
    item: T
    size: int
    taken: asyncio.Future[None]


class BoundedQueue(Generic[T]):
    def __init__(self, limit: int) -> None:
        """`limit`: on the sum of the sizes of the queued items. A larger item passes if the queue
        is empty."""
        self._limit = limit
        self._items: list[T] = []
        self._held: dict[Hashable, int] = {}
        """Sizes of the queued items, by producer."""
        self._line: deque[Waiting[T]] = deque()
        self._size = 0
        self._closed = False
        self._some = asyncio.Event()

    async def give(self, producer: Hashable, item: T, size: int) -> None:
        if not self._line and self._fits(size):
            # As `_admit`, in fewer steps: this is the common case, once for each line of a log.
            held = self._held.get(producer, 0)
            if held == 0 or held + size <= self._limit // len(self._held):
                self._put(producer, item, size)
                return
        waiting = Waiting(producer, item, size, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._admit()
        try:
            await waiting.taken
        except asyncio.CancelledError:
            if waiting in self._line:
                self._line.remove(waiting)
                self._admit()
            raise

    async def take(self) -> list[T]:
        """All queued items, at least one; none when the queue is closed and empty."""
        while not self._items and not self._closed:
            self._some.clear()
            await self._some.wait()
        items, self._items = self._items, []
        self._held.clear()
        self._size = 0
        self._admit()
        return items

    @property
    def is_empty(self) -> bool:
        """Nothing is queued, and no producer waits."""
        return not self._items and not self._line

    def close(self) -> None:
        """The producers give nothing more."""
        self._closed = True
        self._some.set()

    def _admit(self) -> None:
        """Queues what waits, in the order in which it came, as far as there is room. Every producer
        may queue one item, and more up to its share."""
        if not self._line:
            return
        share = self._limit // len({*self._held, *(each.producer for each in self._line)})
        left: deque[Waiting[T]] = deque()
        while self._line and self._fits(self._line[0].size):
            waiting = self._line.popleft()
            if waiting.taken.cancelled():
                continue
            held = self._held.get(waiting.producer, 0)
            if held == 0 or held + waiting.size <= share:
                self._put(waiting.producer, waiting.item, waiting.size)
                waiting.taken.set_result(None)
            else:
                left.append(waiting)
        self._line.extendleft(reversed(left))

    def _fits(self, size: int) -> bool:
        return not self._items or self._size + size <= self._limit

    def _put(self, producer: Hashable, item: T, size: int) -> None:
        self._items.append(item)
        self._held[producer] = self._held.get(producer, 0) + size
        self._size += size
        self._some.set()
