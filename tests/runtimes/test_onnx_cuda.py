"""ONNX models on CUDA devices, without CUDA: the provider of the fake device is the CPU."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from clockwork.errors import DeviceLostError, InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorSpec
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.cuda import OnnxCudaRuntime
from clockwork.runtimes.onnx.gpus import (
    CUDA,
    REGION,
    CudaGpus,
    arena,
    check_build,
    load_libraries,
    make_arena,
    nodes_on_cpu,
)
from clockwork.runtimes.onnx.sessions import CPU, Provider, options, session
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import GIB, MIB
from clockwork.zoo import build
from onnx_graphs import FLOAT, dense, echo, saved

CPU_BUILD = CUDA not in onnxruntime.get_available_providers()


class CpuGpus:
    """A fake CUDA device that executes on the CPU."""

    kind = "cuda fake device"

    def __init__(self, provider: Provider = CPU) -> None:
        self.reserved = 0
        self.requested: list[int] = []
        self._provider = provider

    def reserve(self, nbytes: int) -> None:
        self.reserved = nbytes

    def provider(self, device: int) -> Provider:
        self.requested.append(device)
        return self._provider


def runtime(gpus: CpuGpus | None = None, cache: Path | None = None) -> OnnxCudaRuntime:
    return OnnxCudaRuntime(gpus or CpuGpus(), 64 * MIB, 16 * MIB, cache)


def response(loaded: Any, x: Any) -> Any:
    infer_input = InferInput(1, len(x), (TensorSpec("x", "FP32", x.shape, x.nbytes),))
    ((_, (buffer,)),) = loaded.split([infer_input], loaded.execute(loaded.assemble([infer_input], [x.tobytes()])))
    return np.frombuffer(buffer, np.float32)


def test_outputs_equal_those_of_the_cpu_runtime(tmp_path: Path) -> None:
    gpus = CpuGpus()
    file = saved(dense(), tmp_path / "a.onnx")
    host = runtime(gpus).load_model(file)
    assert gpus.reserved == 80 * MIB
    expected = OnnxRuntime().load_model(file)
    assert host.info.inputs == expected.info.inputs
    assert host.info.batchable
    assert host.info.weights_bytes >= dense().ByteSize() - 1024
    for device in (0, 1):
        loaded = host.load_weights(device)
        for rows in (1, 4):
            x = np.random.default_rng(rows).random((rows, 32), np.float32)
            np.testing.assert_allclose(response(loaded, x), response(expected.load_weights(0), x), rtol=1e-5, atol=1e-6)
        loaded.close()
    assert gpus.requested == [0, 1]


def test_a_network_is_prepared_without_cpu_specific_optimisations(tmp_path: Path) -> None:
    file = build("squeezenet", tmp_path)
    host = runtime().load_model(file)
    graph = onnx.ModelProto.FromString(host._prepared.graph).graph
    assert {node.domain for node in graph.node} == {""}  # no operators that only CPUs have
    image = np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    (found,) = host.load_weights(0).execute({"data": image})
    (expected,) = OnnxRuntime().load_model(file).load_weights(0).execute({"data": image})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_cache_entry_is_not_used_for_another_kind_of_device(tmp_path: Path) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    cache = tmp_path / "cache"
    x = np.ones((1, 32), np.float32)
    expected = response(OnnxRuntime(cache_dir=cache).load_model(file).load_weights(0), x)
    first = runtime(cache=cache).load_model(file)
    assert len(list(cache.glob("*.onnx-prepared"))) == 2
    other = CpuGpus()
    other.kind = "cuda another"
    runtime(other, cache).load_model(file)
    assert len(list(cache.glob("*.onnx-prepared"))) == 3
    again = runtime(cache=cache).load_model(file)
    assert again is not first
    assert again.info == first.info
    np.testing.assert_allclose(response(again.load_weights(0), x), expected, rtol=1e-5)


def test_a_cached_model_is_not_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    first = runtime(cache=tmp_path / "cache").load_model(file)
    monkeypatch.delattr("clockwork.runtimes.onnx.cuda.prepare")
    assert runtime(cache=tmp_path / "cache").load_model(file).info == first.info


def test_models_with_the_same_content_are_shared(tmp_path: Path) -> None:
    its = runtime()
    first = its.load_model(saved(dense(), tmp_path / "a.onnx"))
    assert its.load_model(saved(dense(), tmp_path / "b.onnx")) is first
    assert its.version == first.info.runtime == OnnxRuntime().version
    assert its.device_kind == "cuda fake device"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_falls_back_to_the_cpu_is_an_error(tmp_path: Path) -> None:
    """ONNX Runtime silently opens a CPU session, as its CUDA builds do without a driver."""
    host = runtime(CpuGpus(CudaGpus(1, "x").provider(0))).load_model(saved(dense(), tmp_path / "a.onnx"))
    with pytest.raises(ServerError, match="could not use its CUDAExecutionProvider; it used CPUExecutionProvider"):
        host.load_weights(0)


def test_the_error_for_a_build_without_cuda_names_the_package_to_install() -> None:
    with pytest.raises(InvalidRequestError, match=r"built without CUDA: .*pip install onnxruntime-gpu"):
        check_build(["AzureExecutionProvider", "CPUExecutionProvider"])
    check_build([CUDA, "CPUExecutionProvider"])


@pytest.mark.skipif(not CPU_BUILD, reason="this is ONNX Runtime's build for CUDA")
def test_the_cpu_build_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="built without CUDA"):
        OnnxCudaRuntime(CudaGpus(1, "x"), GIB, GIB)


def test_the_error_for_an_unusable_device_names_the_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def preload() -> None:
        print("Failed to load libcublas.so.13: no such file\nPlease follow ...")

    def no_arena(*_: Any) -> None:
        place = "/src/bridge.cc:2465 onnxruntime::Info& onnxruntime::Get()"
        raise RuntimeError(f"{place} CUDA Provider not available, can't get interface for it\n")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "create_and_register_allocator_v2", no_arena)
    with pytest.raises(InvalidRequestError) as error:
        CudaGpus(2, "x").reserve(GIB)
    assert str(error.value).endswith(
        "cannot use CUDA device 0: CUDA Provider not available, can't get interface for it; "
        "Failed to load libcublas.so.13: no such file. See docs/gpu.md, or use --device cpu"
    )


def test_loading_libraries_returns_the_first_printed_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_libraries(lambda: None) == ""
    assert load_libraries(lambda: print(" one\ntwo")) == "one"
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not CPU_BUILD, reason="this is ONNX Runtime's build for CUDA")
def test_onnx_runtime_accepts_the_options_of_the_arena() -> None:
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider is not implemented"):  # the options were accepted
        make_arena(0, GIB)


@pytest.mark.parametrize(("limit", "region"), [(64 * GIB, REGION), (GIB // 2, GIB // 2)])
def test_an_arena_grows_by_regions(limit: int, region: int) -> None:
    its = arena(limit)
    assert (its["max_mem"], its["initial_chunk_size_bytes"]) == (limit, region)
    assert region < 1 << 31  # ONNX Runtime stores the size in 32 bits


SHARED = """
import numpy as np, sys
from pathlib import Path
from clockwork.errors import ServerError
from clockwork.runtimes.ort import onnxruntime
from clockwork.runtimes.onnx import sessions
from clockwork.runtimes.onnx.gpus import arena
from clockwork.runtimes.onnx.sessions import run
from onnx_graphs import FLOAT, TensorProto, model, node, value

memory = onnxruntime.OrtMemoryInfo(
    "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
)
onnxruntime.create_and_register_allocator_v2(
    "CPUExecutionProvider", memory, {}, onnxruntime.OrtArenaCfg(arena(32 << 20))
)
sessions.share_one_arena = lambda: None
proto = model([node("Expand", "x s", "z"), node("ReduceSum", "z", "y")],
             [value("x", [1]), value("s", [1], TensorProto.INT64)], [value("y", None)])
its = sessions.session(proto.SerializeToString(), sessions.options(1))
x = np.ones(1, "f4")
print(run(its, ["y"], {"x": x, "s": np.array([1 << 20])}))
try:
    run(its, ["y"], {"x": x, "s": np.array([1 << 24])})
except ServerError as error:
    print(error)
print(run(its, ["y"], {"x": x, "s": np.array([1 << 20])}))
"""


def test_a_full_arena_fails_only_the_inference() -> None:
    """Use a device's arena on the CPU, in a separate process, because an arena cannot be removed."""
    done = subprocess.run(
        [sys.executable, "-c", SHARED],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    first, refused, last = done.stdout.splitlines()
    assert first == last
    assert refused.startswith("out of memory during the inference: ")
    assert "/" not in refused


def test_nodes_that_run_on_the_cpu_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    host = runtime().load_model(saved(dense(), tmp_path / "a.onnx"))
    for _ in range(2):
        host.load_weights(0)
    assert [record.getMessage().partition(" is slower")[2] for record in caplog.records] == [
        " than it could be: 3 of 3 nodes on the CPU: MatMul, Relu"
    ]


class Part:
    def __init__(self, provider: str, *kinds: str) -> None:
        self.ep_name = provider
        self._nodes = [type("Node", (), {"op_type": kind}) for kind in kinds]

    def get_nodes(self) -> Any:
        return self._nodes


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("CUDA failure 700: an illegal memory access ; GPU=0", DeviceLostError, "lost, so the worker ends: CUDA fail"),
        ("CUDA failure 2: out of memory ; GPU=0", ServerError, "out of memory during the inference"),
        ("CUDA failure 7001: whatever", ServerError, "the inference failed"),
    ],
)
def test_a_lost_device_is_distinguished_from_a_failed_inference(
    text: str, kind: type[ServerError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = runtime().load_model(saved(dense(), tmp_path / "a.onnx"))
    loaded = host.load_weights(0)

    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError(text)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(loaded, "_session", Broken())
    with pytest.raises(ServerError, match=words) as error:
        response(loaded, np.ones((1, 32), np.float32))
    assert type(error.value) is kind
    monkeypatch.setattr(host._prepared, "portable_session", fails)
    with pytest.raises(kind):
        host.load_weights(0)


def test_nodes_on_the_cpu_are_summarised_in_one_line() -> None:
    assert nodes_on_cpu([Part(CUDA, "Conv", "Relu")]) == ""
    assert nodes_on_cpu([]) == ""
    parts = [Part(CUDA, "Conv", "Relu"), Part("CPUExecutionProvider", "Shape", "NonZero"), Part(CPU.name, "Shape")]
    assert nodes_on_cpu(parts) == "3 of 5 nodes on the CPU: NonZero, Shape"


def test_the_options_of_a_provider_hold_the_device_number_and_a_memory_limit() -> None:
    gpus = CudaGpus(2, "NVIDIA H100")
    gpus._limit = 5 * GIB
    assert gpus.kind == "cuda NVIDIA H100"
    its = gpus.provider(1)
    assert its.name == CUDA
    assert dict(its.options) == {
        "device_id": "1",
        "gpu_mem_limit": str(5 * GIB),
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }


def test_a_cpu_session_uses_only_the_cpu_provider() -> None:
    proto = session(echo(FLOAT).SerializeToString(), options(1))
    assert proto.get_providers() == ["CPUExecutionProvider"]
