"""Checks of tensors from peers."""

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import (
    ELEMENT_BYTES,
    MAX_RANK,
    MAX_TENSORS,
    Datatype,
    TensorInfo,
    TensorSpec,
    check_specs,
    spec,
)

X = spec("x", "FP32", (1, 3))
TEXT = TensorSpec("t", "BYTES", (2,), 4 + 5 + 4 + 0)


def test_every_datatype_but_bytes_has_a_size() -> None:
    assert set(Datatype) - set(ELEMENT_BYTES) == {Datatype.BYTES}


@pytest.mark.parametrize(("datatype", "nbytes"), [("BOOL", 6), ("FP16", 12), ("BF16", 12), ("FP32", 24), ("INT64", 48)])
def test_a_spec_has_the_size_of_its_elements(datatype: str, nbytes: int) -> None:
    assert spec("x", datatype, (2, 3)).nbytes == nbytes


@pytest.mark.parametrize("datatype", ["BYTES", "FP4", ""])
def test_a_spec_of_unknown_size_cannot_be_made(datatype: str) -> None:
    with pytest.raises(InvalidRequestError, match="no fixed element size"):
        spec("x", datatype, (1,))


@pytest.mark.parametrize(
    ("tensors", "payload"),
    [
        ((), 0),
        ((X,), 12),
        ((X, TEXT), 25),
        ((spec("scalar", "FP64", ()),), 8),
        ((spec("empty", "FP32", (0, 5)),), 0),
        ((TensorSpec("t", "BYTES", (0,), 0),), 0),
        (tuple(spec(str(i), "INT8", (1,)) for i in range(MAX_TENSORS)), MAX_TENSORS),
        ((spec("x", "INT8", (1,) * MAX_RANK),), 1),
    ],
)
def test_tensors_whose_sizes_add_up_are_accepted(tensors: tuple[TensorSpec, ...], payload: int) -> None:
    check_specs(tensors, payload)


@pytest.mark.parametrize(
    ("tensors", "payload", "why"),
    [
        ((), 1, "take 0 bytes, but the request has 1"),
        ((X,), 11, "take 12 bytes, but the request has 11"),
        ((X,), 0, "take 12 bytes, but the request has 0"),
        ((X, X), 24, "'x' was sent twice"),
        ((TensorSpec("x", "FP32", (1, 3), 11),), 11, "takes 12 bytes, but its size is given as 11"),
        ((TensorSpec("x", "FP32", (1, 3), -12),), -12, "takes 12 bytes, but its size is given as -12"),
        ((TensorSpec("x", "FP32", (-1, 3), -12),), -12, "has a negative dimension"),
        ((TensorSpec("x", "FP32", (-1, -3), 12),), 12, "has a negative dimension"),
        ((TensorSpec("x", "FP4", (1,), 1),), 1, "unknown datatype 'FP4'; known datatypes: BOOL"),
        ((TensorSpec("t", "BYTES", (2,), 7),), 7, "each element takes at least 4"),
        ((TensorSpec("t", "BYTES", (0,), -1),), -1, "each element takes at least 4"),
        ((spec("x", "FP32", (1 << 62, 1 << 62)),), 0, "but the request has 0"),
        ((spec("x", "INT8", (1,) * (MAX_RANK + 1)),), 1, "has 17 dimensions; at most 16"),
        (tuple(spec(str(i), "INT8", (1,)) for i in range(MAX_TENSORS + 1)), 257, "257 inputs; at most 256"),
    ],
)
def test_tensors_that_are_invalid_or_do_not_add_up_are_refused(
    tensors: tuple[TensorSpec, ...], payload: int, why: str
) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        check_specs(tensors, payload)


def test_a_tensor_is_described_as_text() -> None:
    assert TensorInfo("data", "FP32", (-1, 3, 224, 224)).describe() == "data FP32[-1,3,224,224]"
    assert X.describe() == "x FP32[1,3]"
