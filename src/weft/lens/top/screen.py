"""`weft top` as text: lines for a terminal of a given size, and values for programs."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from weft.lens.flows.rows import Names, octets
from weft.lens.top.rates import Board, NodeRow, Rate, TaskRow, WayRow, ordered

KEYS = "q quits, s sorts, t tasks, / filters"
_NODE = ("NODE", "UNDERLAY in", "out", "TUNNELS in", "out", "DROPS", "NAMES", "ROUND TRIPS")
_TASK = ("NODE", "MESH in", "out", "NETWORKS in", "out", "OUTSIDE in", "out", "CONN", "OPEN",
         "RETRANS", "FAILED", "DROPS")  # fmt: skip


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants to see."""

    sort: str = "bytes"
    filter: str = ""
    """A part of the name of a service, task or node."""
    tasks: bool = False
    """Tasks instead of services."""


def shown(board: Board, names: Names, view: View) -> list[TaskRow]:
    rows = board.tasks() if view.tasks else board.services()
    return ordered((row for row in rows if _matches(row, names, view.filter)), view.sort)


def _matches(row: TaskRow, names: Names, wanted: str) -> bool:
    return any(wanted in text for text in (row.name, row.service, _node(row, names)))


def lines(board: Board, names: Names, view: View, live: bool = False) -> list[str]:
    """All rates are a second's."""
    nodes = sorted(board.nodes(), key=lambda row: names.node(row.node))
    found = [_title(board, view, len(nodes), live), ""]
    found += _table(_NODE, [_node_cells(row, names) for row in nodes], {0, 7})
    for node, cause in sorted(board.silent.items()):
        found.append(f"{names.node(node)}: no answer: {cause}")
    for node, text in board.failures():
        found.append(f"{names.node(node)}: {text}")
    head = ("TASK" if view.tasks else "SERVICE", *_TASK)
    rows = [_task_cells(row, names) for row in shown(board, names, view)]
    found += ["", *_table(head, rows, {0, 1})]
    return found


def fitted(text: Sequence[str], width: int, height: int) -> list[str]:
    """The lines that a terminal has room for, each cut to its width."""
    if len(text) > height > 0:
        more = len(text) - height + 1
        text = [*text[: height - 1], f"… {more} more"]
    return [_cut(line, width) for line in text[: max(height, 0)]]


def _cut(line: str, width: int) -> str:
    """Columns, as far as a name has wide characters."""
    taken = 0
    for at, character in enumerate(line):
        taken += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if taken > width:
            return line[:at]
    return line


def _title(board: Board, view: View, nodes: int, live: bool) -> str:
    what = "tasks" if view.tasks else "services"
    parts = [f"weft top: {nodes} nodes, {what} by {view.sort}"]
    if view.filter:
        parts.append(f"filter {view.filter!r}")
    if left_out := board.left_out:
        parts.append(f"{left_out} tasks or ways are not shown")
    if live:
        parts.append(KEYS)
    return "; ".join(parts)


def _node_cells(row: NodeRow, names: Names) -> tuple[str, ...]:
    ways = ", ".join(sorted(f"{names.node(way.node)} {_way(way)}" for way in row.ways))
    failed = f" ({_number(row.names_failed)} failed)" if row.names_failed else ""
    return (
        names.node(row.node),
        *_rates(row.underlay, row.tunnels),
        _number(row.drops),
        f"{_number(row.names)}{failed}",
        ways or "-",
    )


def _task_cells(row: TaskRow, names: Names) -> tuple[str, ...]:
    return (
        row.name if row.tasks == 1 else f"{row.name} ({row.tasks})",
        _node(row, names),
        *_rates(row.mesh, row.overlay, row.outside),
        _number(row.connections),
        str(row.established),
        _number(row.retransmits),
        _number(row.failed),
        _number(row.drops),
    )


def _node(row: TaskRow, names: Names) -> str:
    return names.node(row.node) if row.node else "several"


def _rates(*rates: Rate) -> Iterator[str]:
    for rate in rates:
        yield _octets(rate.received)
        yield _octets(rate.sent)


def _octets(number: float) -> str:
    return octets(number) if number else "-"


def _number(number: float) -> str:
    if not number:
        return "-"
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def _way(way: WayRow) -> str:
    return "no answer" if way.round_trip is None else f"{way.round_trip * 1000:.2f} ms"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], left: set[int]) -> Iterator[str]:
    cells = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    align: Sequence[Callable[[str, int], str]] = [
        str.ljust if number in left else str.rjust for number in range(len(head))
    ]
    for line in cells:
        yield "  ".join(a(c, w) for a, c, w in zip(align, line, widths, strict=True)).rstrip()


# --- for programs


def as_json(board: Board, names: Names, view: View) -> dict[str, object]:
    """Rates are a second's; bytes, packets, connections."""
    return {
        "Nodes": [_node_json(row, names) for row in board.nodes()],
        "Tasks" if view.tasks else "Services": [
            _task_json(row, names) for row in shown(board, names, view)
        ],
        "Silent": [{"Node": names.node(n), "Cause": c} for n, c in sorted(board.silent.items())],
    }


def _node_json(row: NodeRow, names: Names) -> dict[str, object]:
    return {
        "Node": names.node(row.node),
        "Underlay": _rate_json(row.underlay),
        "Networks": {name: _rate_json(rate) for name, rate in row.networks},
        "Drops": row.drops,
        "Names": row.names,
        "NamesFailed": row.names_failed,
        "RoundTrips": {names.node(way.node): way.round_trip for way in row.ways},
    }


def _task_json(row: TaskRow, names: Names) -> dict[str, object]:
    return {
        "Name": row.name,
        "Service": row.service,
        "Node": names.node(row.node) if row.node else "",
        "Tasks": row.tasks,
        "Mesh": _rate_json(row.mesh),
        "Overlays": _rate_json(row.overlay),
        "Outside": _rate_json(row.outside),
        "Connections": row.connections,
        "Established": row.established,
        "Retransmits": row.retransmits,
        "Failed": row.failed,
        "Drops": row.drops,
    }


def _rate_json(rate: Rate) -> dict[str, float]:
    return {"Received": rate.received, "Sent": rate.sent}
