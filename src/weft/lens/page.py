"""A page of metrics in Prometheus' text format, version 0.0.4
(prometheus.io/docs/instrumenting/exposition_formats).

    page = Page()
    page.put(NODES, 3, "ready")              a sample: its value, then the values of its labels
    page.spread(COMMITS, histogram)          a histogram: a sample for each bound, sum and count
    page.text()                              families in order of their names

Names, kinds and labels of all metrics are in `catalogue.py`. Nothing here asks for a value.
"""

import math
from typing import Literal

import msgspec

from weft.system.tally import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]


class Metric(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    help: str
    """One line for people."""
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


class Page:
    def __init__(self) -> None:
        self._lines: dict[Metric, dict[str, float]] = {}

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """Raises `ValueError` if there are not as many labels as the metric has, or the page has a
        sample with these labels: Prometheus would refuse the whole page."""
        self._line(metric, metric.name, _labelled(metric, labels), value)

    def spread(self, metric: Metric, histogram: Histogram, *labels: str) -> None:
        """Raises `ValueError` as `put` does."""
        pairs, below = _labelled(metric, labels), 0
        for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
            below += count
            self._line(metric, f"{metric.name}_bucket", [*pairs, ("le", number(bound))], below)
        self._line(metric, f"{metric.name}_sum", pairs, histogram.sum)
        self._line(metric, f"{metric.name}_count", pairs, below)

    def _line(self, metric: Metric, name: str, pairs: list[tuple[str, str]], value: float) -> None:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in pairs)
        series = f"{name}{{{inner}}}" if inner else name
        family = self._lines.setdefault(metric, {})
        if series in family:
            raise ValueError(f"{series} is on the page twice")
        family[series] = value

    def text(self) -> str:
        lines = []
        for metric in sorted(self._lines, key=str):
            lines.append(f"# HELP {metric.name} {_line(metric.help)}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines += [f"{series} {number(v)}" for series, v in self._lines[metric].items()]
        return "".join(f"{line}\n" for line in lines)


def number(value: float) -> str:
    """As the format wants it; whole numbers without a point."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))


def _labelled(metric: Metric, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    if len(labels) != len(metric.labels):
        raise ValueError(f"{metric} has the labels {metric.labels}, not the values {labels}")
    return list(zip(metric.labels, labels, strict=True))


def _escaped(text: str) -> str:
    return _line(text).replace('"', '\\"')


def _line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
