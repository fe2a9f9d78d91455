"""The queries of the dashboard and of the rules, and the names and labels in a query."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/clockwork.rules.yml"
DASHBOARD = json.loads((ROOT / "docs/grafana/clockwork.json").read_text())
METRIC = re.compile(r"\b(?:nv|clockwork)_[a-z_]+\b")
RECORD = re.compile(r"\bclockwork(?::\w+)+")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
SELECTED = re.compile(r"(\b(?:nv|clockwork)_[a-z_]+|clockwork(?::\w+)+)\{([^}]*)\}")
FROM_PROMETHEUS = {"instance", "job"}

ALL: list[dict[str, Any]] = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in ALL if "record" in rule}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Return the queries of the dashboard."""
    targets = [target["expr"] for panel in panels() for target in panel["targets"]]
    return targets + [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]


def grouped(expression: str) -> set[str]:
    """Return the labels by which a query groups."""
    return {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")}


def check_labels(expression: str, exposed: dict[str, set[str]]) -> None:
    """Check that the metrics and the recording rules of a query exist and have the labels that the query names."""
    metrics, records = METRIC.findall(expression), RECORD.findall(expression)
    assert set(metrics) <= set(exposed), expression
    assert set(records) <= set(RECORDED), expression
    labels = {name: exposed[name] for name in metrics}
    for name in records:  # a rule that does not group has the labels of its metrics
        rule = RECORDED[name]
        labels[name] = grouped(rule) - {"le"} or set().union(*(exposed[metric] for metric in METRIC.findall(rule)))
    for name, selected in SELECTED.findall(expression):
        assert set(re.findall(r"(\w+)\s*[!=]~?", selected)) <= labels[name] | FROM_PROMETHEUS, expression
    assert grouped(expression) <= FROM_PROMETHEUS.union(*labels.values()), expression
