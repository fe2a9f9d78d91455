"""ONNX models on a device compute the same outputs as on the CPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.errors import ServerError
from clockwork.runtimes import nvidia
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.cuda import OnnxCudaRuntime
from clockwork.runtimes.onnx.gpus import CudaGpus
from clockwork.runtimes.onnx.sessions import CPU, Provider
from clockwork.units import GIB, MIB
from clockwork.zoo import build
from gpu.asking import ask
from gpu.conftest import missing
from onnx_graphs import dense, model, node, saved, value

TOLERANCE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-5}


class CpuGpus:
    """The CPU as a fake device."""

    kind = "cuda fake device"

    def reserve(self, nbytes: int) -> None:
        pass

    def provider(self, device: int) -> Provider:
        return CPU


RUNTIMES: dict[str, OnnxCudaRuntime] = {}
"""Runtimes by kind of device: the memory of a device is allocated only once in a process."""


@pytest.fixture
def runtime(kind: str) -> OnnxCudaRuntime:
    if kind not in RUNTIMES:
        name = nvidia.check(nvidia.find_gpus(), 1)[0].name if kind == "cuda" else ""
        RUNTIMES[kind] = OnnxCudaRuntime(CpuGpus() if kind == "fake" else CudaGpus(1, name), GIB, GIB)
    return RUNTIMES[kind]


@pytest.mark.parametrize(("name", "shape"), [("squeezenet", (3, 224, 224)), ("resnet50", (3, 224, 224))])
def test_a_network_computes_the_same_as_on_the_cpu(
    name: str, shape: tuple[int, ...], runtime: OnnxCudaRuntime, tmp_path: Path
) -> None:
    file = build(name, tmp_path)
    (port,) = runtime.load_model(file).info.inputs
    loaded, expected = runtime.load_model(file).load_weights(0), OnnxRuntime().load_model(file).load_weights(0)
    for rows in (1, 2, 4):
        x = np.random.default_rng(rows).random((rows, *shape), np.float32)
        found, wanted = ask(loaded, {port.name: x}), ask(expected, {port.name: x})
        for output, expected_output in wanted.items():
            np.testing.assert_allclose(found[output], expected_output, **TOLERANCE)
    loaded.close()


def test_models_are_loaded_and_evicted_repeatedly(runtime: OnnxCudaRuntime, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 256), np.float32)
    hosts, wanted = [], []
    for seed in range(4):
        file = saved(dense(seed, width=256), tmp_path / f"{seed}.onnx")
        hosts.append(runtime.load_model(file))
        wanted.append(ask(OnnxRuntime().load_model(file).load_weights(0), {"x": x})["y"])
    for _ in range(25):
        for host, output in zip(hosts, wanted, strict=True):
            loaded = host.load_weights(0)
            np.testing.assert_allclose(ask(loaded, {"x": x})["y"], output, **TOLERANCE)
            loaded.close()


@pytest.mark.gpu
def test_an_inference_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    runtime = RUNTIMES.get("cuda") or OnnxCudaRuntime(CudaGpus(1, "x"), GIB, GIB)
    RUNTIMES["cuda"] = runtime
    weights = np.ones((1, 4096), np.float32)
    grown = model([node("MatMul", "x w", "y")], [value("x", ["N", 1])], [value("y", ["N", 4096])], w=weights)
    loaded: Any = runtime.load_model(saved(grown, tmp_path / "m.onnx")).load_weights(0)
    with pytest.raises(ServerError, match="no memory for the inference"):
        ask(loaded, {"x": np.ones((4 * GIB // (4 * 4096), 1), np.float32)})
    assert ask(loaded, {"x": np.ones((2, 1), np.float32)})["y"].sum() == 2 * 4096
    loaded.close()


@pytest.mark.skipif(not missing(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_refused_at_the_start() -> None:
    found = nvidia.find_gpus()
    assert not found.gpus
    wanted = nvidia.NO_DRIVER if find_spec("cuda") else nvidia.NO_BINDINGS
    assert found.missing == wanted


@pytest.mark.gpu
def test_the_device_kind_is_reported() -> None:
    (first, *_) = nvidia.check(nvidia.find_gpus(), 1)
    assert first.name
    assert first.memory > GIB
    assert first.free is None or MIB < first.free <= first.memory
