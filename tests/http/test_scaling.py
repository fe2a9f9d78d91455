"""A server explains over HTTP how many devices it wants, and the examples of autoscalers fit this explanation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from client.live import run
from http_raw import row, served

PAGE = (Path(__file__).resolve().parents[2] / "docs/autoscale.md").read_text()
BLOCK = re.compile(r"^<!-- ([\w: -]+) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MANIFESTS = {name: yaml.safe_load(text) for name, text in BLOCK.findall(PAGE)}


@pytest.fixture(scope="module")
def explained() -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Return the explanation and the metrics of a server that has served a request."""
    found: list[bytes] = []

    async def test() -> None:
        async with served() as (peer, *_):
            await peer.ask("POST", "/v2/models/m/infer", row())
            for path in ("/v2/clockwork/scaling", "/metrics"):
                answer = await peer.ask("GET", path)
                assert answer.status == 200
                found.append(answer.body)

    run(test())
    metrics: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(found[1].decode()):
        for sample in family.samples:
            metrics.setdefault(sample.name, {})[sample.labels.get("kind", "")] = sample.value
    return json.loads(found[0]), metrics


def test_the_explanation_has_the_numbers_of_the_metrics(explained: Any) -> None:
    document, metrics = explained
    (kind,) = document["kinds"]
    assert metrics["clockwork_devices"] == {kind["kind"]: kind["devices"]}
    assert metrics["clockwork_devices_wanted"] == {kind["kind"]: kind["wanted"]}
    assert "of device time per second" in kind["why"]
    (work,) = document["models"]
    assert (work["model"], document["other_models"]) == ("m", 0)


def test_the_page_names_every_field_of_the_explanation(explained: Any) -> None:
    document, _ = explained
    fields = {*document, *document["kinds"][0], *document["models"][0]} - {"model", "version"}
    assert not {field for field in fields if f"`{field}`" not in PAGE}


def test_the_keda_examples_read_what_the_server_exposes(explained: Any) -> None:
    document, metrics = explained
    for name in ("keda: prometheus", "keda: metrics-api"):
        manifest = MANIFESTS[name]
        assert (manifest["apiVersion"], manifest["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
        spec = manifest["spec"]
        assert spec["scaleTargetRef"] == {"kind": "Deployment", "name": "clockwork-worker"}
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        (trigger,) = spec["triggers"]
        assert (f"keda: {trigger['type']}", trigger["metricType"]) == (name, "AverageValue")
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    query = MANIFESTS["keda: prometheus"]["spec"]["triggers"][0]["metadata"]["query"]
    assert set(re.findall(r"clockwork_\w+", query)) <= set(metrics)
    trigger = MANIFESTS["keda: metrics-api"]["spec"]["triggers"][0]["metadata"]
    assert trigger["url"].endswith("/v2/clockwork/scaling")
    value = document
    for part in trigger["valueLocation"].split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    assert value == document["kinds"][0]["wanted"]


def test_the_hpa_example_uses_the_metric(explained: Any) -> None:
    manifest = MANIFESTS["hpa"]
    assert (manifest["apiVersion"], manifest["kind"]) == ("autoscaling/v2", "HorizontalPodAutoscaler")
    spec = manifest["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "clockwork-worker"}
    (metric,) = spec["metrics"]
    assert metric["type"] == "External"
    (rule,) = MANIFESTS["adapter"]["rules"]["external"]
    assert metric["external"]["metric"] == {"name": rule["name"]["as"]}, "a selector cannot have a kind with spaces"
    assert re.findall(r"clockwork_\w+", rule["metricsQuery"]) == [rule["seriesQuery"]]
    assert rule["seriesQuery"] in explained[1]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
