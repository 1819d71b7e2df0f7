"""A bounded queue from several producers to one consumer. `give` waits while too much is queued;
`take` gives everything that is queued.
"""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    def __init__(self, limit: int) -> None:
        """`limit`: on the sum of the sizes of the queued items. A larger item passes if the queue
        is empty."""
        self._limit = limit
        self._items: list[T] = []
        self._size = 0
        self._closed = False
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def give(self, item: T, size: int) -> None:
        while self._size > 0 and self._size + size > self._limit:
            self._room.clear()
            await self._room.wait()
        self._items.append(item)
        self._size += size
        self._some.set()

    async def take(self) -> list[T]:
        """All queued items, at least one; none when the queue is closed and empty."""
        while not self._items and not self._closed:
            self._some.clear()
            await self._some.wait()
        items, self._items, self._size = self._items, [], 0
        self._room.set()
        return items

    def close(self) -> None:
        """The producers give nothing more."""
        self._closed = True
        self._some.set()
