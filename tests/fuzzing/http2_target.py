"""Defines the fuzzing target of HTTP/2: the bytes that a gRPC client sends after the connection is established."""

from typing import Any

from clockwork.errors import InvalidRequestError
from clockwork.frontend.body_quota import BodyQuota
from clockwork.grpc_frontend.heads import Head, head_of
from clockwork.grpc_frontend.incoming import Incoming
from clockwork.http2 import frames as f
from clockwork.http2.connection import Connection, NotHttp2Error
from clockwork.http2.frames import Http2Error
from clockwork.http2.hpack import Block, encoded
from clockwork.http2.limits import Limits
from clockwork.http2.streams import Stream

MAX_STREAMS = 5
MAX_HEADERS = 1000
PIECES = 64
"""Largest size of a piece that the first byte can choose."""

_CALL = (
    encoded(b":method", b"POST")
    + encoded(b":scheme", b"http")
    + encoded(b":path", b"/a.B/C")
    + encoded(b"content-type", b"application/grpc")
    + encoded(b"grpc-timeout", b"100m")
)
_BEGIN = f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 100})
HTTP2_SEEDS = (
    b"\x05" + _BEGIN + f.frame(f.HEADERS, 4, 1, _CALL) + f.frame(f.DATA, 1, 1, b"\0\0\0\0\3abc"),
    b"\x30" + _BEGIN + f.frame(f.HEADERS, 0x2C, 3, b"\2\0\0\0\1\x10" + _CALL + b"\0\0")
    + f.frame(f.DATA, 9, 3, b"\1\0\0\0\0\0\0") + f.window_update(3, 1000) + f.frame(f.PING, 0, 0, bytes(8)),
    b"\x01" + _BEGIN + f.frame(f.HEADERS, 0, 5, b"\x40\x01a\x01b" + _CALL[:9])
    + f.frame(f.CONTINUATION, 4, 5, _CALL[9:]) + f.rst_stream(5, f.CANCEL),
)  # fmt: skip


class _Receiver:
    """Records the calls and their messages, and answers each call when it ends."""

    def __init__(self) -> None:
        self.heads: dict[int, Head] = {}
        self.taken: dict[int, list[bytes]] = {}
        self.ended_streams: list[int] = []
        self.quota = BodyQuota(1 << 30)
        self.connection: Connection

    def head_of(self, block: Block) -> Head | None:
        return head_of(block, MAX_HEADERS)

    def opened(self, stream: Stream, head: Head) -> None:
        self.heads[stream.id], self.taken[stream.id] = head, []
        stream.call = Incoming(10_000, self.quota)
        if stream.client_ended:
            self.ended(stream)

    def received(self, stream: Stream, data: bytes | memoryview) -> None:
        try:
            stream.call.receive(data, 0)
            while stream.call.messages:
                self.taken[stream.id].append(bytes(stream.call.take().data))
        except InvalidRequestError:
            self.taken[stream.id] += (bytes(message.data) for message in stream.call.messages)
            self.connection.send_trailers(stream, b"\x88")

    def memory(self, stream: Stream) -> None:
        return None

    def received_directly(self, stream: Stream, nbytes: int) -> None:
        raise AssertionError

    def ended(self, stream: Stream) -> None:
        self.ended_streams.append(stream.id)
        self.connection.answer(stream, b"\x88", (bytes(200),), b"\x88")

    def reset(self, stream: Stream) -> None:
        if stream.call is not None:
            stream.call.close()

    def drained(self, stream: Stream) -> None:
        pass


def http2(data: bytes) -> None:
    """Receive bytes as a whole and in pieces. Both ways must have the same effect. The first byte chooses the size."""
    if data:
        assert _effect(data[1:], len(data)) == _effect(data[1:], 1 + data[0] % PIECES)


def _effect(stream: bytes, piece: int) -> Any:
    receiver = _Receiver()
    connection = receiver.connection = Connection(receiver, Limits(MAX_STREAMS, MAX_HEADERS), 0)
    end: Any = None
    try:
        for at in range(0, len(stream), piece):
            connection.receive(stream[at : at + piece], 0)
            assert len(connection.streams) <= MAX_STREAMS
    except Http2Error as error:
        end = error.code
    except NotHttp2Error:
        end = "other"
    # a stream that was answered too early is reset when more of its request arrives
    unanswered = sorted(number for number, stream in connection.streams.items() if not stream.server_ended)
    return end, receiver.heads, receiver.taken, receiver.ended_streams, unanswered
