"""Long JSON is read and written in steps, and refused before it takes time."""

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferResponse, RequestTiming
from clockwork.messages.tensors import TensorSpec
from clockwork.oip.binary import InferHead, OutputHead, TensorParameters, inputs_of, parse_infer
from clockwork.oip.elements import MAX_CLASSES, MAX_TEXTS, SLICE, SLICE_ELEMENTS, Text, add_elements
from clockwork.oip.outline import MAX_OUTLINE, MIN_CUT, outlined
from clockwork.oip.response import response_body
from clockwork.steps import Steps, at_once
from clockwork.units import KIB, MIB


def counted(steps: Steps[Any]) -> tuple[int, Any]:
    """Return the number of steps and the result."""
    count = 1
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


def body(shape: list[int], data: str, **tensor: Any) -> bytes:
    head = json.dumps({"name": "x", "datatype": "FP32", "shape": shape, **tensor})[:-1]
    return f'{{"id":"7","inputs":[{head},"data":{data}}}],"parameters":{{"slo_ms":5}}}}'.encode()


def payload(whole: bytes) -> bytes:
    return bytes(at_once(inputs_of(at_once(parse_infer(whole, None))))[1])


def test_a_short_request_takes_one_step() -> None:
    whole = body([2, 2], "[[1,2],[3,4]]")
    steps, parsed = counted(parse_infer(whole, None))
    assert steps == 1
    assert counted(inputs_of(parsed))[0] == 1


@pytest.mark.parametrize("rows", [1, 4], ids=["one row", "four rows"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_long_lists_are_decoded_in_slices(rows: int, nested: bool) -> None:
    count = 200_000
    values = [[(row * count + at) % 1000 / 8 for at in range(count)] for row in range(rows)]
    flat = [value for row in values for value in row]
    whole = body([rows, count], json.dumps(values if nested else flat))
    reading, parsed = counted(parse_infer(whole, None))
    assert reading <= 5 + len(whole) // MIB
    assert parsed.head.id == "7"
    assert parsed.head.parameters == {"slo_ms": 5}
    decoding, (specs, data_bytes) = counted(inputs_of(parsed))
    assert decoding >= len(whole) // SLICE
    assert specs == (TensorSpec("x", "FP32", (rows, count), 4 * len(flat)),)
    assert data_bytes == struct.pack(f"<{len(flat)}f", *flat)


def test_several_long_inputs_and_short_ones_between_them_are_decoded() -> None:
    long = list(range(30_000))
    tensors = [
        {"name": 'a "[1,2]{', "datatype": "INT32", "shape": [30_000], "data": long},
        {"name": "b\\", "datatype": "BYTES", "shape": [2], "data": ["[" * MIN_CUT, '"]}' * MIN_CUT]},
        {"name": "c", "datatype": "UINT8", "shape": [1], "data": [7]},
        {"name": "d", "datatype": "INT64", "shape": [1, 30_000], "data": [long]},
    ]
    whole = json.dumps({"inputs": tensors}, indent=1).encode()
    assert len(whole) > SLICE
    parsed = at_once(parse_infer(whole, None))
    specs, data_bytes = at_once(inputs_of(parsed))
    assert [spec.name for spec in specs] == ['a "[1,2]{', "b\\", "c", "d"]
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"[" * MIN_CUT, b'"]}' * MIN_CUT))
    assert data_bytes == struct.pack("<30000i", *long) + texts + b"\x07" + struct.pack("<30000q", *long)


def test_a_wrong_shape_of_many_short_lists_is_refused_in_few_steps() -> None:
    count = 1_000_000
    whole = body([count, 2], "[" + "[0]," * (count - 1) + "[0]]")
    parsed = at_once(parse_infer(whole, None))
    with pytest.raises(InvalidRequestError, match="does not have the shape"):
        next(inputs_of(parsed))


ZEROS = "0," * (SLICE * 2) + "0"
COUNT = 2 * SLICE + 1
LONG_WRONG: dict[str, tuple[list[int], str]] = {
    "too few": ([COUNT + 1], f"[{ZEROS}]"),
    "too many": ([COUNT - 1], f"[{ZEROS}]"),
    "a gap at a cut": ([COUNT + 1], f"[{ZEROS},]"),
    "nothing between commas": ([COUNT + 2], f"[{ZEROS},,0]"),
    "a bracket in the middle": ([COUNT + 1], f"[{ZEROS}],0"),
    "a bracket behind a number": ([COUNT + 1, 1], "[" + "[0]," * COUNT + "0[]]"),
    "a number behind a bracket": ([COUNT + 1, 1], "[" + "[0]," * COUNT + "[]0]"),
    "nested otherwise": ([COUNT, 1], "[[" + ZEROS + "]]"),
    "more than one list": ([COUNT], f"[{ZEROS}] [0]"),
}


@pytest.mark.parametrize("what", LONG_WRONG)
def test_a_wrong_long_list_is_refused(what: str) -> None:
    shape, data = LONG_WRONG[what]
    with pytest.raises(InvalidRequestError):
        payload(body(shape, data))


def test_a_long_element_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"element that exceeds the limit of 64\.0 KiB"):
        payload(body([2], "[" + "1" * (2 * SLICE) + ",1]"))


def test_an_input_cannot_refer_to_the_data_of_another() -> None:
    """A client cannot forge the mark of a list that was cut out: each list is used once."""
    whole = json.dumps(
        {
            "inputs": [
                {"name": name, "datatype": "UINT8", "shape": [SLICE], "data": data}
                for name, data in (("a", [1] * SLICE), ("b", {"cut": 0}), ("c", {"cut": 99}))
            ]
        }
    ).encode()
    with pytest.raises(InvalidRequestError, match="input 'b'"):
        payload(whole)


MUCH = {
    "strings": '{"inputs":[' + '"a",' * MIB,
    "objects": '{"inputs":[' + "{}," * MIB,
    "short lists": '{"inputs":[' + "[0]{" * MIB,
    "one string": '{"id":"' + "a" * MIB + '"}',
    "quotes": '{"id":"' + '\\"' * MIB + '"}',
    "blanks": "{" + " " * MIB + "}",
    "braces": "{" * MIB,
}


@pytest.mark.parametrize("what", MUCH)
def test_the_json_without_long_lists_has_a_limit(what: str) -> None:
    data = MUCH[what].encode()
    steps: list[None] = []
    with pytest.raises(InvalidRequestError, match=r"without lists of numbers exceeds the limit of 256\.0 KiB"):
        steps.extend(outlined(memoryview(data)))
    assert len(steps) < MAX_OUTLINE // 256


def test_bytes_elements_in_json_have_a_limit() -> None:
    text = json.dumps(["a" * MAX_TEXTS]).encode()
    with pytest.raises(InvalidRequestError, match="send it as binary data"):
        at_once(add_elements("x", "BYTES", (1,), Text(text, 0, len(text)), bytearray()))


nested = st.integers(1, 3).flatmap(lambda rank: st.lists(st.integers(0, 4), min_size=rank, max_size=rank))


@given(nested, st.sampled_from(["", " ", "\n  "]), st.data())
def test_correctly_nested_lists_are_accepted_and_cut_ones_refused(
    shape: list[int], blank: str, data: st.DataObject
) -> None:
    def lists(dims: list[int]) -> Any:
        return [lists(dims[1:]) for _ in range(dims[0])] if dims else next(numbers)

    count = 1
    for dim in shape:
        count *= dim
    numbers = iter(range(count))
    text = json.dumps(lists(shape)).replace(" ", blank).encode()
    decoded = bytearray()
    at_once(add_elements("x", "INT32", tuple(shape), Text(text, 0, len(text)), decoded))
    assert decoded == struct.pack(f"<{count}i", *range(count))
    place = data.draw(st.integers(0, len(text) - 1))
    cut = text[:place] + text[place + 1 :]
    try:
        still = json.loads(cut)
    except ValueError:
        still = None
    if still is None:
        with pytest.raises(InvalidRequestError):
            at_once(add_elements("x", "INT32", tuple(shape), Text(cut, 0, len(cut)), bytearray()))


# ---------------------------------------------------------------------------------------------------------- responses


def encoded(
    datatype: str, count: int, data: bytes, limit: int = 16 * MIB, wanted: OutputHead | None = None
) -> tuple[int, Any]:
    spec = TensorSpec("y", datatype, (1, count), len(data))
    response = InferResponse(1, 0, "", (spec,), RequestTiming(1))
    head = InferHead((), "7", () if wanted is None else (wanted,))
    steps, (parts, binary) = counted(response_body(head, "m", response, data, True, limit))
    assert not binary
    assert all(len(part) <= 4 * SLICE for part in parts)
    return steps, json.loads(b"".join(parts))["outputs"][0]["data"]


def test_a_long_response_is_written_in_slices() -> None:
    count = 10 * SLICE_ELEMENTS
    steps, data = encoded("INT64", count, struct.pack(f"<{count}q", *range(count)))
    assert steps == 10
    assert data == list(range(count))
    steps, data = encoded("INT64", 4, struct.pack("<4q", 1, 2, 3, 4))
    assert steps == 1


def test_long_texts_are_written_in_slices() -> None:
    element = struct.pack("<I", 3) + "né".encode()
    steps, data = encoded("BYTES", 3 * SLICE_ELEMENTS, element * (3 * SLICE_ELEMENTS))
    assert steps == 3
    assert data == ["né"] * (3 * SLICE_ELEMENTS)


TOO_LONG: dict[str, Callable[[], tuple[int, Any]]] = {
    "by its elements": lambda: encoded("FP32", 100 * KIB, bytes(400 * KIB), 128 * KIB),
    "by its text": lambda: encoded("FP32", 10 * KIB, struct.pack("<f", 0.1) * (10 * KIB), 32 * KIB),
    "by one string": lambda: encoded("BYTES", 1, struct.pack("<I", MIB) + b"a" * MIB, 128 * KIB),
}


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_response_that_is_too_long_for_json_is_refused(what: str) -> None:
    with pytest.raises(InvalidRequestError, match="binary_data_output, or raise --max-json"):
        TOO_LONG[what]()


def test_classes_of_long_rows_are_found_in_slices() -> None:
    count = 3 * SLICE_ELEMENTS
    values = [float(at * 7919 % count) for at in range(count)]
    values[5] = float("nan")
    data = struct.pack(f"<{count}f", *values)
    steps, found = encoded("FP32", count, data, wanted=OutputHead("y", TensorParameters(classification=3)))
    assert steps == 3
    best = sorted((at for at in range(count) if at != 5), key=lambda at: -values[at])[:3]
    assert found == [f"{values[at]:f}:{at}" for at in best]


def test_many_classes_of_long_rows_are_refused() -> None:
    count = 3 * SLICE_ELEMENTS
    wanted = OutputHead("y", TensorParameters(classification=MAX_CLASSES + 1))
    with pytest.raises(InvalidRequestError, match="at most 1024 are accepted"):
        encoded("FP32", count, bytes(4 * count), wanted=wanted)
