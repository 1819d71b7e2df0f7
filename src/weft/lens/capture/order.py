"""Puts the packets of all nodes into the order in which they were seen.

Packets of one interface come in order, a block at a time; another interface's or node's may come
later. So a packet waits until every node has told what it saw up to that time and `PATIENCE` more,
for the interfaces of a node do not tell at the same time. A node that lags behind by `LONGEST`
keeps the others waiting no longer. Times are the manager's: each node's clock is corrected by how
far it is ahead."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

from weft.model.capture import NodePackets
from weft.model.meta import SECOND, Nanoseconds

PATIENCE = SECOND // 2
"""A node hands packets over 0.1 s after it has seen them; the rest is for a busy host."""
LONGEST = 10 * SECOND
_TIME = itemgetter(0)

T = TypeVar("T")
Timed = tuple[Nanoseconds, T]
Read = Callable[[str, bytes, Nanoseconds], Sequence[Timed[T]]]
"""From a place (`node1/webapp.1/eth0`), the records of some packets seen there, and by how much
their times are ahead: what is kept of each packet, with its time. Raises `InvalidArgument`."""


class Order(Generic[T]):
    def __init__(self, read: Read[T]) -> None:
        self._read = read
        self._waiting: dict[str, list[Timed[T]]] = {}
        """By place, in the order of their times."""
        self._places: dict[tuple[str, int], str] = {}
        self._told: dict[str, Nanoseconds] = {}
        """Up to which time each node has told what it has seen."""

    def add(self, packets: NodePackets) -> Sequence[Timed[T]]:
        """Takes a node's frame, and gives the packets whose turn it is. Raises `InvalidArgument`
        for records that are none."""
        node, frame, ahead = packets.node, packets.frame, packets.ahead
        for number, name in frame.opened:
            self._places[node, number] = f"{node}/{name}"
        latest = frame.now - ahead if frame.caught_up else 0
        for number, data in frame.packets:
            place = self.place(node, number)
            if found := self._read(place, data, ahead):
                self._waiting.setdefault(place, []).extend(found)
                latest = max(latest, found[-1][0])
        self._told[node] = max(self._told.get(node, 0), latest)
        return self._until(max(min(self._told.values()) - PATIENCE, frame.now - ahead - LONGEST))

    def forget(self, node: str) -> None:
        """The node tells nothing more."""
        self._told.pop(node, None)

    def has_told(self, time: Nanoseconds) -> bool:
        """Whether each node has told what it had seen at that time."""
        return all(told > time + PATIENCE for told in self._told.values())

    def place(self, node: str, number: int) -> str:
        """Where an interface of a frame is."""
        return self._places.get((node, number), f"{node}/interface {number}")

    def rest(self) -> Sequence[Timed[T]]:
        """All that still waits."""
        rest = sorted((each for waiting in self._waiting.values() for each in waiting), key=_TIME)
        self._waiting.clear()
        return rest

    def _until(self, time: Nanoseconds) -> Sequence[Timed[T]]:
        found = list[Timed[T]]()
        for waiting in self._waiting.values():
            if waiting and waiting[0][0] <= time:
                turn = bisect_right(waiting, time, key=_TIME)
                found += waiting[:turn]
                del waiting[:turn]
        found.sort(key=_TIME)
        return found
