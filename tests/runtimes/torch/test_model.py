"""PyTorch models: requests are batched and executed, and the outputs are split."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from runtimes.torch.programs import Conv, Of, Wide, saved, saved_conv, saved_raw

import torch  # isort: skip - `programs` skips these tests without PyTorch

from clockwork.arrays import from_payload, to_payload
from clockwork.errors import InvalidModelError, InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.failures import execution_error
from clockwork.units import MIB

_ids = count(1)


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    return TorchRuntime()


def request(**arrays: Any) -> tuple[InferInput, bytes]:
    specs, payload = [], b""
    for name, array in arrays.items():
        datatype, shape, buffer = to_payload(array)
        specs.append(TensorSpec(name, datatype, shape, len(buffer)))
        payload += bytes(buffer)
    return InferInput(next(_ids), specs[0].shape[0] if specs[0].shape else 1, tuple(specs)), payload


def infer(loaded: Any, *requests: tuple[InferInput, bytes]) -> list[dict[str, Any]]:
    inputs = [request for request, _ in requests]
    outputs = loaded.execute(loaded.assemble(inputs, [payload for _, payload in requests]))
    return [
        {spec.name: from_payload(spec, buffer) for spec, buffer in zip(specs, buffers, strict=True)}
        for specs, buffers in loaded.split(inputs, outputs)
    ]


def images(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((rows, 3, 16, 16), np.float32)


def eager(image: Any, seed: int = 0) -> dict[str, Any]:
    with torch.no_grad():
        found = Conv(seed).eval()(torch.from_numpy(image))
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_the_signature_of_a_program_is_reported(runtime: TorchRuntime, tmp_path: Path) -> None:
    info = runtime.load_model(saved_conv(tmp_path / "m.pt2")).info
    assert info.inputs == (TensorInfo("image", "FP32", (-1, 3, 16, 16)),)
    assert info.outputs == (TensorInfo("prob", "FP32", (-1, 5)), TensorInfo("mean", "FP32", (-1, 8)))
    assert info.batchable
    assert info.runtime == f"torch {torch.__version__}"
    assert 1024 < info.weights_bytes < 8 * 1024


def test_requests_in_a_batch_get_the_outputs_of_the_module(runtime: TorchRuntime, tmp_path: Path) -> None:
    loaded = runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    sent = [images(rows, seed=rows) for rows in (1, 3, 2)]
    for image, answer in zip(sent, infer(loaded, *(request(image=array) for array in sent)), strict=True):
        for name, wanted in eager(image).items():
            np.testing.assert_allclose(answer[name], wanted, rtol=1e-5, atol=1e-6)


def test_each_device_has_its_own_weights(runtime: TorchRuntime, tmp_path: Path) -> None:
    host = runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    first, second = host.load_weights(0), host.load_weights(1)
    first.close()
    (answer,) = infer(second, request(image=images(2)))
    np.testing.assert_allclose(answer["prob"], eager(images(2))["prob"], rtol=1e-5)


def test_an_output_that_is_part_of_the_weights_outlives_them(runtime: TorchRuntime, tmp_path: Path) -> None:
    path = saved_raw(
        Of(lambda module, x: (module.table, x + 1), table=torch.arange(4.0)), tmp_path / "m.pt2", torch.ones(2)
    )
    loaded = runtime.load_model(path).load_weights(0)
    outputs = loaded.execute({"x": np.zeros(2, np.float32)})
    loaded.close()
    assert outputs[0].tolist() == [0, 1, 2, 3]


def test_equal_files_share_host_memory(runtime: TorchRuntime, tmp_path: Path) -> None:
    first = runtime.load_model(saved_conv(tmp_path / "a.pt2"))
    (tmp_path / "b.pt2").write_bytes((tmp_path / "a.pt2").read_bytes())
    assert runtime.load_model(tmp_path / "b.pt2") is first


def test_tied_weights_are_stored_once(runtime: TorchRuntime, tmp_path: Path) -> None:
    def module(tied: bool) -> Any:
        network = torch.nn.Sequential(Wide(64, 64), Wide(64, 64, seed=1))
        if tied:
            network[1].dense.weight = network[0].dense.weight
        return network

    tied = runtime.load_model(saved(module(True), tmp_path / "tied.pt2", (1, 64))).info
    free = runtime.load_model(saved(module(False), tmp_path / "free.pt2", (1, 64))).info
    assert free.weights_bytes - tied.weights_bytes == 64 * 64 * 4


@pytest.mark.parametrize(
    ("dtype", "array", "datatype"),
    [
        (torch.bool, np.array([[True, False]]), "BOOL"),
        (torch.uint8, np.array([[1, 255]], np.uint8), "UINT8"),
        (torch.int8, np.array([[-1, 2]], np.int8), "INT8"),
        (torch.int16, np.array([[-300, 2]], np.int16), "INT16"),
        (torch.int32, np.array([[-70_000, 2]], np.int32), "INT32"),
        (torch.int64, np.array([[1 << 40, 2]], np.int64), "INT64"),
        (torch.uint16, np.array([[65_000, 2]], np.uint16), "UINT16"),
        (torch.float16, np.array([[0.5, 2]], np.float16), "FP16"),
        (torch.bfloat16, np.array([[0.5, 2]], bfloat16), "BF16"),
        (torch.float64, np.array([[1e-300, 2]], np.float64), "FP64"),
    ],
)
def test_every_datatype_is_supported(
    dtype: Any, array: Any, datatype: str, runtime: TorchRuntime, tmp_path: Path
) -> None:
    path = saved(Of(lambda module, x: x[:, [1, 0]]), tmp_path / "m.pt2", (1, 2), dtype=dtype)
    host = runtime.load_model(path)
    assert host.info.inputs == (TensorInfo("x", datatype, (-1, 2)),)
    assert host.info.outputs == (TensorInfo("output", datatype, (-1, 2)),)
    (answer,) = infer(host.load_weights(0), request(x=array))
    assert answer["output"].tolist() == array[:, ::-1].tolist()


def test_half_precision_is_exported_and_executed(runtime: TorchRuntime, tmp_path: Path) -> None:
    full = runtime.load_model(saved(Wide(64, 32), tmp_path / "full.pt2", (1, 64)))
    half = runtime.load_model(saved(Wide(64, 32), tmp_path / "half.pt2", (1, 64), half=True))
    assert half.info.inputs[0].datatype == half.info.outputs[0].datatype == "FP16"
    assert half.info.weights_bytes == full.info.weights_bytes // 2 + 128  # rounded up to the alignment
    x = np.random.default_rng(0).random((2, 64), np.float32)
    (wanted,) = infer(full.load_weights(0), request(x=x))
    (found,) = infer(half.load_weights(0), request(x=x.astype(np.float16)))
    np.testing.assert_allclose(found["output"].astype(np.float32), wanted["output"], atol=0.01)


def test_a_program_that_computes_across_the_batch_is_not_batched(runtime: TorchRuntime, tmp_path: Path) -> None:
    path = saved(Of(lambda module, x: x - x.mean(0, keepdim=True)), tmp_path / "m.pt2", (1, 8))
    assert not runtime.load_model(path).info.batchable


def test_a_fixed_shape_is_reported_and_enforced(runtime: TorchRuntime, tmp_path: Path) -> None:
    host = runtime.load_model(saved(Wide(8, 2), tmp_path / "m.pt2", (3, 8), batch=False))
    assert host.info.inputs[0].shape == (3, 8)
    assert not host.info.batchable
    with pytest.raises(InvalidRequestError, match=r"the model's input is x FP32\[3,8\]; the request has x FP32\[2,8\]"):
        infer(host.load_weights(0), request(x=np.zeros((2, 8), np.float32)))


def test_inconsistent_shapes_are_refused(runtime: TorchRuntime, tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=1, max=4)
    path = saved_raw(
        Of(lambda module, x, y: x + y.sum()),
        tmp_path / "m.pt2",
        torch.ones(2, 3),
        torch.ones(4),
        dynamic_shapes=({0: rows}, {0: 2 * rows}),
    )
    loaded = runtime.load_model(path).load_weights(0)
    assert loaded.execute({"x": np.ones((1, 3), np.float32), "y": np.ones(2, np.float32)})[0].tolist() == [[3, 3, 3]]
    with pytest.raises(InvalidRequestError, match=r"dimension 0 of input 'y' is 3; .* it must be 2"):
        loaded.execute({"x": np.ones((1, 3), np.float32), "y": np.ones(3, np.float32)})
    with pytest.raises(InvalidRequestError, match="has a dimension of 5; the model was exported for 0 to 4"):
        loaded.execute({"x": np.ones((5, 3), np.float32), "y": np.ones(10, np.float32)})


def test_an_index_out_of_range_is_an_invalid_request(runtime: TorchRuntime, tmp_path: Path) -> None:
    path = saved(torch.nn.Embedding(4, 2), tmp_path / "m.pt2", (1, 3), dtype=torch.int64)
    loaded = runtime.load_model(path).load_weights(0)
    with pytest.raises(InvalidRequestError, match="the model rejects these inputs: index out of range"):
        infer(loaded, request(input=np.array([[1, 2, 99]])))


def test_too_little_memory_is_a_server_error() -> None:
    error = execution_error(
        RuntimeError("[enforce fail at alloc_cpu.cpp:123] DefaultCPUAllocator: can't allocate memory: 1 B")
    )
    assert isinstance(error, ServerError)
    assert "alloc_cpu" not in str(error)
    assert isinstance(execution_error(RuntimeError("something else")), ServerError)


def test_programs_that_write_to_buffers_or_inputs_are_refused(runtime: TorchRuntime, tmp_path: Path) -> None:
    def counted(module: Any, x: Any) -> Any:
        module.seen += 1
        return x + module.seen

    path = saved_raw(Of(counted, seen=torch.zeros(1)), tmp_path / "m.pt2", torch.ones(2))
    with pytest.raises(InvalidModelError, match="writes to its buffer 'seen', so one request"):
        runtime.load_model(path)
    path = saved_raw(Of(lambda module, x: x.add_(1)), tmp_path / "n.pt2", torch.ones(2))
    with pytest.raises(InvalidModelError, match="writes to its input"):
        runtime.load_model(path)


def test_outputs_of_complex_numbers_or_python_numbers_are_refused(runtime: TorchRuntime, tmp_path: Path) -> None:
    path = saved_raw(Of(lambda module, x: torch.complex(x, x)), tmp_path / "m.pt2", torch.ones(2))
    with pytest.raises(InvalidModelError, match=r"output 'output' of the program is of type torch.complex64"):
        runtime.load_model(path)
    path = saved_raw(Of(lambda module, x: (x, 3)), tmp_path / "n.pt2", torch.ones(2))
    with pytest.raises(InvalidModelError, match="output 1 of the program is not a tensor"):
        runtime.load_model(path)


def test_weights_are_in_one_block(runtime: TorchRuntime, tmp_path: Path) -> None:
    host = runtime.load_model(saved(Wide(), tmp_path / "m.pt2", (1, 2048)))
    assert 64 * MIB < host.info.weights_bytes < 65 * MIB


def test_a_device_needs_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        TorchRuntime(0)
