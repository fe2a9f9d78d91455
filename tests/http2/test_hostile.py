"""Clients that send what no library sends end their stream or their connection, with a code that says why."""

import struct
from collections.abc import Iterable
from contextlib import suppress
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.http2 import frames as f
from clockwork.http2.connection import (
    MAX_BLOCK,
    MAX_CONTINUATIONS,
    MAX_FRAME,
    MAX_SETTINGS,
    OVERSIZE_STRIKES,
    Connection,
    NotHttp2Error,
)
from clockwork.http2.frames import Http2Error
from clockwork.http2.limits import MAX_PING_STRIKES, MAX_RESETS, MAX_UPDATES, MAX_USELESS, MIN_PING_INTERVAL, Limits
from clockwork.http2.sending import MAX_ENDED
from clockwork.http2.streams import STREAM_WINDOW
from clockwork.units import SECOND
from http2.h2_client import Recorder

BLOCK = b"\x83\x86\x84\x41\x01a"
BEGIN = f.PREFACE + f.frame(f.SETTINGS, 0, 0)


def connection(max_streams: int = 100, max_headers: int = 8192) -> tuple[Connection, Recorder]:
    recorder = Recorder()
    found = recorder.connection = Connection(recorder, Limits(max_streams, max_headers), 0)
    found.receive(BEGIN, 0)
    found.out = []
    return found, recorder


def headers(stream: int = 1, flags: int = f.END_HEADERS, block: bytes = BLOCK) -> bytes:
    return f.frame(f.HEADERS, flags, stream, block)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(name: int, value: int) -> bytes:
    return f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", name, value))


OPEN, HALF = headers(), headers(flags=f.END_HEADERS | f.END_STREAM)

FATAL = {
    "DATA for the connection": (f.frame(f.DATA, 0, 0, b"x"), f.PROTOCOL_ERROR),
    "DATA for a stream that was not opened": (f.frame(f.DATA, 0, 1, b"x"), f.PROTOCOL_ERROR),
    "DATA for a stream of the server": (OPEN + f.frame(f.DATA, 0, 2, b"x"), f.PROTOCOL_ERROR),
    "padding longer than DATA": (OPEN + f.frame(f.DATA, f.PADDED, 1, b"\x02x"), f.PROTOCOL_ERROR),
    "no padding length": (OPEN + f.frame(f.DATA, f.PADDED, 1, b""), f.PROTOCOL_ERROR),
    "a long frame": (f.head(MAX_FRAME + 1, f.DATA, 0, 1), f.FRAME_SIZE_ERROR),
    "a long control frame": (f.head(MAX_BLOCK + 1, f.PING, 0, 0), f.FRAME_SIZE_ERROR),
    "HEADERS for the connection": (headers(0), f.PROTOCOL_ERROR),
    "HEADERS for a stream of the server": (headers(2), f.PROTOCOL_ERROR),
    "HEADERS for a closed stream": (HALF + f.frame(f.RST_STREAM, 0, 1, u32(8)) + OPEN, f.STREAM_CLOSED),
    "DATA for a closed stream": (OPEN + f.frame(f.RST_STREAM, 0, 1, u32(8)) + f.frame(f.DATA, 0, 1), f.STREAM_CLOSED),
    "HEADERS for an older stream": (headers(5) + headers(3), f.STREAM_CLOSED),
    "padding longer than HEADERS": (headers(flags=f.PADDED | f.END_HEADERS, block=b"\x09" + BLOCK), f.PROTOCOL_ERROR),
    "HEADERS without its priority": (headers(flags=f.PRIORITY_FLAG | f.END_HEADERS, block=b"\x83"), f.FRAME_SIZE_ERROR),
    "an invalid block": (headers(block=b"\x80"), f.COMPRESSION_ERROR),
    "an interrupted block": (headers(flags=0) + f.frame(f.PING, 0, 0, bytes(8)), f.PROTOCOL_ERROR),
    "a block continued in another stream": (headers(flags=0) + f.frame(f.CONTINUATION, 4, 3), f.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (OPEN + f.frame(f.CONTINUATION, 4, 1), f.PROTOCOL_ERROR),
    "empty CONTINUATIONs": (
        headers(flags=0) + f.frame(f.CONTINUATION, 0, 1) * (MAX_CONTINUATIONS + 1),
        f.ENHANCE_YOUR_CALM,
    ),
    "a long block": (
        headers(flags=0, block=bytes(40_000)) + f.frame(f.CONTINUATION, 0, 1, bytes(40_000)),
        f.ENHANCE_YOUR_CALM,
    ),
    "RST_STREAM of the connection": (f.frame(f.RST_STREAM, 0, 0, u32(8)), f.PROTOCOL_ERROR),
    "RST_STREAM of a stream that was not opened": (f.frame(f.RST_STREAM, 0, 1, u32(8)), f.PROTOCOL_ERROR),
    "a short RST_STREAM": (OPEN + f.frame(f.RST_STREAM, 0, 1, b"xx"), f.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (f.frame(f.SETTINGS, 0, 1), f.PROTOCOL_ERROR),
    "a piece of a setting": (f.frame(f.SETTINGS, 0, 0, b"xxxxx"), f.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (f.frame(f.SETTINGS, f.ACK, 0, bytes(6)), f.FRAME_SIZE_ERROR),
    "a short MAX_FRAME_SIZE": (setting(f.MAX_FRAME_SIZE, 100), f.PROTOCOL_ERROR),
    "a long MAX_FRAME_SIZE": (setting(f.MAX_FRAME_SIZE, 1 << 24), f.PROTOCOL_ERROR),
    "a wrong ENABLE_PUSH": (setting(f.ENABLE_PUSH, 2), f.PROTOCOL_ERROR),
    "a large INITIAL_WINDOW_SIZE": (setting(f.INITIAL_WINDOW_SIZE, 1 << 31), f.FLOW_CONTROL_ERROR),
    "many settings": (f.frame(f.SETTINGS, 0, 0, bytes(6 * (MAX_SETTINGS + 1))), f.ENHANCE_YOUR_CALM),
    "PUSH_PROMISE": (f.frame(f.PUSH_PROMISE, 4, 1, u32(2)), f.PROTOCOL_ERROR),
    "PING of a stream": (f.frame(f.PING, 0, 1, bytes(8)), f.PROTOCOL_ERROR),
    "a short PING": (f.frame(f.PING, 0, 0, bytes(7)), f.FRAME_SIZE_ERROR),
    "a short GOAWAY": (f.frame(f.GOAWAY, 0, 0, bytes(7)), f.FRAME_SIZE_ERROR),
    "DATA beyond the window of a stream that was reset": (
        OPEN + f.frame(f.WINDOW_UPDATE, 0, 1, u32(0)) + f.frame(f.DATA, 0, 1, bytes(MAX_FRAME)) * 2,
        f.FLOW_CONTROL_ERROR,
    ),
    "DATA after the end of a stream that was reset": (
        OPEN + f.frame(f.WINDOW_UPDATE, 0, 1, u32(0)) + f.frame(f.DATA, f.END_STREAM, 1) + f.frame(f.DATA, 0, 1, b"x"),
        f.STREAM_CLOSED,
    ),
    "trailers after the end of a stream that was reset": (
        OPEN + f.frame(f.WINDOW_UPDATE, 0, 1, u32(0)) + HALF + HALF,
        f.STREAM_CLOSED,
    ),
    "three changes of the table": (headers(block=b"\x20\x3f\x01\x20" + BLOCK), f.COMPRESSION_ERROR),
    "GOAWAY of a stream": (f.frame(f.GOAWAY, 0, 1, bytes(8)), f.PROTOCOL_ERROR),
    "an update of zero": (f.frame(f.WINDOW_UPDATE, 0, 0, u32(0)), f.PROTOCOL_ERROR),
    "a short update": (f.frame(f.WINDOW_UPDATE, 0, 0, b"x"), f.FRAME_SIZE_ERROR),
    "an update of a stream that was not opened": (f.frame(f.WINDOW_UPDATE, 0, 1, u32(1)), f.PROTOCOL_ERROR),
    "a window of the connection that overflows": (
        f.frame(f.WINDOW_UPDATE, 0, 0, u32((1 << 31) - 1)),
        f.FLOW_CONTROL_ERROR,
    ),
    "a setting that makes a window overflow": (
        OPEN + f.frame(f.WINDOW_UPDATE, 0, 1, u32((1 << 31) - 1 - 65_535)) + setting(f.INITIAL_WINDOW_SIZE, 65_536),
        f.FLOW_CONTROL_ERROR,
    ),
    "PRIORITY of the connection": (f.frame(f.PRIORITY, 0, 0, bytes(5)), f.PROTOCOL_ERROR),
    "a short PRIORITY": (f.frame(f.PRIORITY, 0, 1, bytes(4)), f.FRAME_SIZE_ERROR),
}


def sent_until_error(server: Connection, data: Iterable[bytes], now: int = 0) -> tuple[int, Http2Error | None]:
    """Send the pieces of ``data``. Return how many of them the server has accepted, and the error that ended them."""
    accepted = 0
    for piece in data:
        try:
            server.receive(piece, now)
        except Http2Error as error:
            return accepted, error
        server.out = []
        accepted += 1
    return accepted, None


def code_of(error: Http2Error | None) -> int | None:
    return None if error is None else error.code


@pytest.mark.parametrize("what", FATAL)
def test_a_violation_ends_the_connection(what: str) -> None:
    data, code = FATAL[what]
    for piece in (len(data), 7):
        server, _ = connection()
        _, error = sent_until_error(server, (data[at : at + piece] for at in range(0, len(data), piece)))
        assert code_of(error) == code


def test_the_first_frame_must_be_settings() -> None:
    recorder = Recorder()
    server = Connection(recorder, Limits(1, 100), 0)
    with pytest.raises(Http2Error, match="the first frame is not SETTINGS"):
        server.receive(f.PREFACE + OPEN, 0)
    assert not recorder.heads


STREAM_ERRORS = {
    "DATA after the end": (HALF + f.frame(f.DATA, 0, 1, b"x"), f.STREAM_CLOSED),
    "HEADERS after the end": (HALF + HALF, f.STREAM_CLOSED),
    "trailers that do not end the stream": (OPEN + OPEN, f.PROTOCOL_ERROR),
    "pseudo-headers in trailers": (OPEN + HALF, f.PROTOCOL_ERROR),
    "upper case in trailers": (OPEN + headers(flags=5, block=b"\x00\x01A\x01b"), f.PROTOCOL_ERROR),
    "an update of zero": (OPEN + f.frame(f.WINDOW_UPDATE, 0, 1, u32(0)), f.PROTOCOL_ERROR),
    "a window that overflows": (OPEN + f.frame(f.WINDOW_UPDATE, 0, 1, u32((1 << 31) - 1)), f.FLOW_CONTROL_ERROR),
    "DATA beyond the window": (
        OPEN + f.frame(f.DATA, 0, 1, bytes(STREAM_WINDOW)) + f.frame(f.DATA, 0, 1, b"x"),
        f.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("what", STREAM_ERRORS)
def test_a_violation_in_a_stream_ends_only_the_stream(what: str) -> None:
    data, code = STREAM_ERRORS[what]
    server, recorder = connection()
    recorder.received = lambda stream, data: None  # type: ignore[method-assign]
    server.receive(data, 0)
    assert recorder.resets == [1]
    assert f.rst_stream(1, code) in server.out
    server.receive(headers(3), 0)
    assert list(server.streams) == [3]


USELESS = {
    "settings": f.frame(f.SETTINGS, 0, 0),
    "priorities": f.frame(f.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": f.frame(99, 0, 0, b"x"),
    "empty DATA": f.frame(f.DATA, 0, 1),
    "DATA of padding": f.frame(f.DATA, f.PADDED, 1, b"\x00"),
    "RST_STREAM of a closed stream": f.frame(f.RST_STREAM, 0, 3, u32(8)),
    "acknowledgements of settings": f.frame(f.SETTINGS, f.ACK, 0),
    "replies to pings that were not sent": f.frame(f.PING, f.ACK, 0, bytes(8)),
    "GOAWAY": f.frame(f.GOAWAY, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("what", USELESS)
def test_a_flood_of_frames_without_a_purpose_ends_the_connection(what: str) -> None:
    server, _ = connection()
    server.receive(OPEN + headers(3) + f.frame(f.RST_STREAM, 0, 3, u32(8)), 0)
    accepted, error = sent_until_error(server, repeat(USELESS[what], 10 * MAX_USELESS))
    assert (accepted, code_of(error)) == (MAX_USELESS, f.ENHANCE_YOUR_CALM)


def test_occasional_frames_without_a_purpose_are_accepted() -> None:
    server, _ = connection()
    for second in range(100):
        assert sent_until_error(server, repeat(USELESS["settings"], 50), second * SECOND) == (50, None)


def test_a_flood_of_pings_ends_the_connection() -> None:
    ping = f.frame(f.PING, 0, 0, bytes(8))
    server, _ = connection()
    accepted, error = sent_until_error(server, repeat(ping, 100))
    assert accepted == MAX_PING_STRIKES + 1
    assert (code_of(error), str(error)) == (f.ENHANCE_YOUR_CALM, "too_many_pings")
    patient, _ = connection()
    for number in range(100):
        patient.receive(ping, number * MIN_PING_INTERVAL)


def test_pings_are_not_counted_across_responses() -> None:
    server, recorder = connection()
    for number in range(100):
        server.receive(f.frame(f.PING, 0, 0, bytes(8)) + headers(2 * number + 1, 5), 0)
        server.answer(recorder.streams[2 * number + 1], b"", (b"x",), b"")
        server.out = []
        server.receive(f.frame(f.WINDOW_UPDATE, 0, 0, u32(1)), 0)


def test_rapid_resets_end_the_connection() -> None:
    """CVE-2023-44487: a client that resets its streams at once is not limited by the number of open streams."""
    server, recorder = connection()
    reset = (headers(stream) + f.frame(f.RST_STREAM, 0, stream, u32(8)) for stream in range(1, 20 * MAX_RESETS, 2))
    accepted, error = sent_until_error(server, reset)
    assert (accepted, code_of(error)) == (MAX_RESETS, f.ENHANCE_YOUR_CALM)
    assert len(recorder.resets) == MAX_RESETS


@pytest.mark.parametrize("what", STREAM_ERRORS)
def test_errors_that_make_the_server_reset_streams_end_the_connection(what: str) -> None:
    """CVE-2025-8671: without a limit, a client could start calls and end them at once, as with resets of its own."""
    server, recorder = connection()
    recorder.received = lambda stream, data: None  # type: ignore[method-assign]
    for number in range(MAX_RESETS + 1):
        stream = 2 * number + 1
        data = STREAM_ERRORS[what][0]
        renumbered = b"".join(f.frame(kind, flags, stream, payload) for kind, flags, _, payload in sent_frames(data))
        _, error = sent_until_error(server, [renumbered])
        if error is not None:
            break
    assert (number, code_of(error)) == (MAX_RESETS, f.ENHANCE_YOUR_CALM)


def sent_frames(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    at = 0
    while at < len(data):
        high, low, kind, flags, stream = f.HEAD.unpack_from(data, at)
        begin = at + f.HEAD_SIZE
        at = begin + (high << 8) + low
        yield kind, flags, stream, data[begin:at]


def test_small_parts_of_a_response_do_not_pardon_resets_or_updates() -> None:
    """CVE-2019-9511: a client that opens its windows by one byte at a time gets frames of one byte."""
    server, recorder = connection()
    server.receive(setting(f.INITIAL_WINDOW_SIZE, 0) + HALF, 0)
    server.answer(recorder.streams[1], b"", (bytes(10 * MAX_UPDATES),), b"")
    accepted, error = sent_until_error(server, repeat(f.frame(f.WINDOW_UPDATE, 0, 1, u32(1)), 10 * MAX_UPDATES))
    assert (accepted, code_of(error)) == (MAX_UPDATES, f.ENHANCE_YOUR_CALM)


def test_resets_that_cross_the_response_are_accepted() -> None:
    """A client that gives up a call at its deadline resets the stream, but the response is already on its way."""
    server, recorder = connection()
    for number in range(2 * MAX_USELESS):
        stream = 2 * number + 1
        server.receive(headers(stream, 5), 0)
        server.answer(recorder.streams[stream], b"", (b"x",), b"")
        server.receive(f.frame(f.RST_STREAM, 0, stream, u32(8)), 0)
        server.out = []


def test_an_incomplete_frame_of_padded_data_takes_no_memory() -> None:
    server, recorder = connection()
    server.receive(OPEN, 0)
    padded = f.frame(f.DATA, f.PADDED, 1, b"\xff" + bytes(100_000))
    for at in range(0, len(padded) - 10, 1000):
        server.receive(padded[at : at + 1000], 0)
        assert not server.is_incomplete
    assert len(recorder.bodies[1]) == 100_000 - 255


def test_resets_in_return_for_responses_are_accepted() -> None:
    server, recorder = connection()
    for number in range(2 * MAX_RESETS):
        stream = 4 * number + 1
        server.receive(headers(stream, 5) + headers(stream + 2), 0)
        server.answer(recorder.streams[stream], b"", (b"x",), b"")
        server.receive(f.frame(f.RST_STREAM, 0, stream + 2, u32(8)) + f.frame(f.WINDOW_UPDATE, 0, 0, u32(1)), 0)
        server.out = []


def test_a_flood_of_window_updates_ends_the_connection() -> None:
    server, _ = connection()
    accepted, error = sent_until_error(server, repeat(f.frame(f.WINDOW_UPDATE, 0, 0, u32(1)), 10 * MAX_UPDATES))
    assert (accepted, code_of(error)) == (MAX_UPDATES, f.ENHANCE_YOUR_CALM)


def test_headers_far_above_the_limit_end_the_call_and_repeated_ones_the_connection() -> None:
    """A block of single bytes that refer to a table entry stands for many times its size."""
    server, recorder = connection()
    server.receive(headers(1, block=b"\x40\x01a\x7f\xa1\x1e" + bytes(4000)), 0)
    many = (headers(stream, block=b"\xbe" * 10_000) for stream in range(3, 2000, 2))
    accepted, error = sent_until_error(server, many)
    assert (accepted, code_of(error)) == (MAX_USELESS // OVERSIZE_STRIKES, f.ENHANCE_YOUR_CALM)
    assert [recorder.heads[2 * number + 3] for number in range(accepted)] == [10_000 * 4033] * accepted


def test_few_ended_streams_are_remembered() -> None:
    server, _ = connection(max_streams=0)
    for number in range(2 * MAX_ENDED):
        server.receive(headers(2 * number + 1), number * SECOND)
        server.out = []
    assert len(server._ended) == MAX_ENDED
    assert not server.streams


def test_streams_are_limited() -> None:
    server, recorder = connection(max_streams=10)
    for number in range(500):
        server.receive(headers(2 * number + 1), 0)
    assert len(server.streams) == len(recorder.heads) == 10
    assert sum(bytes(part) == f.rst_stream(999, f.REFUSED_STREAM) for part in server.out) == 1


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans())
def test_arbitrary_bytes_end_the_connection_or_are_accepted(pieces: list[bytes], begun: bool) -> None:
    recorder = Recorder()
    server = recorder.connection = Connection(recorder, Limits(3, 500), 0)
    with suppress(Http2Error, NotHttp2Error):
        if begun:
            server.receive(BEGIN + OPEN, 0)
        for piece in pieces:
            server.receive(piece, 0)
            server.receive(memoryview(piece), 0)


FRAMES = st.tuples(
    st.integers(0, 10), st.sampled_from([0, 1, 4, 5, 8, 13, 32, 36, 45]), st.integers(0, 7), st.binary(max_size=40)
)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.lists(FRAMES | st.just((f.HEADERS, 5, 1, BLOCK)) | st.just((f.HEADERS, 4, 3, BLOCK)), max_size=12))
def test_arbitrary_frames_have_the_same_effect_in_one_piece_or_many(made: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(f.frame(kind, flags, stream, payload) for kind, flags, stream, payload in made)
    results = []
    for piece in (max(1, len(data)), 1, 5):
        server, recorder = connection(max_streams=3)
        _, error = sent_until_error(server, (data[at : at + piece] for at in range(0, len(data), piece)))
        code = code_of(error)
        results.append((code, recorder.heads, recorder.ends, recorder.resets, sorted(server.streams)))
        if code is None:
            assert len(server.streams) <= 3
    assert results[0] == results[1] == results[2]


def test_a_response_that_makes_no_progress_is_reset() -> None:
    server, recorder = connection()
    server.receive(setting(f.INITIAL_WINDOW_SIZE, 0) + headers(1, 5) + headers(3, 5), 0)
    for stream in (1, 3):
        server.answer(recorder.streams[stream], b"", (bytes(1000),), b"")
    for check in range(6):
        server.receive(f.frame(f.WINDOW_UPDATE, 0, 3, u32(20)), 0)
        server.reset_stalled(3, 20)
        assert (1 in server.streams) == (check < 2)
    assert f.rst_stream(1, f.CANCEL) in server.out
    assert recorder.resets == [1]
    server.receive(f.frame(f.WINDOW_UPDATE, 0, 3, u32(1000)), 0)
    assert not server.is_blocked
    assert not server.streams


def test_trailers_that_waited_state_the_size_of_a_table_that_the_client_has_reduced() -> None:
    server, recorder = connection()
    server.receive(setting(f.INITIAL_WINDOW_SIZE, 0) + headers(1, 5), 0)
    server.answer(recorder.streams[1], b"\x88", (bytes(1000),), b"\x89")
    server.receive(setting(f.HEADER_TABLE_SIZE, 0) + f.frame(f.WINDOW_UPDATE, 0, 1, u32(1000)), 0)
    blocks = [payload for kind, _, _, payload in sent_frames(b"".join(server.out)) if kind == f.HEADERS]
    assert blocks == [b"\x88", b"\x20\x89"]
