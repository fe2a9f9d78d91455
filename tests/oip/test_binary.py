"""Decoding the body of an inference request: correct bodies, wrong ones, and random bytes."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import MAX_TENSORS, Datatype, TensorSpec, check_specs
from clockwork.oip.binary import DEFAULT_MAX_JSON, InferHead, inputs_of, parse_infer
from clockwork.steps import at_once


def tensor(name: str = "x", datatype: str = "FP32", shape: Any = (1, 2), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def binary(size: Any, name: str = "x", datatype: str = "FP32", shape: Any = (1, 2)) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size})


def body(*inputs: dict[str, Any], rest: bytes = b"", **more: Any) -> tuple[bytes, int]:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + rest, len(head)


def parsed(whole: bytes, length: int | None) -> tuple[InferHead, tuple[TensorSpec, ...], Any]:
    request = at_once(parse_infer(whole, length))
    return request.head, *at_once(inputs_of(request))


def test_binary_inputs_are_a_view_of_the_body() -> None:
    whole, length = body(binary(8), binary(4, "i", "INT32", [1]), rest=bytes(range(12)), id="7")
    head, specs, payload = parsed(whole, length)
    assert head.id == "7"
    assert specs == (TensorSpec("x", "FP32", (1, 2), 8), TensorSpec("i", "INT32", (1,), 4))
    assert isinstance(payload, memoryview)
    assert payload.obj is whole
    assert payload == bytes(range(12))


def test_json_and_binary_inputs_may_be_mixed() -> None:
    whole, length = body(
        binary(2, "a", "UINT8", [2]),
        tensor("b", "INT16", [2], data=[1, -1]),
        binary(1, "c", "BOOL", [1]),
        rest=b"\x07\x08\x01",
    )
    _, specs, payload = parsed(whole, length)
    assert [spec.nbytes for spec in specs] == [2, 4, 1]
    assert payload == b"\x07\x08\x01\x00\xff\xff\x01"


JSON_TENSORS: list[tuple[str, list[int], Any, bytes]] = [
    ("BOOL", [2], [True, False], b"\x01\x00"),
    ("UINT8", [2], [0, 255], b"\x00\xff"),
    ("UINT16", [1], [65535], b"\xff\xff"),
    ("UINT32", [1], [2**32 - 1], b"\xff" * 4),
    ("UINT64", [1], [2**64 - 1], b"\xff" * 8),
    ("INT8", [1], [-1], b"\xff"),
    ("INT16", [1], [-2], b"\xfe\xff"),
    ("INT32", [1], [-1], b"\xff" * 4),
    ("INT64", [1], [-(2**63)], b"\x00" * 7 + b"\x80"),
    ("FP32", [1, 2], [[1, 0.5]], struct.pack("<2f", 1, 0.5)),
    ("FP32", [2, 1], [1, 0.5], struct.pack("<2f", 1, 0.5)),
    ("FP64", [2, 2], [[1, 2], [3, 4]], struct.pack("<4d", 1, 2, 3, 4)),
    ("FP32", [0, 2], [], b""),
    ("BYTES", [2], ["a", "é"], b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa9"),
]


@pytest.mark.parametrize(("datatype", "shape", "data", "encoded"), JSON_TENSORS)
def test_elements_in_json(datatype: str, shape: list[int], data: Any, encoded: bytes) -> None:
    whole, _ = body(tensor(datatype=datatype, shape=shape, data=data))
    _, specs, payload = parsed(whole, None)
    assert payload == encoded
    assert specs == (TensorSpec("x", datatype, tuple(shape), len(encoded)),)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_are_binary_only(datatype: str) -> None:
    whole, length = body(binary(4, datatype=datatype), rest=b"abcd")
    assert parsed(whole, length)[2] == b"abcd"
    with pytest.raises(InvalidRequestError, match="has no JSON form; send it as binary data"):
        parsed(body(tensor(datatype=datatype, data=[1, 2]))[0], None)


WRONG: dict[str, tuple[tuple[bytes, int | None], str]] = {
    "no json": ((b"hello", None), "not an inference request"),
    "nothing": ((b"", None), "0 bytes"),
    "deep": ((b'{"inputs":' + b"[" * 100_000, None), "not an inference request"),
    "deep data": ((b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 9999, None), "not an inf"),
    "no inputs": ((b"{}", None), "inputs"),
    "header longer than the body": ((b"{}", 3), "Inference-Header-Content-Length is 3"),
    "no header": ((b"{}", 0), "Inference-Header-Content-Length is 0"),
    "too much json": ((bytes(DEFAULT_MAX_JSON + 1), None), "as binary data, or raise --max-json"),
    "neither": (body(tensor()), "has neither data nor binary_data_size"),
    "both": (body({**binary(8), "data": [1, 2]}, rest=bytes(8)), "send one"),
    "too little behind": (body(binary(8), rest=bytes(7)), "7 bytes are left"),
    "too much behind": (body(binary(8), rest=bytes(9)), "9 bytes follow the JSON"),
    "negative size": (body(binary(-1)), "binary_data_size -1"),
    "huge size": (body(binary(2**62), rest=bytes(8)), "8 bytes are left"),
    "size of another shape": (body(binary(4), rest=bytes(4)), "takes 8 bytes, but its size is given as 4"),
    "negative dimension": (body(binary(8, shape=[-1, -2]), rest=bytes(8)), "negative dimension"),
    "negative dimension in json": (body(tensor(shape=[-1, -1], data=[1])), "no dimension may be negative"),
    "no list": (body(tensor(data=7)), "does not have the shape"),
    "too few": (body(tensor(data=[1])), "does not have the shape"),
    "ragged": (body(tensor(shape=[2, 2], data=[[1, 2], [3]])), "does not have the shape"),
    "nested otherwise": (body(tensor(shape=[2, 1], data=[[1, 2]])), "does not have the shape"),
    "half nested": (body(tensor(shape=[1, 2], data=[[1, [2]]])), "an element that is not FP32"),
    "a text": (body(tensor(data=[1, "2"])), "an element that is not FP32"),
    "too big for a float": (body(tensor(data=[1, 1e300])), "an element that is not FP32"),
    "out of range": (body(tensor(datatype="UINT8", data=[1, 256])), "an element that is not UINT8"),
    "a float for an integer": (body(tensor(datatype="INT32", data=[1, 1.5])), "an element that is not INT32"),
    "a number for a text": (body(tensor(datatype="BYTES", data=["1", 1])), "an element that is not BYTES"),
    "unknown datatype": (body(tensor(datatype="FP8", data=[1, 2])), "unknown datatype 'FP8'"),
    "unknown datatype, binary": (body(binary(2, datatype="FP8"), rest=bytes(2)), "unknown datatype 'FP8'"),
    "twice": (body(binary(8), binary(8), rest=bytes(16)), "sent twice"),
    "too many": (body(*[binary(0)] * (MAX_TENSORS + 1)), "at most 256"),
    "shared memory": (body(tensor(parameters={"shared_memory_region": "r"})), "shared memory, which is not supported"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_bodies_are_refused(what: str) -> None:
    (whole, length), message = WRONG[what]
    with pytest.raises(InvalidRequestError, match=message):
        parsed(whole, length)


shapes = st.lists(st.integers(-2, 4) | st.sampled_from([2**40, 2**63 - 1]), max_size=4)
datas = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8)
inputs = st.fixed_dictionaries(
    {"name": st.text(max_size=3), "datatype": st.sampled_from([*Datatype, "FP8"]), "shape": shapes},
    optional={
        "data": datas,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-2, 20) | datas}),
    },
)


@given(st.lists(inputs, max_size=3), st.binary(max_size=24), st.none() | st.integers(-3, 3))
def test_a_body_is_accepted_whole_or_refused(heads: list[Any], rest: bytes, off: int | None) -> None:
    whole, length = body(*heads, rest=rest)
    try:
        _, specs, payload = parsed(whole, None if off is None else max(0, length + off))
    except InvalidRequestError:
        return
    check_specs(specs, len(payload))


@given(st.binary(max_size=64), st.none() | st.integers(0, 80))
def test_random_bytes_are_refused(noise: bytes, length: int | None) -> None:
    with pytest.raises(InvalidRequestError):
        parsed(noise, length)


@given(st.data())
def test_binary_inputs_are_returned_unchanged(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.binary(max_size=9), max_size=5))
    heads = [binary(len(part), f"x{at}", "UINT8", [len(part)]) for at, part in enumerate(parts)]
    whole, length = body(*heads, rest=b"".join(parts))
    _, specs, payload = parsed(whole, length)
    assert bytes(payload) == b"".join(parts)
    assert [spec.nbytes for spec in specs] == [len(part) for part in parts]


def test_null_stands_for_an_optional_member_that_is_absent() -> None:
    nothing = {"id": None, "parameters": None, "outputs": None}
    whole, length = body({**binary(8), "data": None}, rest=bytes(8), **nothing)
    head, specs, payload = parsed(whole, length)
    assert (head.id, head.parameters, head.outputs) == (None, {}, ())
    assert specs == (TensorSpec("x", "FP32", (1, 2), 8),)
    assert payload == bytes(8)
    whole, _ = body(tensor(data=[1, 2], parameters=None), outputs=[{"name": "y", "parameters": None}], id=None)
    head, specs, payload = parsed(whole, None)
    assert head.outputs[0].parameters.classification is None
    assert payload == struct.pack("<2f", 1, 2)


def test_an_input_whose_data_is_null_has_no_data() -> None:
    whole, _ = body(tensor(data=None))
    with pytest.raises(InvalidRequestError, match="neither data nor binary_data_size"):
        parsed(whole, None)
