"""One node's part of a capture: which interfaces are watched, while containers come and go."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.frames import Frames, on_a_loop
from weft.engine import captures
from weft.engine.captures import Capture
from weft.errors import OperationFailed
from weft.model.capture import HEADER, CaptureFrame, CaptureWanted, Instruction
from weft.network.vantage import Vantage

WEB, DB = Vantage("web.1/eth0", "a", "eth0"), Vantage("db.1/eth0", "b", "eth0")
PACKET = HEADER.pack(1, 2, 2, 0) + b"ab"


class Tap:
    def __init__(self) -> None:
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost = 0
        self.is_gone = self.is_closed = False

    async def read(self) -> bytes:
        data = await self.packets.get()
        if not data:
            raise OperationFailed("the interface is gone")
        return data

    @property
    def is_waiting(self) -> bool:
        return self.packets.empty()

    def dropped(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class Node:
    def __init__(self, *there: Vantage) -> None:
        self.there = list(there)
        self.taps: dict[Vantage, list[Tap]] = {}
        self.refused: dict[Vantage, str] = {}

    def vantages(self, wanted: CaptureWanted) -> Sequence[Vantage]:
        return tuple(self.there)

    async def open_tap(self, vantage: Vantage, program: Sequence[Instruction], memory: int) -> Tap:
        if vantage in self.refused:
            raise OperationFailed(self.refused[vantage])
        self.taps.setdefault(vantage, []).append(Tap())
        return self.taps[vantage][-1]

    @property
    def open(self) -> int:
        return sum(not tap.is_closed for taps in self.taps.values() for tap in taps)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "LOOK", 0.01)


def run(node: Node) -> Frames[CaptureFrame]:
    return Frames(Capture(node, lambda: 7, CaptureWanted()).frames(), 10)


@on_a_loop
async def test_the_first_frame_comes_at_once_and_names_the_interfaces() -> None:
    async with run(Node(WEB, DB)) as running:
        first = await anext(running.frames)
    assert (first.now, first.opened) == (7, ((0, "web.1/eth0"), (1, "db.1/eth0")))


@on_a_loop
async def test_packets_come_with_the_number_of_their_interface() -> None:
    node = Node(WEB, DB)
    async with run(node) as running:
        await running.until("opened")
        node.taps[DB][0].packets.put_nowait(PACKET)
        assert (await running.until("packets")).packets == ((1, PACKET),)


@on_a_loop
async def test_containers_come_and_go() -> None:
    node = Node(WEB)
    async with run(node) as running:
        await running.until("opened")
        node.there = [DB]
        assert (await running.until("opened")).opened == ((1, "db.1/eth0"),)
        assert node.taps[WEB][0].is_closed
    assert node.open == 0


@on_a_loop
async def test_an_interface_that_is_made_anew_is_watched_again() -> None:
    node = Node(WEB)
    async with run(node) as running:
        await running.until("opened")
        node.taps[WEB][0].packets.put_nowait(b"")
        assert (await running.until("opened")).opened == ((1, "web.1/eth0"),)
    assert node.open == 0


@on_a_loop
async def test_what_was_lost_is_told_once() -> None:
    node = Node(WEB)
    async with run(node) as running:
        await running.until("opened")
        node.taps[WEB][0].lost = 3
        assert (await running.until("dropped")).dropped == ((0, 3),)
        assert not (await anext(running.frames)).dropped


@on_a_loop
async def test_an_interface_that_cannot_be_watched_is_told_once_and_tried_again() -> None:
    node = Node(WEB, DB)
    node.refused[DB] = "cannot watch interface eth0: no such device"
    async with run(node) as running:
        first = await anext(running.frames)
        assert first.failed == ("db.1/eth0: cannot watch interface eth0: no such device",)
        assert not (await anext(running.frames)).failed
        del node.refused[DB]
        assert (await running.until("opened")).opened == ((1, "db.1/eth0"),)


@on_a_loop
async def test_nothing_is_read_while_the_manager_takes_nothing() -> None:
    node = Node(WEB)
    large = HEADER.pack(1, 60_000, 60_000, 0) + bytes(60_000)
    async with run(node) as running:
        await running.until("opened")
        for _ in range(20):
            node.taps[WEB][0].packets.put_nowait(large)
        for _ in range(100):
            await asyncio.sleep(0)
        assert node.taps[WEB][0].packets.qsize() >= 17
