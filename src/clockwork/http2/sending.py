"""The sending half of the server's side of an HTTP/2 connection: responses, windows, and the end of streams."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from clockwork.http2 import frames
from clockwork.http2.frames import (
    DATA,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MAX_WINDOW,
    PING,
    Http2Error,
    check,
    check_size,
)
from clockwork.http2.hpack import EMPTY_TABLE, TABLE_SIZE
from clockwork.http2.limits import Strikes
from clockwork.http2.streams import Receiver, Stream
from clockwork.units import Bytes, Nanos

MAX_JOINED: Final[Bytes] = 16_384
"""Longest body in bytes of a response that is sent as one piece. This is also the longest frame that all peers accept.
"""

MIN_PROGRESS: Final[Bytes] = 1024
"""Shortest part of a response in bytes in return for which the client may change its windows.

A client could make the server send a response in many parts of a few bytes (CVE-2019-9511).
"""

MAX_ENDED: Final = 1024
"""Number of streams that are remembered because the server ended them before the client did."""


class Sender:
    """Appends the frames for a client to `out`. DATA that exceeds the client's windows waits in its stream."""

    def __init__(self, receiver: Receiver, now: Nanos) -> None:
        """Start without streams. ``receiver`` is informed when no bytes of a stream wait any more."""
        self.out: list[bytes | memoryview] = []
        self.streams: dict[int, Stream] = {}
        self.last_stream = 0  #: the highest stream that the client has opened
        self.leaving = False  #: whether new streams are refused, because the connection ends
        self._receiver = receiver
        self._strikes = Strikes(now)
        self._room: Bytes = DEFAULT_WINDOW  #: number of bytes that the client's window has room for
        self._initial_room: Bytes = DEFAULT_WINDOW
        self._table_update = b""  #: what the next block of headers must begin with
        self._max_frame: Bytes = DEFAULT_MAX_FRAME
        self._waiting: dict[int, Stream] = {}  #: the streams with a queue
        self._excessive: dict[int, Stream] = {}  #: the streams whose client sends DATA after the whole response
        self._overdue: dict[int, Stream] = {}  #: those streams that are reset at the next check
        #: for each stream that the server ended before the client did, the number of bytes that may still arrive
        self._ended: dict[int, Bytes] = {}

    def send_head(self, stream: Stream, block: bytes) -> None:
        """Send the headers of a response."""
        block = self._with_table_update(block)
        self.out.append(frames.head(len(block), HEADERS, END_HEADERS, stream.id) + block)

    def send_data(self, stream: Stream, parts: Sequence[bytes | memoryview]) -> None:
        """Send bytes of a response's body. Bytes that exceed a window wait, and must not be changed."""
        size = sum(map(len, parts))
        if stream.queue is None and size <= stream.room and size <= self._room and size <= self._max_frame:
            stream.room -= size
            self._room -= size
            self._strikes.sent()
            self.out.append(frames.head(size, DATA, 0, stream.id))
            self.out += parts
            return
        if not size:
            return
        if stream.queue is None:
            stream.queue = deque()
            stream.progress = stream.checks = 0
            self._waiting[stream.id] = stream
        stream.queue.extend(memoryview(part) for part in parts if len(part))
        self._pump()

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """Send the trailers of a response, which end the stream after the bytes that wait."""
        self._strikes.responded()
        stream.server_ended = True
        if stream.queue is None:
            self._send_last(stream, block)
        else:
            stream.trailers = block

    def answer(self, stream: Stream, head: bytes, parts: Sequence[bytes | memoryview], trailers: bytes) -> None:
        """Send a whole response."""
        size, number = sum(map(len, parts)), stream.id
        if size <= MAX_JOINED and size <= stream.room and size <= self._room and stream.queue is None:
            self._strikes.responded()
            self._room -= size
            stream.server_ended = True
            if self._table_update:
                head = self._with_table_update(head)
            pack = HEAD.pack
            self.out.append(
                b"".join(
                    (
                        pack(0, len(head), HEADERS, END_HEADERS, number),
                        head,
                        pack(size >> 8, size & 0xFF, DATA, 0, number),
                        *parts,
                        pack(0, len(trailers), HEADERS, END_HEADERS | END_STREAM, number),
                        trailers,
                    )
                )
            )
            self._server_ended(stream)
            return
        self.send_head(stream, head)
        self.send_data(stream, parts)
        self.send_trailers(stream, trailers)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream at once."""
        self.out.append(frames.rst_stream(stream.id, code))
        stream.server_ended = True
        stream.queue = None
        self._waiting.pop(stream.id, None)
        self.streams.pop(stream.id, None)
        if not stream.client_ended:
            self._remember_ended(stream.id, stream.granted)

    def fail(self, stream: Stream, code: int, now: Nanos) -> None:
        """End a stream at once because of an error of the client.

        A client can cause such errors on purpose, so that the server resets streams for it (CVE-2025-8671). Therefore
        they count as resets by the client.

        Raises:
            Http2Error: there are too many.
        """
        self._strikes.reset(now)
        self.reset(stream, code)
        self._receiver.reset(stream)

    def grant(self, stream: Stream, wanted: Bytes = 0) -> None:
        """Let the client send more bytes in a stream: those that were received, and at least ``wanted`` in all."""
        by = max(stream.unreported, wanted - stream.granted)
        if by > 0 and not stream.client_ended:
            self._strikes.pardon_pings()
            stream.unreported = 0
            stream.granted += by
            self.out.append(frames.window_update(stream.id, by))

    def must_wait(self, stream: Stream, size: Bytes) -> bool:
        """Return whether a response of ``size`` bytes must wait for the client's windows."""
        return stream.queue is not None or size > min(stream.room, self._room)

    @property
    def waiting_bytes(self) -> Bytes:
        """Number of bytes of responses that wait for the client's windows."""
        return sum(len(part) for stream in self._waiting.values() for part in stream.queue or ())

    @property
    def is_blocked(self) -> bool:
        """Whether parts of responses wait for the client's windows."""
        return bool(self._waiting)

    @property
    def has_excessive_data(self) -> bool:
        """Whether a client sends DATA although it was sent a whole response."""
        return bool(self._excessive or self._overdue)

    def reset_excessive(self) -> None:
        """Reset the streams whose client sent DATA after a whole response, and before the last call of this method.

        Call this method periodically. If the reset arrived together with the response, some clients, such as curl,
        would discard the response (RFC 9113, section 8.1, forbids this). Until then, the DATA is ignored.
        """
        overdue, self._overdue, self._excessive = self._overdue, self._excessive, {}
        for number, stream in overdue.items():
            if self.streams.get(number) is stream:
                self.reset(stream, frames.NO_ERROR)

    def reset_stalled(self, checks: int, min_progress: Bytes) -> None:
        """Check the progress of the responses that wait for the client's windows. Call this method periodically.

        A stream is reset if ``checks`` successive checks find that less than ``min_progress`` bytes were sent in it.
        Otherwise, a client that never opens its windows would occupy the memory of all its responses.
        """
        for stream in list(self._waiting.values()):
            stream.checks += 1
            if stream.progress >= min_progress:
                stream.progress = stream.checks = 0
            elif stream.checks >= checks:
                self.reset(stream, frames.CANCEL)
                self._receiver.reset(stream)

    def release(self) -> None:
        """Release the memory of the responses that wait, because the connection is lost.

        Otherwise, they would remain until the garbage collector finds the connection, which is part of cycles.
        """
        for stream in self._waiting.values():
            stream.queue = None
        self._waiting.clear()
        self.streams.clear()
        self.out = []

    def go_away(self, code: int = frames.NO_ERROR, text: str = "") -> None:
        """Refuse new streams, and ask the client to leave when the open streams have ended."""
        self.leaving = True
        self.out.append(frames.go_away(self.last_stream, code, text))

    def ping(self) -> None:
        """Ask the client for a sign of life."""
        self.out.append(frames.frame(PING, 0, 0, bytes(8)))

    def _with_table_update(self, block: bytes) -> bytes:
        """Return the block that is sent next. It tells the client that the table is empty, if the client must know."""
        update, self._table_update = self._table_update, b""
        return update + block

    def _send_last(self, stream: Stream, block: bytes) -> None:
        block = self._with_table_update(block)
        self.out.append(frames.head(len(block), HEADERS, END_HEADERS | END_STREAM, stream.id) + block)
        self._server_ended(stream)

    def _server_ended(self, stream: Stream) -> None:
        """Close a stream whose last frame was sent.

        If the client has not ended its request, the stream remains until the client ends it. When the client sends
        more of the request instead, `reset_excessive` resets the stream.
        """
        if stream.client_ended:
            self.streams.pop(stream.id, None)

    def _remember_ended(self, number: int, granted: Bytes) -> None:
        if len(self._ended) >= MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[number] = granted

    def _widen(self, number: int, payload: bytes, now: Nanos) -> None:
        check_size(len(payload) == 4)
        self._strikes.update(now)
        by = frames.U32.unpack(payload)[0] & MAX_WINDOW
        if not number:
            check(by > 0, "WINDOW_UPDATE is zero")
            self._room += by
            if self._room > MAX_WINDOW:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "the window of the connection is too large")
        elif (stream := self.streams.get(number)) is not None:
            stream.room += by
            if not by or stream.room > MAX_WINDOW:
                self.fail(stream, frames.FLOW_CONTROL_ERROR if by else frames.PROTOCOL_ERROR, now)
        else:
            check(number <= self.last_stream, f"stream {number} was not opened")
            return
        if self._waiting:
            self._pump()

    def _reduce_table(self, size: Bytes) -> None:
        """Note that the client has limited the table of the server's encoder.

        The encoder uses no table. But decoders require that the first block after a reduction states the new size (RFC
        7541, section 4.2).
        """
        if size < TABLE_SIZE:
            self._table_update = EMPTY_TABLE

    def _change_windows(self, initial: Bytes) -> None:
        if initial > MAX_WINDOW:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {initial}")
        by, self._initial_room = initial - self._initial_room, initial
        for stream in self.streams.values():
            stream.room += by
            if stream.room > MAX_WINDOW:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "the window of a stream is too large")

    def _pump(self) -> None:
        """Send the bytes that wait, as far as the client's windows allow. Streams take turns."""
        waiting = [stream for stream in self._waiting.values() if stream.room > 0]
        while waiting and self._room > 0:
            waiting = [stream for stream in waiting if self._room > 0 and self._send_frame(stream)]

    def _send_frame(self, stream: Stream) -> bool:
        """Send one frame of the bytes that wait in a stream. Return whether more can be sent."""
        queue = stream.queue
        assert queue is not None
        part = queue[0]
        size = min(len(part), stream.room, self._room, self._max_frame)
        self.out += (frames.head(size, DATA, 0, stream.id), part[:size])
        stream.room -= size
        stream.progress += size
        self._room -= size
        if size < len(part):
            queue[0] = part[size:]
        else:
            queue.popleft()
        if queue:
            if size >= MIN_PROGRESS:
                self._strikes.sent()
            return stream.room > 0
        self._strikes.sent()
        stream.queue = None
        del self._waiting[stream.id]
        if stream.server_ended:
            self._send_last(stream, stream.trailers)
        else:
            self._receiver.drained(stream)
        return False
