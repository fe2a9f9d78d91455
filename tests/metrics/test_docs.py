"""The Grafana dashboard and the table in docs/metrics.md have the metrics that a server exposes."""

import re

from metrics.promql import DASHBOARD, METRIC, ROOT, check_labels, expressions, panels


def test_every_metric_of_the_dashboard_is_exposed(exposed: dict[str, set[str]]) -> None:
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(named) > 20
    assert not named - set(exposed)


def test_every_label_and_recording_rule_of_the_dashboard_exists(exposed: dict[str, set[str]]) -> None:
    for expression in expressions():
        check_labels(expression, exposed)


def test_the_dashboard_uses_rates_of_counters_only() -> None:
    for expression in expressions():
        for counter in re.findall(r"(\bclockwork_\w+(?:_total|_bucket)\b)", expression):
            assert re.search(rf"rate\({counter}\b", expression), expression
        assert "rate(clockwork_cache" not in expression


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels())
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("clockwork", "Clockwork")


def test_the_table_of_metrics_is_complete(exposed: dict[str, set[str]]) -> None:
    histograms = {name.removesuffix("_bucket") for name in exposed if name.endswith("_bucket")}
    names = set(exposed) - {name + suffix for name in histograms for suffix in ("_bucket", "_sum", "_count")}
    page = (ROOT / "docs/metrics.md").read_text()
    documented = {
        match for line in page.splitlines() if line.startswith("|") for match in METRIC.findall(line.split("|")[1])
    }
    assert documented == names | histograms
