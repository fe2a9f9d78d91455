"""A connection, with the library h2 as its client."""

import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.http2.connection import CONNECTION_WINDOW, MAX_FRAME, MIN_DIRECT, NotHttp2Error
from clockwork.http2.frames import CANCEL, NO_ERROR, PREFACE, REFUSED_STREAM, STREAM_CLOSED
from clockwork.http2.hpack import encoded
from clockwork.http2.streams import STREAM_WINDOW
from http2.h2_client import HEADERS, Pair

HEAD = encoded(b":status", b"200") + encoded(b"content-type", b"application/grpc")
TRAILERS = encoded(b"grpc-status", b"0")


def test_a_request_gets_a_response() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.client.send_data(1, b"hello", end_stream=True)
    pair.exchange()
    recorder = pair.recorder
    assert recorder.heads[1] == tuple(HEADERS)
    assert (recorder.bodies[1], recorder.ends) == (b"hello", [1])
    pair.server.answer(recorder.streams[1], HEAD, (b"answ", b"er"), TRAILERS)
    pair.exchange()
    assert pair.of(h2.events.ResponseReceived)[0].headers == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
    ]
    assert b"".join(event.data for event in pair.of(h2.events.DataReceived)) == b"answer"
    assert pair.of(h2.events.TrailersReceived)[0].headers == [(b"grpc-status", b"0")]
    assert pair.of(h2.events.StreamEnded)
    assert not pair.server.streams


def test_the_head_of_a_repeated_block_is_used_again() -> None:
    pair = Pair()
    for number in range(10):
        pair.client.send_headers(2 * number + 1, HEADERS, end_stream=True)
        pair.exchange()
    assert len(pair.recorder.ends) == 10
    assert pair.recorder.parsed <= 3
    assert len({id(head) for head in pair.recorder.heads.values()}) <= 3


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=3000), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 4000),
    st.booleans(),
)
def test_bodies_arrive_whatever_the_pieces(bodies: list[tuple[bytes, bool]], piece: int, padded: bool) -> None:
    pair = Pair()
    for index, (body, twice) in enumerate(bodies):
        stream = 2 * index + 1
        pair.client.send_headers(stream, HEADERS, end_stream=not body)
        if body and twice:
            pair.client.send_data(stream, body[:1], pad_length=7 if padded else None)
            pair.client.send_data(stream, body[1:], pad_length=200 if padded else None, end_stream=True)
        elif body:
            pair.client.send_data(stream, body, pad_length=0 if padded else None, end_stream=True)
    pair.exchange(piece)
    assert pair.recorder.bodies == {2 * index + 1: body for index, (body, _) in enumerate(bodies)}
    assert sorted(pair.recorder.ends) == sorted(pair.recorder.bodies)
    for opened in list(pair.recorder.streams.values()):
        pair.server.answer(opened, HEAD, (pair.recorder.bodies[opened.id],), TRAILERS)
    pair.exchange(piece)
    got: dict[int, bytes] = {}
    for event in pair.of(h2.events.DataReceived):
        got[event.stream_id] = got.get(event.stream_id, b"") + event.data
    assert got == pair.recorder.bodies
    assert len(pair.of(h2.events.StreamEnded)) == len(bodies)
    assert not pair.server.streams


def send_whole(pair: Pair, stream: int, body: bytes) -> None:
    """Send a body as the windows allow."""
    at = 0
    while at < len(body):
        size = min(pair.client.local_flow_control_window(stream), pair.client.max_outbound_frame_size, len(body) - at)
        assert size, "the server's window is closed"
        at += size
        pair.client.send_data(stream, body[at - size : at], end_stream=at == len(body))
        pair.exchange()


def test_a_body_longer_than_all_windows_arrives() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    assert pair.client.max_outbound_frame_size == MAX_FRAME
    assert pair.client.local_flow_control_window(1) == STREAM_WINDOW
    body = bytes(2 * CONNECTION_WINDOW + 17)
    send_whole(pair, 1, body)
    assert pair.recorder.bodies[1] == body
    assert pair.recorder.ends == [1]


@pytest.mark.parametrize("ends", [True, False])
def test_a_long_frame_is_received_directly(ends: bool) -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    pair.recorder.direct = bytearray(MAX_FRAME)
    body = bytes(range(256)) * (MAX_FRAME // 256)
    pair.client.send_data(1, body, end_stream=ends)
    pair.client.ping(b"12345678")
    data, at = pair.client.data_to_send(), 100
    assert pair.server.destination() is None
    pair.server.receive(data[:at], 0)
    while (memory := pair.server.destination()) is not None:
        size = min(len(memory), 100_000)
        memory[:size] = data[at : at + size]
        at += size
        pair.server.received_directly(size)
    pair.server.receive(data[at:], 0)
    assert at > MAX_FRAME - MIN_DIRECT
    assert pair.recorder.bodies[1] == body
    assert pair.recorder.ends == [1] * ends
    pair.exchange()
    assert pair.of(h2.events.PingAckReceived)


def test_a_window_is_not_opened_before_the_host_grants_it() -> None:
    pair = Pair()
    pair.recorder.received = lambda stream, data: None  # type: ignore[method-assign]
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    pair.client.send_data(1, bytes(STREAM_WINDOW))
    pair.exchange()
    assert pair.client.local_flow_control_window(1) == 0
    pair.server.grant(pair.recorder.streams[1], 3 * STREAM_WINDOW)
    pair.exchange()
    assert pair.client.local_flow_control_window(1) == 3 * STREAM_WINDOW


@pytest.mark.parametrize("size", [65_535, 65_536, 200_000, 3_000_000])
def test_a_response_waits_for_the_windows_of_the_client(size: int) -> None:
    pair = Pair()
    bodies = {}
    for number in (1, 3, 5):
        pair.client.send_headers(number, HEADERS, end_stream=True)
        pair.exchange()
        bodies[number] = bytes([number]) * size
        pair.server.answer(pair.recorder.streams[number], HEAD, (bodies[number][:100], bodies[number][100:]), TRAILERS)
    pair.exchange()
    got = dict.fromkeys(bodies, b"")
    for event in pair.of(h2.events.DataReceived):
        got[event.stream_id] += event.data
    assert got == bodies
    assert len(pair.of(h2.events.TrailersReceived)) == 3
    assert not pair.server.streams


def test_the_host_learns_when_no_bytes_wait() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS, end_stream=True)
    pair.exchange()
    stream = pair.recorder.streams[1]
    pair.server.send_head(stream, HEAD)
    pair.server.send_data(stream, (bytes(100_000),))
    assert stream.queue is not None
    assert not pair.recorder.drains
    pair.exchange()
    assert stream.queue is None
    assert pair.recorder.drains == [1]


def test_a_smaller_initial_window_delays_responses() -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.exchange()
    pair.client.send_headers(1, HEADERS, end_stream=True)
    pair.exchange()
    pair.server.answer(pair.recorder.streams[1], HEAD, (bytes(100),), TRAILERS)
    assert sum(map(len, pair.server.out)) < 100
    pair.client.increment_flow_control_window(90, 1)
    pair.exchange()
    assert pair.of(h2.events.StreamEnded)


def test_a_reset_stream_is_forgotten() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    pair.client.reset_stream(1, CANCEL)
    pair.exchange()
    assert pair.recorder.resets == [1]
    assert not pair.server.streams


def test_streams_beyond_the_limit_are_refused_and_may_be_repeated() -> None:
    pair = Pair(max_streams=2)
    for number in (1, 3):
        pair.client.send_headers(number, HEADERS)
    pair.client.send_headers(5, HEADERS)
    pair.client.send_data(5, b"ignored", end_stream=True)
    pair.exchange()
    assert sorted(pair.recorder.heads) == [1, 3]
    assert [(event.stream_id, event.error_code) for event in pair.of(h2.events.StreamReset)] == [(5, REFUSED_STREAM)]


def test_a_response_before_the_end_of_the_request_resets_the_stream_when_more_arrives() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    pair.server.send_trailers(pair.recorder.streams[1], HEAD + TRAILERS)
    pair.exchange()
    assert pair.of(h2.events.StreamEnded)
    assert not pair.of(h2.events.StreamReset)
    pair.client.send_data(1, b"more")
    pair.client.send_data(1, b"and more")
    pair.exchange()
    assert not pair.of(h2.events.StreamReset)
    assert pair.server.has_excessive_data
    pair.server.reset_excessive()
    pair.exchange()
    assert not pair.of(h2.events.StreamReset)
    assert pair.server.has_excessive_data
    pair.server.reset_excessive()
    pair.exchange()
    assert not pair.server.has_excessive_data
    assert [event.error_code for event in pair.of(h2.events.StreamReset)] == [NO_ERROR]
    assert pair.recorder.bodies[1] == b""
    assert not pair.server.streams


def test_a_request_that_ends_after_its_response_is_not_reset() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    pair.server.send_trailers(pair.recorder.streams[1], HEAD + TRAILERS)
    pair.client.send_data(1, b"more")
    pair.client.send_data(1, b"and more", end_stream=True)
    pair.exchange()
    pair.server.reset_excessive()
    pair.server.reset_excessive()
    pair.exchange()
    assert not pair.of(h2.events.StreamReset)
    assert not pair.recorder.ends
    assert not pair.server.streams


def test_trailers_of_a_client_end_its_request() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.client.send_data(1, b"body")
    pair.client.send_headers(1, [(b"x", b"y")], end_stream=True)
    pair.exchange()
    assert (pair.recorder.bodies[1], pair.recorder.ends) == (b"body", [1])


def test_a_connection_that_is_leaving_finishes_its_streams_and_refuses_new_ones() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS, end_stream=True)
    pair.exchange()
    pair.client.send_headers(3, HEADERS, end_stream=True)
    pair.server.go_away(NO_ERROR, "bye")
    data, sent = pair.client.data_to_send(), b"".join(map(bytes, pair.server.out))
    pair.server.out = []
    pair.server.receive(data, 0)
    pair.server.answer(pair.recorder.streams[1], HEAD, (b"late",), TRAILERS)
    assert sent.endswith(b"bye")
    assert list(pair.recorder.heads) == [1]
    assert any(bytes(part).endswith(b"\0\0\0\x03\0\0\0\x07") for part in pair.server.out), "stream 3 is refused"
    assert any(b"late" in bytes(part) for part in pair.server.out)


def test_the_code_of_a_closed_stream_is_not_an_error_of_the_connection() -> None:
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.client.send_data(1, b"x", end_stream=True)
    data = pair.client.data_to_send()
    pair.server.receive(data, 0)
    pair.server.receive(b"\0\0\1\0\0\0\0\0\1x", 0)
    assert pair.recorder.resets == [1]
    assert any(bytes(part)[-4:] == STREAM_CLOSED.to_bytes(4) for part in pair.server.out)


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/1.1\r\n"])
def test_other_protocols_are_recognised(begin: bytes) -> None:
    pair = Pair()
    with pytest.raises(NotHttp2Error) as other:
        pair.server.receive(begin, 0)
    assert begin.startswith(other.value.begin)


def test_the_preface_may_arrive_in_pieces() -> None:
    pair = Pair()
    for at in range(len(PREFACE)):
        pair.server.receive(PREFACE[at : at + 1], 0)
    assert not pair.server.is_settled


def test_a_client_may_reduce_the_table_of_the_server() -> None:
    """The decoder of the library hpack then requires that the next block states the new size."""
    pair = Pair()
    for number in (1, 3, 5):
        pair.client.send_headers(number, HEADERS, end_stream=True)
    pair.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 100})
    pair.exchange()
    pair.server.answer(pair.recorder.streams[1], HEAD, (b"x",), TRAILERS)
    pair.exchange()
    pair.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    pair.exchange()
    pair.server.send_head(pair.recorder.streams[3], HEAD)
    pair.server.send_trailers(pair.recorder.streams[3], TRAILERS)
    pair.server.send_trailers(pair.recorder.streams[5], HEAD + TRAILERS)
    pair.exchange()
    assert [event.stream_id for event in pair.of(h2.events.StreamEnded)] == [1, 3, 5]


def test_responses_of_a_stream_pardon_pings() -> None:
    """The clients of gRPC ping to measure the bandwidth while they receive the responses of a stream."""
    pair = Pair()
    pair.client.send_headers(1, HEADERS)
    pair.exchange()
    pair.server.send_head(pair.recorder.streams[1], HEAD)
    for _ in range(20):
        pair.server.send_data(pair.recorder.streams[1], (b"response",))
        pair.client.ping(bytes(8))
        pair.exchange()
    assert len(pair.of(h2.events.PingAckReceived)) == 20
