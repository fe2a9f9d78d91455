"""``clockwork serve`` and ``controller`` load models of repositories at the start, on request, or when files change."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cli.processes import QUICK, clockwork, save_dense
from clockwork.client import Client
from clockwork.errors import ClockworkError

ROW = np.ones((1, 32), np.float32)
OPTIONS = ("--listen=127.0.0.1:0", *QUICK)


def served(client: Client) -> dict[str, str]:
    return {model.name: model.version for model in client.ls()}


def wait_until(client: Client, models: dict[str, str]) -> None:
    """Wait until exactly these models are served, with these default versions."""
    end = time.monotonic() + 60
    while served(client) != models:
        assert time.monotonic() < end, served(client)
        threading.Event().wait(0.05)


def test_all_models_of_a_repository_are_loaded_at_the_start(tmp_path: Path) -> None:
    save_dense(tmp_path / "repo/a/1/model.onnx")
    save_dense(tmp_path / "repo/a/2/model.onnx", seed=1)
    save_dense(tmp_path / "repo/b/model.onnx", seed=2)
    (tmp_path / "repo/broken/1").mkdir(parents=True)
    (tmp_path / "repo/broken/1/model.onnx").touch()
    options = ["--version-policy=a=all", "--label=a:stable=1"]
    with clockwork("serve", f"--model-repository={tmp_path}/repo", *options, *OPTIONS) as process:
        with Client(process.address()) as client:
            assert served(client) == {"a": "2", "b": "1"}
            assert client.infer("a", {"x": ROW})["y"].shape == (1, 5)
        process.err.wait_for("3 of 4 models are served; not served: broken")


def test_explicit_mode_starts_with_the_models_that_are_named(tmp_path: Path) -> None:
    save_dense(tmp_path / "repo/a/1/model.onnx")
    save_dense(tmp_path / "repo/b/1/model.onnx", seed=2)
    explicit = ["--model-control-mode=explicit", f"--model-repository={tmp_path}/repo"]
    with (
        clockwork("serve", *explicit, "--load-model=a", *OPTIONS) as process,
        Client(process.address()) as client,
    ):
        assert served(client) == {"a": "1"}
        assert client.load_model("b/1", name="b") == ["b"]
        assert served(client) == {"a": "1", "b": "1"}
    with clockwork("serve", *explicit, *OPTIONS) as process, Client(process.address()) as client:
        assert served(client) == {}


def test_poll_mode_serves_what_appears_and_drops_what_vanishes(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    save_dense(repo / "a/1/model.onnx")
    poll = ["--model-control-mode=poll", "--repository-poll-secs=0.3"]
    with (
        clockwork("serve", f"--model-repository={repo}", *poll, *OPTIONS) as process,
        Client(process.address()) as client,
    ):
        assert served(client) == {"a": "1"}
        save_dense(tmp_path / "new/b/1/model.onnx", seed=1)
        (tmp_path / "new/b").rename(repo / "b")
        wait_until(client, {"a": "1", "b": "1"})

        whole = save_dense(tmp_path / "new/c/1/model.onnx", seed=2).read_bytes()
        target = repo / "c/1/model.onnx"
        target.parent.mkdir(parents=True)
        with target.open("wb") as file:
            for part in range(8):  # slower than an interval in all, and never unchanged for one
                file.write(whole[part * len(whole) // 8 : (part + 1) * len(whole) // 8])
                file.flush()
                threading.Event().wait(0.1)
                assert "c" not in served(client)
        wait_until(client, {"a": "1", "b": "1", "c": "1"})

        (repo / "a/2").mkdir()
        (repo / "a/2/model.onnx").write_bytes(b"broken")
        process.err.wait_for("cannot load a: ")
        assert served(client)["a"] == "1"
        client.infer("a", {"x": ROW})
        threading.Event().wait(1)
        assert sum("cannot load a: " in line for line in process.err.seen) == 1
        save_dense(repo / "a/2/model.onnx", seed=3)
        wait_until(client, {"a": "2", "b": "1", "c": "1"})

        shutil.rmtree(repo / "b")
        wait_until(client, {"a": "2", "c": "1"})
        with pytest.raises(ClockworkError):
            client.infer("b", {"x": ROW})


def test_a_controller_takes_models_as_arguments(tmp_path: Path) -> None:
    save_dense(tmp_path / "nets/a.onnx")
    config = tmp_path / "clockwork.toml"
    config.write_text('[controller]\nmodels = ["nets/a.onnx", "two=nets/a.onnx:2"]\n')
    ports = ("--worker-listen=127.0.0.1:0", "--log-format=json")
    with clockwork("controller", f"--config={config}", *ports, *OPTIONS) as controller:
        worker_port = controller.err.wait_for(r'"worker_address": ?"([^"]+)"')[1]
        with (
            clockwork("worker", f"--controller={worker_port}", f"--model-root={tmp_path}"),
            Client(controller.address()) as client,
        ):
            assert sorted(served(client)) == ["a", "two-1", "two-2"]


def test_an_option_may_name_a_model_that_is_loaded_later(tmp_path: Path) -> None:
    save_dense(tmp_path / "repo/a/1/model.onnx")
    save_dense(tmp_path / "repo/b/1/model.onnx", seed=1)
    explicit = ["--model-control-mode=explicit", f"--model-repository={tmp_path}/repo", "--load-model=a"]
    options = ["--no-batching=b", "--allow-batching=c", "--model-shape=c:x=32"]
    with clockwork("serve", *explicit, *options, *OPTIONS) as process, Client(process.address()) as client:
        client.load("b")
        assert {model.name: model.max_batch_size == 1 for model in client.ls()} == {"a": False, "b": True}


def test_a_controller_follows_the_links_that_an_option_allows(tmp_path: Path) -> None:
    save_dense(tmp_path / "all/blobs/dense.onnx")
    version = tmp_path / "all/repo/net/1"
    version.mkdir(parents=True)
    (version / "model.onnx").symlink_to(tmp_path / "all/blobs/dense.onnx")
    allowed = f"--allow-links-to={tmp_path}/all/blobs"
    ports = ("--worker-listen=127.0.0.1:0", "--log-format=json")
    repository = ("--model-control-mode=explicit", f"--model-repository={tmp_path}/all/repo", "--load-model=net")
    with clockwork("controller", *repository, allowed, *ports, *OPTIONS) as controller:
        port = controller.err.wait_for(r'"worker_address": ?"([^"]+)"')[1]
        with (
            clockwork("worker", f"--controller={port}", f"--model-root={tmp_path}/all/repo", allowed),
            Client(controller.address()) as client,
        ):
            assert served(client) == {"net": "1"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--load-model=a",), "--load-model needs --model-control-mode explicit"),
        (
            ("--model-control-mode=explicit", "--load-model=*", "--load-model=a"),
            "loads all models; leave out the names",
        ),
        (("--model-control-mode=explicit", "--scheduler=examples.least_loaded:LeastLoaded"), "cannot add and remove"),
        (("--label=a:1=2",), "invalid label"),
        (("--version-policy=a=newest",), "invalid NAME=POLICY"),
        (("--model-root=/usr",), "is outside of the model root"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    save_dense(tmp_path / "repo/a/1/model.onnx")
    with clockwork("serve", f"--model-repository={tmp_path}/repo", *arguments, *OPTIONS) as process:
        assert process.ended() == 2
        assert reason in " ".join(line.strip(" │") for line in process.err.seen)
