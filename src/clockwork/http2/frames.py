"""Frames of HTTP/2 (RFC 9113, section 4): their heads, and the short frames that a server sends."""

from struct import Struct
from typing import Final

from clockwork.errors import ProtocolError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The bytes that a client sends first."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""The types of frames."""

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20
"""The flags of frames."""

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
"""The names of settings."""

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB
"""The error codes."""

DEFAULT_WINDOW: Final = 65_535
"""Window in bytes of a new connection, and of a new stream unless the settings change it."""

MAX_WINDOW: Final = (1 << 31) - 1
"""Largest window in bytes."""

DEFAULT_MAX_FRAME: Final = 16_384
"""Longest payload of a frame in bytes, unless the settings raise it."""

HEAD_SIZE: Final = 9
"""Length of a frame's head in bytes."""

HEAD: Final = Struct(">HBBBI")
"""A frame's head: the length in 16 + 8 bits, the type, the flags, and the stream."""

SETTING: Final = Struct(">HI")
U32: Final = Struct(">I")


class Http2Error(ProtocolError):
    """The peer has violated HTTP/2 or a limit, so the connection must end with ``code`` in a GOAWAY frame."""

    def __init__(self, code: int, message: str) -> None:
        """``message`` is sent to the peer as debug data."""
        super().__init__(message)
        self.code = code


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the nine bytes with which a frame begins."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*item) for item in values.items()))


def window_update(stream: int, by: int) -> bytes:
    """Return a frame that lets the peer send ``by`` more bytes of DATA. Stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, U32.pack(by))


def rst_stream(stream: int, code: int) -> bytes:
    """Return a frame that ends a stream at once."""
    return frame(RST_STREAM, 0, stream, U32.pack(code))


def go_away(last_stream: int, code: int, text: str = "") -> bytes:
    """Return a frame that ends a connection. Streams above ``last_stream`` were not handled."""
    return frame(GOAWAY, 0, 0, U32.pack(last_stream) + U32.pack(code) + text.encode())


def check(holds: bool, text: str) -> None:
    """Raise a PROTOCOL_ERROR unless ``holds`` is true."""
    if not holds:
        raise Http2Error(PROTOCOL_ERROR, text)


def check_size(holds: bool) -> None:
    """Raise a FRAME_SIZE_ERROR unless ``holds`` is true."""
    if not holds:
        raise Http2Error(FRAME_SIZE_ERROR, "the length of a frame is wrong")
