"""Puts the packets of all nodes into the order in which they were seen.

Packets of one interface come in order, a block at a time; another interface's or node's may come
later. So each packet waits until nothing earlier can come any more: `PATIENCE` behind the latest
time that a node has told. Times are the manager's: each node's clock is corrected by how far it is
ahead."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from weft.model.capture import NodePackets, Record, records
from weft.model.meta import SECOND, Nanoseconds

PATIENCE = SECOND
"""A block is handed over after 0.1 s at the latest; the rest is for the way here."""


class Packet(NamedTuple):
    time: Nanoseconds
    """By the manager's clock."""
    number: int
    """The order in which packets of one time came."""
    node: str
    interface: str
    record: Record

    @property
    def place(self) -> str:
        """`node1/webapp.1/eth0`"""
        return f"{self.node}/{self.interface}"


class Order:
    def __init__(self) -> None:
        self._waiting: list[Packet] = []
        self._names: dict[tuple[str, int], str] = {}
        self._count = 0
        self._latest = 0

    def add(self, packets: NodePackets) -> Iterator[Packet]:
        """Takes a node's frame, and gives the packets whose turn it is. Raises `InvalidArgument`
        for records that are none."""
        node, frame = packets.node, packets.frame
        for number, name in frame.opened:
            self._names[node, number] = name
        for number, data in frame.packets:
            interface = self.name(node, number)
            for record in records(data):
                time = max(0, record.time - packets.ahead)
                heapq.heappush(self._waiting, Packet(time, self._count, node, interface, record))
                self._count += 1
        self._latest = max(self._latest, frame.now - packets.ahead)
        yield from self._until(self._latest - PATIENCE)

    def name(self, node: str, number: int) -> str:
        return self._names.get((node, number), f"interface {number}")

    def rest(self) -> Iterator[Packet]:
        """All that still waits."""
        yield from self._until(None)

    def _until(self, time: Nanoseconds | None) -> Iterator[Packet]:
        while self._waiting and (time is None or self._waiting[0].time <= time):
            yield heapq.heappop(self._waiting)
