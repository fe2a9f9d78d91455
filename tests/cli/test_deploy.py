"""The files in deploy/ parse, and the command line accepts their arguments. Nothing is built or deployed.

`tests/manifests` tests the Helm chart, the manifests that are rendered from it, and the manifests for KServe.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.processes import save_dense, serve
from clockwork.cli import run
from clockwork.cli.parsers import duration
from clockwork.units import SECOND

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
MANIFESTS = sorted(DEPLOY.glob("kserve*.yaml"))
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
SERVICE = (DEPLOY / "clockwork.service").read_text()

END_S = 10
"""Longest time for the end of a worker, which is more than responses to slow clients may take."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the specs that have containers."""
    for document in documents(path):
        spec = document.get("spec", {})
        spec = spec.get("template", {}).get("spec", spec)
        if "containers" in spec:
            yield spec


def command_of(lines: str, instruction: str) -> list[str]:
    """Return the words of an instruction of the Containerfile in its JSON form."""
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", lines, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


def effective(arguments: list[str], directory: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the effective configuration for arguments whose files are replaced by files in ``directory``."""
    model = save_dense(directory / "models" / "model.onnx")
    file = directory / "clockwork.toml"
    file.write_text(f'[serve]\nmodels = ["{model}"]\n')
    here = {"/etc/clockwork/clockwork.toml": str(file), "/mnt/models": str(model.parent), "{{.Name}}": "dense"}
    for there, place in here.items():
        arguments = [argument.replace(there, place) for argument in arguments]
    assert run(["config", *arguments, "--json"]) == 0, capsys.readouterr().err
    (table,) = json.loads(capsys.readouterr().out).values()
    return {key: entry["value"] for key, entry in table.items()}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_has_valid_arguments_and_probes_the_right_port(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((container,),) = [spec["containers"] for spec in pods(path)]
    served = effective(container["args"], tmp_path, capsys)
    assert served["log-format"] == "json"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listens = {int(served[key].rpartition(":")[2]) for key in ("listen", "http", "grpc")}
    assert set(ports.values()) <= listens
    for probe, path_of_probe in (("livenessProbe", "/v2/health/live"), ("readinessProbe", "/v2/health/ready")):
        get = container[probe]["httpGet"]
        assert get["path"] == path_of_probe
        assert ports.get(get["port"], get["port"]) == int(served["http"].rpartition(":")[2])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_grace_period_of_a_pod_is_longer_than_its_drain(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((container,),) = [spec["containers"] for spec in pods(path)]
    drain = duration(effective(container["args"], tmp_path, capsys)["drain-limit"]) / SECOND
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    (grace,) = re.findall(r"^\s*terminationGracePeriodSeconds: (\d+)$", path.read_text(), re.MULTILINE)
    assert int(grace) >= waits + drain + END_S


def test_the_kserve_runtime_has_both_protocols() -> None:
    runtime, service = documents(DEPLOY / "kserve-runtime.yaml")
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert runtime["spec"]["protocolVersions"] == ["v2", "grpc-v2"]
    assert runtime["spec"]["containers"][0]["name"] == "kserve-container"
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in [supported["name"] for supported in runtime["spec"]["supportedModelFormats"]]


def test_the_command_of_the_container_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_of(CONTAINERFILE, "ENTRYPOINT") == ["clockwork"]
    served = effective(command_of(CONTAINERFILE, "CMD"), tmp_path, capsys)
    (exposed,) = re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert exposed.split() == [served[key].rpartition(":")[2] for key in ("listen", "http", "grpc")]


def test_both_images_are_built_from_hashes_and_run_without_root() -> None:
    installs = re.findall(r"pip install (.*)$", CONTAINERFILE, re.MULTILINE)
    assert installs == [
        "--require-hashes -r requirements.lock",
        "--no-deps --no-build-isolation .",
        "--require-hashes -r requirements-torch-cuda.lock",
        "--require-hashes --no-deps -r requirements-onnx-cuda.lock",
    ]
    *_, image, cuda, cpu = CONTAINERFILE.split("\nFROM ")
    assert re.search(r"^USER [1-9]\d*$", image, re.MULTILINE)
    for stage, name in ((cuda, "cuda"), (cpu, "cpu")):
        assert stage.startswith(f"image AS {name}\n")
        assert "\nUSER" not in stage
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (DEPLOY.parent / name).exists()


def test_the_image_for_gpus_locks_what_pytorch_needs_and_the_runtime_lacks() -> None:
    runtime, cuda = (
        set(re.findall(r"^([a-z0-9-]+)==", (DEPLOY.parent / f"requirements{kind}.lock").read_text(), re.MULTILINE))
        for kind in ("", "-torch-cuda")
    )
    assert not runtime & cuda
    assert {"torch", "cuda-bindings", "jinja2", "markupsafe"} <= cuda


def test_the_unit_has_valid_arguments_and_waits_for_the_drain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", SERVICE, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert Path(program).name == "clockwork"
    drain = duration(effective(arguments, tmp_path, capsys)["drain-limit"]) / SECOND
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", SERVICE, re.MULTILINE)
    assert int(stop) >= drain + END_S
    assert "\nKillMode=mixed\n" in SERVICE, "otherwise systemd ends the worker before the drain is over"


def test_the_health_check_of_the_image_works_behind_a_proxy(tmp_path: Path) -> None:
    (words,) = re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    _, *arguments = json.loads(words)
    dead = "http://127.0.0.1:1"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), dead) | {"no_proxy": ""}
    with serve(str(save_dense(tmp_path / "dense.onnx")), "--http=127.0.0.1:0") as server:
        port = server.out.wait_for(r"serves HTTP on \S+:(\d+)$")[1]
        command = [sys.executable, *(argument.replace(":8000", f":{port}") for argument in arguments)]
        checked = subprocess.run(command, env={**os.environ, **proxies}, timeout=60, check=False, capture_output=True)
        assert checked.returncode == 0, checked.stderr
    ended = subprocess.run(command, env={**os.environ, **proxies}, timeout=60, check=False, capture_output=True)
    assert ended.returncode != 0
