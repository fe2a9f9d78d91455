"""The command line accepts the arguments of the rendered pods, and the commands run on this machine."""

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cli.processes import clockwork, save_dense
from clockwork.cli import run
from manifests.documents import RENDERED, documents, pod_specs
from manifests.helm import needs_helm, template


@needs_helm
def test_the_arguments_with_every_option_are_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"tls__existingSecret": "t", "tokens__existingSecret": "t"}
    monkeypatch.chdir(save_dense(tmp_path / "models/dense.onnx").parent)
    options |= {f"{it}__runtime": "onnx" for it in ("server", "worker")} | {"models__names": "{a.onnx}"}
    for mode, push in (("fleet", "false"), ("fleet", "true"), ("single", "false")):
        for _, container in pod_specs(template(mode=mode, models__push=push, **options)):
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
