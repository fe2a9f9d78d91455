"""``clockwork serve --device cuda`` in real processes, and the same tests on CPU devices."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

from cli.processes import Process, save_dense, serve
from clockwork.client import Client
from clockwork.runtimes.onnx import OnnxRuntime
from gpu.asking import ask
from gpu.conftest import missing
from runtimes.torch.programs import Conv, saved_conv

import torch  # isort: skip - `programs` skips these tests without PyTorch

SIZES = ("--cache-size=512MiB", "--workspace-size=512MiB")
ON = {"cpu": (), "cuda": ("--device=cuda", *SIZES)}
TOLERANCE: dict[str, Any] = {"rtol": 2e-2, "atol": 5e-3}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def images(rows: int) -> Any:
    return np.random.default_rng(rows).random((rows, 3, 16, 16), np.float32)


def eager(image: Any) -> Any:
    with torch.no_grad():
        return Conv().eval()(torch.from_numpy(image))["prob"].numpy()


def over_http(process: Process, name: str, x: Any, inputs: str) -> dict[str, Any]:
    address = process.out.wait_for(r"HTTP on (\S+)$")[1].removeprefix("http://")
    tensor = {"name": inputs, "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    request = Request(
        f"http://{address}/v2/models/{name}/infer",
        json.dumps({"inputs": [tensor], "parameters": {"slo_ms": 20_000}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=30) as reply:
        found = json.load(reply)["outputs"]
    return {output["name"]: np.array(output["data"], np.float32).reshape(output["shape"]) for output in found}


def test_a_program_is_served_over_both_protocols(device: str, tmp_path: Path) -> None:
    with serve(str(saved_conv(tmp_path / "conv.pt2")), "--http=127.0.0.1:0", *ON[device]) as process:
        with Client(process.address()) as client:
            for rows in (1, 2):
                found = client.model("conv").infer({"image": images(rows)}, slo=20)
                np.testing.assert_allclose(found["prob"], eager(images(rows)), **TOLERANCE)
        outputs = over_http(process, "conv", images(1), "image")
        np.testing.assert_allclose(outputs["prob"], eager(images(1)), **TOLERANCE)


def test_an_onnx_model_is_served(device: str, tmp_path: Path) -> None:
    file = save_dense(tmp_path / "dense.onnx")
    x = np.random.default_rng(0).random((2, 32), np.float32)
    wanted = ask(OnnxRuntime().load_model(file).load_weights(0), {"x": x})["y"]
    with serve(str(file), "--http=127.0.0.1:0", *ON[device]) as process:
        with Client(process.address()) as client:
            np.testing.assert_allclose(client.model("dense").infer({"x": x}, slo=20)["y"], wanted, **TOLERANCE)
        np.testing.assert_allclose(over_http(process, "dense", x, "x")["y"], wanted, **TOLERANCE)


@pytest.mark.skipif(not missing(), reason="this machine has a GPU")
@pytest.mark.parametrize("save", [saved_conv, save_dense])
def test_serve_without_a_gpu_exits_with_the_reason(save: Any, tmp_path: Path) -> None:
    name = "m.pt2" if save is saved_conv else "m.onnx"
    with serve(str(save(tmp_path / name)), "--device=cuda") as process:
        assert process.ended() == 1
    assert [line for line in process.err.seen if line.startswith("clockwork: ") and "CUDA" in line]
