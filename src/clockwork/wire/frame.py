"""Frames: the format of messages and their payloads in a stream of bytes.

::

    from the side that connected, once:   "CLKW"   u16 protocol version   u16 zero
    then, in both directions:             u32 n    u32 h    h bytes of header    n - h bytes of payload

Numbers are little-endian. ``n`` is the number of bytes after the two lengths. The header is one encoded message
(`clockwork.wire.codec`). The payload contains the bytes of the message's tensors.

This module does no I/O. Each length from a peer is compared with a limit before it is used. A large payload is received
directly into its final place in memory. Only bytes that arrive in the same read as the frame's lengths are copied.

`FrameReader` has the interface of `asyncio.BufferedProtocol`: it returns a buffer, and is then called with the number
of bytes that were received into the buffer. Small frames are copied out of this buffer. A long frame gets separate
memory, into which the rest of the frame is received. In this memory, the payload begins at a multiple of 64 bytes,
because vector instructions need this alignment. So numpy and the runtimes can use the payload without a copy.
"""

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clockwork.errors import InvalidRequestError, ProtocolError
from clockwork.messages.link import PROTOCOL_VERSION
from clockwork.units import KIB, MIB, Bytes, show_bytes

Received: TypeAlias = bytes | memoryview
"""The type of a header or a payload that a `FrameReader` returns."""

Sendable: TypeAlias = bytes | bytearray | memoryview
"""The type of a payload that is sent. A memoryview must be C-contiguous, and may have any format and shape."""

Frame: TypeAlias = tuple[Received, Received]
"""The header and the payload of a received frame."""

Allocate: TypeAlias = Callable[[Bytes], NDArray[Any]]
"""A function that allocates memory of the given size. The memory may have any content."""

MAGIC: Final = b"CLKW"

MAX_FRAME_BYTES: Final[Bytes] = 64 * MIB
"""Default limit of a frame's length. This is enough for a batch of 100 images of 602,112 bytes."""

FRAME_BYTES_CEILING: Final[Bytes] = (1 << 32) - 1
"""Highest value that the limit on frames can have, because the lengths have 32 bits."""

MAX_HEADER_BYTES: Final[Bytes] = 16 * MIB
"""Longest header. The specs of 256 tensors with long names take 30 KiB, and the state of 50,000 models takes 10 MiB."""

SMALL_BUFFER: Final[Bytes] = 16 * KIB
"""Size of the receive buffer of an idle connection. Longer incomplete frames get separate memory."""

LARGE_BUFFER: Final[Bytes] = 256 * KIB
"""Size of the receive buffer after a read has filled the small buffer with small frames."""

JOIN_BYTES: Final[Bytes] = 16 * KIB
"""Longest frame that is copied into one buffer before it is sent. One buffer is written faster than several buffers."""

_PREAMBLE: Final = Struct("<4sHH")
_LENGTHS: Final = Struct("<II")
_LENGTHS_SIZE: Final = _LENGTHS.size
_ALIGNMENT: Final = 64

#: First bytes of other protocols, each with a hint for the error message.
_OTHER_PROTOCOLS: Final = (
    ((b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"PRI "), "is this an HTTP client?"),
    ((b"\x16\x03",), "is this a TLS client? TLS is not enabled on this port"),
    ((b"SSH-",), "is this an SSH client?"),
)


def uninitialised(nbytes: Bytes) -> NDArray[Any]:
    """Allocate memory without writing to it.

    The operating system provides memory only when a program writes to it. So if a peer announces a long frame and never
    sends it, the frame takes no memory.
    """
    return np.empty(nbytes, np.uint8)


def aligned(allocate: Allocate, nbytes: Bytes, before: Bytes) -> memoryview:
    """Allocate memory in which the address of byte number ``before`` is a multiple of 64."""
    memory = allocate(nbytes + _ALIGNMENT)
    start = -(memory.ctypes.data + before) % _ALIGNMENT
    whole: memoryview = memory.data
    return whole[start : start + nbytes]


def preamble(version: int = PROTOCOL_VERSION) -> bytes:
    """Return the preamble, which the connecting side sends first."""
    return _PREAMBLE.pack(MAGIC, version, 0)


def encode_frame(
    header: bytes, payload: Sequence[Sendable] = (), *, max_frame_bytes: Bytes = MAX_FRAME_BYTES
) -> list[bytes | memoryview]:
    """Return the buffers of a frame, in order. A small frame is one buffer. Large payloads are not copied.

    Raises:
        InvalidRequestError: the frame or its header is longer than its limit.
    """
    size = len(header)
    if not payload:
        _check_limits(size, size, max_frame_bytes)
        return [short_frame(header)]
    parts = [part if type(part) is bytes else flat(part) for part in payload]
    total = size + sum(map(len, parts))
    _check_limits(total, size, max_frame_bytes)
    if total <= JOIN_BYTES:
        return [b"".join((_LENGTHS.pack(total, size), header, *parts))]
    return [_LENGTHS.pack(total, size) + header, *(part for part in parts if len(part))]


def short_frame(header: bytes) -> bytes:
    """Return the frame of a message that has no payload. The caller ensures that the message is short."""
    size = len(header)
    return _LENGTHS.pack(size, size) + header


def flat(buffer: Sendable) -> memoryview:
    """Return a C-contiguous buffer of any format and shape as a view of bytes."""
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")  # Python cannot cast a view whose shape contains a zero


def _check_limits(total: Bytes, header: Bytes, max_frame_bytes: Bytes) -> None:
    if header > MAX_HEADER_BYTES:
        raise InvalidRequestError(
            f"message without its payload is {show_bytes(header)}; the limit is {show_bytes(MAX_HEADER_BYTES)}"
        )
    if total > max_frame_bytes:
        raise InvalidRequestError(
            f"message is {show_bytes(total)}; the limit of the connection is {show_bytes(max_frame_bytes)}"
        )


class FrameReader:
    """Divides received bytes into frames.

    ``max_frame_bytes`` is the limit on a frame, and ``allocate`` allocates the memory of long frames. Both attributes
    may be changed between two reads, because the limit is lower during the greeting. After a `ProtocolError`, the
    reader must not be used any more. Frames that arrived in the same read as the invalid bytes are lost.

    ``peer_version`` is the protocol version in the preamble. The reader accepts every version, because the connection
    refuses other versions only after it has read the greeting.
    """

    __slots__ = (
        "_buffer", "_filled", "_frames_read", "_offered", "_own", "_own_filled", "_own_header", "_wants_preamble",
        "allocate", "max_frame_bytes", "peer_version",
    )  # fmt: skip

    def __init__(self, *, expect_preamble: bool = False, max_frame_bytes: Bytes = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.allocate: Allocate = uninitialised
        self.peer_version = PROTOCOL_VERSION
        self._wants_preamble = expect_preamble
        self._frames_read = False
        self._buffer = memoryview(bytearray(SMALL_BUFFER))
        self._filled = 0  # number of unparsed bytes at the start of _buffer (less than one frame)
        self._offered = 0
        self._own: memoryview | None = None  # memory of a long frame that is being received
        self._own_header = self._own_filled = 0

    @property
    def has_begun(self) -> bool:
        """Whether a part of a frame has been received."""
        return self._own is not None or self._filled > 0

    @property
    def waiting_for(self) -> str:
        """A description of the missing bytes of an incomplete frame.

        The description is empty if no frame is incomplete.
        """
        if self._own is not None:
            return f"{len(self._own) - self._own_filled} of a frame's {len(self._own)} bytes"
        if self._filled >= _LENGTHS_SIZE and not self._wants_preamble:
            total = _LENGTHS.unpack_from(self._buffer)[0]
            return f"{total + _LENGTHS_SIZE - self._filled} of a frame's {total} bytes"
        return f"more than the {self._filled} bytes that begin a frame" if self._filled else ""

    def get_buffer(self, size_hint: int = -1) -> memoryview:
        """Return the buffer into which the next bytes must be received."""
        if self._own is not None:
            return self._own[self._own_filled :]
        buffer = self._buffer[self._filled :]
        self._offered = len(buffer)
        return buffer

    def buffer_updated(self, nbytes: int) -> list[Frame]:
        """Return the frames that are complete now, in order. ``nbytes`` bytes were received into the last buffer.

        Raises:
            ProtocolError: the bytes are not frames of this protocol, or a frame exceeds a limit.
        """
        if self._own is not None:
            return self._fill_own(nbytes)
        buffer = self._buffer
        start, end = 0, self._filled + nbytes
        frames: list[Frame] = []
        if self._wants_preamble:
            if not self._take_preamble(end):
                self._filled = end
                return frames
            start = _PREAMBLE.size
        unpack, limit, largest_header = _LENGTHS.unpack_from, self.max_frame_bytes, MAX_HEADER_BYTES
        while end - start >= _LENGTHS_SIZE:
            total, header = unpack(buffer, start)
            if total > limit or header > total or header > largest_header:
                raise self._refusal(start, total, header)
            begin = start + _LENGTHS_SIZE
            stop = begin + total
            if stop > end:
                if total > SMALL_BUFFER - _LENGTHS_SIZE:
                    self._start_own(buffer[begin:end], total, header)
                    start = end
                break
            middle = begin + header
            frames.append((bytes(buffer[begin:middle]), bytes(buffer[middle:stop]) if stop > middle else b""))
            start = stop
        self._keep(start, end, grow=nbytes == self._offered and bool(frames))
        self._frames_read = self._frames_read or bool(frames)
        return frames

    def _keep(self, start: int, end: int, *, grow: bool) -> None:
        """Move the incomplete frame to the start of the buffer.

        If small frames have filled the buffer, enlarge the buffer.
        """
        old = self._buffer
        if grow and len(old) < LARGE_BUFFER and self._own is None:
            self._buffer = memoryview(bytearray(LARGE_BUFFER))
        rest = end - start
        if rest and (start or old is not self._buffer):
            self._buffer[:rest] = old[start:end]
        self._filled = rest

    def _start_own(self, received: memoryview, total: Bytes, header: Bytes) -> None:
        self._own = own = aligned(self.allocate, total, header)
        self._own_header, self._own_filled = header, len(received)
        own[: len(received)] = received

    def _fill_own(self, nbytes: int) -> list[Frame]:
        self._own_filled += nbytes
        own = self._own
        if own is None or self._own_filled < len(own):
            return []
        self._own = None
        self._frames_read = True
        return [(own[: self._own_header], own[self._own_header :])]

    def _take_preamble(self, end: int) -> bool:
        begun = bytes(self._buffer[: min(end, len(MAGIC))])
        if not MAGIC.startswith(begun):
            raise ProtocolError(_unknown_protocol(bytes(self._buffer[: min(end, 8)])))
        if end < _PREAMBLE.size:
            return False
        _, self.peer_version, zero = _PREAMBLE.unpack_from(self._buffer)
        if zero and self.peer_version == PROTOCOL_VERSION:
            raise ProtocolError(f"preamble ends in {zero}; it must end in 0")
        self._wants_preamble = False
        return True

    def _refusal(self, start: int, total: Bytes, header: Bytes) -> ProtocolError:
        raw = bytes(self._buffer[start : start + _LENGTHS_SIZE])
        if not self._frames_read and raw.startswith(b"HTTP"):
            return ProtocolError(f"expected a Clockwork server, found {raw!r}: is this an HTTP server?")
        if total > self.max_frame_bytes:
            return ProtocolError(
                f"frame has {total} bytes; the limit is {self.max_frame_bytes} (the frame begins with {raw!r})"
            )
        if header > total:
            return ProtocolError(f"frame of {total} bytes has a header of {header} bytes")
        return ProtocolError(f"frame has a header of {header} bytes; the limit is {MAX_HEADER_BYTES}")


def _unknown_protocol(found: bytes) -> str:
    hints: Iterable[str] = (hint for starts, hint in _OTHER_PROTOCOLS if found.startswith(starts))
    return f"expected a Clockwork connection, found {found!r}: {next(iter(hints), 'unknown protocol')}"
