"""A stream of HTTP/2, and the interface between a connection and its host."""

from collections import deque
from typing import Any, Final, Protocol

from clockwork.http2.hpack import Block
from clockwork.units import MIB, Bytes

STREAM_WINDOW: Final[Bytes] = 1 * MIB
"""Number of bytes that a client may send in a stream before the server has accepted the length of the message."""


class Stream:
    """A stream, which has one request and its response."""

    __slots__ = (
        "call", "checks", "client_ended", "granted", "id", "progress", "queue", "room", "server_ended", "trailers",
        "unreported",
    )  # fmt: skip

    def __init__(self, id: int, room: Bytes) -> None:
        self.id = id
        self.call: Any = None  #: the host's object
        self.client_ended = False  #: whether the client sends nothing more
        self.server_ended = False  #: whether nothing more may be sent, but the last bytes may still wait in `queue`
        self.room = room  #: number of bytes that the client's window has room for
        self.granted: Bytes = STREAM_WINDOW  #: number of bytes that the client may still send
        self.unreported: Bytes = 0  #: number of received bytes that were not given back to the client's window
        self.queue: deque[memoryview] | None = None  #: DATA that waits for the client's window
        self.progress: Bytes = 0  #: number of bytes sent from `queue` since `checks` was zero
        self.checks = 0  #: number of checks of this progress
        self.trailers = b""  #: the block of headers that follows the queue


class Receiver(Protocol):
    """Handles what the client sends."""

    def head_of(self, block: Block) -> Any:
        """Return the host's representation of headers, which is kept and used again for the same headers.

        Return None if the headers are malformed. In this case, the stream is reset.
        """
        ...

    def opened(self, stream: Stream, head: Any) -> None:
        """Handle the head of a request. `Stream.client_ended` tells whether the request has no body."""
        ...

    def received(self, stream: Stream, data: bytes | memoryview) -> None:
        """Handle bytes of a request's body. The memory is valid only during the call."""
        ...

    def memory(self, stream: Stream) -> memoryview | None:
        """Return the memory for the next bytes of a request's body, or None if the body has none yet."""
        ...

    def received_directly(self, stream: Stream, nbytes: Bytes) -> None:
        """Handle bytes of a body that were received into its memory."""
        ...

    def ended(self, stream: Stream) -> None:
        """Handle the end of a body."""
        ...

    def reset(self, stream: Stream) -> None:
        """Handle the end of a stream by the client, or because of its error. The stream is closed already."""
        ...

    def drained(self, stream: Stream) -> None:
        """Handle that no bytes wait for the client's window any more."""
        ...
