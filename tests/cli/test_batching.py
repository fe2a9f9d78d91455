"""Models whose rows depend on each other, served to concurrent clients, and the reasons why they are not batched."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest

from cli.processes import serve
from clockwork.cli import run
from clockwork.client import Client
from clockwork.runtimes.ort import onnxruntime
from onnx_graphs import dense, saved
from runtimes.random_graphs import random_graph, rows_for
from runtimes.test_batching import COUPLED, quantised, unproved
from runtimes.test_rows_of_random_graphs import as_strings, same

CLIENTS = 3
REQUESTS = 100  #: per client and model

#: Options that allow batches of four rows.
BATCHES = ("--max-batch=4", "--profile-seconds=0.01")


def alone(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def wrong(address: str, path: Path, feeds: Callable[[int], dict[str, Any]], count: int) -> int:
    """Send concurrent requests; return how many responses differ from those of the same request alone."""
    session = alone(path)
    names = [output.name for output in session.get_outputs()]

    def client(number: int) -> int:
        with Client(address) as connection:
            found = 0
            for i in range(count):
                feed = feeds(number * count + i)
                response = connection.infer(path.stem, feed, slo=20)
                for name, wanted in zip(names, session.run(None, feed), strict=True):
                    if not same(wanted, as_strings(response[name])):
                        found += 1
                        break
            return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS)))


def batch_sizes(client: Client) -> dict[str, int]:
    """Return the largest measured batch size of each model."""
    models = client.status().models
    return {model.info.name: max(max(profile.infer) for profile in model.profiles.values()) for model in models}


def rows_of_client(inputs: Any, client: int) -> dict[str, Any]:
    return rows_for(inputs, 1 + client % 2, client)


def test_no_response_depends_on_the_rows_of_another_client(tmp_path: Path) -> None:
    paths = [saved(make(), tmp_path / f"{name}.onnx") for name, (make, _) in COUPLED.items()]
    randoms: dict[Path, Any] = {}
    for seed in range(40):
        graph = random_graph(Random(seed))
        if graph is not None and len(randoms) < 8:
            path = tmp_path / f"random{seed}.onnx"
            onnx.save(graph.proto, path)
            try:
                alone(path).run(None, rows_for(graph.inputs, 2, seed))
            except Exception:  # noqa: BLE001 - ONNX Runtime refuses some random graphs
                continue
            randoms[path] = graph
    batched = saved(dense(), tmp_path / "dense.onnx")
    every = [*paths, *randoms, batched]
    with serve(*map(str, every), *BATCHES) as process:
        address = process.address()
        for path in paths:
            count = wrong(address, path, lambda i: {"x": np.random.default_rng(i).random((2, 8), np.float32)}, REQUESTS)
            assert count == 0, f"{count} of {CLIENTS * REQUESTS} responses of {path.stem} are wrong"
        for path, graph in randoms.items():
            assert wrong(address, path, partial(rows_of_client, graph.inputs), 10) == 0
        with Client(address) as client:
            sizes = batch_sizes(client)
        for name, (_, why) in COUPLED.items():
            process.err.wait_for(f"model {name} is not batched: {why}".replace("(", r"\(").replace(")", r"\)"))
        process.err.wait_for("model dense is batched")
    assert sizes["dense"] == 4
    assert {sizes[name] for name in COUPLED} == {1}


def test_the_options_of_serve_control_batching(tmp_path: Path) -> None:
    every = {"plain": dense(), "never": dense(), "maybe": unproved(), "allowed": unproved(), "coarse": quantised()}
    paths = [saved(graph, tmp_path / f"{name}.onnx") for name, graph in every.items()]
    limited = saved(dense(), tmp_path / "limited" / "1" / "model.onnx").parent.parent
    (limited / "config.pbtxt").write_text("max_batch_size: 3")
    options = ("--no-batching=never", "--allow-batching=allowed", "--allow-batching=coarse")
    with serve(*map(str, paths), str(limited), *options, *BATCHES) as process, Client(process.address()) as client:
        sizes = batch_sizes(client)
    assert sizes == {"plain": 4, "never": 1, "maybe": 1, "allowed": 4, "coarse": 4, "limited": 2}


@pytest.mark.parametrize("option", ["--no-batching", "--allow-batching"])
def test_an_unknown_model_name_is_refused(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(dense(), tmp_path / "dense.onnx")
    assert run(["serve", str(path), f"{option}=other"]) == 2
    assert "model 'other' is unknown; served models: dense" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", COUPLED)
def test_check_model_shows_why_a_model_is_not_batched(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, why = COUPLED[name]
    assert run(["check-model", str(saved(make(), tmp_path / f"{name}.onnx"))]) == 0
    assert f"  batches  no: {why}\n" in capsys.readouterr().out


def test_check_model_has_the_options_for_batching(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(dense(), tmp_path / "dense.onnx"))
    assert run(["check-model", path, "--no-batching", "dense"]) == 0
    assert "  batches  no: --no-batching names it\n" in capsys.readouterr().out
    path = str(saved(unproved(), tmp_path / "m.onnx"))
    assert run(["check-model", path, "--allow-batching", "m", "--max-batch=1"]) == 0
    assert "  batches  yes\n" in capsys.readouterr().out
