"""Frames are read however the stream is cut; bytes that are not a frame raise an error that describes them."""

import random
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork.errors import InvalidRequestError, ProtocolError
from clockwork.units import KIB, MIB
from clockwork.wire.frame import (
    JOIN_BYTES,
    LARGE_BUFFER,
    MAX_HEADER_BYTES,
    SMALL_BUFFER,
    FrameReader,
    encode_frame,
    flat,
    preamble,
)

Plain = tuple[bytes, bytes]


def encoded(frames: list[Plain]) -> bytes:
    return b"".join(bytes(part) for header, payload in frames for part in encode_frame(header, [payload]))


def received(reader: FrameReader, data: bytes) -> list[Plain]:
    """Feed the bytes to the reader as fast as its buffer accepts them; return the frames."""
    frames: list[Plain] = []
    view = memoryview(data)
    while view:
        buffer = reader.get_buffer(-1)
        size = min(len(buffer), len(view))
        assert size, "the reader offers no buffer"
        buffer[:size] = view[:size]
        view = view[size:]
        frames += [(bytes(header), bytes(payload)) for header, payload in reader.buffer_updated(size)]
    return frames


def lengths(total: int, header: int) -> bytes:
    return struct.pack("<II", total, header)


# ----------------------------------------------------------------------------------------------- valid frames

SIZES = (0, 1, 7, 100, SMALL_BUFFER - 9, SMALL_BUFFER - 8, SMALL_BUFFER, 20_000, LARGE_BUFFER, 300_000)


@st.composite
def streams(draw: st.DrawFn) -> list[Plain]:
    sizes = draw(st.lists(st.tuples(st.sampled_from((0, 1, 30, 20_000)), st.sampled_from(SIZES)), max_size=6))
    seed = draw(st.integers(0, 255))
    return [
        (bytes([seed + i & 255]) * header, random.Random(seed + i).randbytes(size))
        for i, (header, size) in enumerate(sizes)
    ]


@given(streams(), st.lists(st.integers(1, 400_000), max_size=12), st.booleans())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    frames: list[Plain], cuts: list[int], dialled: bool
) -> None:
    reader = FrameReader(expect_preamble=dialled)
    data = (preamble() if dialled else b"") + encoded(frames)
    found: list[Plain] = []
    for cut in cuts:
        found += received(reader, data[:cut])
        data = data[cut:]
    found += received(reader, data)
    assert found == frames
    assert reader.waiting_for == ""


def test_every_pair_of_cuts_gives_the_same_frames() -> None:
    frames = [(b"", b""), (b"header", b"payload"), (b"h", b""), (b"", b"p")]
    data = preamble() + encoded(frames)
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            reader = FrameReader(expect_preamble=True)
            parts = data[:first], data[first:second], data[second:]
            assert [frame for part in parts for frame in received(reader, part)] == frames


def test_frames_can_arrive_byte_by_byte() -> None:
    frames = [(b"h" * 10, b"p" * 20_000), (b"i", b"q")]
    reader = FrameReader()
    found = [frame for byte in encoded(frames) for frame in received(reader, bytes([byte]))]
    assert found == frames


def test_many_small_frames_enlarge_the_buffer_and_a_large_frame_does_not() -> None:
    small, large = FrameReader(), FrameReader()
    received(small, encoded([(b"h", b"p" * 100)] * 1000))
    received(large, encoded([(b"h", b"p" * MIB)] * 3))
    assert len(small.get_buffer(-1)) == LARGE_BUFFER
    assert len(large.get_buffer(-1)) == SMALL_BUFFER


def test_a_large_frame_is_received_in_place() -> None:
    reader = FrameReader()
    data = encoded([(b"h" * 77, b"p" * MIB)])
    assert received(reader, data[:1000]) == []
    assert len(reader.get_buffer(-1)) == len(data) - 1000, "the rest of the frame fits exactly"


@pytest.mark.parametrize("header", [1, 63, 64, 77])
def test_a_large_payload_is_aligned_for_vector_instructions(header: int) -> None:
    reader = FrameReader()
    data = memoryview(encoded([(b"h" * header, b"p" * MIB)]))
    frames = []
    while data:
        buffer = reader.get_buffer(-1)
        size = min(len(buffer), len(data), 10_000)
        buffer[:size] = data[:size]
        data = data[size:]
        frames += reader.buffer_updated(size)
    ((_, payload),) = frames
    assert np.frombuffer(payload, np.uint8).ctypes.data % 64 == 0


def test_small_frames_survive_the_next_read() -> None:
    reader = FrameReader()
    buffer = reader.get_buffer(-1)
    first = encoded([(b"first", b"payload")])
    buffer[: len(first)] = first
    ((header, payload),) = reader.buffer_updated(len(first))
    received(reader, encoded([(b"other", b"PAYLOAD")]))
    assert (bytes(header), bytes(payload)) == (b"first", b"payload")


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (b"", ""),
        (lengths(100, 10)[:5], "more than the 5 bytes that begin a frame"),
        (lengths(100, 10), "100 of a frame's 100 bytes"),
        (lengths(100, 10) + b"x" * 30, "70 of a frame's 100 bytes"),
        (lengths(MIB, 10) + b"x" * 30, "1048546 of a frame's 1048576 bytes"),
        (encoded([(b"h", b"p")]), ""),
    ],
)
def test_a_reader_describes_what_it_waits_for(data: bytes, missing: str) -> None:
    reader = FrameReader()
    received(reader, data)
    assert reader.waiting_for == missing


# ----------------------------------------------------------------------------------------------- invalid frames

NO_FRAMES = [
    (b"GET / HTTP/1.1\r\n", "expected a Clockwork connection, found b'GET / HT': is this an HTTP client?"),
    (b"PRI * HTTP/2.0\r\n", "expected a Clockwork connection, found b'PRI * HT': is this an HTTP client?"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01", "is this a TLS client? TLS is not enabled on this port"),
    (b"SSH-2.0-OpenSSH", "is this an SSH client?"),
    (b"\x00" * 8, "unknown protocol"),
    (b"CLKX\x01\x00\x00\x00", "found b'CLKX"),
    (b"CLKW\x01\x00\x05\x00", "preamble ends in 5; it must end in 0"),
    (preamble() + lengths(65 * MIB, 1), "frame has 68157440 bytes; the limit is 67108864"),
    (preamble() + lengths(10, 11), "frame of 10 bytes has a header of 11 bytes"),
    (preamble() + lengths(30 * MIB, 20 * MIB), "frame has a header of 20971520 bytes; the limit is 16777216"),
    (preamble() + encoded([(b"h", b"p")]) + b"\xff" * 8, "frame has 4294967295 bytes"),
]


@pytest.mark.parametrize(("data", "message"), NO_FRAMES)
def test_bytes_that_are_no_frame_are_refused_with_a_description(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError) as error:
        received(FrameReader(expect_preamble=True), data)
    assert message in str(error.value)


@pytest.mark.parametrize(("data", "message"), NO_FRAMES[2:])
def test_bytes_that_are_no_frame_are_refused_however_they_are_cut(data: bytes, message: str) -> None:
    for cut in range(len(data)):
        reader = FrameReader(expect_preamble=True)
        with pytest.raises(ProtocolError):
            [received(reader, part) for part in (data[:cut], data[cut:])]


def test_an_http_server_at_the_other_end_is_recognised() -> None:
    with pytest.raises(ProtocolError, match=r"expected a Clockwork server, found b'HTTP/1\.1': is this an HTTP server"):
        received(FrameReader(), b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_the_limit_can_be_raised_for_a_known_peer() -> None:
    reader = FrameReader(max_frame_bytes=100)
    data = encoded([(b"h", b"p" * 200)])
    with pytest.raises(ProtocolError, match="the limit is 100"):
        received(reader, data)
    reader = FrameReader(max_frame_bytes=100)
    reader.max_frame_bytes = 1000
    assert received(reader, data) == [(b"h", b"p" * 200)]


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_frames_or_a_protocol_error(noise: bytes, dialled: bool) -> None:
    reader = FrameReader(expect_preamble=dialled)
    with suppress(ProtocolError):
        received(reader, noise)


# ------------------------------------------------------------------------------------------------------------- encoding


def test_small_frames_are_one_buffer_and_large_payloads_are_not_copied() -> None:
    small = encode_frame(b"header", [b"pay", b"load"])
    assert small == [lengths(13, 6) + b"headerpayload"]
    payload = bytearray(JOIN_BYTES)
    prefix, body = encode_frame(b"header", [payload])
    assert prefix == lengths(6 + JOIN_BYTES, 6) + b"header"
    payload[0] = 255
    assert body[0] == 255, "the payload's own memory"


def test_payloads_of_any_shape_are_sent_as_bytes() -> None:
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    empty = np.zeros((0, 4), np.float32)
    (frame,) = encode_frame(b"", [array.data, empty.data, bytearray(b"x")])
    assert frame == lengths(49, 0) + array.tobytes() + b"x"
    assert len(flat(empty.data)) == 0


def test_a_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequestError, match=r"message is 2\.0 KiB; the limit of the connection is 1\.0 KiB"):
        encode_frame(b"", [bytes(2 * KIB)], max_frame_bytes=KIB)
    with pytest.raises(InvalidRequestError, match=r"without its payload is 16\.0 MiB; the limit is 16\.0 MiB"):
        encode_frame(bytes(MAX_HEADER_BYTES + 1))
