"""Models that compute across rows, served to clients at the same time; and what is said of them."""

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
from runtimes.test_rows_of_random_graphs import as_texts, same

CLIENTS = 3
REQUESTS = 100  #: of each client, for each model

#: Models that the scheduler can make batches of four rows of.
BATCHES = ("--max-batch=4", "--profile-seconds=0.01")


def alone(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def wrong(address: str, path: Path, feeds: Callable[[int], dict[str, Any]], count: int) -> int:
    """How many of the responses to clients that send at the same time are not those of the request alone."""
    session = alone(path)
    names = [it.name for it in session.get_outputs()]

    def client(number: int) -> int:
        with Client(address) as it:
            found = 0
            for i in range(count):
                feed = feeds(number * count + i)
                response = it.infer(path.stem, feed, slo=20)
                for name, wanted in zip(names, session.run(None, feed), strict=True):
                    if not same(wanted, as_texts(response[name])):
                        found += 1
                        break
            return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS)))


def batch_sizes(client: Client) -> dict[str, int]:
    """The largest batch that was measured of each model."""
    models = client.status().models
    return {it.info.name: max(size for profile in it.profiles.values() for size in profile.infer) for it in models}


def rows_of_client(inputs: Any, client: int) -> dict[str, Any]:
    return rows_for(inputs, 1 + client % 2, client)


def test_no_response_has_anything_of_another_clients_rows(tmp_path: Path) -> None:
    paths = [saved(make(), tmp_path / f"{name}.onnx") for name, (make, _) in COUPLED.items()]
    randoms: dict[Path, Any] = {}
    for seed in range(40):
        made = random_graph(Random(seed))
        if made is not None and len(randoms) < 8:
            path = tmp_path / f"random{seed}.onnx"
            onnx.save(made.proto, path)
            try:
                alone(path).run(None, rows_for(made.inputs, 2, seed))
            except Exception:  # noqa: BLE001 - a graph that ONNX Runtime refuses
                continue
            randoms[path] = made
    batched = saved(dense(), tmp_path / "dense.onnx")
    every = [*paths, *randoms, batched]
    with serve(*map(str, every), *BATCHES) as process:
        address = process.address()
        for path in paths:
            count = wrong(address, path, lambda i: {"x": np.random.default_rng(i).random((2, 8), np.float32)}, REQUESTS)
            assert count == 0, f"{count} of {CLIENTS * REQUESTS} responses of {path.stem} are wrong"
        for path, made in randoms.items():
            assert wrong(address, path, partial(rows_of_client, made.inputs), 10) == 0
        with Client(address) as client:
            sizes = batch_sizes(client)
        for name, (_, why) in COUPLED.items():
            process.err.wait_for(f"model {name} is not batched: {why}".replace("(", r"\(").replace(")", r"\)"))
        process.err.wait_for("model dense is batched")
    assert sizes["dense"] == 4
    assert {sizes[name] for name in COUPLED} == {1}


def test_a_model_is_batched_as_the_options_of_serve_say(tmp_path: Path) -> None:
    every = {"plain": dense(), "never": dense(), "maybe": unproved(), "allowed": unproved(), "coarse": quantised()}
    paths = [saved(made, tmp_path / f"{name}.onnx") for name, made in every.items()]
    limited = saved(dense(), tmp_path / "limited" / "1" / "model.onnx").parent.parent
    (limited / "config.pbtxt").write_text("max_batch_size: 3")
    options = ("--no-batching=never", "--allow-batching=allowed", "--allow-batching=coarse")
    with serve(*map(str, paths), str(limited), *options, *BATCHES) as process, Client(process.address()) as client:
        sizes = batch_sizes(client)
    assert sizes == {"plain": 4, "never": 1, "maybe": 1, "allowed": 4, "coarse": 4, "limited": 2}


@pytest.mark.parametrize("option", ["--no-batching", "--allow-batching"])
def test_a_name_that_no_model_has_is_refused(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(dense(), tmp_path / "dense.onnx")
    assert run(["serve", str(path), f"{option}=other"]) == 2
    assert "model 'other' is unknown; served models: dense" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", COUPLED)
def test_check_model_says_why_a_model_is_not_batched(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, why = COUPLED[name]
    assert run(["check-model", str(saved(make(), tmp_path / f"{name}.onnx"))]) == 0
    assert f"  batches  no: {why}\n" in capsys.readouterr().out


def test_check_model_takes_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(dense(), tmp_path / "dense.onnx"))
    assert run(["check-model", path, "--no-batching", "dense"]) == 0
    assert "  batches  no: --no-batching names it\n" in capsys.readouterr().out
    path = str(saved(unproved(), tmp_path / "m.onnx"))
    assert run(["check-model", path, "--allow-batching", "m", "--max-batch=1"]) == 0
    assert "  batches  yes\n" in capsys.readouterr().out
