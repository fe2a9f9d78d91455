"""ONNX models: assembling requests to batches, executing them, and splitting the outputs."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto

from clockwork.arrays import from_payload, to_payload
from clockwork.errors import InvalidModelError, InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.runtimes.base import Runtime
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.model import LoadedOnnxModel, OnnxModel
from clockwork.runtimes.ort import onnxruntime
from clockwork.zoo import build
from onnx_graphs import FLOAT, dense, echo, model, node, saved, saved_with_external_data, value

Request = tuple[InferInput, bytes | None]
_ids = count(1)


@pytest.fixture(scope="module")
def runtime() -> OnnxRuntime:
    return OnnxRuntime()


def load(runtime: Runtime, proto: Any, directory: Path) -> Any:
    return runtime.load_model(saved(proto, directory / f"{next(_ids)}.onnx"))


def request(arrays: Mapping[str, Any], outputs: Sequence[str] = (), rows: int | None = None) -> Request:
    specs, payload = [], b""
    for name, array in arrays.items():
        datatype, shape, buffer = to_payload(array)
        specs.append(TensorSpec(name, datatype, shape, len(buffer)))
        payload += bytes(buffer)
    first = specs[0].shape if specs else ()
    rows = rows if rows is not None else (first[0] if first else 1)
    return InferInput(next(_ids), rows, tuple(specs), tuple(outputs)), payload


def infer(loaded: LoadedOnnxModel, *requests: Request) -> list[dict[str, Any]]:
    inputs = [infer_input for infer_input, _ in requests]
    outputs = loaded.execute(loaded.assemble(inputs, [payload for _, payload in requests]))
    results = loaded.split(inputs, outputs)
    return [
        {spec.name: from_payload(spec, buffer) for spec, buffer in zip(specs, buffers, strict=True)}
        for specs, buffers in results
    ]


def bare(proto: Any, feed: Mapping[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feed)


def rows(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


# ------------------------------------------------------------------------------------------------ same outputs


def test_the_response_to_a_single_request_equals_plain_onnxruntime_bit_for_bit(
    runtime: OnnxRuntime, tmp_path: Path
) -> None:
    proto, x = dense(), rows(1, 1, 32)
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    (response,) = infer(loaded, request({"x": x}))
    assert response["y"].tobytes() == bare(proto, {"x": x})[0].tobytes()


def test_a_batch_gives_the_responses_of_its_requests(runtime: OnnxRuntime, tmp_path: Path) -> None:
    proto = dense()
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    xs = [rows(seed, size, 32) for seed, size in enumerate((1, 3, 2))]
    answers = infer(loaded, *(request({"x": x}) for x in xs))
    for x, response in zip(xs, answers, strict=True):
        np.testing.assert_allclose(response["y"], bare(proto, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_a_real_network_alone_and_in_batches(tmp_path: Path) -> None:
    file = build("squeezenet", tmp_path)
    host = OnnxRuntime().load_model(file)
    assert host.info.batchable
    assert host.in_place
    assert host.info.inputs == (TensorInfo("data", "FP32", (-1, 3, 224, 224)),)
    assert host.info.outputs == (TensorInfo("prob", "FP32", (-1, 1000, 1, 1)),)
    assert host.info.weights_bytes == pytest.approx(5.4e6, rel=0.03)  # 4.97 MB of weights; the session's own structures
    loaded = host.load_weights(0)
    session = onnxruntime.InferenceSession(file)
    images = [rows(seed, 1, 3, 224, 224) for seed in range(3)]
    expected = [session.run(None, {"data": image})[0] for image in images]
    together = infer(loaded, *(request({"data": image}) for image in images))
    for image, wanted, response in zip(images, expected, together, strict=True):
        (alone,) = infer(loaded, request({"data": image}))
        assert alone["prob"].tobytes() == wanted.tobytes()
        np.testing.assert_allclose(response["prob"], wanted, rtol=1e-4)


def test_several_inputs_and_outputs_are_not_confused(runtime: OnnxRuntime, tmp_path: Path) -> None:
    proto = model(
        [node("Add", "a b", "sum"), node("Sub", "a b", "difference")],
        [value("a", ["N", 2]), value("b", ["N", 2])],
        [value("sum", ["N", 2]), value("difference", ["N", 2])],
    )
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    a, b, c, d = (rows(seed, 1, 2) for seed in range(4))
    first, second = infer(loaded, request({"a": a, "b": b}), request({"b": d, "a": c}, ["difference"]))
    assert list(first) == ["sum", "difference"]
    assert list(second) == ["difference"]
    np.testing.assert_array_equal(first["sum"], a + b)
    np.testing.assert_array_equal(first["difference"], a - b)
    np.testing.assert_array_equal(second["difference"], c - d)
    (swapped,) = infer(loaded, request({"a": a, "b": b}, ["difference", "sum"]))
    assert list(swapped) == ["difference", "sum"]


ARRAYS: dict[int, np.ndarray] = {
    TensorProto.BOOL: np.array([[True, False, True]]),
    TensorProto.UINT8: np.array([[0, 1, 255]], "u1"),
    TensorProto.UINT16: np.array([[0, 1, 65535]], "u2"),
    TensorProto.UINT32: np.array([[0, 1, 2**32 - 1]], "u4"),
    TensorProto.UINT64: np.array([[0, 1, 2**64 - 1]], "u8"),
    TensorProto.INT8: np.array([[-128, 0, 127]], "i1"),
    TensorProto.INT16: np.array([[-32768, 0, 32767]], "i2"),
    TensorProto.INT32: np.array([[-(2**31), 0, 2**31 - 1]], "i4"),
    TensorProto.INT64: np.array([[-(2**63), 0, 2**63 - 1]], "i8"),
    TensorProto.FLOAT16: np.array([[np.nan, -0.0, 65504]], "f2"),
    TensorProto.BFLOAT16: np.array([[np.nan, -0.0, 3e38]], bfloat16),
    TensorProto.FLOAT: np.array([[np.nan, -0.0, np.inf]], "f4"),
    TensorProto.DOUBLE: np.array([[np.nan, -0.0, 1e308]], "f8"),
    TensorProto.STRING: np.array([["", "é\0", "x" * 300]], object),
}


@pytest.mark.parametrize("kind", ARRAYS, ids=TensorProto.DataType.Name)
def test_every_datatype_passes_through_unchanged(kind: int, runtime: OnnxRuntime, tmp_path: Path) -> None:
    array = ARRAYS[kind]
    host = load(runtime, echo(kind), tmp_path)
    assert host.info.batchable
    loaded = host.load_weights(0)
    twice, none = np.concatenate([array, array]), array[:0]
    sent = request({"x": array}), request({"x": twice}), request({"x": none})
    for requests in [sent[:1], sent[1:2], sent[2:], sent]:
        for (infer_input, payload), response in zip(requests, infer(loaded, *requests), strict=True):
            wanted = from_payload(infer_input.tensors[0], payload)
            assert response["y"].dtype == wanted.dtype
            assert response["y"].shape == wanted.shape
            assert to_payload(response["y"]) == to_payload(wanted)


@pytest.mark.parametrize("kind", ARRAYS, ids=TensorProto.DataType.Name)
def test_generated_inputs_are_zeros(kind: int, runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, echo(kind), tmp_path).load_weights(0)
    datatype = to_payload(ARRAYS[kind])[0]
    infer_input = InferInput(1, 2, (TensorSpec("x", datatype, (2, 3), 0),), generated=True)
    (response,) = infer(loaded, (infer_input, None))
    zero = b"" if datatype == "BYTES" else response["y"].dtype.type(0)
    assert response["y"].tolist() == [[zero] * 3] * 2


def test_generated_and_sent_rows_share_a_batch(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, echo(FLOAT), tmp_path).load_weights(0)
    infer_input = InferInput(1, 2, (TensorSpec("x", "FP32", (2, 3), 0),), generated=True)
    zeros, ones = infer(loaded, (infer_input, None), request({"x": np.ones((1, 3), np.float32)}))
    assert zeros["y"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert ones["y"].tolist() == [[1, 1, 1]]


def test_bfloat16_weights_are_used(runtime: OnnxRuntime, tmp_path: Path) -> None:
    table = rows(0, 64, 32).astype(bfloat16)
    proto = model(
        [node("Gather", "table x", "y"), node("Cast", "y", "z", to=FLOAT)],
        [value("x", ["N"], TensorProto.INT64)],
        [value("z", ["N", 32])],
        table=table,
    )
    host = load(runtime, proto, tmp_path)
    assert host.info.weights_bytes > table.nbytes
    (response,) = infer(host.load_weights(0), request({"x": np.array([3, 63])}))
    np.testing.assert_array_equal(response["z"], table[[3, 63]].astype(np.float32))


def test_strings_are_inputs_and_outputs(runtime: OnnxRuntime, tmp_path: Path) -> None:
    proto = model(
        [node("StringConcat", "x x", "y")],
        [value("x", ["N"], TensorProto.STRING)],
        [value("y", ["N"], TensorProto.STRING)],
        opset=20,
    )
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    a, b = infer(loaded, request({"x": ["ab", "c"]}), request({"x": [b"d"]}))
    assert a["y"].tolist() == [b"abab", b"cc"]
    assert b["y"].tolist() == [b"dd"]


def test_other_dimensions_may_vary_from_batch_to_batch(runtime: OnnxRuntime, tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y")], [value("x", ["N", "L"])], [value("y", ["N", "L"])])
    host = load(runtime, proto, tmp_path)
    assert host.info.inputs == (TensorInfo("x", "FP32", (-1, -1)),)
    assert host.info.batchable
    loaded = host.load_weights(0)
    for length in (1, 7, 0):
        a, b = infer(loaded, request({"x": np.ones((1, length), "f4")}), request({"x": np.ones((2, length), "f4")}))
        assert (a["y"].shape, b["y"].shape) == ((1, length), (2, length))
    with pytest.raises(InvalidRequestError, match=r"more than the first dimension .*: \[1, 3\] and \[1, 4\]"):
        infer(loaded, request({"x": np.ones((1, 3), "f4")}), request({"x": np.ones((1, 4), "f4")}))


def test_a_scalar_is_a_request(runtime: OnnxRuntime, tmp_path: Path) -> None:
    host = load(runtime, echo(FLOAT, []), tmp_path)
    assert not host.info.batchable
    (response,) = infer(host.load_weights(0), request({"x": np.float32(1.5)}))
    assert response["y"].shape == ()
    assert response["y"] == 1.5


def test_unaligned_tensors_in_a_payload_are_copied(runtime: OnnxRuntime, tmp_path: Path) -> None:
    proto = model(
        [node("Identity", "a", "c"), node("Identity", "b", "d")],
        [value("a", ["N", 3], TensorProto.UINT8), value("b", ["N", 2])],
        [value("c", ["N", 3], TensorProto.UINT8), value("d", ["N", 2])],
    )
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    (response,) = infer(loaded, request({"a": np.array([[1, 2, 3]], "u1"), "b": np.array([[4, 5]], "f4")}))
    assert response["c"].tolist() == [[1, 2, 3]]
    assert response["d"].tolist() == [[4, 5]]


def test_the_input_of_a_single_request_is_not_copied(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, echo(FLOAT), tmp_path).load_weights(0)
    infer_input, payload = request({"x": np.ones((2, 3), "f4")})
    feed = loaded.assemble([infer_input], [payload])
    assert payload is not None
    assert np.shares_memory(feed["x"], np.frombuffer(payload, np.uint8))


def test_outputs_are_split_without_copies(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, echo(FLOAT), tmp_path).load_weights(0)
    requests = [request({"x": rows(seed, 2, 3)}) for seed in range(2)]
    inputs = [infer_input for infer_input, _ in requests]
    outputs = loaded.execute(loaded.assemble(inputs, [payload for _, payload in requests]))
    for _, (buffer,) in loaded.split(inputs, outputs):
        assert np.shares_memory(np.frombuffer(buffer, np.uint8), outputs[0])


def test_outputs_outlive_the_model(tmp_path: Path) -> None:
    loaded = load(OnnxRuntime(), dense(), tmp_path).load_weights(0)
    infer_input, payload = request({"x": np.zeros((1, 32), "f4")})
    ((_, (buffer,)),) = loaded.split([infer_input], loaded.execute(loaded.assemble([infer_input], [payload])))
    loaded.close()
    loaded.close()
    assert bytes(buffer) == bytes(20)


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"z": np.zeros((1, 32), "f4")}, {}, "no input 'z'; it has x"),
        ({}, {}, "each of its inputs once: x; the request has none"),
        ({"x": np.zeros((1, 32))}, {}, r"input is x FP32\[-1,32\]; the request has x FP64\[1,32\]"),
        ({"x": np.zeros((1, 31), "f4")}, {}, r"the request has x FP32\[1,31\]"),
        ({"x": np.zeros((1, 1, 32), "f4")}, {}, r"the request has x FP32\[1,1,32\]"),
        ({"x": np.zeros((2, 32), "f4")}, {"rows": 1}, "has 2 rows, but the request's batch size is 1"),
        ({"x": np.zeros((1, 32), "f4")}, {"outputs": ["q"]}, "no output 'q'; it has y"),
    ],
)
def test_inputs_that_do_not_fit_the_model_are_refused(
    arrays: dict[str, Any], options: dict[str, Any], words: str, runtime: OnnxRuntime, tmp_path: Path
) -> None:
    loaded = load(runtime, dense(), tmp_path).load_weights(0)
    with pytest.raises(InvalidRequestError, match=words):
        infer(loaded, request(arrays, **options))


@pytest.mark.parametrize("payload", [None, b"", bytes(127), bytes(129)])
def test_a_payload_of_the_wrong_size_is_refused(payload: bytes | None, runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, dense(), tmp_path).load_weights(0)
    infer_input, _ = request({"x": np.zeros((1, 32), "f4")})
    with pytest.raises(InvalidRequestError, match="128 bytes"):
        loaded.assemble([infer_input], [payload])


def test_an_input_sent_twice_is_refused(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, dense(), tmp_path).load_weights(0)
    infer_input, payload = request({"x": np.zeros((1, 32), "f4")})
    assert payload is not None
    twice = InferInput(1, 1, infer_input.tensors * 2)
    with pytest.raises(InvalidRequestError, match="each of its inputs once: x; the request has x, x"):
        loaded.assemble([twice], [payload * 2])


def test_a_string_that_is_not_utf_8_is_refused(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, echo(TensorProto.STRING, ["N"]), tmp_path).load_weights(0)
    with pytest.raises(InvalidRequestError, match=r"x BYTES\[1\] is not UTF-8 \(invalid start byte at its byte 2\)"):
        infer(loaded, request({"x": [b"ab\xff"]}))


@pytest.mark.parametrize(
    ("op", "extra", "weights"),
    [("Gather", {"axis": 0}, {"table": np.zeros((4, 2), "f4")}), ("Reshape", {}, {"table": np.zeros(5, "f4")})],
)
def test_values_that_a_kernel_rejects_are_an_invalid_request(
    op: str, extra: dict[str, Any], weights: dict[str, Any], runtime: OnnxRuntime, tmp_path: Path
) -> None:
    proto = model(
        [node(op, "table x", "y", **extra)], [value("x", ["N"], TensorProto.INT64)], [value("y", None)], **weights
    )
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    with pytest.raises(InvalidRequestError, match="the model rejects these inputs") as error:
        infer(loaded, request({"x": np.array([7])}))
    assert "/" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(("kind", "text"), [(FLOAT, b"x"), (TensorProto.INT64, b""), (TensorProto.DOUBLE, b"1e9999")])
def test_a_string_that_is_not_a_number_is_an_invalid_request(
    kind: int, text: bytes, runtime: OnnxRuntime, tmp_path: Path
) -> None:
    proto = model([node("Cast", "s", "y", to=kind)], [value("s", ["N"], TensorProto.STRING)], [value("y", ["N"], kind)])
    loaded = load(runtime, proto, tmp_path).load_weights(0)
    assert infer(loaded, request({"s": [b"7"]}))[0]["y"].tolist() == [7]
    with pytest.raises(InvalidRequestError, match="the model rejects these inputs"):
        infer(loaded, request({"s": [text]}))


def test_any_other_failure_is_a_server_error(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, dense(), tmp_path).load_weights(0)

    class Broken:
        def run(self, *_: Any) -> None:
            raise MemoryError("no /tmp/secret left")

    loaded._session = Broken()
    with pytest.raises(ServerError, match="the inference failed: no left"):
        infer(loaded, request({"x": np.zeros((1, 32), "f4")}))


def test_weights_that_cannot_be_loaded_are_a_server_error(
    runtime: OnnxRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host: OnnxModel = load(runtime, dense(), tmp_path)

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(host._prepared, "session", full)
    with pytest.raises(ServerError, match=r"could not load .* KiB of weights on device 3: MemoryError"):
        host.load_weights(3)


def test_outputs_with_the_wrong_number_of_rows_are_a_server_error(runtime: OnnxRuntime, tmp_path: Path) -> None:
    loaded = load(runtime, dense(), tmp_path).load_weights(0)
    inputs = [request({"x": np.zeros((1, 32), "f4")})[0] for _ in range(2)]
    with pytest.raises(ServerError, match=r"'y' has shape \(3, 5\) for a batch of 2 rows"):
        loaded.split(inputs, [np.zeros((3, 5), "f4")])


@pytest.mark.parametrize(
    ("nodes", "outputs", "words"),
    [
        ([node("SequenceConstruct", "x", "y")], [], r"output 'y' is of type seq\(tensor\(float\)\)"),
        ([node("Identity", "x", "y")], [value("y", ["N", 3], TensorProto.FLOAT8E4M3FN)], "float8e4m3fn"),
    ],
)
def test_models_with_unsupported_types_are_refused(
    nodes: list[Any], outputs: list[Any], words: str, runtime: OnnxRuntime, tmp_path: Path
) -> None:
    if outputs:
        proto = model(nodes, [value("x", ["N", 3], TensorProto.FLOAT8E4M3FN)], outputs, opset=23)
        proto.ir_version = 10
    else:
        proto = model(nodes, [value("x", ["N", 3])], [value("q", ["N", 3])])
        del proto.graph.output[:]
        proto.graph.output.append(onnx.helper.make_tensor_sequence_value_info("y", FLOAT, ["N", 3]))
    with pytest.raises(InvalidModelError, match=words):
        load(runtime, proto, tmp_path)


def test_the_error_for_a_model_that_onnxruntime_rejects_quotes_its_message(
    runtime: OnnxRuntime, tmp_path: Path
) -> None:
    proto = model([node("NoSuchOperator", "x", "y")], [value("x", [1])], [value("y", [1])])
    with pytest.raises(InvalidModelError, match=r"ONNX Runtime cannot load '\d+\.onnx': .*NoSuchOperator") as error:
        load(runtime, proto, tmp_path)
    assert str(tmp_path) not in str(error.value)


def test_external_data_is_loaded(runtime: OnnxRuntime, tmp_path: Path) -> None:
    proto, x = dense(), rows(1, 1, 32)
    host = runtime.load_model(saved_with_external_data(dense(), tmp_path / "a" / "model.onnx"))
    (tmp_path / "a" / "weights.bin").unlink()  # the weights are in host memory already
    (response,) = infer(host.load_weights(0), request({"x": x}))
    assert response["y"].tobytes() == bare(proto, {"x": x})[0].tobytes()
