"""Bodies of gRPC requests are divided into messages."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.errors import InvalidRequestError
from clockwork.frontend.body_quota import BodyQuota
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.incoming import MAX_QUEUED, Incoming, TooLongError
from clockwork.grpc_frontend.infer import parse
from clockwork.oip.failures import RequestFailedError
from clockwork.units import KIB, MIB

LIMIT = MIB


def encoded(data: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


def incoming(limit: int = LIMIT, quota: BodyQuota | None = None, allocate: Any = None) -> Incoming:
    return Incoming(limit, quota or BodyQuota(1 << 40), allocate)


@settings(derandomize=True, database=None, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 5, 200, 16 * KIB - 1, 16 * KIB, 20_000]), st.booleans()), max_size=100),
    st.sampled_from([7, 100, 16 * KIB, 16 * KIB + 1, 30 * KIB]),
    st.booleans(),
)
def test_messages_arrive_whatever_the_pieces(sizes: list[tuple[int, bool]], piece: int, at_once: bool) -> None:
    made = [(bytes([number]) * size, compressed) for number, (size, compressed) in enumerate(sizes)]
    data = b"".join(encoded(message, int(compressed)) for message, compressed in made)
    quota = BodyQuota(len(data))
    found, taken = incoming(quota=quota), []
    for at in range(0, len(data), piece):
        found.receive(memoryview(data)[at : at + piece], at)
        while at_once and found.messages:
            taken.append(found.take())
    while found.messages:
        assert len(found.messages) <= MAX_QUEUED
        taken.append(found.take())
    assert [(bytes(message.data), message.compressed) for message in taken] == made
    assert (found.kept, found.is_incomplete, quota._bytes) == (0, False, 0)


def test_a_message_arrives_with_its_first_byte() -> None:
    found = incoming()
    whole = encoded(b"a") + encoded(bytes(20 * KIB)) + encoded(b"b")
    for at, arrived in ((0, 1), (10, 2), (10 * KIB, 3), (len(whole) - 7, 4)):
        ends = {0: 10, 10: 10 * KIB, 10 * KIB: len(whole) - 7}.get(at, len(whole))
        found.receive(whole[at:ends], arrived)
    assert [message.arrived for message in found.messages] == [1, 1, 4]


def test_a_long_message_is_refused_before_it_arrives() -> None:
    with pytest.raises(TooLongError, match=f"message is {LIMIT + 1} bytes; the limit is {LIMIT}"):
        incoming().receive(struct.pack(">BI", 0, LIMIT + 1), 0)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="the first byte of a message is 2"):
        incoming().receive(encoded(b"x", 2), 0)


def test_the_bytes_of_all_calls_have_a_limit() -> None:
    quota = BodyQuota(100)
    one, other = incoming(quota=quota), incoming(quota=quota)
    one.receive(encoded(bytes(90)), 0)
    with pytest.raises(RequestFailedError, match="limit for request bodies"):
        other.receive(encoded(bytes(20)), 0)
    other.close()
    one.take()
    assert quota._bytes == 0


def test_many_small_messages_wait_undivided() -> None:
    found, count = incoming(), 100_000
    found.receive(encoded(b"") * count, 0)
    assert len(found.messages) == MAX_QUEUED
    taken = 0
    while found.messages:
        assert found.take().data == b""
        taken += 1
    assert taken == count


def test_a_long_inference_request_gets_memory_in_which_its_tensor_is_aligned() -> None:
    allocated = []

    def allocate(nbytes: int) -> Any:
        allocated.append(np.empty(nbytes, np.uint8))
        return allocated[-1]

    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 10_000])
    raw = np.arange(10_000, dtype=np.float32)
    message = pb.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[raw.tobytes()])
    data = encoded(message.SerializeToString())
    found = incoming(allocate=allocate)
    for at in range(0, len(data), 16 * KIB):
        found.receive(data[at : at + 16 * KIB], 0)
    received = found.take().data
    (memory,) = allocated
    _, (placed,) = parse(received)
    array = np.frombuffer(placed, np.float32)
    assert array.tolist() == raw.tolist()
    assert np.shares_memory(array, memory)
    assert array.ctypes.data % 64 == 0
