"""The Grafana dashboard and the table in docs/metrics.md have the metrics that a server exposes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.live import run
from clockwork.metrics import shadows
from http_raw import row, served

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "docs/grafana/clockwork.json").read_text())
METRIC = re.compile(r"\b(?:nv|clockwork)_[a-z_]+\b")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
SELECTED = re.compile(r"(\b(?:nv|clockwork)_[a-z_]+)\{([^}]*)\}")
FROM_PROMETHEUS = {"instance", "job"}


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Return the labels by metric of a server that has served a known model and refused an unknown one."""
    bodies: list[bytes] = []

    async def test() -> None:
        async with served() as (peer, *_):
            for model in ("m", "nobody"):
                await peer.ask("POST", f"/v2/models/{model}/infer", row())
            bodies.append((await peer.ask("GET", "/metrics")).body)

    run(test())
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(bodies[0].decode()):
        for sample in family.samples:
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            found.setdefault(name, set()).update(sample.labels)
    return found | {family.name: set(family.labels) for family in shadows.FAMILIES}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    targets = [target["expr"] for panel in panels() for target in panel["targets"]]
    return targets + [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]


def test_every_metric_of_the_dashboard_is_exposed(exposed: dict[str, set[str]]) -> None:
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(named) > 20
    assert not named - set(exposed)


def test_every_label_of_the_dashboard_exists(exposed: dict[str, set[str]]) -> None:
    for expression in expressions():
        for name, selected in SELECTED.findall(expression):
            labels = set(re.findall(r"(\w+)\s*[!=]~?", selected))
            assert labels <= exposed[name] | FROM_PROMETHEUS, expression
        grouped = {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")}
        has = set().union(*(exposed[name] for name in METRIC.findall(expression)))
        assert grouped <= has, expression


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
