"""Puts the packets of all nodes into the order in which they were seen.

Packets of one interface come in order, a block at a time; another interface's or node's may come
later. So a packet waits until every node has told what it saw up to that time and `PATIENCE` more,
for the interfaces of a node do not tell at the same time. A node that lags behind by `LONGEST`
keeps the others waiting no longer. Times are the manager's: each node's clock is corrected by how
far it is ahead."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from weft.model.capture import NodePackets, records
from weft.model.meta import SECOND, Nanoseconds

PATIENCE = SECOND // 2
"""A node hands packets over 0.1 s after it has seen them; the rest is for a busy host."""
LONGEST = 10 * SECOND
_TIME = itemgetter(0)


class Packet(NamedTuple):
    time: Nanoseconds
    """By the manager's clock."""
    place: str
    """`node1/webapp.1/eth0`"""
    length: int
    """Bytes on the wire."""
    sent: int
    """1 if the interface sent it, 0 if it received it."""
    data: bytes
    """The first bytes of the Ethernet frame."""


class Order:
    def __init__(self) -> None:
        self._waiting: list[Packet] = []
        self._places: dict[tuple[str, int], str] = {}
        self._told: dict[str, Nanoseconds] = {}
        """Up to which time each node has told what it has seen."""

    def add(self, packets: NodePackets) -> Sequence[Packet]:
        """Takes a node's frame, and gives the packets whose turn it is. Raises `InvalidArgument`
        for records that are none."""
        node, frame, ahead = packets.node, packets.frame, packets.ahead
        for number, name in frame.opened:
            self._places[node, number] = f"{node}/{name}"
        latest = frame.now if frame.caught_up else 0
        for number, data in frame.packets:
            place = self.place(node, number)
            for time, length, sent, kept in records(data):
                self._waiting.append(Packet(max(0, time - ahead), place, length, sent, kept))
                latest = max(latest, time)
        self._told[node] = max(self._told.get(node, 0), latest - ahead)
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

    def rest(self) -> Sequence[Packet]:
        """All that still waits."""
        self._waiting.sort(key=_TIME)
        rest, self._waiting = self._waiting, []
        return rest

    def _until(self, time: Nanoseconds) -> Sequence[Packet]:
        """Sorting is cheap: what waits is sorted already, but for what this frame has added."""
        self._waiting.sort(key=_TIME)
        turn = bisect_right(self._waiting, time, key=_TIME)
        found, self._waiting = self._waiting[:turn], self._waiting[turn:]
        return found
