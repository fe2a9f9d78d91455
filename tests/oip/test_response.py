"""The body of a response: JSON and binary outputs, classes, and outputs that cannot be encoded."""

import json
import struct
from typing import Any

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferResponse, RequestTiming
from clockwork.messages.tensors import TensorSpec
from clockwork.oip.binary import InferHead, OutputHead, TensorParameters
from clockwork.oip.response import response_body
from clockwork.steps import at_once

X = struct.pack("<6f", 1, 5, 3, float("nan"), -1, 2)
Y = b"\x01\x00\x00\x00a\x00\x00\x00\x00"
OUTPUTS = (TensorSpec("x", "FP32", (2, 3), len(X)), TensorSpec("y", "BYTES", (2,), len(Y)))
TIMING = RequestTiming(3_000_000, 1_000_000, 2_000_000, 4, True, 500_000)
RESPONSE = InferResponse(1, 0, "", OUTPUTS, TIMING, 3_500_000, version="1")


def head(*outputs: OutputHead, **parameters: Any) -> InferHead:
    return InferHead((), "7", outputs, parameters)


def encoded(request: InferHead) -> tuple[dict[str, Any], list[Any]]:
    json_parts, binary = at_once(response_body(request, "m", RESPONSE, X + Y, batched=True))
    return json.loads(b"".join(json_parts)), [bytes(part) for part in binary]


def test_json_is_the_default() -> None:
    content, binary = encoded(head())
    assert not binary
    assert content == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "parameters": {
            "predicted_ms": 3.5,
            "queue_ms": 1.0,
            "load_ms": 0.5,
            "exec_ms": 2.0,
            "total_ms": 3.0,
            "batch_size": 4,
            "cold_start": True,
        },
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 5, 3, None, -1, 2]},
            {"name": "y", "datatype": "BYTES", "shape": [2], "data": ["a", ""]},
        ],
    }


def test_if_all_outputs_are_binary_the_payload_is_one_piece() -> None:
    content, binary = encoded(head(binary_data_output=True))
    assert binary == [X + Y]
    assert [output["parameters"] for output in content["outputs"]] == [
        {"binary_data_size": len(X)},
        {"binary_data_size": len(Y)},
    ]


def test_an_output_may_override_the_default_form() -> None:
    content, binary = encoded(head(OutputHead("x", TensorParameters(binary_data=False)), binary_data_output=True))
    assert binary == [Y]
    assert "data" in content["outputs"][0]
    content, binary = encoded(head(OutputHead("x", TensorParameters(binary_data=True))))
    assert binary == [X]


def test_classes_are_the_largest_of_each_row() -> None:
    content, _ = encoded(head(OutputHead("x", TensorParameters(classification=2))))
    assert content["outputs"][0] == {
        "name": "x",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["5.000000:1", "3.000000:2", "2.000000:2", "-1.000000:1"],
    }
    _, binary = encoded(head(OutputHead("x", TensorParameters(classification=9, binary_data=True))))
    assert binary[0].startswith(b"\x0a\x00\x00\x005.000000:1")


def test_classes_of_an_unbatched_model_have_one_dimension() -> None:
    wanted = head(OutputHead("x", TensorParameters(classification=1)))
    content, _ = at_once(response_body(wanted, "m", RESPONSE, X + Y, batched=False))
    assert json.loads(b"".join(content))["outputs"][0]["shape"] == [1]


WRONG = {
    "classes of texts": (OutputHead("y", TensorParameters(classification=1)), OUTPUTS[1], "cannot be classified"),
    "no class": (OutputHead("x", TensorParameters(classification=0)), OUTPUTS[0], "at least 1"),
    "half floats": (OutputHead("h"), TensorSpec("h", "FP16", (1,), 2), "FP16, which has no JSON form"),
    "brain floats": (OutputHead("h"), TensorSpec("h", "BF16", (1,), 2), "BF16, which has no JSON form"),
    "bytes": (OutputHead("b"), TensorSpec("b", "BYTES", (1,), 5), "not UTF-8"),
}


@pytest.mark.parametrize("what", WRONG)
def test_outputs_that_cannot_be_encoded_are_refused(what: str) -> None:
    wanted, spec, message = WRONG[what]
    response = InferResponse(1, 0, "", (spec,), RequestTiming(1))
    with pytest.raises(InvalidRequestError, match=message):
        at_once(response_body(head(wanted), "m", response, b"\x01\x00\x00\x00\xff"[: spec.nbytes], batched=True))
