"""`weft top` makes rates of counters, puts tasks together to services, and fits a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lens.flows.rows import Names
from weft.lens.top.rates import SORTS, Board, Rate, ordered
from weft.lens.top.screen import View, as_json, fitted, lines, shown
from weft.model.meta import SECOND
from weft.model.top import Carried, NetworkCounts, TaskCounts, TcpCounts, TopFrame, Way

NAMES = Names((("n1", "node1", ()), ("n2", "node2", ())))


def task(
    name: str, mesh: int = 0, overlay: int = 0, outside: int = 0, tcp: TcpCounts | None = None
) -> TaskCounts:
    service = name.rpartition(".")[0]
    return TaskCounts(
        name, service, Carried(mesh, mesh // 2), Carried(overlay), Carried(outside, dropped=outside),
        tcp or TcpCounts(),
    )  # fmt: skip


def reading(seconds: float, *tasks: TaskCounts, tunnel: int = 0, names: int = 0) -> TopFrame:
    return TopFrame(
        now=int(seconds * SECOND), tasks=tasks, networks=(NetworkCounts("net", Carried(tunnel, tunnel)),),
        ways=(Way("n2", 1_500_000), Way("n3", -1)), underlay=Carried(10 * tunnel, 0), names_answered=names,
        names_failed=names // 4, is_last=True,
    )  # fmt: skip


def board(*readings: TopFrame, node: str = "n1") -> Board:
    found = Board()
    for each in readings:
        found.take(node, each)
    return found


def test_rates_are_of_the_last_two_readings_by_the_nodes_own_clock() -> None:
    tcp = (TcpCounts(10, 20, 1, 1, 7, 100), TcpCounts(14, 26, 2, 2, 8, 110))
    found = board(
        reading(1, task("web.1", mesh=500)),
        reading(10, task("web.1", 1000, 0, 0, tcp[0])),
        reading(12, task("web.1", 3000, 400, 8, tcp[1]), tunnel=2000, names=8),
    )
    (row,) = found.tasks()
    assert (row.mesh, row.overlay, row.outside) == (Rate(1000, 500), Rate(200, 0), Rate(4, 0))
    assert (row.connections, row.established, row.retransmits, row.failed, row.drops) == (
        5,
        8,
        5,
        1,
        4,
    )
    (node,) = found.nodes()
    assert (node.tunnels, node.underlay, node.names, node.names_failed) == (
        Rate(1000, 1000), Rate(10000, 0), 4, 1,
    )  # fmt: skip
    assert [(way.node, way.round_trip) for way in node.ways] == [("n2", 0.0015), ("n3", None)]


def test_one_reading_gives_no_rate_and_a_counter_that_began_anew_none_below_zero() -> None:
    assert board(reading(1, task("web.1", 500))).tasks() == []
    found = board(reading(1, task("web.1", 500)), reading(2, task("web.1", 100)))
    assert found.tasks()[0].bytes == 0


def test_what_is_gone_is_shown_no_more_and_a_node_that_is_silent_is_named() -> None:
    found = board(
        reading(1, task("web.1"), task("db.1")), reading(2, task("web.1"), task("db.1")),
        reading(3, task("web.1")),
    )  # fmt: skip
    assert [row.name for row in found.tasks()] == ["web.1"]
    found.lose("n1", "it did not answer within 2 s")
    assert (found.tasks(), found.nodes()) == ([], [])
    assert "node1: no answer: it did not answer within 2 s" in lines(found, NAMES, View())
    found.take("n1", reading(4))
    assert found.silent == {}


@given(
    st.lists(
        st.tuples(st.sampled_from(["n1", "n2"]), st.sampled_from("ab"), st.integers(1, 9),
                  st.integers(0, 10**9)),
        max_size=20, unique_by=lambda each: each[:3],
    )
)  # fmt: skip
def test_a_service_carries_what_its_tasks_carry(some: list[tuple[str, str, int, int]]) -> None:
    found = Board()
    for at in (1, 2):
        for node in ("n1", "n2"):
            tasks = [task(f"{s}.{n}", count * at) for home, s, n, count in some if home == node]
            found.take(node, reading(at, *tasks))
    services = found.services()
    assert len({row.name for row in services}) == len(services)
    assert sum(row.bytes for row in services) == pytest.approx(sum(r.bytes for r in found.tasks()))
    assert sum(row.tasks for row in services) == len(some)
    for sort in SORTS:
        assert sorted(ordered(services, sort)) == sorted(services)


def two() -> Board:
    found = board(
        reading(1, task("web.1", 0), task("db.1", 0), tunnel=1),
        reading(2, task("web.1", 2000), task("db.1", 0, 0, 9), tunnel=1001),
    )
    for at in (1, 2):
        found.take("n2", reading(at, task("web.2", 1000 * at)))
    return found


def test_the_screen() -> None:
    text = lines(two(), NAMES, View())
    assert text[0] == "weft top: 2 nodes, services by bytes"
    assert text[2].split() == [
        "NODE", "UNDERLAY", "in", "out", "TUNNELS", "in", "out", "DROPS", "NAMES", "ROUND", "TRIPS",
    ]  # fmt: skip
    assert text[3].split("  ")[-1] == "n3 no answer, node2 1.50 ms"
    assert [line.split("  ")[0] for line in text[6:]] == ["SERVICE", "web (2)", "db"]
    assert text[7].split()[2:5] == ["several", "3.0", "kB"]
    assert lines(two(), NAMES, View(), live=True)[0].endswith("/ filters")
    tasks = shown(two(), NAMES, View(tasks=True, sort="name", filter="web"))
    assert [row.name for row in tasks] == ["web.1", "web.2"]
    assert [row.name for row in shown(two(), NAMES, View(tasks=True, filter="node2"))] == ["web.2"]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=30), max_size=9),
    st.integers(0, 40), st.integers(0, 12),
)  # fmt: skip
def test_the_screen_fits_any_terminal(text: list[str], width: int, height: int) -> None:
    found = fitted(text, width, height)
    assert len(found) <= height
    assert all(len(line) <= width for line in found)
    if len(text) <= height:
        assert len(found) == len(text)


def test_wide_characters_take_two_columns() -> None:
    assert fitted(["日本語"], 5, 1) == ["日本"]


def test_for_programs() -> None:
    found = json.loads(json.dumps(as_json(two(), NAMES, View())))
    assert [each["Node"] for each in found["Nodes"]] == ["node1", "node2"]
    assert found["Nodes"][0]["RoundTrips"] == {"node2": 0.0015, "n3": None}
    assert found["Services"][0]["Mesh"] == {"Received": 3000.0, "Sent": 1500.0}
    assert found["Silent"] == []
