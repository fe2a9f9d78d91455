"""The Helm chart renders valid manifests for each combination of its switches. Nothing is deployed to a cluster."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.documents import CHART, DEPLOY, RENDERED, check, documents, lines, of_kind, pod_specs
from manifests.helm import helm, needs_helm, refusal, sets, template
from manifests.schemas import HAS_SCHEMAS, needs_schemas, validate

SWITCHES = {
    "controller__persistence__enabled": "",
    "grafanaDashboard__enabled": "ConfigMap",
    "keda__enabled": "ScaledObject",
    "models__push": "",
    "networkPolicy__enabled": "NetworkPolicy",
    "podDisruptionBudget__enabled": "PodDisruptionBudget",
    "prometheusRule__enabled": "PrometheusRule",
    "serviceMonitor__enabled": "ServiceMonitor",
}
"""The booleans of the chart, and the kind of the object that each adds."""

FLEET = {"mode": "fleet", "models__names": "{a.onnx}"}
SINGLE = {"mode": "single", "models__names": "{a.onnx}"}


@pytest.mark.parametrize("mode", RENDERED)
def test_the_rendered_manifests_fit_together(mode: str) -> None:
    manifests = documents(RENDERED[mode].read_text())
    check(manifests)
    if HAS_SCHEMAS:
        validate(manifests)


@needs_helm
@pytest.mark.parametrize("mode", RENDERED)
def test_the_rendered_manifests_are_those_of_the_chart(mode: str) -> None:
    done = helm("template", "clockwork", str(CHART), "--values", str(DEPLOY / f"helm/{mode}.yaml"))
    assert done.stdout == RENDERED[mode].read_text().partition("\n")[2], "run: make manifests"


@needs_helm
def test_the_chart_has_no_warnings() -> None:
    for mode in RENDERED:
        done = helm("lint", "--strict", str(CHART), "--values", str(DEPLOY / f"helm/{mode}.yaml"))
        assert done.returncode == 0, done.stdout


def booleans(values: dict[str, Any], at: tuple[str, ...] = ()) -> set[str]:
    """Return the names of the boolean values."""
    found = set()
    for key, value in values.items():
        if isinstance(value, bool):
            found.add("__".join((*at, key)))
        elif isinstance(value, dict):
            found |= booleans(value, (*at, key))
    return found


def test_the_switches_are_all_booleans_of_the_chart() -> None:
    assert booleans(yaml.safe_load((CHART / "values.yaml").read_text())) == set(SWITCHES)


@needs_helm
@needs_schemas
@pytest.mark.parametrize("secrets", ["", "tls", "tokens", "tls tokens"])
@pytest.mark.parametrize("kind", ["single", "Deployment", "DaemonSet"])
def test_every_combination_of_switches_renders_valid_manifests(kind: str, secrets: str) -> None:
    common = {f"{secret}__existingSecret": "mine" for secret in secrets.split()}
    common |= SINGLE if kind == "single" else FLEET | {"worker__kind": kind, "keda__prometheus": "http://metrics:9090"}
    for states in product(("true", "false"), repeat=len(SWITCHES)):
        switches = dict(zip(SWITCHES, states, strict=True))
        if switches["keda__enabled"] == "true" and kind != "Deployment":
            continue  # refused, see below
        if switches["models__push"] == "true" and kind == "single":
            continue
        manifests = template(**common, **switches)
        check(manifests)
        validate(manifests)
        for switch, added in SWITCHES.items():
            wanted = switches[switch] == "true" and (added, kind) != ("PodDisruptionBudget", "DaemonSet")
            assert not added or bool(of_kind(manifests, added)) is wanted


REFUSED = {
    "mode": ({"mode": "many"}, "mode"),
    "no models": ({"mode": "single"}, "models.names is empty; mode single needs at least one model"),
    "half a core": (FLEET | {"worker__cpu": "1500m"}, "cpu"),
    "gpus": (FLEET | {"worker__gpus": "2"}, "gpus is 2 and devices is 1; they must be equal"),
    "runtime": (FLEET | {"worker__gpus": "1"}, "worker.runtime is auto; with worker.gpus it must be onnx or torch"),
    "keda": (FLEET | {"keda__enabled": "true", "worker__kind": "DaemonSet"}, "keda.enabled needs mode fleet"),
    "keda of a single server": (SINGLE | {"keda__enabled": "true"}, "keda.enabled needs mode fleet"),
    "keda and tokens": (
        FLEET | {"keda__enabled": "true", "tokens__existingSecret": "mine"},
        "keda.prometheus is empty; with TLS or tokens",
    ),
    "replicas of keda": (
        FLEET | {"keda__enabled": "true", "keda__minReplicas": "5", "keda__maxReplicas": "2"},
        "keda.maxReplicas is less than keda.minReplicas",
    ),
    "more workers than replicas": (
        FLEET | {"controller__workers": "4"},
        "controller.workers is 4, but worker.replicas is 2, so the controller would never be ready; lower",
    ),
    "more workers than keda starts": (
        FLEET | {"controller__workers": "2", "keda__enabled": "true"},
        "controller.workers is 2, but keda.minReplicas is 1, so the controller would never be ready; lower",
    ),
    "push": (SINGLE | {"models__push": "true"}, "models.push needs mode fleet"),
    "no update": (FLEET | {"worker__rollingUpdate__maxSurge": "0"}, "are both 0, so no pod could be replaced"),
    "only a secret of workers": (FLEET | {"tls__workerSecret": "mine"}, "tls.workerSecret needs tls.existingSecret"),
    "typo": (FLEET | {"typo": "1"}, "typo"),
    "typo inside": (FLEET | {"worker__replica": "1"}, "replica"),
    "no drain": (FLEET | {"drainLimitSeconds": "0"}, "drainLimitSeconds"),
    "slo": (FLEET | {"slo": "fast"}, "slo"),
    "no slo": (FLEET | {"slo": "0ms"}, "slo"),
    "tag": (FLEET | {"image__tag": "a b"}, "tag"),
    "digest": (FLEET | {"image__digest": "sha256:12"}, "digest"),
    "no claim": (FLEET | {"models__existingClaim": ""}, "existingClaim"),
    "name of a secret": (FLEET | {"tls__existingSecret": "My_Secret"}, "existingSecret"),
    "long name": (FLEET | {"fullnameOverride": 51 * "a"}, "fullnameOverride"),
    "two volumes": (FLEET | {"models__volume__nfs__path": "/", "models__volume__hostPath__path": "/"}, "volume"),
}


@needs_helm
@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused(case: str) -> None:
    values, error = REFUSED[case]
    assert error in refusal(**values)


@needs_helm
@pytest.mark.parametrize("release", ["a", "prod.eu", 53 * "r", "clockwork-" + 43 * "r", "x" * 49 + "-abc"])
@pytest.mark.parametrize("values", [FLEET, SINGLE], ids=["fleet", "single"])
def test_names_are_short_enough_for_every_release(release: str, values: dict[str, str]) -> None:
    manifests = template(release, **values)
    check(manifests)
    for service in of_kind(manifests, "Service"):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", service["metadata"]["name"])


@needs_helm
def test_a_release_whose_name_begins_with_a_digit_needs_another_name_for_its_services() -> None:
    assert "begins with a digit, which Services do not allow; set fullnameOverride" in refusal("7up", **FLEET)
    names = {manifest["metadata"]["name"] for manifest in template("7up", **FLEET, fullnameOverride="seven")}
    assert "seven-workers" in names


@needs_helm
def test_two_releases_in_a_namespace_share_no_object_and_no_pod() -> None:
    everything = dict.fromkeys(SWITCHES, "true")
    first, second = template("red", **FLEET, **everything), template("blue", **FLEET, **everything)
    names = [{(one["kind"], one["metadata"]["name"]) for one in release} for release in (first, second)]
    assert not names[0] & names[1]
    pods = [manifest["spec"]["template"]["metadata"]["labels"] for manifest, _ in pod_specs(second)]
    for manifest in of_kind(first, "Service", "PodDisruptionBudget"):
        selector = manifest["spec"]["selector"]
        assert not any(selector.get("matchLabels", selector).items() <= labels.items() for labels in pods)


IMMUTABLE = ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy")


@needs_helm
def test_an_upgrade_changes_no_field_that_kubernetes_does_not_let_change() -> None:
    other = {"worker__replicas": "7", "worker__cpu": "8", "image__tag": "v2", "models__push": "true"}
    more = {"tls__existingSecret": "t", "keda__enabled": "true", "keda__prometheus": "http://metrics:9090"}
    releases = [template(**FLEET), template(**FLEET, **other), template(**FLEET, **more), template(**SINGLE)]
    for old, new in product(releases, releases):
        before = {(one["kind"], one["metadata"]["name"]): one for one in old}
        for manifest, _ in pod_specs(new):
            existing = before.get((manifest["kind"], manifest["metadata"]["name"]), manifest)
            for field in IMMUTABLE:
                assert manifest["spec"].get(field) == existing["spec"].get(field)


@needs_helm
def test_a_new_version_of_the_chart_restarts_no_pods_by_itself(tmp_path: Path) -> None:
    chart = (CHART / "Chart.yaml").read_text()
    (tmp_path / "templates").mkdir()
    for file in [*CHART.glob("values*"), *CHART.glob("templates/*")]:
        (tmp_path / file.relative_to(CHART)).write_text(file.read_text())
    (tmp_path / "Chart.yaml").write_text(chart.replace("\nversion: 0.1.0", "\nversion: 9.9.9+build"))
    done = helm("template", "clockwork", str(tmp_path), "--set=mode=fleet")
    assert done.returncode == 0, done.stderr
    for (new, _), (old, _) in zip(pod_specs(documents(done.stdout)), pod_specs(template(mode="fleet")), strict=True):
        assert new["metadata"]["labels"]["helm.sh/chart"] == "clockwork-9.9.9_build"
        assert new["spec"]["template"] == old["spec"]["template"]


@needs_helm
def test_numbers_of_cores_may_be_numbers_or_strings(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("worker: {cpu: '6'}\ncontroller: {cpu: 3}\n")
    done = helm("template", "a", str(CHART), *sets(FLEET), f"--values={tmp_path}/values.yaml", "--set=server.cpu=4")
    assert done.returncode == 0, done.stderr
    cores = {manifest["kind"]: one["resources"]["limits"]["cpu"] for manifest, one in pod_specs(documents(done.stdout))}
    assert cores == {"StatefulSet": "3", "Deployment": "6"}


@needs_helm
def test_another_autoscaler_can_set_the_number_of_workers() -> None:
    (workers,) = of_kind(template(**FLEET, worker__replicas="null"), "Deployment")
    assert "replicas" not in workers["spec"]


@needs_helm
def test_keda_can_scale_every_single_pod_of_a_large_fleet() -> None:
    keda = {"keda__enabled": "true", "keda__prometheus": "http://metrics:9090", "keda__tolerance": "0"}
    (scaled,) = of_kind(template(**FLEET, **keda), "ScaledObject")
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert [direction["tolerance"] for direction in behavior.values()] == ["0", "0"]


@needs_helm
def test_each_place_of_a_pod_can_be_set(tmp_path: Path) -> None:
    toleration = {"key": "gpu", "operator": "Exists"}
    node = {
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "podLabels": {"team": "vision"},
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "nodeSelector": {"zone": "a"},
        "affinity": {"podAntiAffinity": {}},
        "tolerations": [toleration],
    }
    file = tmp_path / "values.json"
    for mode in ("fleet", "single"):
        file.write_text(
            json.dumps(
                {
                    "mode": mode,
                    "models": {"names": ["a.onnx"], "volume": {"hostPath": {"path": "/models"}}},
                    "image": {"digest": f"sha256:{64 * 'a'}"},
                    "server": node,
                    "worker": node | {"gpus": 1, "runtime": "torch"},
                    "controller": node,
                    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
                }
            )
        )
        done = helm("template", "clockwork", str(CHART), "--values", str(file))
        assert done.returncode == 0, done.stderr
        manifests = documents(done.stdout)
        check(manifests)
        if HAS_SCHEMAS:
            validate(manifests)
        for manifest, container in pod_specs(manifests):
            template = manifest["spec"]["template"]
            assert container["image"].endswith(f"@sha256:{64 * 'a'}")
            assert {"name": "TZ", "value": "UTC"} in container["env"]
            assert template["metadata"]["labels"]["team"] == "vision"
            assert template["metadata"]["annotations"] == node["podAnnotations"]
            for key in ("priorityClassName", "runtimeClassName", "nodeSelector", "affinity", "tolerations"):
                assert template["spec"][key] == node[key]
            (volume,) = [one for one in template["spec"]["volumes"] if one["name"] == "models"] or [None]
            assert volume in (None, {"name": "models", "hostPath": {"path": "/models"}})
            if manifest["metadata"]["name"].endswith("-worker"):
                assert "--device=cuda\n--runtime=torch" in lines(container)


@needs_helm
def test_workers_can_have_a_secret_of_their_own() -> None:
    manifests = template(**FLEET, tls__existingSecret="server", tls__workerSecret="workers")
    for kind, secret in (("StatefulSet", "server"), ("Deployment", "workers")):
        (manifest,) = of_kind(manifests, kind)
        volumes = {one["name"]: one for one in manifest["spec"]["template"]["spec"]["volumes"]}
        assert volumes["tls"]["secret"]["secretName"] == secret


@needs_helm
def test_the_rules_and_the_dashboard_are_those_of_the_repository() -> None:
    manifests = template(**SINGLE, prometheusRule__enabled="true", grafanaDashboard__enabled="true")
    (rule,), (dashboard,) = of_kind(manifests, "PrometheusRule"), of_kind(manifests, "ConfigMap")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus/clockwork.rules.yml").read_text())
    original = json.loads((DEPLOY.parent / "docs/grafana/clockwork.json").read_text())
    assert json.loads(dashboard["data"]["clockwork.json"]) == original
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


@needs_helm
def test_the_package_of_the_chart_contains_all_files(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("clockwork-*.tgz")
    values = ["--set=models.names={a.onnx}", "--set=prometheusRule.enabled=true", "--set=grafanaDashboard.enabled=true"]
    packed = helm("template", "clockwork", str(package), *values)
    assert documents(packed.stdout) == documents(helm("template", "clockwork", str(CHART), *values).stdout)
    assert len(documents(packed.stdout)) == 5
