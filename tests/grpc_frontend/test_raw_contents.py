"""Raw tensors are taken out of messages and put into messages with the same result as by protobuf."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.errors import InvalidRequestError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import infer
from clockwork.grpc_frontend.infer import MAX_PAYLOAD_BYTES, parse, request_of, with_payload
from clockwork.grpc_frontend.raw_contents import (
    MAX_FIELDS,
    MIN_SPLIT_BYTES,
    in_stream,
    model_and_version,
    split,
    varint,
    with_raw_outputs,
)
from clockwork.messages.requests import InferRequest
from clockwork.steps import at_once
from fuzzing.targets import grpc_fields

TENSOR = pb.ModelInferRequest.InferInputTensor
many = settings(max_examples=400, derandomize=True, database=None, deadline=None)

raws = st.lists(st.binary(max_size=300), max_size=4)
requests = st.builds(
    lambda name, key, shapes, raw, slo: pb.ModelInferRequest(
        model_name=name,
        id=key,
        inputs=[TENSOR(name=f"x{i}", datatype="FP32", shape=shape) for i, shape in enumerate(shapes)],
        parameters={"slo_ms": pb.InferParameter(double_param=slo)},
        raw_input_contents=raw,
    ),
    st.text(max_size=200),
    st.text(max_size=3),
    st.lists(st.lists(st.integers(-1, 2**40), max_size=3), max_size=4),
    raws,
    st.floats(allow_nan=False),
)
#: Encoded fields, correct or nearly so: other wire types, lengths that are not minimal, groups, a bad tag.
fields = st.one_of(
    st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 15]), st.binary(max_size=200)).map(
        lambda field: bytes([field[0] << 3 | 2]) + varint(len(field[1])) + field[1]
    ),
    st.sampled_from([b"\x38\x05", b"\x3a\x81\x00a", b"\x3a\x81\x80\x80\x80\x00a", b"\x3b\x3a\x01a\x3c", b"\x00\x00"]),
    st.sampled_from([b"\x3a\xff\xff\xff\xff\x7f", b"\x3a\xff", b"\xba\x00\x01a", b"\x3a\x80\x00", b"\x0a\x01\xff"]),
    st.binary(max_size=5),
)


@many
@given(requests)
def test_messages_encoded_by_protobuf_are_split(message: pb.ModelInferRequest) -> None:
    data = message.SerializeToString()
    grpc_fields(data)
    assert (split(data) is None) == (not message.raw_input_contents)


@many
@given(st.lists(fields, max_size=8).map(b"".join))
def test_any_bytes_are_split_as_protobuf_parses_them_or_not_at_all(data: bytes) -> None:
    grpc_fields(data)


def test_a_split_copies_no_tensor() -> None:
    data = pb.ModelInferRequest(raw_input_contents=[b"abc"]).SerializeToString()
    parts = split(data)
    assert parts is not None
    assert all(view.obj is data for view in parts.raw)


def test_a_message_with_too_many_fields_is_left_to_protobuf() -> None:
    few = b"\x3a\x00" * MAX_FIELDS
    assert split(few[2:]) is not None
    assert split(few + b"\x3a\x00") is None


@pytest.mark.parametrize("tensors", [[], [b""], [b"ab", b""], [bytes(127), bytes(128), bytes(20_000)]], ids=len)
def test_a_response_is_serialised_as_by_protobuf(tensors: list[bytes]) -> None:
    head = pb.ModelInferResponse(model_name="m", id="seven", outputs=[{"name": "y", "shape": [1, 2]}])
    encoded = with_raw_outputs(head.SerializeToString(), [memoryview(tensor) for tensor in tensors])
    head.raw_output_contents.extend(tensors)
    assert encoded == head.SerializeToString()
    assert in_stream(encoded) == pb.ModelStreamInferResponse(infer_response=head).SerializeToString()


# ----------------------------------------------------------------------------------------- where payloads are stored


def encoded_request(*tensors: bytes, **more: Any) -> bytes:
    inputs = [TENSOR(name=f"x{i}", datatype="UINT8", shape=[len(data)]) for i, data in enumerate(tensors)]
    message = pb.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=tensors, **more)
    return bytes(message.SerializeToString())


class Memory:
    """Records the sizes of allocations."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def allocate(self, nbytes: int) -> Any:
        self.sizes.append(nbytes)
        return np.empty(nbytes, np.uint8)


def decoded(data: bytes, allocate: Any = None) -> tuple[InferRequest, Any]:
    message, raw = parse(data)
    return at_once(with_payload(message, raw, request_of(message, raw, 1, None), allocate))


@pytest.mark.parametrize("sizes", [[MIN_SPLIT_BYTES], [5, 2 * MIN_SPLIT_BYTES, 0, 7]], ids=str)
def test_large_tensors_are_copied_once_into_memory_that_a_worker_can_read(sizes: list[int]) -> None:
    tensors, memory = [bytes([i + 1]) * size for i, size in enumerate(sizes)], Memory()
    request, payload = decoded(encoded_request(*tensors), memory.allocate)
    assert memory.sizes == [sum(sizes)]
    assert bytes(payload) == b"".join(tensors)
    assert not payload.readonly
    assert [spec.nbytes for spec in request.inputs] == sizes


def test_large_tensors_are_copied_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "MAX_COPIED", MIN_SPLIT_BYTES)
    memory, tensors = Memory(), (b"1" * (2 * MIN_SPLIT_BYTES + 1), b"2" * MIN_SPLIT_BYTES)
    message, raw = parse(encoded_request(*tensors))
    steps = with_payload(message, raw, request_of(message, raw, 1, None), memory.allocate)
    assert sum(1 for _ in steps) == 3
    assert bytes(decoded(encoded_request(*tensors), memory.allocate)[1]) == b"".join(tensors)


def test_small_tensors_are_not_copied_to_shared_memory() -> None:
    memory = Memory()
    decoded(encoded_request(b"1234", b"5"), memory.allocate)
    assert memory.sizes == []
    _, payload = decoded(encoded_request(bytes(MIN_SPLIT_BYTES)))
    assert payload.readonly


def test_typed_contents_are_stored_in_shared_memory_too() -> None:
    memory, count = Memory(), MIN_SPLIT_BYTES // 8
    tensor = TENSOR(name="x", datatype="FP64", shape=[count], contents={"fp64_contents": range(count)})
    message = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    _, payload = decoded(message.SerializeToString(), memory.allocate)
    assert memory.sizes == [MIN_SPLIT_BYTES]
    assert np.frombuffer(payload).tolist() == list(range(count))


def test_nothing_is_allocated_for_inputs_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    monkeypatch.setattr(infer, "MAX_PAYLOAD_BYTES", MIN_SPLIT_BYTES)
    assert MAX_PAYLOAD_BYTES > MIN_SPLIT_BYTES
    with pytest.raises(InvalidRequestError, match="inputs have 16385 bytes; at most 16384 are accepted"):
        decoded(encoded_request(bytes(MIN_SPLIT_BYTES), b"1"), memory.allocate)
    assert memory.sizes == []


def test_the_tighter_of_the_deadlines_of_message_and_call_counts() -> None:
    message, raw = parse(encoded_request(b"1", parameters={"timeout": pb.InferParameter(int64_param=20_000)}))
    assert request_of(message, raw, 1, None).slo == 20_000_000
    assert request_of(message, raw, 1, 12_000_000).slo == 12_000_000
    assert request_of(message, raw, 1, 30_000_000).slo == 20_000_000
    message, raw = parse(encoded_request(b"1"))
    assert request_of(message, raw, 1, None).slo is None


def test_the_name_and_version_of_the_model_are_found_without_a_parser() -> None:
    name = pb.ModelInferRequest.FromString(encoded_request(b"1")).model_name
    assert model_and_version(encoded_request(b"1")) == (name, "")
    assert model_and_version(pb.ModelInferRequest(model_name="m\u00e9" * 80).SerializeToString()) == (
        "m\u00e9" * 80,
        "",
    )
    versioned = pb.ModelInferRequest(model_name="m", model_version="3", id="4").SerializeToString()
    assert model_and_version(versioned) == ("m", "3")
    for data in (b"", b"\n", b"\n\x05ab", b"\x12\x01a", b"\n" + b"\xff" * 12):
        assert model_and_version(data) == ("", "")
