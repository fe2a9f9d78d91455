"""``clockwork controller`` and ``clockwork worker`` as separate commands, and ``clockwork load``."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

import onnx_graphs
from cli.processes import QUICK, clockwork, save_dense
from clockwork import Client
from clockwork.cli import run
from clockwork.host.controller_file import ControllerFile


def test_a_client_loads_a_model_on_a_controller_and_a_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_dense(tmp_path / "dense.onnx")
    ports = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0")
    with clockwork("controller", *ports, "--load-timeout=100ms", *QUICK) as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        here = ("--address", found[1])
        with clockwork("worker", f"--controller={found[2]}", f"--model-root={tmp_path}", "--name=w7") as worker:
            assert run(["load", "dense.onnx", "--copies", "2", "--name", "twins", *here]) == 0
            assert capsys.readouterr().out == "twins-1\ntwins-2\n"
            assert controller.address() == found[1]
            assert run(["status", *here]) == 0
            assert "w7" in capsys.readouterr().out
            assert run(["load", "dense.onnx", *here]) == 1
            assert capsys.readouterr().err.startswith("clockwork: models are loaded at start-up only")
            worker.send(signal.SIGTERM)
            assert worker.ended() == 0
            controller.err.wait_for("worker w7 is lost")
        controller.send(signal.SIGTERM)
        assert controller.ended() == 0
    assert not [line for line in controller.err.seen + worker.err.seen if "Traceback" in line]


def test_a_controller_sends_models_to_a_worker_without_files_and_a_restarted_worker_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, empty, store = tmp_path / "root", tmp_path / "empty", tmp_path / "received"
    empty.mkdir()
    onnx_graphs.saved_with_external_data(onnx_graphs.dense(), root / "nets" / "dense.onnx")
    ports = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0")
    with clockwork("controller", "d=nets/dense.onnx", *ports, f"--push-models={root}", *QUICK) as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        options = (f"--controller={found[2]}", f"--model-root={empty}", f"--received-models={store}", "--name=w7")
        with clockwork("worker", *options) as worker:
            assert controller.address() == found[1]
            sent = controller.err.wait_for(r"worker w7 has the files of nets/dense.onnx \((.*) were sent\)")
            assert sent[1] != "0 B"
            shown = np.ones((1, 32), np.float32)
            with Client(found[1]) as client:
                first = client.infer("d", {"x": shown})["y"]
            worker.send(signal.SIGTERM)
            assert worker.ended() == 0
        with clockwork("worker", *options):
            controller.err.wait_for(r"worker w7 has the files of nets/dense.onnx \(0 B were sent\)")
            controller.err.wait_for("worker w7 is ready to serve", count=1)
            with Client(found[1]) as client:
                np.testing.assert_array_equal(client.infer("d", {"x": shown})["y"], first)


def test_push_models_must_be_the_root_of_the_repositories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "dense").mkdir(parents=True)
    save_dense(tmp_path / "models" / "dense" / "model.onnx")
    assert run(["controller", f"--model-repository={tmp_path}/models", f"--push-models={tmp_path}"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "is not the model root of --model-repository" in error.replace("│ ", "")


def test_a_load_that_waits_for_workers_shows_why_and_ends_at_its_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with clockwork("controller", "--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=none") as controller:
        address = controller.err.wait_for(r"listening for clients on ([^\s,]+)")[1]
        assert run(["load", "dense.onnx", "--address", address, "--timeout=3s"]) == 1
        shown = capsys.readouterr().err.splitlines()
        why = "querying: the server waits until as many workers as configured (--workers) are connected"
        assert shown[0].startswith(why)
        assert shown[-1].startswith(f"clockwork: the load of dense.onnx has not ended after 3 s (--timeout); {why}")
        controller.err.wait_for(f"INFO clockwork.cli: {why[:40]}")
        assert run(["status", "--address", address]) == 0
        assert "The server waits until as many workers" in " ".join(capsys.readouterr().out.split())


def test_a_failed_load_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0")
    with clockwork("controller", *ports, *QUICK) as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        with clockwork("worker", f"--controller={found[2]}", f"--model-root={tmp_path}"):
            assert run(["load", "nowhere.onnx", "--address", found[1]]) == 1
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("clockwork: ")
    assert "'nowhere.onnx'" in error
    assert not [line for line in progress if line.startswith("clockwork: ")]


def test_a_worker_that_is_still_connecting_ends_with_its_parent(tmp_path: Path) -> None:
    with clockwork("worker", "--exit-with-parent", f"--model-root={tmp_path}", "--controller=127.0.0.1:1") as worker:
        worker.err.wait_for("cannot connect")
        assert worker.popen.stdin is not None
        worker.popen.stdin.close()
        assert worker.ended() == 0


def test_two_workers_on_one_host_execute_on_different_cores_or_warn(tmp_path: Path) -> None:
    arguments = ("worker", "--controller=127.0.0.1:1", f"--model-root={tmp_path}")
    with clockwork(*arguments, "--name=a") as first, clockwork(*arguments, "--name=b") as second:
        found = [process.err.wait_for(r"(INFO|WARNING) .*worker [ab]: .*; (.*)$") for process in (first, second)]
    cores = [re.search(r"gpu 0 on (\d+)", line[0]) for line in found]
    for line, core in zip(found, cores, strict=True):
        assert core or (line[1] == "WARNING" and "other workers on this host use" in line[0])
    if all(cores):
        assert len({core[1] for core in cores if core}) == 2


def test_a_worker_finds_a_controller_that_has_moved(tmp_path: Path) -> None:
    file = ControllerFile(tmp_path / "controller")
    arguments = (f"--controller-file={tmp_path / 'controller'}", f"--model-root={tmp_path}", "--name=w")
    listening = r"listening for clients on (\S+), for workers on (\S+)$"
    ports = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0")
    with clockwork("worker", *arguments) as worker:
        worker.err.wait_for("the address of the controller is not known yet; retrying until it succeeds")
        for _ in range(2):
            with clockwork("controller", *ports, *QUICK) as controller:
                address = controller.err.wait_for(listening)[2]
                file.write(address)
                worker.err.wait_for(f"worker w is connected to the controller at {address}")


def test_a_controller_drains_when_its_parent_ends(tmp_path: Path) -> None:
    ports = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0")
    with clockwork("controller", "--exit-with-parent", *ports, *QUICK) as controller:
        controller.err.wait_for("listening for clients on")
        assert controller.popen.stdin is not None
        controller.popen.stdin.close()
        assert controller.ended() == 0
