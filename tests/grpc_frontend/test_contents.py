"""Typed contents: conversion into payloads, and errors."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from clockwork.arrays import from_payload
from clockwork.errors import InvalidRequestError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.contents import SLICE, add_contents
from clockwork.messages.tensors import TensorSpec
from clockwork.steps import at_once

ROUND_TRIPS = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT16", "int_contents", [-32768, 32767]),
    ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
    ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
    ("UINT8", "uint_contents", [0, 255]),
    ("UINT16", "uint_contents", [0, 65535]),
    ("UINT32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64_contents", [0, 2**64 - 1]),
    ("FP16", "fp32_contents", [0.5, -65504.0]),
    ("BF16", "fp32_contents", [0.5, -3.0]),
    ("FP32", "fp32_contents", [0.5, float("inf")]),
    ("FP64", "fp64_contents", [0.1, -1e300]),
    ("BYTES", "bytes_contents", [b"", b"\xff\x00 caf\xc3\xa9"]),
]


def contents(**fields: Any) -> pb.InferTensorContents:
    return pb.InferTensorContents(**fields)


def payload_of(name: str, datatype: str, shape: tuple[int, ...], sent: pb.InferTensorContents) -> bytearray:
    payload = bytearray()
    at_once(add_contents(name, datatype, shape, sent, payload))
    return payload


@pytest.mark.parametrize(("datatype", "field", "elements"), ROUND_TRIPS)
def test_elements_of_every_datatype_are_converted(datatype: str, field: str, elements: list[Any]) -> None:
    payload = payload_of("x", datatype, (1, 2), contents(**{field: elements}))
    array = from_payload(TensorSpec("x", datatype, (1, 2), len(payload)), payload)
    assert array.shape == (1, 2)
    assert array.ravel().tolist() == elements


@pytest.mark.parametrize("value", [1.0, 1.00390625, 1.01171875, 3.4e38, float("inf"), float("nan"), -0.0, 1e-40])
def test_a_bfloat16_is_rounded_to_the_nearest(value: float) -> None:
    payload = payload_of("x", "BF16", (1,), contents(fp32_contents=[value]))
    assert payload == np.array([value], np.float32).astype(ml_dtypes.bfloat16).tobytes()


@pytest.mark.parametrize(
    ("datatype", "field", "element"),
    [
        ("INT8", "int_contents", 128),
        ("INT16", "int_contents", 40000),
        ("UINT8", "uint_contents", 256),
        ("UINT16", "uint_contents", 65536),
        ("FP16", "fp32_contents", 1e6),
    ],
)
def test_an_element_too_large_is_refused(datatype: str, field: str, element: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"tensor 'x' has an element that does not fit {datatype}"):
        payload_of("x", datatype, (1,), contents(**{field: [element]}))


def test_a_wrong_number_of_elements_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"has 5 elements in fp32_contents; FP32\[2, 3\] needs 6"):
        payload_of("x", "FP32", (2, 3), contents(fp32_contents=[0.0] * 5))


def test_elements_in_the_field_of_another_datatype_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="has 0 elements in fp32_contents"):
        payload_of("x", "FP32", (1,), contents(fp64_contents=[0.0]))


def test_an_unknown_datatype_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="unknown datatype 'FP8'"):
        payload_of("x", "FP8", (1,), contents(fp32_contents=[0.0]))


@pytest.mark.parametrize(("datatype", "field"), [("INT32", "int_contents"), ("BF16", "fp32_contents")])
def test_many_elements_are_converted_in_slices(datatype: str, field: str) -> None:
    payload = bytearray()
    steps = add_contents("x", datatype, (3 * SLICE,), contents(**{field: [1] * (3 * SLICE)}), payload)
    sizes = [len(payload) for _ in steps]
    size = len(payload) // 3
    assert sizes == [size, 2 * size]
    assert payload == 3 * SLICE * payload[: size // SLICE]
