"""The Helm chart renders valid manifests, and its commands run. Nothing is deployed to a cluster."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.processes import clockwork, save_dense
from clockwork.cli import run

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm/clockwork"
RENDERED = {"single": DEPLOY / "kubernetes.yaml", "fleet": DEPLOY / "kubernetes-fleet.yaml"}
HELM = os.environ.get("HELM") or shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed; $HELM may name it")

Manifest = dict[str, Any]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60, check=False)


def template(**values: str) -> list[Manifest]:
    """Render the chart with values such as ``keda__enabled="true"``."""
    sets = [f"--set={name.replace('__', '.')}={value}" for name, value in values.items()]
    done = helm("template", "clockwork", str(CHART), *sets)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def of_kind(manifests: list[Manifest], *kinds: str) -> Iterator[Manifest]:
    return (manifest for manifest in manifests if manifest["kind"] in kinds)


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield each manifest that has pods, with its only container."""
    for manifest in of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet"):
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        yield manifest, container


def check(manifests: list[Manifest]) -> None:
    """Check what schemas cannot check: that the manifests fit together."""
    by_name = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(by_name) == len(manifests)
    labels = [manifest["spec"]["template"]["metadata"]["labels"] for manifest, _ in pod_specs(manifests)]
    for manifest, container in pod_specs(manifests):
        spec = manifest["spec"]["template"]["spec"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert float(resources["limits"]["cpu"]).is_integer()
        wanted = manifest["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()
        claims = {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in spec["volumes"]} | claims
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        listens = re.findall(r"^--(?:listen|http|grpc|worker-listen|health)=0\.0\.0\.0:(\d+)$", _lines(container), re.M)
        assert sorted(map(int, listens)) == sorted(ports.values())
        if "lifecycle" in container:
            waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            (drain,) = re.findall(r"^--drain-limit=(\d+)s$", _lines(container), re.M)
            assert spec["terminationGracePeriodSeconds"] >= waits + int(drain) + 10
        if manifest["kind"] == "StatefulSet":
            assert ("Service", manifest["spec"]["serviceName"]) in by_name
        if controller := re.findall(r"^--controller=(.*):(\d+)$", _lines(container), re.M):
            ((name, port),) = controller
            service = by_name["Service", name]["spec"]
            assert service["publishNotReadyAddresses"], "workers connect before the controller is ready"
            assert [entry["port"] for entry in service["ports"]] == [int(port)]
    for manifest in of_kind(manifests, "Service", "PodDisruptionBudget"):
        selector = manifest["spec"]["selector"]
        assert sum(selector.get("matchLabels", selector).items() <= one.items() for one in labels) == 1
    for manifest in of_kind(manifests, "ServiceMonitor"):
        selector = manifest["spec"]["selector"]["matchLabels"]
        services = [
            one for one in of_kind(manifests, "Service") if selector.items() <= one["metadata"]["labels"].items()
        ]
        assert [port["name"] for service in services for port in service["spec"]["ports"]].count("http") == 1
    for manifest in of_kind(manifests, "ScaledObject"):
        target = manifest["spec"]["scaleTargetRef"]
        assert "replicas" not in by_name[target["kind"], target["name"]]["spec"]


def _lines(container: Manifest) -> str:
    return "\n".join(container["args"])


def validate(manifests: list[Manifest]) -> None:
    """Validate strictly against the schemas of two versions of Kubernetes, KEDA and the Prometheus Operator.

    Schemas whose package is not installed are left out.
    """
    with suppress(ImportError):
        import kubernetes_validate  # type: ignore[import-not-found, unused-ignore]

        for manifest in manifests:
            if "." not in manifest["apiVersion"].partition("/")[0] or ".k8s.io" in manifest["apiVersion"]:
                for version in ("1.30", "1.35"):
                    kubernetes_validate.validate(manifest, version, strict=True)
    for module, kind in (
        ("cloudcoil.models.keda.v1alpha1", "ScaledObject"),
        ("cloudcoil.models.prometheus_operator.v1", "ServiceMonitor"),
    ):
        with suppress(ImportError):
            model = getattr(__import__(module, fromlist=[kind]), kind)
            for manifest in of_kind(manifests, kind):
                parsed = model.model_validate(manifest).model_dump(by_alias=True, exclude_none=True, mode="json")
                assert _keys(manifest) <= _keys(parsed), "a key is not in the schema"


def _keys(value: Any, at: str = "") -> set[str]:
    if isinstance(value, dict):
        return {f"{at}.{key}" for key in value}.union(*(_keys(inner, f"{at}.{key}") for key, inner in value.items()))
    return set().union(*(_keys(inner, f"{at}[]") for inner in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("mode", RENDERED)
def test_the_rendered_manifests_fit_together(mode: str) -> None:
    manifests = documents(RENDERED[mode].read_text())
    check(manifests)
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


SWITCHES = (
    "podDisruptionBudget__enabled",
    "serviceMonitor__enabled",
    "controller__persistence__enabled",
    "keda__enabled",
    "models__push",
)


@needs_helm
@pytest.mark.parametrize("secrets", ["", "tls", "tokens", "tls tokens"])
@pytest.mark.parametrize("kind", ["single", "Deployment", "DaemonSet"])
def test_every_combination_of_switches_renders_valid_manifests(kind: str, secrets: str) -> None:
    common = {f"{secret}__existingSecret": "mine" for secret in secrets.split()}
    if kind == "single":
        common |= {"mode": "single", "models__names": "{a.onnx,b=b.onnx}"}
    else:
        common |= {"mode": "fleet", "worker__kind": kind, "keda__prometheus": "http://prometheus:9090"}
    for switches in product(("true", "false"), repeat=len(SWITCHES)):
        values = common | dict(zip(SWITCHES, switches, strict=True))
        if values["keda__enabled"] == "true" and kind != "Deployment":
            continue
        manifests = template(**values)
        check(manifests)
        validate(manifests)
        for switch, manifest in ((0, "PodDisruptionBudget"), (1, "ServiceMonitor"), (3, "ScaledObject")):
            assert bool(list(of_kind(manifests, manifest))) is (switches[switch] == "true")


@needs_helm
@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"mode": "many"}, "mode"),
        ({"mode": "single"}, "models.names is empty; mode single needs at least one model"),
        ({"mode": "fleet", "worker__cpu": "1500m"}, "cpu"),
        ({"mode": "fleet", "worker__gpus": "2"}, "gpus is 2 and devices is 1; they must be equal"),
        ({"mode": "fleet", "keda__enabled": "true", "worker__kind": "DaemonSet"}, "keda.enabled needs mode fleet"),
        (
            {"mode": "fleet", "keda__enabled": "true", "tokens__existingSecret": "mine"},
            "keda.prometheus is empty; with TLS or tokens",
        ),
        ({"mode": "fleet", "typo": "1"}, "typo"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, str], error: str) -> None:
    sets = [f"--set={name.replace('__', '.')}={value}" for name, value in values.items()]
    done = helm("template", "clockwork", str(CHART), *sets)
    assert done.returncode != 0
    assert error in done.stderr


@needs_helm
def test_the_arguments_with_every_option_are_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"tls__existingSecret": "t", "tokens__existingSecret": "t"}
    monkeypatch.chdir(save_dense(tmp_path / "models/dense.onnx").parent)
    for values in ({"mode": "fleet"}, {"mode": "single"}):
        for _, container in pod_specs(template(models__names="{a.onnx}", **values, **options)):
            arguments = local(container["args"], tmp_path)
            kept = [argument for argument in arguments if "/etc/clockwork" not in argument]
            assert run(["config", *kept]) == 0, capsys.readouterr().err
            files = [argument.partition("=")[0] for argument in arguments if "/etc/clockwork" in argument]
            assert files
            assert run([kept[0], "--help"]) == 0
            shown = capsys.readouterr().out
            assert all(option in shown for option in files)


def local(arguments: list[str], directory: Path) -> list[str]:
    """Replace paths, ports and names of a pod with those of this machine."""
    here = {"$(POD_NAME)": "worker-0", "=/models": f"={directory}/models", "/var/": f"{directory}/var/"}
    found = []
    for argument in arguments:
        text = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", argument)
        for there, place in here.items():
            text = text.replace(there, place)
        if text.endswith(".onnx") and not text.startswith("--"):
            text = "dense.onnx"
        found.append(text)
    return found


def get(address: str, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def until_ready(address: str) -> None:
    while get(address, "/v2/health/ready") != 200:
        time.sleep(0.05)


def test_the_commands_of_the_fleet_run(tmp_path: Path) -> None:
    containers = {
        manifest["kind"]: container for manifest, container in pod_specs(documents(RENDERED["fleet"].read_text()))
    }
    save_dense(tmp_path / "models/dense.onnx")
    quick = ("--profile-seconds=0.01", "--max-batch=2", "--slo=20s")
    with clockwork(*local(containers["StatefulSet"]["args"], tmp_path), *quick, "--log-format=human") as controller:
        http = controller.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        assert get(http, "/v2/health/live") == 200
        assert get(http, "/v2/health/ready") == 503
        workers = controller.err.wait_for(r"for workers on (\S+)")[1]
        arguments = local(containers["Deployment"]["args"], tmp_path)
        place = next(number for number, argument in enumerate(arguments) if argument.startswith("--controller="))
        arguments[place] = f"--controller={workers}"
        devices = [argument.replace("--devices=2", "--devices=1") for argument in arguments]
        with clockwork(*devices, "--cache-size=64MiB", "--log-format=human") as worker:
            health = worker.out.wait_for(r"serves health checks on (\S+)$")[1]
            until_ready(http)
            until_ready(health)
            with urllib.request.urlopen(f"http://{http}/v2/clockwork/scaling", timeout=30) as response:
                (kind,) = json.loads(response.read())["kinds"]
            assert (kind["devices"], kind["wanted"]) == (1, 1)


def test_the_command_of_a_single_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, container),) = pod_specs(documents(RENDERED["single"].read_text()))
    assert container["workingDir"] == "/models"
    monkeypatch.chdir(save_dense(tmp_path / "models/dense.onnx").parent)
    arguments = [argument.replace("--devices=2", "--devices=1") for argument in local(container["args"], tmp_path)]
    quick = ("--profile-seconds=0.01", "--max-batch=2", "--slo=20s", "--cache-size=64MiB", "--log-format=human")
    with clockwork(*arguments, *quick) as server:
        http = server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        until_ready(http)
        assert get(http, "/v2/models/dense/ready") == 200


def test_the_server_of_many_models_starts_empty_and_does_what_kserve_s_agent_asks(tmp_path: Path) -> None:
    runtime, service, trained = documents((DEPLOY / "kserve-multi-model.yaml").read_text())
    assert (runtime["kind"], runtime["spec"]["multiModel"]) == ("ClusterServingRuntime", True)
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    assert trained["spec"]["inferenceService"] == service["metadata"]["name"]
    (container,) = runtime["spec"]["containers"]
    models = tmp_path / "models"
    models.mkdir()
    arguments = [
        re.sub(r"(0\.0\.0\.0|127\.0\.0\.1):\d+", "127.0.0.1:0", argument).replace("/mnt/models", str(models))
        for argument in container["args"]
    ]
    quick = ("--profile-seconds=0.01", "--max-batch=2", "--slo=20s", "--no-profile-cache", "--log-format=human")
    with clockwork(*arguments, *quick) as server:
        http = server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        until_ready(http)
        save_dense(models / "squeezenet/model.onnx")
        for action in ("load", "unload"):
            request = urllib.request.Request(
                f"http://{http}/v2/repository/models/squeezenet/{action}", data=b"", method="POST"
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert response.status == 200
            ready = get(http, "/v2/models/squeezenet/ready") == 200
            assert ready is (action == "load")
