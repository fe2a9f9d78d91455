"""A load generator for gRPC. The generator writes HTTP/2 frames itself, on a few connections with many streams.

A connection behaves like a gRPC client. The connection sends the remaining time to the deadline as ``grpc-timeout``.
The first request adds the constant headers to the server's HPACK table, and later requests send only their indices. A
connection obeys the server's SETTINGS and flow-control windows. A request waits in the client until a stream is free.

There are two differences from a gRPC client. A call is not cancelled when its deadline passes, so that late and missing
responses are counted. The server must not use an HPACK table for its responses (SETTINGS_HEADER_TABLE_SIZE is 0), so
that trailers can be read without decoding.
"""

import struct
from collections import deque
from typing import Any

from load_ledger import BROKEN, REFUSED, TIMED_OUT, Ledger
from load_loop import MAX_RECONNECTS, Link, Wire

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.raw_contents import varint
from clockwork.units import MILLISECOND

CONNECTIONS = 8
BATCH = 32  # number of requests in one write
PATH = b"/inference.GRPCInferenceService/ModelInfer"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5
RESET_CANCEL = 8
RESETS = {7: REFUSED, 11: REFUSED}  # REFUSED_STREAM, ENHANCE_YOUR_CALM

HEAD = struct.Struct(">HBBBI")  # length in 16 + 8 bits, type, flags, stream
SETTING = struct.Struct(">HI")
U32 = struct.Struct(">I")

DEFAULT_WINDOW = 65_535
RECEIVE_WINDOW = 1 << 30
"""Receive window of a connection in bytes. Streams have the default window, which is longer than every response."""

TABLE_BYTES = 1024
"""Smallest size in bytes of the server's HPACK table in which the constant headers fit."""

QUEUE_BYTES = 1 << 18
"""Number of bytes of tensors that are divided into frames before the socket accepts them."""

STATUS = b"grpc-status"
REFUSALS, CANCELLED, DEADLINE = (8, 14), 1, 4
ADMITTED = b"admitted, "
MAX_MESSAGE = 60  # number of characters of grpc-message that are kept


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame."""
    return head(len(payload), kind, flags, stream) + payload


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the nine bytes with which a frame begins."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def literal(first: bytes, *texts: bytes) -> bytes:
    """Return a field of HPACK whose strings are not compressed. Each string must be shorter than 127 bytes."""
    return first + b"".join(bytes([len(text)]) + text for text in texts)


def fixed_headers(authority: bytes) -> tuple[bytes, bytes, bytes]:
    """Return all headers except grpc-timeout.

    The first result is the headers of the first request, which the server indexes. The second result is the indices
    for later requests. The third result is the headers for a server that does not index them.
    """
    named = ((4, PATH), (1, authority), (31, b"application/grpc"), (58, b"clockwork-load"))
    begin = b"\x83\x86"  # :method POST, :scheme http
    first = begin + b"".join(literal(bytes([0x40 | name]), value) for name, value in named)
    first += literal(b"\x40", b"te", b"trailers")
    later = begin + bytes([0x80 | index for index in (66, 65, 64, 63, 62)])
    plain = begin + b"".join(
        literal(bytes([name]) if name < 15 else bytes([0x0F, name - 15]), value) for name, value in named
    )
    return first, later, plain + literal(b"\x00", b"te", b"trailers")


def timeout_header(left: int) -> bytes:
    """Return the header ``grpc-timeout`` in whole milliseconds. ``left`` is in ns. The server does not index it."""
    return literal(b"\x00", b"grpc-timeout", b"%dm" % max(1, left // MILLISECOND))


def message_in(block: bytes) -> str:
    """Return the beginning of ``grpc-message`` in trailers without Huffman coding, or an empty text."""
    _, found, after = block.partition(b"grpc-message")
    return after[1 : 1 + min(after[0] & 0x7F, MAX_MESSAGE)].decode("latin-1") if found and after else ""


class Upload:
    """A message that has not been sent completely."""

    __slots__ = ("left", "stream", "window")

    def __init__(self, stream: int, window: int, parts: list[Any]) -> None:
        self.stream = stream
        self.window = window
        self.left = deque(parts)


class GrpcLink(Link):
    """A gRPC connection of the load generator."""

    def __init__(self, wire: "GrpcWire") -> None:
        super().__init__(wire)
        self._wire = wire
        self.ready_to_send = False  #: whether the server's SETTINGS have arrived
        self.leaving = False
        self.max_streams = 1 << 31
        self.streams: dict[int, int] = {}  #: sequence number of the request on each stream
        self._messages: dict[int, bytes] = {}
        self._uploads: dict[int, Upload] = {}
        self._sendable: dict[int, Upload] = {}  #: uploads whose stream's window is not zero, in order
        self._next = 1
        self._window = self._initial = DEFAULT_WINDOW
        self._max_frame = 16_384
        self._consumed = 0
        self._rest = b""
        self._indexed = False
        self._may_index = True
        settings = SETTING.pack(HEADER_TABLE_SIZE, 0) + SETTING.pack(ENABLE_PUSH, 0)
        self.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, U32.pack(RECEIVE_WINDOW - DEFAULT_WINDOW))
        )

    def room(self) -> int:
        """Return the number of calls that may begin now."""
        if not self.ready_to_send or self.leaving or self.closed:
            return 0
        return self.max_streams - len(self.streams)

    def call(self, seq: int, left: int) -> bytes:
        """Begin a call whose deadline is in ``left`` ns, and return its first bytes."""
        stream = self._next
        self._next += 2
        self.streams[stream] = seq
        fields = self._fields() + timeout_header(left)
        begin = frame(HEADERS, END_HEADERS, stream, fields)
        message, tensor = self._wire.messages[self._wire.ledger.kind[seq]]
        size = len(message) + len(tensor)
        if not self._uploads and size <= min(self._max_frame, self._window, self._initial):
            self._window -= size
            return begin + head(size, DATA, END_STREAM, stream) + message + tensor
        self._uploads[stream] = Upload(stream, self._initial, [message, tensor])
        self._widen(stream, 0)
        return begin

    def _fields(self) -> bytes:
        first, later, plain = self._wire.fields
        if not self._may_index:
            return plain
        if self._indexed:
            return later
        self._indexed = True
        return first

    def upload(self) -> None:
        """Send as many bytes of the waiting messages as the windows and the socket accept."""
        while self.connected and self.idle and not self.closed and self._window > 0 and self._sendable:
            stream, upload = next(iter(self._sendable.items()))
            self.write(*self._chunks(upload))
            if not upload.left:
                self._uploads.pop(stream, None)
            if not upload.left or upload.window <= 0:
                self._sendable.pop(stream, None)

    def _chunks(self, upload: Upload) -> list[Any]:
        """Return DATA frames with up to `QUEUE_BYTES` bytes."""
        pieces, room = [], QUEUE_BYTES
        while upload.left and room > 0 and self._window > 0 and upload.window > 0:
            part = upload.left[0]
            size = min(len(part), self._max_frame, self._window, upload.window)
            if size == len(part):
                upload.left.popleft()
            else:
                upload.left[0] = memoryview(part)[size:]
            self._window -= size
            upload.window -= size
            room -= size
            last = END_STREAM if not upload.left else 0
            pieces += [head(size, DATA, last, upload.stream), memoryview(part)[:size]]
        return pieces

    def on_writable(self) -> None:
        self.upload()

    def on_data(self, data: bytes, now: int) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(data, at)
            begin = at + HEAD.size
            after = begin + (high << 8) + low
            if after > end:
                break
            at = after
            self._frame(kind, flags, stream, data[begin:after], now)
            if self.closed:
                return
        self._rest = data[at:]
        self.upload()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, now: int) -> None:
        if kind == DATA:
            self._consume(len(payload))
            body = payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
            if stream in self.streams:
                found = self._messages.get(stream)
                self._messages[stream] = body if found is None else found + body
                if flags & END_STREAM:
                    self._finish(stream, "no trailers", now)
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._trailers(stream, payload, now)
        elif kind == RST_STREAM:
            code = U32.unpack(payload)[0]
            over = code == RESET_CANCEL and self._is_over(stream, now)
            self._finish(stream, TIMED_OUT if over else RESETS.get(code, f"RST_STREAM {code}"), now)
        elif kind == WINDOW_UPDATE:
            self._widen(stream, U32.unpack(payload)[0])
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.leaving = True
            if not self.streams:
                self.lose("the server said GOAWAY")

    def _consume(self, size: int) -> None:
        self._consumed += size
        if self._consumed > RECEIVE_WINDOW // 2:
            self.write(frame(WINDOW_UPDATE, 0, 0, U32.pack(self._consumed)))
            self._consumed = 0

    def _widen(self, stream: int, by: int) -> None:
        if not stream:
            self._window += by
        elif (upload := self._uploads.get(stream)) is not None:
            upload.window += by
            if upload.window > 0:
                self._sendable[stream] = upload

    def _settings(self, payload: bytes) -> None:
        for name, value in SETTING.iter_unpack(payload):
            if name == MAX_STREAMS:
                self.max_streams = value
            elif name == MAX_FRAME:
                self._max_frame = value
            elif name == HEADER_TABLE_SIZE and value < TABLE_BYTES:
                self._may_index = False
            elif name == INITIAL_WINDOW:
                for stream in self._uploads:
                    self._widen(stream, value - self._initial)
                self._initial = value
        self.ready_to_send = True
        self.write(frame(SETTINGS, ACK, 0))

    def _trailers(self, stream: int, block: bytes, now: int) -> None:
        at = block.find(STATUS)
        if at < 0:  # the trailers do not show the status; a response with a message is a success
            self._finish(stream, None if stream in self._messages else REFUSED, now)
            return
        at += len(STATUS)
        status = int(block[at + 1 : at + 1 + (block[at] & 0x7F)])
        if not status:
            self._finish(stream, None, now)
        elif ADMITTED in block:
            self._finish(stream, BROKEN, now)
        elif status in REFUSALS:
            self._finish(stream, REFUSED, now)
        else:
            over = status == DEADLINE or (status == CANCELLED and self._is_over(stream, now))
            self._finish(stream, TIMED_OUT if over else f"grpc-status {status} {message_in(block)}", now)

    def _is_over(self, stream: int, now: int) -> bool:
        """Return whether the call's deadline has passed, so that the server may cancel the call."""
        return self._wire.ledger.stated(self.streams.get(stream, 0), now) < 2 * MILLISECOND

    def _finish(self, stream: int, outcome: int | str | None, now: int) -> None:
        """End a call, and record its outcome. None means a success, and a text is the reason of an error."""
        seq = self.streams.pop(stream, None)
        message = self._messages.pop(stream, b"")
        self._uploads.pop(stream, None)
        self._sendable.pop(stream, None)
        ledger = self._wire.ledger
        if seq is None:
            if stream >= self._next:
                ledger.unknown += 1
        elif outcome is None:
            ledger.succeed(seq, message[-ledger.answer_bytes[ledger.kind[seq]] :], now)
        elif isinstance(outcome, str):
            ledger.fail(seq, outcome, now)
        else:
            ledger.finish(seq, outcome, now)
        if self.leaving and not self.streams:
            self.lose("the server said GOAWAY")

    def unanswered(self) -> list[int]:
        return list(self.streams.values())


class GrpcWire(Wire):
    """A load over `CONNECTIONS` gRPC connections, which take turns."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        super().__init__(address, ledger)
        self.fields = fixed_headers(address.encode())
        self.messages = [self._message(template) for template in ledger.templates]
        self._turn = 0

    @staticmethod
    def _message(template: Any) -> tuple[bytes, memoryview | bytes]:
        """Return the bytes of gRPC's message before the tensor, and the tensor, which is the last field."""
        message = pb.ModelInferRequest(model_name=template.model)
        message.inputs.add(name=template.input, datatype="FP32", shape=template.array.shape)
        tensor = memoryview(template.array).cast("B")
        described = message.SerializeToString() + b"\x3a" + varint(len(tensor))
        before = b"\x00" + U32.pack(len(described) + len(tensor)) + described
        return before, tensor

    def send(self, now: int) -> None:
        while len(self.links) < CONNECTIONS and self.reconnects < MAX_RECONNECTS:
            self.add(GrpcLink(self))
        links = [link for link in self.links.values() if isinstance(link, GrpcLink)]
        idle = 0
        while self.backlog and links and idle < len(links):
            self._turn += 1
            link = links[self._turn % len(links)]
            room = link.room()
            if room <= 0:
                idle += 1
                continue
            idle = 0
            seqs = self.take(min(room, BATCH), now)
            stated = self.ledger.stated
            link.write(b"".join([link.call(seq, stated(seq, now)) for seq in seqs]))
            link.upload()
