"""One node's part of a capture: which interfaces are watched, while containers come and go."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence

import pytest

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


def on_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "LOOK", 0.01)


class Run:
    """Frames of a capture, asked for one by one."""

    def __init__(self, node: Node) -> None:
        self.frames = Capture(node, lambda: 7, CaptureWanted()).frames()

    async def until(self, wanted: str) -> CaptureFrame:
        """The next frame with something in that field."""
        async with asyncio.timeout(10):
            while True:
                frame = await anext(self.frames)
                if getattr(frame, wanted):
                    return frame

    async def __aenter__(self) -> "Run":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.frames.aclose()


@on_a_loop
async def test_the_first_frame_comes_at_once_and_names_the_interfaces() -> None:
    async with Run(Node(WEB, DB)) as run:
        first = await anext(run.frames)
    assert (first.now, first.opened) == (7, ((0, "web.1/eth0"), (1, "db.1/eth0")))


@on_a_loop
async def test_packets_come_with_the_number_of_their_interface() -> None:
    node = Node(WEB, DB)
    async with Run(node) as run:
        await run.until("opened")
        node.taps[DB][0].packets.put_nowait(PACKET)
        assert (await run.until("packets")).packets == ((1, PACKET),)


@on_a_loop
async def test_containers_come_and_go() -> None:
    node = Node(WEB)
    async with Run(node) as run:
        await run.until("opened")
        node.there = [DB]
        assert (await run.until("opened")).opened == ((1, "db.1/eth0"),)
        assert node.taps[WEB][0].is_closed
    assert node.open == 0


@on_a_loop
async def test_an_interface_that_is_made_anew_is_watched_again() -> None:
    node = Node(WEB)
    async with Run(node) as run:
        await run.until("opened")
        node.taps[WEB][0].packets.put_nowait(b"")
        assert (await run.until("opened")).opened == ((1, "web.1/eth0"),)
    assert node.open == 0


@on_a_loop
async def test_what_was_lost_is_told_once() -> None:
    node = Node(WEB)
    async with Run(node) as run:
        await run.until("opened")
        node.taps[WEB][0].lost = 3
        assert (await run.until("dropped")).dropped == ((0, 3),)
        assert not (await anext(run.frames)).dropped


@on_a_loop
async def test_an_interface_that_cannot_be_watched_is_told_once_and_tried_again() -> None:
    node = Node(WEB, DB)
    node.refused[DB] = "cannot watch interface eth0: no such device"
    async with Run(node) as run:
        first = await anext(run.frames)
        assert first.failed == ("db.1/eth0: cannot watch interface eth0: no such device",)
        assert not (await anext(run.frames)).failed
        del node.refused[DB]
        assert (await run.until("opened")).opened == ((1, "db.1/eth0"),)


@on_a_loop
async def test_nothing_is_read_while_the_manager_takes_nothing() -> None:
    node = Node(WEB)
    large = HEADER.pack(1, 60_000, 60_000, 0) + bytes(60_000)
    async with Run(node) as run:
        await run.until("opened")
        for _ in range(20):
            node.taps[WEB][0].packets.put_nowait(large)
        for _ in range(100):
            await asyncio.sleep(0)
        assert node.taps[WEB][0].packets.qsize() >= 17
