"""From those who have something to the one who takes it, without a queue that grows: who gives
waits while too much has not been taken, who takes gets all that there is.
"""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    def __init__(self, limit: int) -> None:
        """`limit`: of the sizes of what has not been taken. What is larger passes alone."""
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
        """At least one; none when it was closed and all is taken."""
        while not self._items and not self._closed:
            self._some.clear()
            await self._some.wait()
        items, self._items, self._size = self._items, [], 0
        self._room.set()
        return items

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._some.set()
