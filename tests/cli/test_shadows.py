"""A live server compares a version with live requests, and its shadows survive a restart."""

import json
import signal
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from cli.processes import QUICK, Process, clockwork
from clockwork.cli import run
from clockwork.client import Client
from clockwork.errors import NotPermittedError, UnknownModelError
from clockwork.messages.shadows import ShadowStatus
from onnx_graphs import model, node, saved, value

#: Version 2 adds 0.5 to the first element.
ROWS = ((3.0, 1.0, 0.0), (1.0, 2.0, 0.0), (1.0, 1.25, 0.0), (0.0, 0.0, 9.0))
LABELS = (1, 1, 0, 1)  #: whether both versions have the largest element at the same place


def save_versions(root: Path) -> Path:
    """Save two versions of ``net`` that differ by exactly 0.5 in the first column, and return the repository."""
    for version, offset in ((1, 0.0), (2, 0.5)):
        graph = model(
            [node("Add", "x c", "y"), node("ArgMax", "y", "top", axis=1, keepdims=0)],
            [value("x", ["N", 3])],
            [value("y", ["N", 3]), value("top", ["N"], 7)],
            c=np.array([offset, 0, 0], np.float32),
        )
        saved(graph, root / f"repo/net/{version}/model.onnx")
    return root / "repo"


def serve(repository: Path, *arguments: str) -> AbstractContextManager[Process]:
    ports = ("--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--grpc=127.0.0.1:0")
    return clockwork("serve", f"--model-repository={repository}", *QUICK[1:], "--max-batch=4", *ports, *arguments)


def shadow_when(client: Client, compared: int, version: str = "2") -> ShadowStatus:
    """Return the status of the shadow when so many copies are compared."""
    end = time.monotonic() + 60
    while True:
        (found,) = client.status().shadows
        if found.version == version and found.compared >= compared:
            return found
        assert time.monotonic() < end, found
        threading.Event().wait(0.02)


def over_http(process: Process, rows: Sequence[Sequence[float]], version: str = "") -> list[float]:
    where = process.out.wait_for("HTTP on (.*)")[1]
    path = f"/v2/models/net{version and f'/versions/{version}'}/infer"
    data = [element for row in rows for element in row]
    body = {"inputs": [{"name": "x", "shape": [len(rows), 3], "datatype": "FP32", "data": data}]}
    with urllib.request.urlopen(f"http://{where}{path}", json.dumps(body).encode()) as response:
        answer = json.load(response)
    assert answer["model_version"] == (version or "1")
    found: list[float] = next(output["data"] for output in answer["outputs"] if output["name"] == "y")
    return found


def over_grpc(process: Process, rows: Sequence[Sequence[float]]) -> None:
    with triton.InferenceServerClient(process.out.wait_for("gRPC on (.*)")[1]) as client:
        tensor = triton.InferInput("x", [len(rows), 3], "FP32")
        tensor.set_data_from_numpy(np.array(rows, np.float32))
        result = client.infer("net", [tensor])
        assert result.get_response().model_version == "1"
        assert np.array_equal(result.as_numpy("y"), np.array(rows, np.float32))


def metrics(process: Process) -> str:
    where = process.out.wait_for("HTTP on (.*)")[1]
    with urllib.request.urlopen(f"http://{where}/metrics") as response:
        return str(response.read().decode())


def test_a_shadow_reports_exactly_how_its_outputs_differ_over_http_and_grpc(tmp_path: Path) -> None:
    repository = save_versions(tmp_path)
    with (
        serve(repository, "--version-policy=net=all", "--shadow=net=2:1") as process,
        Client(process.address()) as client,
    ):
        assert over_http(process, ROWS) == [element for row in ROWS for element in row]
        over_grpc(process, ROWS[:2])
        found = shadow_when(client, 2)
        assert (found.name, found.state, found.share, found.copied, found.equal) == ("net", "running", 1.0, 2, 0)
        assert (found.failed, found.dropped) == (0, 0)
        y, top = found.outputs
        assert (y.name, y.datatype, y.compared, y.equal) == ("y", "FP32", 2, 0)
        assert (y.max_difference, y.rows, y.rows_agreed) == (0.5, 6, 5)
        assert (top.name, top.compared, top.equal) == ("top", 2, 1)
        assert found.mismatches == {"argmax": 1, "values": 1}
        process.err.wait_for("output 'y': the largest element of 1 of 4 rows is at another place")
        process.err.wait_for("output 'top': 1 of 4 elements differ")

        over_http(process, ROWS, version="2")
        assert client.infer("net", {"x": np.array(ROWS, np.float32)})["y"].tolist() == [list(row) for row in ROWS]
        assert shadow_when(client, 3).copied == 3  # the request for version 2 was not copied

        text = metrics(process)
        assert 'clockwork_shadow_running{model="net",version="2"} 1.0' in text
        assert 'clockwork_shadow_copies_total{model="net",outcome="different",version="2"} 3.0' in text
        assert 'clockwork_shadow_max_difference{model="net",output="y",version="2"} 0.5' in text
        assert 'clockwork_shadow_rows_total{agreed="no",model="net",output="y",version="2"} 2.0' in text
        assert 'clockwork_shadow_mismatches_total{kind="argmax",model="net",version="2"} 2.0' in text
        models = client.status().models
        assert [(each.info.version, each.default, each.in_time) for each in models] == [("1", True, 3), ("2", False, 1)]


def test_the_command_begins_and_ends_a_shadow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    explicit = ("--model-control-mode=explicit", "--load-model=net", "--version-policy=net=all")
    with (
        serve(save_versions(tmp_path), *explicit) as process,
        Client(process.address()) as client,
    ):
        address = f"--address={process.address()}"
        assert run(["shadow", "net=2:0.5", address]) == 1
        assert "version 2 is the default version of model 'net'; promote another version first" in (
            capsys.readouterr().err
        )
        client.promote("net", "1")
        assert run(["shadow", "net=2:0.5", address]) == 0
        for _ in range(4):
            over_http(process, ROWS[:1])
        assert shadow_when(client, 2).copied == 2
        capsys.readouterr()
        assert run(["status", address]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert "Shadows" in lines
        assert any(line.startswith("net:2 0.5 running 2 2 0 0.5 100.00% 0 0") for line in lines), "\n".join(lines)
        assert run(["shadow", "net", "--off", address]) == 0
        assert client.status().shadows == ()
        assert run(["shadow", "net", "--off", address]) == 1
        assert "model 'net' has no shadow" in capsys.readouterr().err
        client.shadow("net", "7", 0.5)
        (found,) = client.status().shadows
        assert (found.state, found.reason) == ("waiting", "version 7 is not ready")
        with pytest.raises(UnknownModelError, match="model 'nobody' is unknown; served models: net"):
            client.shadow("nobody", "1")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("net",), "invalid NAME=VERSION:SHARE 'net'; example: resnet50=2:0.1"),
        (("net=2",), "invalid NAME=VERSION:SHARE"),
        (("net=canary:0.1",), "invalid version 'canary' in 'net=canary:0.1': it must be a number"),
        (("net=2:much",), "invalid share 'much'"),
        (("net=2:0",), "share of a shadow is 0; it must be more than 0 and at most 1"),
        (("net=2:1.1",), "share of a shadow is 1.1"),
        (("net=2:nan",), "share of a shadow is nan"),
        (("net=2:0.1", "--off"), "--off takes only the name of the model"),
    ],
)
def test_a_wrong_shadow_is_refused_before_a_request_is_sent(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["shadow", *arguments]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("net=2",), "invalid NAME=VERSION:SHARE"),
        (("net=2:0.1", "net=3:0.1"), "model 'net' has the shadows 2 and 3; give one"),
        (("net=2:0",), "share of a shadow is 0"),
    ],
)
def test_wrong_shadows_are_refused_at_the_start(given: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    repository = save_versions(tmp_path)
    with serve(repository, *(f"--shadow={text}" for text in given)) as process:
        assert process.ended() == 2
        assert reason in " ".join(line.strip(" │") for line in process.err.seen)


def test_a_restarted_server_continues_a_shadow_of_the_configuration_file_or_of_a_client(tmp_path: Path) -> None:
    repository = save_versions(tmp_path)
    config = tmp_path / "clockwork.toml"
    config.write_text('[serve]\nshadow = ["net=2:0.25"]\n')
    arguments = ("--version-policy=net=all", f"--state-dir={tmp_path}/state", f"--config={config}")
    with serve(repository, *arguments) as process, Client(process.address()) as client:
        (found,) = client.status().shadows
        assert (found.version, found.share, found.state) == ("2", 0.25, "running")
        client.shadow("net", "2", 0.75)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    with serve(repository, *arguments) as process, Client(process.address()) as client:
        (found,) = client.status().shadows
        assert (found.version, found.share, found.state) == ("2", 0.75, "running")
        client.shadow("net")
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    with serve(repository, *arguments) as process, Client(process.address()) as client:
        assert client.status().shadows == ()
    config.write_text('[serve]\nshadow = ["net=2:0.5"]\n')
    with serve(repository, *arguments) as process, Client(process.address()) as client:
        (found,) = client.status().shadows
        assert found.share == 0.5


def test_changing_a_shadow_needs_the_right_of_an_administrator(tmp_path: Path) -> None:
    repository = save_versions(tmp_path)
    (tmp_path / "admin").write_text("administrator-token")
    (tmp_path / "infer").write_text("inference-token-1")
    for file in ("admin", "infer"):
        (tmp_path / file).chmod(0o600)
    tokens = (f"--admin-token-file={tmp_path}/admin", f"--inference-token-file={tmp_path}/infer")
    with serve(repository, "--version-policy=net=all", *tokens) as process:
        address = process.address()
        with (
            Client(address, token="inference-token-1") as client,
            pytest.raises(NotPermittedError, match="use an admin token"),
        ):
            client.shadow("net", "1", 0.5)
        with Client(address, token="administrator-token") as client:
            client.shadow("net", "1", 0.5)
            assert [each.version for each in client.status().shadows] == ["1"]
