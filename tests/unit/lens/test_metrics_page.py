"""The text format: numbers, labels, histograms, and what would make Prometheus refuse a page."""

import math

import pytest

from weft.lens.page import Metric, Page, number
from weft.system.tally import Counts, Histogram, Histograms

PLAIN = Metric("b_total", "counter", "Things.\nMany.")
LABELLED = Metric("a", "gauge", "Others.", ("kind", "name"))
TIMES = Metric("c_seconds", "histogram", "Times.", ("loop",))


def test_families_with_their_samples() -> None:
    page = Page()
    page.put(PLAIN, 3)
    page.put(LABELLED, 0.5, "x", 'say "hi"\\\n')
    page.put(LABELLED, True, "x", "é")
    assert page.text().splitlines() == [
        "# HELP a Others.",
        "# TYPE a gauge",
        'a{kind="x",name="say \\"hi\\"\\\\\\n"} 0.5',
        'a{kind="x",name="é"} 1',
        "# HELP b_total Things.\\nMany.",
        "# TYPE b_total counter",
        "b_total 3",
    ]


def test_a_histogram_counts_upwards() -> None:
    times = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0, -3.0):
        times.add(seconds)
    page = Page()
    page.spread(TIMES, times, "keys")
    assert page.text().splitlines()[2:] == [
        'c_seconds_bucket{loop="keys",le="0.1"} 3',
        'c_seconds_bucket{loop="keys",le="1"} 4',
        'c_seconds_bucket{loop="keys",le="+Inf"} 5',
        'c_seconds_sum{loop="keys"} 7.65',
        'c_seconds_count{loop="keys"} 5',
    ]
    assert times.count == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2.0, "2"),
        (2**60, repr(float(2**60))),
        (1e-7, "1e-07"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_page_that_prometheus_would_refuse_is_not_made() -> None:
    page = Page()
    page.put(PLAIN, 1)
    with pytest.raises(ValueError, match="b_total is on the page twice"):
        page.put(PLAIN, 2)
    with pytest.raises(ValueError, match="labels"):
        page.put(LABELLED, 2, "only one")


def test_what_fails_is_not_timed() -> None:
    times = Histograms("start")
    with pytest.raises(RuntimeError), times.timed("start"):
        raise RuntimeError
    assert times.by_label["start"].count == 0
    with times.timed("start"), times.timed("stop"):
        pass
    assert [times.by_label[action].count for action in ("start", "stop")] == [1, 1]


def test_counts_of_labels() -> None:
    counts = Counts()
    counts.add("a", "b")
    counts.add("a", "b")
    assert counts["a", "b"] == 2
    assert counts["a", "c"] == 0
