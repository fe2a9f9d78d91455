"""The recording and alert rules for Prometheus name metrics and labels that a server exposes, and pass promtool."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from metrics.promql import ALL, RECORD, ROOT, RULES, check_labels, expressions

TESTS = Path(__file__).parent / "clockwork.rules.test.yml"
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_fire_under_their_conditions_only() -> None:
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("record") or rule.get("alert"))
def test_a_rule_names_metrics_and_labels_that_exist(rule: dict[str, Any], exposed: dict[str, set[str]]) -> None:
    check_labels(rule["expr"], exposed)


def test_the_dashboard_uses_recording_rules() -> None:
    assert len({name for expression in expressions() for name in RECORD.findall(expression)}) >= 6


def test_every_alert_is_documented_and_explains_itself() -> None:
    page = (ROOT / "docs/alerts.md").read_text()
    documented = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `Clockwork")}
    assert documented == set(ALERTS)
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} <= set(rule["annotations"])
