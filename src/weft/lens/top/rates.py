"""Makes rates of what nodes have counted: of the last two readings of each node, by its own clock. A
counter that has become smaller began anew, with its interface or its container."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from weft.model.meta import SECOND, Nanoseconds
from weft.model.top import Carried, TaskCounts, TcpCounts, TopFrame


class Rate(NamedTuple):
    """Bytes a second."""

    received: float = 0.0
    sent: float = 0.0

    @property
    def both(self) -> float:
        return self.received + self.sent


class TaskRow(NamedTuple):
    """Rates are a second's."""

    name: str
    service: str
    node: str
    """Its id; of a service on several nodes, empty."""
    tasks: int
    mesh: Rate
    overlay: Rate
    outside: Rate
    connections: float
    """Accepted and opened, of TCP."""
    established: int
    retransmits: float
    failed: float
    """Attempts to connect that were refused or not answered, and connections that were reset."""
    drops: float
    """Packets that interfaces dropped, errors included."""

    @property
    def bytes(self) -> float:
        return self.mesh.both + self.overlay.both + self.outside.both


class WayRow(NamedTuple):
    node: str
    round_trip: float | None
    """Seconds; None without an answer."""


class NodeRow(NamedTuple):
    node: str
    underlay: Rate
    tunnels: Rate
    networks: tuple[tuple[str, Rate], ...]
    """The tunnels by network."""
    drops: float
    names: float
    """Questions for names that were answered."""
    names_failed: float
    ways: tuple[WayRow, ...]


class Board:
    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], tuple[Nanoseconds, TaskCounts]] = {}
        self._task_rows: dict[tuple[str, str], TaskRow] = {}
        self._nodes: dict[str, TopFrame] = {}
        self._node_rows: dict[str, NodeRow] = {}
        self.silent: dict[str, str] = {}
        """Nodes that say nothing, and why."""

    def take(self, node: str, frame: TopFrame) -> None:
        self.silent.pop(node, None)
        for counts in frame.tasks:
            key = (node, counts.name)
            at, before = self._tasks.get(key, (frame.now, counts))
            self._tasks[key] = (frame.now, counts)
            if frame.now > at:
                seconds = (frame.now - at) / SECOND
                self._task_rows[key] = _task_row(node, counts, before, seconds)
        if not frame.is_last:
            return
        last = self._nodes.get(node)
        self._nodes[node] = frame
        if last is not None and frame.now > last.now:
            self._node_rows[node] = _node_row(node, frame, last)
        for key in [k for k, (at, _) in self._tasks.items() if k[0] == node and at != frame.now]:
            del self._tasks[key]
            self._task_rows.pop(key, None)

    def lose(self, node: str, cause: str) -> None:
        """The node says nothing any more."""
        self.silent[node] = cause
        self._nodes.pop(node, None)
        self._node_rows.pop(node, None)
        for key in [key for key in self._tasks if key[0] == node]:
            del self._tasks[key]
            self._task_rows.pop(key, None)

    @property
    def left_out(self) -> int:
        return sum(frame.left_out for frame in self._nodes.values())

    def failures(self) -> Iterator[tuple[str, str]]:
        for node, frame in self._nodes.items():
            for text in frame.failed:
                yield node, text

    def nodes(self) -> list[NodeRow]:
        return [self._node_rows[node] for node in sorted(self._node_rows)]

    def tasks(self) -> list[TaskRow]:
        return list(self._task_rows.values())

    def services(self) -> list[TaskRow]:
        """Each service once; containers of users by themselves."""
        found: dict[tuple[str, str], TaskRow] = {}
        for row in self._task_rows.values():
            key = (row.service, "" if row.service else f"{row.node} {row.name}")
            known = found.get(key)
            if row.service:
                row = row._replace(name=row.service)
            found[key] = row if known is None else _together(known, row)
        return list(found.values())


SORTS = (
    "bytes",
    "name",
    "mesh",
    "networks",
    "outside",
    "connections",
    "retransmits",
    "failed",
    "drops",
)


def ordered(rows: Iterable[TaskRow], sort: str) -> list[TaskRow]:
    """`sort`: one of `SORTS`; all but the name have the largest first."""
    by_name = sorted(rows, key=lambda row: (row.name, row.node))
    match sort:
        case "name":
            return by_name
        case "mesh" | "outside":
            return sorted(by_name, key=lambda row: -getattr(row, sort).both)
        case "networks":
            return sorted(by_name, key=lambda row: -row.overlay.both)
    return sorted(by_name, key=lambda row: -getattr(row, sort))


def _together(one: TaskRow, other: TaskRow) -> TaskRow:
    return TaskRow(
        one.name,
        one.service,
        one.node if one.node == other.node else "",
        one.tasks + other.tasks,
        _sum(one.mesh, other.mesh),
        _sum(one.overlay, other.overlay),
        _sum(one.outside, other.outside),
        one.connections + other.connections,
        one.established + other.established,
        one.retransmits + other.retransmits,
        one.failed + other.failed,
        one.drops + other.drops,
    )


def _sum(one: Rate, other: Rate) -> Rate:
    return Rate(one.received + other.received, one.sent + other.sent)


def _task_row(node: str, now: TaskCounts, before: TaskCounts, seconds: float) -> TaskRow:
    tcp, then = now.tcp, before.tcp
    ways = [(now.mesh, before.mesh), (now.overlay, before.overlay), (now.outside, before.outside)]
    mesh, overlay, outside = (_rate(*pair, seconds) for pair in ways)
    return TaskRow(
        now.name,
        now.service,
        node,
        1,
        mesh,
        overlay,
        outside,
        _per(tcp.accepted, then.accepted, seconds) + _per(tcp.opened, then.opened, seconds),
        tcp.established,
        _per(tcp.retransmitted, then.retransmitted, seconds),
        _failed(tcp, then, seconds),
        sum(_drops(*pair, seconds) for pair in ways),
    )


def _failed(now: TcpCounts, then: TcpCounts, seconds: float) -> float:
    return _per(now.failed, then.failed, seconds) + _per(now.reset, then.reset, seconds)


def _node_row(node: str, now: TopFrame, before: TopFrame) -> NodeRow:
    seconds = (now.now - before.now) / SECOND
    then = {each.name: each.tunnel for each in before.networks}
    pairs = [(each.name, each.tunnel, then.get(each.name, each.tunnel)) for each in now.networks]
    networks = tuple((name, _rate(one, other, seconds)) for name, one, other in pairs)
    tunnels = Rate()
    for _, rate in networks:
        tunnels = _sum(tunnels, rate)
    underlay = (now.underlay or Carried(), before.underlay or Carried())
    drops = _drops(*underlay, seconds) + sum(_drops(a, b, seconds) for _, a, b in pairs)
    return NodeRow(
        node,
        _rate(*underlay, seconds),
        tunnels,
        networks,
        drops,
        _per(now.names_answered, before.names_answered, seconds),
        _per(now.names_failed, before.names_failed, seconds),
        tuple(
            WayRow(way.node, way.round_trip / SECOND if way.round_trip >= 0 else None)
            for way in now.ways
        ),
    )


def _rate(now: Carried, before: Carried, seconds: float) -> Rate:
    received = _per(now.received, before.received, seconds)
    return Rate(received, _per(now.sent, before.sent, seconds))


def _drops(now: Carried, before: Carried, seconds: float) -> float:
    return _per(now.dropped + now.errors, before.dropped + before.errors, seconds)


def _per(now: int, before: int, seconds: float) -> float:
    return max(0, now - before) / seconds
