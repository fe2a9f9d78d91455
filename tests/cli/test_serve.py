"""``clockwork serve`` and its two processes: how they start, serve, die and end."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from cli.processes import Lines, Process, clockwork, save_dense, serve, wait_for_end, watched
from clockwork.client import Client
from clockwork.errors import RequestRefusedError
from clockwork.host.affinity import allowed_cores, confined


def check_that_it_serves(process: Process) -> None:
    with Client(process.address()) as client:
        result = client.model("dense").infer({"x": np.ones((1, 32), np.float32)}, slo=20)
    assert result["y"].shape == (1, 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_both_processes_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx"))) as process:
        check_that_it_serves(process)
        with watched(process.child()) as child:
            process.send(number)
            assert process.ended() == 0
            wait_for_end(child)
    assert process.out.seen == [f"clockwork is serving 1 model on {process.address()}"]
    assert not process.problems()
    stages = [line.rpartition(" ")[2] for line in process.err.seen if " stage: " in line]
    assert stages == ["loading", "profiling", "serving", "draining"]


def test_a_signal_ends_the_start_up(tmp_path: Path) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx"))) as process:
        process.err.wait_for("listening for clients")
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    assert not process.out.seen


def test_the_worker_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx"))) as process:
        process.address()
        with watched(process.child()) as child:
            process.send(signal.SIGKILL)
            wait_for_end(child)


def test_the_network_threads_do_not_interrupt_a_device_on_their_core(tmp_path: Path) -> None:
    with confined(allowed_cores()[:1]), serve(str(save_dense(tmp_path / "dense.onnx"))) as process:
        check_that_it_serves(process)
        claimed = any("no thread is pinned" in line for line in process.err.seen)  # another server uses the core
        expected = os.SCHED_OTHER if claimed else os.SCHED_BATCH
        assert {os.sched_getscheduler(pid) for pid in (process.popen.pid, process.child())} == {expected}


def test_a_killed_worker_is_restarted_and_serves(tmp_path: Path) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx"))) as process:
        check_that_it_serves(process)
        first = process.child()
        os.kill(first, signal.SIGKILL)
        process.err.wait_for("worker process was killed by SIGKILL; restarting it in 0.1 s")
        process.err.wait_for("worker local is ready to serve")
        assert process.child() != first
        for pid in (process.popen.pid, process.child()):
            assert "/memfd:clockwork-" in Path(f"/proc/{pid}/maps").read_text(), (
                "the new worker must share the payload memory"
            )
        check_that_it_serves(process)
        process.send(signal.SIGTERM)
        assert process.ended() == 0


def test_a_model_that_cannot_be_loaded_does_not_end_serve_and_has_the_same_status_in_every_call(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    arguments = (str(save_dense(tmp_path / "dense.onnx")), str(tmp_path / "broken.onnx"))
    with serve(*arguments, "--http=127.0.0.1:0", "--grpc=127.0.0.1:0") as process:
        url = f"http://{process.out.wait_for(r'^clockwork serves HTTP on (.+)$')[1]}/v2"
        grpc_address = process.out.wait_for(r"^clockwork serves gRPC on (.+)$")[1]
        check_that_it_serves(process)
        process.err.wait_for("1 of 2 models are served; not served: broken")
        with urlopen(Request(f"{url}/repository/index", b"{}")) as answer:
            index = {entry["name"]: entry for entry in json.load(answer)}
        assert (index["dense"]["state"], index["broken"]["state"]) == ("READY", "UNAVAILABLE")
        assert "it could not be loaded: worker local: " in index["broken"]["reason"]
        reason = "model 'broken' is not served: it could not be loaded: "
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.0] * 32}
        for call in ("", "/ready", "/config", "/stats", "/infer"):
            body = json.dumps({"inputs": [tensor]}).encode() if call == "/infer" else None
            with pytest.raises(HTTPError) as caught:
                urlopen(Request(f"{url}/models/broken{call}", body))
            assert (caught.value.code, caught.value.headers["Retry-After"]) == (503, None), call
            assert reason in caught.value.read().decode()
        data = triton.InferInput("x", [1, 32], "FP32")
        data.set_data_from_numpy(np.zeros((1, 32), np.float32))
        with triton.InferenceServerClient(grpc_address) as peer:
            assert not peer.is_model_ready("broken")
            calls: tuple[tuple[Any, ...], ...] = (
                ("get_model_metadata",),
                ("get_model_config",),
                ("get_inference_statistics",),
                ("infer", [data]),
            )
            for method, *more in calls:
                with pytest.raises(InferenceServerException, match=reason) as refused:
                    getattr(peer, method)("broken", *more)
                assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        with Client(process.address()) as client:
            assert list(client.status().broken) == ["broken"]
            with pytest.raises(RequestRefusedError, match=reason) as native:
                client.infer("broken", {"x": np.zeros((1, 32), np.float32)})
            assert native.value.retry_after is None


def test_with_strict_a_model_that_cannot_be_loaded_ends_serve_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    with serve("--strict", str(save_dense(tmp_path / "dense.onnx")), str(tmp_path / "broken.onnx")) as process:
        assert process.ended() == 1
    last = process.err.seen[-1]
    assert last.startswith("clockwork: cannot serve broken: it could not be loaded: worker local: ")
    assert not [line for line in process.err.seen if "Traceback" in line]
    assert not process.out.seen


def test_a_port_in_use_ends_serve_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with serve(str(save_dense(tmp_path / "dense.onnx")), f"--listen={address}") as process:
            assert process.ended() == 1
    assert process.err.seen[-1].startswith(f"clockwork: cannot listen on {address}: ")


def test_an_http_port_in_use_ends_serve_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with serve(str(save_dense(tmp_path / "dense.onnx")), f"--http={address}") as process:
            assert process.ended() == 1
    assert process.err.seen[-1].startswith(f"clockwork: cannot listen for HTTP on {address}: ")
    assert not process.out.seen


def test_http_is_served_until_a_clean_end(tmp_path: Path) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx")), "--http=127.0.0.1:0") as process:
        where = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        process.address()
        with urlopen(f"http://{where}/v2/health/ready") as answer:
            assert answer.read() == b'{"ready":true}'
        host, _, port = where.rpartition(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123")
            with urlopen(f"http://{where}/v2/health/live") as answer:
                assert answer.status == 200
            process.send(signal.SIGTERM)
            assert process.ended() == 0
    assert not process.problems()


def test_a_worker_that_fails_at_its_start_is_not_restarted(tmp_path: Path) -> None:
    with serve(str(save_dense(tmp_path / "dense.onnx")), "--cache-size=1MiB") as process:
        assert process.ended() == 1
    lines = [line for line in process.err.seen if line.startswith("clockwork: ")]
    assert "has no room for a page" in lines[0]
    assert lines[1:] == ["clockwork: worker process ended with exit code 1; its error is in the log above"]


def test_models_from_several_directories_have_names_and_copies(tmp_path: Path) -> None:
    first, second = save_dense(tmp_path / "one/dense.onnx"), save_dense(tmp_path / "two/dense.onnx", seed=1)
    with serve(str(first), f"other={second}:3") as process, Client(process.address()) as client:
        assert [model.name for model in client.ls()] == ["dense", "other-1", "other-2", "other-3"]
        assert process.out.seen == [f"clockwork is serving 4 models on {process.address()}"]


def test_a_second_start_measures_nothing(tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "models/dense.onnx"))
    options = [
        "--listen=127.0.0.1:0",
        "--http=none",
        "--profile-seconds=0.01",
        "--max-batch=2",
        f"--profile-cache={tmp_path}/times",
    ]
    measured = []
    for _ in range(2):
        with clockwork("serve", *options, model) as process:
            process.address()
            process.send(signal.SIGTERM)
            assert process.ended() == 0
        measured.append(len([line for line in process.err.seen if " measured dense" in line]))
    assert measured == [1, 0]
    assert len(list((tmp_path / "times").glob("*.json"))) == 1


def test_a_progress_bar_is_drawn_on_a_terminal(tmp_path: Path) -> None:
    controlling, terminal = os.openpty()
    with os.fdopen(controlling) as screen, serve(str(save_dense(tmp_path / "dense.onnx")), stderr=terminal) as process:
        os.close(terminal)
        drawn = Lines(screen)
        check_that_it_serves(process)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
        text = "".join(drawn.all())
    assert "stage: serving" in text
    assert "\x1b[" in text
