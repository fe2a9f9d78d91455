"""The server's side of one HTTP/2 connection (RFC 9113).

`Connection.receive` parses bytes, and calls the methods of a `Receiver`. The methods of `Sender` append bytes to `out`,
which the host writes to the socket.
"""

from typing import Final

from clockwork.http2 import frames
from clockwork.http2.fields import is_valid
from clockwork.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_SIZE,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Error,
    check,
    check_size,
)
from clockwork.http2.hpack import Block, Decoder
from clockwork.http2.limits import Limits
from clockwork.http2.sending import Sender
from clockwork.http2.streams import STREAM_WINDOW, Receiver, Stream
from clockwork.units import KIB, MIB, Bytes, Nanos

CONNECTION_WINDOW: Final[Bytes] = 16 * MIB
"""Number of bytes that a client may send in all streams together before the server has read any of them."""

MAX_FRAME: Final[Bytes] = 1 * MIB
"""Longest payload of a frame that the server accepts."""

MAX_BLOCK: Final[Bytes] = 64 * KIB
"""Longest block of headers in bytes. The limit on the headers themselves is lower, but their block must be decoded."""

MAX_CONTINUATIONS: Final = 16
"""Largest number of frames that continue one block."""

MAX_SETTINGS: Final = 32
"""Largest number of settings in one frame. HTTP/2 defines six."""

OVERSIZE_STRIKES: Final = 50
"""Number of frames without a purpose as which a block of headers above the limit counts. Decoding it takes time."""

MIN_DIRECT: Final[Bytes] = 32 * KIB
"""Smallest number of bytes that are received directly into the memory of a body."""

MAX_DIRECT: Final[Bytes] = 256 * KIB
"""Largest number of bytes that are received at a time. An event loop may read several times before it does other work.
"""


class NotHttp2Error(Exception):
    """The first bytes of the connection are not the beginning of HTTP/2."""

    def __init__(self, begin: bytes) -> None:
        """``begin`` are these bytes."""
        super().__init__("the client does not speak HTTP/2")
        self.begin = begin


class Connection(Sender):
    """One connection of a client."""

    def __init__(self, receiver: Receiver, limits: Limits, now: Nanos) -> None:
        """Begin a connection. The first bytes for the client are in `out`. ``now`` is the time in nanoseconds."""
        super().__init__(receiver, now)
        values = {
            frames.MAX_CONCURRENT_STREAMS: limits.max_streams,
            frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            frames.MAX_FRAME_SIZE: MAX_FRAME,
            frames.MAX_HEADER_LIST_SIZE: limits.max_headers,
        }
        self.out += (frames.settings(values), frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))
        self._limits = limits
        self._decoder = Decoder(limits.max_headers)
        self._rest: bytes = b""  #: the incomplete frame at the end of the last read
        self._begun = False  #: whether the preface has arrived
        self._settled = False  #: whether the client's first SETTINGS has arrived
        self._partial: Stream | None = None  #: the stream of a DATA frame that is incomplete
        self._missing: Bytes = 0  #: number of bytes of that frame that are missing, with its padding
        self._padding: Bytes = 0  #: length of that frame's padding
        self._partial_ends = False  #: whether that frame ends its stream
        self._block: bytearray | None = None  #: an incomplete block of headers
        self._block_stream = 0
        self._block_flags = 0
        self._continuations = 0
        self._granted: Bytes = CONNECTION_WINDOW  #: number of bytes of DATA that the client may still send

    @property
    def is_settled(self) -> bool:
        """Whether the client's first SETTINGS has arrived."""
        return self._settled

    @property
    def is_incomplete(self) -> bool:
        """Whether the last read ended within a frame that is not DATA."""
        return bool(self._rest)

    def receive(self, data: bytes | memoryview, now: Nanos) -> None:
        """Parse received bytes.

        Raises:
            Http2Error: the connection must end.
            NotHttp2Error: the client does not speak HTTP/2.
        """
        at = 0
        if self._missing:
            at = self._continue_data(data)
        if self._rest:
            data, self._rest, at = self._rest + bytes(data[at:]), b"", 0
        if not self._begun:
            if len(data) - at < len(PREFACE):
                self._check_preface(bytes(data))
                return
            self._check_preface(bytes(data[: len(PREFACE)]))
            at = len(PREFACE)
            self._begun = True
        end = len(data)
        unpack = HEAD.unpack_from
        while end - at >= HEAD_SIZE:
            high, low, kind, flags, number = unpack(data, at)
            begin = at + HEAD_SIZE
            size = (high << 8) + low
            after = begin + size
            if size > MAX_FRAME or (kind != DATA and size > MAX_BLOCK):
                raise Http2Error(frames.FRAME_SIZE_ERROR, f"a frame has {size} bytes")
            if self._block is not None and kind != CONTINUATION:
                raise Http2Error(frames.PROTOCOL_ERROR, "a block of headers is interrupted")
            if kind == DATA:
                if begin == end and size and flags & PADDED:
                    break
                self._data(number & MAX_WINDOW, flags, data[begin : min(after, end)], size, now)
                if after > end:
                    return
            elif after > end:
                break
            elif kind == HEADERS and flags & (END_HEADERS | PADDED | PRIORITY_FLAG) == END_HEADERS and self._settled:
                self._headers(number & MAX_WINDOW, flags, bytes(data[begin:after]), now)
            else:
                self._other(kind, flags, number & MAX_WINDOW, bytes(data[begin:after]), now)
            at = after
        self._rest = bytes(data[at:])

    def destination(self) -> memoryview | None:
        """Return memory into which the host may receive the next bytes directly, or None.

        There is such memory in the middle of a long DATA frame. Afterwards, the host must call `received_directly`.
        """
        stream, missing = self._partial, self._missing - self._padding
        if missing < MIN_DIRECT or stream is None or stream.server_ended:
            return None
        memory = self._receiver.memory(stream)
        return None if memory is None or len(memory) < MIN_DIRECT else memory[: min(missing, MAX_DIRECT)]

    def received_directly(self, nbytes: Bytes) -> None:
        """Handle ``nbytes`` that were received into the memory from `destination`."""
        stream = self._partial
        assert stream is not None
        self._missing -= nbytes
        stream.client_ended = self._partial_ends and not self._missing
        self._receiver.received_directly(stream, nbytes)
        if stream.client_ended and not stream.server_ended:
            self._receiver.ended(stream)

    def _check_preface(self, begin: bytes) -> None:
        if not PREFACE.startswith(begin):
            raise NotHttp2Error(begin)
        self._rest = begin if len(begin) < len(PREFACE) else b""

    def _continue_data(self, data: bytes | memoryview) -> int:
        """Handle the rest of an incomplete DATA frame. Return its length."""
        size = min(self._missing, len(data))
        content = data[: min(size, max(0, self._missing - self._padding))]
        self._missing -= size
        stream = self._partial
        if stream is not None and self.streams.get(stream.id) is stream:
            self._take(stream, content)
        return size

    def _data(self, number: int, flags: int, payload: bytes | memoryview, size: Bytes, now: Nanos) -> None:
        """Handle a DATA frame with ``size`` bytes, of which ``payload`` contains the bytes that have arrived."""
        self._granted -= size
        if self._granted < CONNECTION_WINDOW // 2:
            self.out.append(frames.window_update(0, CONNECTION_WINDOW - self._granted))
            self._granted = CONNECTION_WINDOW
        stream = self.streams.get(number)
        self._missing, self._padding = size - len(payload), 0
        self._partial, self._partial_ends = stream, bool(flags & END_STREAM)
        content = size
        if flags & PADDED:
            self._padding = _padding_of(payload, size)
            payload = payload[1 : size - self._padding]
            content = size - self._padding - 1
        if not content and not flags & END_STREAM:
            self._strikes.add(now)
        if stream is None:
            self._ignore(number, flags, size)
        elif stream.client_ended:
            self._partial = None
            self.fail(stream, frames.STREAM_CLOSED, now)
        elif stream.granted < size:
            self._partial = None
            self.fail(stream, frames.FLOW_CONTROL_ERROR, now)
        else:
            stream.granted -= size
            stream.unreported += size
            self._take(stream, payload)

    def _ignore(self, number: int, flags: int, size: Bytes) -> None:
        """Ignore DATA that a client sent before it learned that the server has ended the stream."""
        granted = self._ended.get(number)
        if granted is None:
            if number > self.last_stream or not number & 1:
                raise Http2Error(frames.PROTOCOL_ERROR, f"stream {number} was not opened")
            raise Http2Error(frames.STREAM_CLOSED, f"stream {number} is closed")
        if size > granted:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, f"the window of stream {number} is exceeded")
        if flags & END_STREAM:
            del self._ended[number]
        else:
            self._ended[number] = granted - size

    def _take(self, stream: Stream, content: bytes | memoryview) -> None:
        """Handle bytes of a DATA frame, and the end of the stream if the frame is complete."""
        stream.client_ended = ends = self._partial_ends and not self._missing
        if stream.server_ended and stream.queue is None:
            if stream.client_ended:
                self.streams.pop(stream.id, None)
            else:
                self._excessive[stream.id] = stream
            return
        if len(content):
            self._receiver.received(stream, content)
        if ends and not stream.server_ended:
            self._receiver.ended(stream)

    def _headers(self, number: int, flags: int, block: bytes, now: Nanos) -> None:
        """Handle a whole block of headers."""
        if not number & 1:
            raise Http2Error(frames.PROTOCOL_ERROR, f"a client cannot open stream {number}")
        if number <= self.last_stream:
            self._trailers(number, flags, self._decode(block, now), now)
            return
        decoder = self._decoder
        head = decoder.remembered.get(block)
        if head is None:
            head = self._receiver.head_of(self._decode(block, now))
            if head is not None:
                decoder.remember(block, head)
        self.last_stream = number
        if len(self.streams) >= self._limits.max_streams or self.leaving:
            self.out.append(frames.rst_stream(number, frames.REFUSED_STREAM))
            if not flags & END_STREAM:
                self._remember_ended(number, STREAM_WINDOW)
            self._strikes.add(now)
            return
        stream = self.streams[number] = Stream(number, self._initial_room)
        if flags & END_STREAM:
            stream.client_ended = True
        if head is None:
            self.fail(stream, frames.PROTOCOL_ERROR, now)
        else:
            self._receiver.opened(stream, head)

    def _decode(self, block: bytes, now: Nanos) -> Block:
        decoded = self._decoder.decode(block)
        if decoded.fields is None:
            self._strikes.add(now, OVERSIZE_STRIKES)
        return decoded

    def _trailers(self, number: int, flags: int, block: Block, now: Nanos) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if number not in self._ended:
                raise Http2Error(frames.STREAM_CLOSED, f"stream {number} is closed")
            del self._ended[number]
        elif stream.client_ended:
            self.fail(stream, frames.STREAM_CLOSED, now)
        elif not flags & END_STREAM or not all(is_valid(*field) for field in block.fields or ()):
            self.fail(stream, frames.PROTOCOL_ERROR, now)
        else:
            stream.client_ended = True
            if not stream.server_ended:
                self._receiver.ended(stream)
            elif stream.queue is None:
                self.streams.pop(number, None)

    def _other(self, kind: int, flags: int, number: int, payload: bytes, now: Nanos) -> None:
        """Handle a frame that is not DATA, and not HEADERS in the usual form."""
        if not self._settled and kind != SETTINGS:
            raise Http2Error(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == WINDOW_UPDATE:
            self._widen(number, payload, now)
        elif kind == PING:
            self._ping(flags, number, payload, now)
        elif kind == SETTINGS:
            self._settings(flags, number, payload, now)
        elif kind == HEADERS:
            self._begin_block(flags, number, payload, now)
        elif kind == CONTINUATION:
            self._continue_block(flags, number, payload, now)
        elif kind == RST_STREAM:
            self._rst_stream(number, payload, now)
        elif kind == PUSH_PROMISE:
            raise Http2Error(frames.PROTOCOL_ERROR, "a client cannot push")
        elif kind == GOAWAY:
            check(not number, "GOAWAY is for the connection")
            check_size(len(payload) >= 8)
            self._strikes.add(now)
        else:
            if kind == PRIORITY:
                check(number > 0, "PRIORITY is for a stream")
                check_size(len(payload) == 5)
            self._strikes.add(now)

    def _begin_block(self, flags: int, number: int, payload: bytes, now: Nanos) -> None:
        if flags & PADDED:
            payload = payload[1 : len(payload) - _padding_of(payload, len(payload))]
        if flags & PRIORITY_FLAG:
            check_size(len(payload) >= 5)
            payload = payload[5:]
        if flags & END_HEADERS:
            self._headers(number, flags, payload, now)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(payload), number, flags
            self._continuations = 0

    def _continue_block(self, flags: int, number: int, payload: bytes, now: Nanos) -> None:
        if self._block is None or number != self._block_stream:
            raise Http2Error(frames.PROTOCOL_ERROR, "CONTINUATION continues nothing")
        self._block += payload
        self._continuations += 1
        if len(self._block) > MAX_BLOCK or self._continuations > MAX_CONTINUATIONS:
            raise Http2Error(frames.ENHANCE_YOUR_CALM, "a block of headers is too long")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._headers(number, self._block_flags, block, now)

    def _rst_stream(self, number: int, payload: bytes, now: Nanos) -> None:
        check_size(len(payload) == 4)
        check(0 < number <= self.last_stream, "RST_STREAM is for a stream that was not opened")
        stream = self.streams.pop(number, None)
        if stream is None:
            self._ended.pop(number, None)
            self._strikes.add(now)
        else:
            self._strikes.reset(now)
            self._waiting.pop(number, None)
            stream.queue = None
            stream.server_ended = stream.client_ended = True
            self._receiver.reset(stream)

    def _ping(self, flags: int, number: int, payload: bytes, now: Nanos) -> None:
        check(not number, "PING is for the connection")
        check_size(len(payload) == 8)
        if flags & ACK:
            self._strikes.add(now)
        else:
            self._strikes.ping(now)
            self.out.append(frames.frame(PING, ACK, 0, payload))

    def _settings(self, flags: int, number: int, payload: bytes, now: Nanos) -> None:
        check(not number, "SETTINGS is for the connection")
        check_size(len(payload) % frames.SETTING.size == 0 and not (flags & ACK and payload))
        if self._settled or flags & ACK:
            self._strikes.add(now)
        if flags & ACK:
            return
        self._settled = True
        if len(payload) > MAX_SETTINGS * frames.SETTING.size:
            raise Http2Error(frames.ENHANCE_YOUR_CALM, f"SETTINGS has more than {MAX_SETTINGS} settings")
        for name, value in frames.SETTING.iter_unpack(payload):
            if name == frames.HEADER_TABLE_SIZE:
                self._reduce_table(value)
            elif name == frames.INITIAL_WINDOW_SIZE:
                self._change_windows(value)
            elif name == frames.MAX_FRAME_SIZE:
                check(DEFAULT_MAX_FRAME <= value < 1 << 24, f"MAX_FRAME_SIZE is {value}")
                self._max_frame = value
            elif name == frames.ENABLE_PUSH:
                check(value <= 1, f"ENABLE_PUSH is {value}")
        self.out.append(frames.frame(SETTINGS, ACK, 0))
        self._pump()


def _padding_of(payload: bytes | memoryview, size: Bytes) -> Bytes:
    """Return the length of the padding of a frame with ``size`` bytes. The first byte contains it."""
    if not payload or payload[0] >= size:
        raise Http2Error(frames.PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[0]
