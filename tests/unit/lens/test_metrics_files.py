"""What is made of the metrics elsewhere names metrics that exist: the documentation, the dashboard,
the alert rules."""

import json
import re
from pathlib import Path

from weft.lens.catalogue import ALL
from weft.lens.page import Metric

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "packaging/monitoring"
NAME = re.compile(r"\b(?:weft|engine_daemon|swarm|process)_[a-z0-9_]*[a-z0-9]\b")
ELSEWHERE = {"swarm_id"}
"""A label with such a name."""


def series(metric: Metric) -> set[str]:
    if metric.kind != "histogram":
        return {metric.name}
    return {f"{metric.name}{end}" for end in ("_bucket", "_sum", "_count")}


SERIES = {name: metric for metric in ALL for name in series(metric)}


def expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    queries += [v["query"] for v in dashboard["templating"]["list"]]
    rules = (MONITORING / "prometheus-rules.yml").read_text()
    alerts = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n        (?:for|labels):", rules)
    assert len(alerts) == rules.count("- alert:")
    assert len(queries) > 20
    return [*queries, *alerts]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() -> None:
    for expression in expressions():
        found = set(NAME.findall(expression))
        assert found <= SERIES.keys(), f"{found - SERIES.keys()} in {expression}"
        for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)\s*[=!]", selector)) - {"job", "instance"}
            known = set(SERIES[name].labels) if name in SERIES else set()
            assert labels <= known, f"{name} has no label {labels - known}"


def test_the_page_about_metrics_has_all_of_them_and_no_others() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    table = text.partition("## What there is\n")[2].partition("## What there is not")[0]
    named = set(NAME.findall(table)) - ELSEWHERE
    names = {metric.name for metric in ALL}
    assert named == names, f"not explained: {names - named}; not there: {named - names}"


def test_names_are_as_prometheus_wants_them() -> None:
    """Docker's gauges that end in `_total` are Docker's."""
    assert len({metric.name for metric in ALL}) == len(ALL)
    for metric in ALL:
        ours = metric.name.startswith("weft_")
        assert metric.help.endswith("."), metric
        assert metric.name.endswith("_total") == (metric.kind == "counter") or not ours, metric
        assert metric.kind != "histogram" or metric.name.endswith("_seconds"), metric
