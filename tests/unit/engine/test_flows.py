"""One node's part of `weft flows`: what is read, in which frames, and what changes, while containers
come and go."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest

from tests.support.frames import Frames, on_a_loop
from weft.engine import flows
from weft.engine.flows import Flows
from weft.errors import OperationFailed
from weft.model.flows import FlowsFrame, Party, Sides, Tracked, TrackedChange, TrackedTable
from weft.network.kernel_state import HOST
from weft.network.parties import FlowPlace, Parties

APP, WEB = IPv4Address("10.0.1.5"), IPv4Address("10.0.1.6")
KNOWN = {
    APP: Party("10.0.1.5", "task", "app.1", "app"),
    WEB: Party("10.0.1.6", "task", "web.1", "web"),
}
BOX, THERE = FlowPlace("a", "app.1"), FlowPlace(HOST, HOST)


def tracked(port: int, state: str = "open", target: IPv4Address = WEB) -> Tracked:
    sides = Sides(APP, port, target, 80)
    return Tracked(6, sides, sides, state)  # type: ignore[arg-type]


class Watch:
    def __init__(self) -> None:
        self.changes: asyncio.Queue[Sequence[TrackedChange] | OperationFailed | None] = (
            asyncio.Queue()
        )
        self.is_closed = False

    async def read(self) -> Sequence[TrackedChange] | None:
        found = await self.changes.get()
        if isinstance(found, OperationFailed):
            raise found
        return found

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class Node:
    """Its kernel's tables, and the watches that are open."""

    node = "n1"

    def __init__(self, **tables: Sequence[Tracked]) -> None:
        self.tables = {BOX: tables.get("box", ()), THERE: tables.get("host", ())}
        self.watches: dict[FlowPlace, list[Watch]] = {}
        self.refused: dict[FlowPlace, str] = {}
        self.counts = True
        self.reads = 0

    def flow_places(self) -> Sequence[FlowPlace]:
        return list(self.tables)

    def parties(self) -> Parties:
        return KNOWN

    async def read_connections(self, place: FlowPlace, most: int) -> TrackedTable:
        if place in self.refused:
            raise OperationFailed(self.refused[place])
        self.reads += 1
        entries = tuple(self.tables[place])
        return TrackedTable(entries[:most], len(entries) <= most, self.counts)

    async def watch_connections(self, place: FlowPlace) -> Watch:
        if place in self.refused:
            raise OperationFailed(self.refused[place])
        self.watches.setdefault(place, []).append(Watch())
        return self.watches[place][-1]

    @property
    def open(self) -> int:
        return sum(not watch.is_closed for watches in self.watches.values() for watch in watches)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(flows, "PAUSE", 1e9)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "LOOK", 0.01)
    monkeypatch.setattr(flows, "PAUSE", 0.0)


async def once(node: Node) -> list[FlowsFrame]:
    return [frame async for frame in Flows(node, lambda: 7, follow=False).frames()]


def ports(*frames: FlowsFrame) -> list[int]:
    return [seen.asked.source_port for frame in frames for seen in frame.seen]


def run(node: Node) -> Frames[FlowsFrame]:
    return Frames(Flows(node, lambda: 7, follow=True).frames(), 60)


@on_a_loop
async def test_the_first_frame_is_empty_and_then_comes_each_place() -> None:
    node = Node(box=[tracked(1), tracked(2)], host=[tracked(3)])
    first, *frames = await once(node)
    assert first == FlowsFrame(now=7)
    assert [frame.opened for frame in frames if frame.opened] == [((1, "app.1"),), ((2, HOST),)]
    assert ports(*frames) == [1, 2, 3]
    told = next(frame for frame in frames if frame.seen)
    assert told.is_table
    assert [p.name for p in told.parties] == ["app.1", "web.1"]


@on_a_loop
async def test_many_connections_come_in_frames_of_moderate_size() -> None:
    node = Node(box=[tracked(port) for port in range(1, 5001)])
    frames = await once(node)
    assert ports(*frames) == list(range(1, 5001))
    assert max(len(frame.seen) for frame in frames) <= flows.SIZE // 80


@on_a_loop
async def test_what_cannot_be_read_is_named_and_the_rest_is_told(
) -> None:  # fmt: skip
    node = Node(host=[tracked(3)])
    node.refused[BOX] = "it is gone"
    node.counts = False
    frames = await once(node)
    assert [frame.failed for frame in frames if frame.failed] == [("app.1: it is gone",)]
    assert ports(*frames) == [3]
    assert sum(frame.uncounted for frame in frames) == 1


@on_a_loop
async def test_no_more_than_a_limit_is_read_and_that_is_said() -> None:
    node = Node(box=[tracked(port) for port in range(flows.MOST + 1)])
    frames = await once(node)
    assert len(ports(*frames)) == flows.MOST
    assert sum(frame.left_out for frame in frames) == 1


@on_a_loop
async def test_changes_are_told_as_they_come() -> None:
    node = Node(box=[tracked(1)])
    async with run(node) as running:
        assert ports(await running.until("seen")) == [1]
        changes = [TrackedChange(tracked(2), False), TrackedChange(tracked(1), True)]
        node.watches[BOX][0].changes.put_nowait(changes)
        frame = await running.until("seen")
        assert [(s.asked.source_port, s.ended) for s in frame.seen] == [(2, False), (1, True)]
        assert not frame.is_table
    assert node.open == 0


@on_a_loop
async def test_places_come_and_go() -> None:
    node = Node()
    async with run(node) as running:
        (number, name) = (await running.until("opened")).opened[0]
        assert name == "app.1"
        del node.tables[BOX]
        assert (await running.until("closed")).closed == (number,)
        assert node.open == 1
        node.watches[THERE][0].changes.put_nowait(OperationFailed("gone"))
        assert (await running.until("closed")).closed
        assert (await running.until("opened")).opened[0][1] == HOST
    assert node.open == 0


@on_a_loop
async def test_a_table_is_read_again_when_changes_were_lost() -> None:
    node = Node(box=[tracked(1)])
    async with run(node) as running:
        (before, _) = (await running.until("opened")).opened[0]
        await running.until("seen")
        node.tables[BOX] = [tracked(1), tracked(2)]
        node.watches[BOX][0].changes.put_nowait(None)
        frame = await running.until("seen")
        assert ports(frame) == [1, 2]
        assert frame.seen[0].place != before
        frame = await running.until("closed")
        assert (frame.closed, frame.lost) == ((before,), 1)
    assert node.open == 0


@on_a_loop
async def test_nothing_is_read_while_nothing_is_taken() -> None:
    node = Node()
    async with run(node) as running:
        await running.until("opened")
        await running.until("opened")
        many = [TrackedChange(tracked(1), False)] * 5000
        for _ in range(20):
            node.watches[BOX][0].changes.put_nowait(many)
        for _ in range(100):
            await asyncio.sleep(0)
        assert node.watches[BOX][0].changes.qsize() >= 15


@on_a_loop
async def test_a_place_that_cannot_be_watched_is_named_once_and_tried_again() -> None:
    node = Node()
    node.refused[BOX] = "no such thing"
    async with run(node) as running:
        assert (await running.until("failed")).failed == ("app.1: no such thing",)
        await running.until("opened")
        del node.refused[BOX]
        assert (await running.until("opened")).opened[0][1] == "app.1"


@pytest.mark.usefixtures("patient")
@on_a_loop
async def test_nobody_listens_for_a_while_where_changes_were_lost() -> None:
    node = Node(box=[tracked(1)])
    async with run(node) as running:
        await running.until("seen")
        await running.until("opened")
        reads = node.reads
        node.watches[BOX][0].changes.put_nowait(None)
        node.watches[THERE][0].changes.put_nowait([TrackedChange(tracked(2), False)])
        assert ports(await running.until("seen")) == [2]
        assert node.watches[BOX][0].is_closed
        assert (node.reads, node.open) == (reads, 1)
    assert node.open == 0
