"""Conversion of arrays to payloads and back, and comparison of outputs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_dtypes import bfloat16

from clockwork.arrays import datatype_of, difference, dtype_of, from_payload, to_payload
from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import ELEMENT_BYTES, Datatype, TensorSpec, check_specs

FIXED = [datatype for datatype in Datatype if datatype != Datatype.BYTES]


def round_trip(array: Any, offset: int = 0) -> Any:
    datatype, shape, buffer = to_payload(array)
    spec = TensorSpec("x", datatype, shape, memoryview(buffer).nbytes)
    check_specs((spec,), spec.nbytes)
    return from_payload(spec, bytes(offset) + bytes(buffer), offset)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
fixed_arrays = shapes.flatmap(
    lambda shape: st.sampled_from([known for known in FIXED if known != Datatype.BF16]).flatmap(
        lambda datatype: hnp.arrays(dtype_of(datatype), shape)
    )
)
texts = st.one_of(st.binary(max_size=9), st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
text_arrays = shapes.flatmap(lambda shape: hnp.arrays(np.dtype("O"), shape, elements=texts, fill=st.nothing()))


@given(fixed_arrays, st.integers(0, 9))
def test_arrays_are_restored_bit_for_bit_at_any_offset_of_a_payload(array: Any, offset: int) -> None:
    back = round_trip(array, offset)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(np.uint16, shapes))
def test_bfloat16_is_restored_bit_for_bit(bits: Any) -> None:
    back = round_trip(bits.view(bfloat16))
    assert back.dtype == bfloat16
    assert back.shape == bits.shape
    assert back.tobytes() == bits.tobytes()


@given(text_arrays)
def test_strings_are_restored_as_bytes(array: Any) -> None:
    back = round_trip(array)
    assert back.shape == array.shape
    assert back.ravel().tolist() == [
        element.encode() if isinstance(element, str) else element for element in array.ravel().tolist()
    ]


@pytest.mark.parametrize("datatype", FIXED)
def test_elements_have_the_sizes_of_the_table(datatype: Datatype) -> None:
    assert dtype_of(datatype).itemsize == ELEMENT_BYTES[datatype]
    assert datatype_of(dtype_of(datatype)) == datatype


@pytest.mark.parametrize("text", [np.array(["a", "bc"]), np.array([b"a", b"bc"]), ["a", "bc"]])
def test_numpy_strings_are_sent_as_strings(text: Any) -> None:
    assert to_payload(text) == ("BYTES", (2,), b"\x01\0\0\0a\x02\0\0\0bc")


def test_payloads_and_arrays_share_memory() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    _, _, buffer = to_payload(array)
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)
    received = bytearray(buffer)
    back = from_payload(TensorSpec("x", "FP32", (2, 3), 24), received)
    assert np.shares_memory(back, np.frombuffer(received, np.uint8))
    assert not back.flags.writeable


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=">i4").reshape(2, 3), np.arange(6, dtype="i4").reshape(3, 2).T, np.arange(12, dtype="i4")[::2]],
)
def test_arrays_are_converted_to_the_byte_order_and_layout_of_the_wire(array: Any) -> None:
    assert round_trip(array).tolist() == array.tolist()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(2, np.complex64), "dtype complex64 cannot be sent"),
        (np.zeros(2, "M8[s]"), "cannot be sent"),
        (np.array([None, 1], object), "bytes and str only; found NoneType"),
        (np.array(["\ud800"], object), "lone surrogates"),
    ],
)
def test_arrays_that_cannot_be_sent_are_refused(array: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        to_payload(array)


@pytest.mark.parametrize(
    ("spec", "payload", "words"),
    [
        (TensorSpec("x", "FP32", (2, 3), 24), bytes(23), "needs 24 bytes at 0; the payload has 23"),
        (TensorSpec("x", "FP32", (2, 3), 12), bytes(24), "takes 24 bytes, but its size is given as 12"),
        (TensorSpec("x", "FP8", (2,), 2), bytes(2), "'FP8' is unknown"),
        (TensorSpec("x", "BOOL", (2,), 2), b"\0\x02", "bytes other than 0 and 1"),
        (TensorSpec("x", "BYTES", (2,), 9), b"\x01\0\0\0a\x02\0\0\0", "element 1 .* ends at byte 11"),
        (TensorSpec("x", "BYTES", (1,), 6), b"\x01\0\0\0ab", "take 5 bytes, but its size is given as 6"),
        (TensorSpec("x", "BYTES", (1,), 8), b"\x01\0\0\0a", "but its size is given as 8 and the payload has 5"),
        (TensorSpec("x", "BYTES", (2,), 7), b"\0\0\0\0\0\0\0", "cannot fit in 7 bytes"),
        (TensorSpec("x", "BYTES", (1 << 40,), 8), bytes(8), "cannot fit in 8 bytes"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(spec: TensorSpec, payload: bytes, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        from_payload(spec, payload)


def test_without_ml_dtypes_only_bfloat16_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.arrays._bfloat16", lambda: None)
    with pytest.raises(InvalidRequestError, match="ml_dtypes"):
        from_payload(TensorSpec("x", "BF16", (1,), 2), bytes(2))
    assert to_payload(np.zeros(1, np.float32))[0] == "FP32"


ROW = np.array([0.5, -2.0, 0.0])


@pytest.mark.parametrize(
    ("wanted", "found", "text"),
    [
        (np.array([1, 2]), np.array([1, 2]), ""),
        (np.array([1, 2, 3]), np.array([1, 3, 2]), "2 of 3 elements differ"),
        (np.array([True, False]), np.array([True, True]), "1 of 2 elements differ"),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), "1 of 2 elements differ"),
        (np.zeros((1, 2), np.int8), np.zeros((2, 1), np.int8), "the shape is [2, 1] instead of [1, 2]"),
        (np.zeros(0, np.float32), np.zeros(0, np.float32), ""),
        (
            np.zeros(2, np.float32),
            np.array([0, 1e-30], np.float32),
            "the largest difference is 1e-30, of elements up to 0",
        ),
        (np.array([np.inf, np.nan, 1.0]), np.array([np.inf, np.nan, 1.0]), ""),
        (np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]), "infinities or NaNs are in different places"),
        (np.array([np.nan, 1.0]), np.array([1.0, np.nan]), "infinities or NaNs are in different places"),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), ""),
    ],
)
def test_outputs_differ_or_agree(wanted: Any, found: Any, text: str) -> None:
    assert difference(wanted, found) == text


@pytest.mark.parametrize(
    ("dtype", "within", "beyond"),
    [
        (np.float64, 0.019, 0.021),
        (np.float32, 0.019, 0.021),
        (np.float16, 0.019, 0.021),
        (bfloat16, 0.11, 0.14),
    ],
)
def test_floats_agree_within_a_share_of_the_largest(dtype: Any, within: float, beyond: float) -> None:
    wanted = ROW.astype(dtype)
    near, far = wanted.copy(), wanted.copy()
    near[2] = within
    far[2] = beyond
    assert difference(wanted, near) == ""
    assert "of elements up to 2" in difference(wanted, far)
