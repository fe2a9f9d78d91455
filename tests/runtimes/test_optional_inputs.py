"""Inputs with a default: initializers of the graph that are inputs, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorInfo, spec
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.model import OnnxModel
from clockwork.runtimes.onnx.signature import MAX_OPTIONAL, MAX_OPTIONAL_ELEMENTS
from clockwork.runtimes.ort import onnxruntime
from onnx_graphs import model, node, saved, value


def scaled(bias: int = 512) -> Any:
    """Return a model with the inputs ``x [N, 8]``, ``factor [1]`` and ``bias``; the last two have defaults."""
    weights = np.random.default_rng(0).standard_normal((8, bias), np.float32)
    return model(
        [node("MatMul", "x w", "h"), node("Mul", "h factor", "m"), node("Add", "m bias", "y")],
        [value("x", ["N", 8]), value("factor", [1]), value("bias", [bias])],
        [value("y", ["N", bias])],
        w=weights,
        factor=np.array([2], np.float32),
        bias=np.arange(bias, dtype=np.float32),
    )


def alone(file: Path, **inputs: Any) -> Any:
    """Return what ONNX Runtime alone computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def request(loaded: OnnxModel, **inputs: Any) -> tuple[InferInput, bytes]:
    specs = tuple(spec(name, "FP32", array.shape) for name, array in inputs.items())
    return InferInput(0, len(inputs["x"]), specs), b"".join(array.tobytes() for array in inputs.values())


def executed(loaded: OnnxModel, *requests: tuple[InferInput, bytes]) -> Any:
    weights = loaded.load_weights(0)
    shares, payloads = zip(*requests, strict=True)
    return weights.execute(weights.assemble(shares, payloads))[0]


X = np.random.default_rng(1).random((3, 8), np.float32)
FACTOR = np.array([3], np.float32)
BIAS = np.zeros(512, np.float32)


@pytest.mark.parametrize("sent", [{}, {"factor": FACTOR}, {"bias": BIAS}, {"bias": BIAS, "factor": FACTOR}])
def test_an_input_with_a_default_can_be_sent_or_left_out(sent: dict[str, Any], tmp_path: Path) -> None:
    file = saved(scaled(), tmp_path / "m.onnx")
    loaded = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    assert loaded.info.inputs == (
        TensorInfo("x", "FP32", (-1, 8)),
        TensorInfo("factor", "FP32", (1,), True),
        TensorInfo("bias", "FP32", (512,), True),
    )
    found = executed(loaded, request(loaded, **sent, x=X))
    assert found.tobytes() == alone(file, x=X, **sent).tobytes()
    again = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    assert again.info == loaded.info


def test_a_model_with_optional_inputs_is_batched_and_uses_its_weights_in_place(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load_model(saved(scaled(), tmp_path / "m.onnx"))
    assert loaded.info.batchable
    assert loaded.in_place
    plain = request(loaded, x=X)
    assert executed(loaded, plain, plain).shape == (6, 512)


def test_a_request_with_an_optional_input_shares_no_batch(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load_model(saved(scaled(), tmp_path / "m.onnx"))
    plain, other = request(loaded, x=X), request(loaded, x=X, factor=FACTOR)
    for batch in ((plain, other), (other, plain), (other, other)):
        with pytest.raises(InvalidRequestError, match="with the optional input 'factor' cannot share a batch"):
            executed(loaded, *batch)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X, "factor": np.zeros(2, np.float32)}, r"the model's input is factor FP32\[1\] \(optional\)"),
        ({"x": X, "other": FACTOR}, "the model has no input 'other'"),
    ],
)
def test_an_optional_input_must_fit(inputs: dict[str, Any], message: str, tmp_path: Path) -> None:
    loaded = OnnxRuntime().load_model(saved(scaled(), tmp_path / "m.onnx"))
    with pytest.raises(InvalidRequestError, match=message):
        executed(loaded, request(loaded, **inputs))


def test_required_inputs_are_still_required(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load_model(saved(scaled(), tmp_path / "m.onnx"))
    share = InferInput(0, 1, (spec("factor", "FP32", (1,)),))
    with pytest.raises(InvalidRequestError, match="needs each of its inputs once"):
        executed(loaded, (share, FACTOR.tobytes()))


def test_large_initializers_are_weights_and_no_inputs(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load_model(saved(scaled(bias=MAX_OPTIONAL_ELEMENTS + 1), tmp_path / "m.onnx"))
    assert [info.name for info in loaded.info.inputs] == ["x", "factor"]


@pytest.mark.parametrize(("count", "inputs"), [(MAX_OPTIONAL, MAX_OPTIONAL + 1), (MAX_OPTIONAL + 1, 1)])
def test_a_model_that_declares_all_weights_as_inputs_has_no_optional_inputs(
    count: int, inputs: int, tmp_path: Path
) -> None:
    names = [f"w{i}" for i in range(count)]
    weights: dict[str, Any] = {name: np.ones(2, np.float32) for name in names}
    steps = [node("Add", f"{'x' if i == 0 else f's{i - 1}'} w{i}", f"s{i}") for i in range(count)]
    proto = model(
        [*steps, node("Identity", f"s{count - 1}", "y")],
        [value("x", ["N", 2]), *(value(name, [2]) for name in names)],
        [value("y", ["N", 2])],
        **weights,
    )
    loaded = OnnxRuntime().load_model(saved(proto, tmp_path / "m.onnx"))
    assert len(loaded.info.inputs) == inputs
    x = np.zeros((1, 2), np.float32)
    assert executed(loaded, request(loaded, x=x)).tolist() == [[count, count]]
