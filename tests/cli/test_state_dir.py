"""With ``--state-dir``, a controller that was killed serves the same models when it starts again."""

import base64
import json
import shutil
import signal
import socket
import threading
import time
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from cli.processes import QUICK, Process, clockwork, save_dense
from clockwork.client import Client
from clockwork.host.state_store import FILE

ROW = np.ones((1, 32), np.float32)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def serve(root: Path, *arguments: str) -> AbstractContextManager[Process]:
    return clockwork("serve", "--listen=127.0.0.1:0", *QUICK, f"--state-dir={root}/state", *arguments)


def wait_until_stored(root: Path, *names: str) -> None:
    """Wait until exactly the models with these names are stored. They are stored soon after serving begins."""
    end = time.monotonic() + 60
    while (found := [spec["name"] for spec in stored(root)]) != list(names):
        assert time.monotonic() < end, found
        threading.Event().wait(0.02)


def stored(root: Path) -> list[dict[str, str]]:
    path = root / "state" / FILE
    models: list[dict[str, str]] = json.loads(path.read_bytes())["desired"]["models"] if path.exists() else []
    return models


def outputs(client: Client) -> dict[str, bytes]:
    """Return the output of the default version, of version 1, and of the version with a label."""
    return {
        version: client.model("net", version=version).infer({"x": ROW})["y"].tobytes()
        for version in ("", "1", "2", "canary")
    }


def test_a_killed_controller_serves_the_same_models_again(tmp_path: Path) -> None:
    for number in (1, 2):
        save_dense(tmp_path / f"models/net/{number}/model.onnx", seed=number)
    save_dense(tmp_path / "models/gone.onnx", seed=3)
    worker_listen = free_address()
    arguments = (
        *("controller", "gone.onnx", "--listen=127.0.0.1:0", f"--worker-listen={worker_listen}", *QUICK),
        *(f"--state-dir={tmp_path}/state", "--model-control-mode=explicit"),
    )
    with clockwork("worker", f"--controller={worker_listen}", f"--model-root={tmp_path}/models") as worker:
        with clockwork(*arguments) as controller:
            with Client(controller.address()) as client:
                client.load("net", "net/1")
                client.load("net", "net/2", keep=True)
                client.promote("net", "1")
                client.promote("net", "2", label="canary")
                client.unload("gone")
                before = outputs(client)
            assert [spec["name"] for spec in stored(tmp_path)] == ["net", "net"], (
                "a change is answered after it is stored"
            )
            controller.send(signal.SIGKILL)
            controller.ended()
        with clockwork(*arguments) as controller, Client(controller.address()) as client:
            assert outputs(client) == before
            assert {model.name for model in client.ls()} == {"net"}
            assert worker.popen.poll() is None
            controller.send(signal.SIGKILL)
            controller.ended()
        state = tmp_path / "state" / FILE
        state.write_bytes(state.read_bytes()[:-30])
        with clockwork(*arguments) as controller, Client(controller.address()) as client:
            controller.err.wait_for(f"state file {state} cannot be used")
            assert "gone" in {model.name for model in client.ls()}
        assert state.with_name("models.json.unusable").exists()


def test_serve_restores_models_that_its_arguments_do_not_name(tmp_path: Path) -> None:
    first = save_dense(tmp_path / "one/a.onnx")
    second = save_dense(tmp_path / "two/b.onnx", seed=1)
    with serve(tmp_path, str(first), "--model-slo=a=15s") as process:
        assert process.address()
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    with serve(tmp_path, str(second)) as process, Client(process.address()) as client:
        assert sorted(model.name for model in client.ls()) == ["a", "b"]
        wait_until_stored(tmp_path, "a", "b")
    first.unlink()
    with serve(tmp_path) as process, Client(process.address()) as client:
        assert [model.name for model in client.ls()] == ["b"]
        process.err.wait_for("cannot serve a|not served: a")


def test_files_of_a_load_request_are_kept_for_the_restart(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    content = base64.b64encode(save_dense(tmp_path / "elsewhere.onnx", seed=4).read_bytes()).decode()
    request = {"parameters": {"config": '{"backend": "onnxruntime"}', "file:1/model.onnx": content}}
    arguments = (f"--model-repository={tmp_path}/repo", "--model-control-mode=explicit", "--http=127.0.0.1:0")
    with serve(tmp_path, *arguments) as process, Client(process.address()) as client:
        url = f"http://{process.out.wait_for(r'HTTP on (.*)')[1]}/v2/repository/models/net/load"
        with urllib.request.urlopen(url, json.dumps(request).encode()) as response:
            assert response.status == 200
        output = client.infer("net", {"x": ROW})["y"].tobytes()
        assert [spec["name"] for spec in stored(tmp_path)] == ["net"]
        process.send(signal.SIGKILL)
        process.ended()
    with serve(tmp_path, *arguments) as process, Client(process.address()) as client:
        assert client.infer("net", {"x": ROW})["y"].tobytes() == output


def test_in_poll_mode_the_repository_decides_the_models_and_the_state_keeps_the_rest(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        save_dense(tmp_path / f"repo/{name}/1/model.onnx", seed=seed)
    save_dense(tmp_path / "repo/a/2/model.onnx", seed=3)
    poll = ("--model-control-mode=poll", "--repository-poll-secs=0.2", f"--model-repository={tmp_path}/repo")
    with serve(tmp_path, *poll, "--version-policy=a=all") as process, Client(process.address()) as client:
        assert {(model.name, model.version) for model in client.ls()} == {("a", "1"), ("a", "2"), ("b", "1")}
        client.promote("a", "1")
        client.promote("a", "2", label="canary")
        expected = [client.model("a", version=version).infer({"x": ROW})["y"] for version in ("", "canary")]
        process.send(signal.SIGKILL)
        process.ended()
    shutil.rmtree(tmp_path / "repo/b")
    save_dense(tmp_path / "repo/c/1/model.onnx", seed=4)
    with serve(tmp_path, *poll, "--version-policy=a=all") as process, Client(process.address()) as client:
        wait_until_served(client, {("a", "1"), ("a", "2"), ("c", "1")})
        found = [client.model("a", version=version).infer({"x": ROW})["y"] for version in ("", "canary")]
        np.testing.assert_array_equal(found, expected)
        save_dense(tmp_path / "repo/d/1/model.onnx", seed=5)
        wait_until_served(client, {("a", "1"), ("a", "2"), ("c", "1"), ("d", "1")})


def wait_until_served(client: Client, versions: set[tuple[str, str]]) -> None:
    end = time.monotonic() + 60
    while (found := {(model.name, model.version) for model in client.ls()}) != versions:
        assert time.monotonic() < end, found
        threading.Event().wait(0.05)
