"""The command line accepts the arguments of the rendered pods, and the commands run on this machine."""

import json
import re
import ssl
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from certificates import Authority
from cli.processes import clockwork, save_dense
from clockwork.cli import run
from manifests.documents import RENDERED, Manifest, documents, lines, pod_specs
from manifests.helm import needs_helm, template


def secrets(directory: Path) -> ssl.SSLContext:
    """Write the files of the Secrets below ``etc``, as a pod has them. Return the TLS settings of a client."""
    tls, tokens = directory / "etc/tls", directory / "etc/tokens"
    for path in (tls, tokens):
        path.mkdir(parents=True)
    authority = Authority(directory)
    pair = authority.signs("127.0.0.1", "localhost")
    for name, source in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", authority.file)):
        (tls / name).write_bytes(source.read_bytes())
    for name in ("inference", "admin", "worker"):
        (tokens / name).write_text(f"token-of-{name}-0123456789\n")
    for path in (*tls.iterdir(), *tokens.iterdir()):
        path.chmod(0o440)
    return authority.client()


@needs_helm
def test_the_arguments_with_every_option_are_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets(tmp_path)
    monkeypatch.chdir(save_dense(tmp_path / "models/dense.onnx").parent)
    options = {"tls__existingSecret": "t", "tokens__existingSecret": "t", "models__names": "{a.onnx}"}
    options |= {f"{it}__runtime": "onnx" for it in ("server", "worker")}
    for mode, push in (("fleet", "false"), ("fleet", "true"), ("single", "false")):
        for _, container in pod_specs(template(mode=mode, models__push=push, **options)):
            assert "=/etc/clockwork/" in lines(container)
            assert run(["config", *local(container["args"], tmp_path)]) == 0, capsys.readouterr().err


def local(arguments: list[str], directory: Path) -> list[str]:
    """Replace paths, ports and names of a pod with those of this machine."""
    here = {
        "$(POD_NAME)": "worker-0",
        "=/models": f"={directory}/models",
        "/var/": f"{directory}/var/",
        "/etc/clockwork": f"{directory}/etc",
    }
    found = []
    for argument in arguments:
        text = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", argument)
        for there, place in here.items():
            text = text.replace(there, place)
        if text.endswith(".onnx") and not text.startswith("--"):
            text = "dense.onnx"
        found.append(text)
    return found


def get(address: str, path: str, tls: ssl.SSLContext | None = None, token: str = "") -> tuple[int, bytes]:
    request = Request(f"{'https' if tls else 'http'}://{address}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request, timeout=30, context=tls) as response:
            return int(response.status), response.read()
    except HTTPError as error:
        return error.code, b""


def until_ready(address: str, tls: ssl.SSLContext | None = None) -> None:
    while get(address, "/v2/health/ready", tls)[0] != 200:
        time.sleep(0.05)


QUICK = ("--profile-seconds=0.01", "--max-batch=2", "--slo=20s", "--log-format=human")


def run_fleet(manifests: list[Manifest], directory: Path, tls: ssl.SSLContext | None = None) -> None:
    """Run the commands of a controller and of a worker with one device, until both are ready."""
    containers = {manifest["kind"]: container for manifest, container in pod_specs(manifests)}
    save_dense(directory / "models/dense.onnx")
    token = "token-of-inference-0123456789"
    with clockwork(*local(containers["StatefulSet"]["args"], directory), *QUICK) as controller:
        http = controller.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        assert get(http, "/v2/health/live", tls)[0] == 200
        assert get(http, "/v2/health/ready", tls)[0] == 503
        workers = controller.err.wait_for(r"for workers on (\S+)")[1]
        arguments = local(containers["Deployment"]["args"], directory)
        place = next(number for number, argument in enumerate(arguments) if argument.startswith("--controller="))
        arguments[place] = f"--controller={workers}"
        if "--push-models" in lines(containers["StatefulSet"]):
            (directory / "empty").mkdir()
            arguments.append(f"--model-root={directory / 'empty'}")
            arguments.append(f"--received-models={directory / 'received'}")
        with clockwork(*arguments, "--devices=1", "--cache-size=64MiB", "--log-format=human") as worker:
            health = worker.out.wait_for(r"serves health checks on (\S+)$")[1]
            until_ready(http, tls)
            until_ready(health)
            status, body = get(http, "/v2/clockwork/scaling", tls, token)
            assert status == 200
            (kind,) = json.loads(body)["kinds"]
            assert (kind["devices"], kind["wanted"]) == (1, 1)
            assert get(http, "/v2/models/dense/ready", tls, token)[0] == 200


def test_the_commands_of_the_fleet_run(tmp_path: Path) -> None:
    run_fleet(documents(RENDERED["fleet"].read_text()), tmp_path)


@needs_helm
def test_the_commands_of_a_fleet_run_with_tls_and_tokens_and_with_models_that_the_controller_sends(
    tmp_path: Path,
) -> None:
    tls = secrets(tmp_path)
    options = {"tls__existingSecret": "t", "tokens__existingSecret": "t", "models__push": "true"}
    run_fleet(template(mode="fleet", models__names="{a.onnx}", **options), tmp_path, tls)


def test_the_command_of_a_single_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, container),) = pod_specs(documents(RENDERED["single"].read_text()))
    assert container["workingDir"] == "/models"
    monkeypatch.chdir(save_dense(tmp_path / "models/dense.onnx").parent)
    arguments = [argument.replace("--devices=2", "--devices=1") for argument in local(container["args"], tmp_path)]
    with clockwork(*arguments, *QUICK, "--cache-size=64MiB") as server:
        http = server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        until_ready(http)
        assert get(http, "/v2/models/dense/ready")[0] == 200
