"""Limits on connections: times and sizes."""

from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.net.arrival import Arrivals
from clockwork.net.outbox import Outbox
from clockwork.units import MIB, SECOND, Bytes, Nanos, ms
from clockwork.wire.frame import FRAME_BYTES_CEILING, MAX_FRAME_BYTES, Allocate, uninitialised


class LinkConfig(Struct, frozen=True):
    """The limits of a connection. Times are in nanoseconds.

    - ``hello_timeout``: time in which the peer must send its Hello or Welcome.
    - ``heartbeat_interval``: time between two Pings. A peer that sends messages gets no Pings, unless ``measure_clock``
      is set.
    - ``heartbeat_timeout``: time after which a connection is closed if the peer sends no bytes. This time is many times
      the interval, because a loaded machine may stop for a while, and the loss of a healthy worker is expensive.
    - ``silent_after``: time after which ``on_silent`` reports that the peer sends no bytes. The silent connection stays
      open. If ``silent_after`` is 0, silence is never reported.
    - ``measure_clock``: whether to estimate the offset of the peer's clock. Only the controller estimates the offset.
    - ``max_frame_bytes``: longest frame in either direction. The listening side's limit applies to both sides.
    - ``max_outgoing_bytes``: number of bytes that may wait for a peer that does not read. If a message is sent while
      more bytes wait, the peer is disconnected.
    - ``high_water_bytes``: number of bytes that may wait before the connection is no longer ``writable``. The limit is
      enough for one or two frames with tensors.
    - ``linger``: time in which the peer must receive the Goodbye and close its side of the connection.
    - ``write_timeout``: time in which a peer must read 1 MiB while the connection is not ``writable``.
    - ``allocate``: allocates the memory for long frames after the greeting.
    - ``arrivals``: determines when bytes arrived. If ``arrivals`` is None, bytes count as arrived when they are read.
    - ``outbox``: knows which connections of the event loop have frames to send. If ``outbox`` is None, each connection
      sends its frames at the end of the loop's turn.
    """

    hello_timeout: Nanos = 5 * SECOND
    heartbeat_interval: Nanos = ms(500)
    heartbeat_timeout: Nanos = 10 * SECOND
    silent_after: Nanos = 0
    measure_clock: bool = False
    max_frame_bytes: Bytes = MAX_FRAME_BYTES
    max_outgoing_bytes: Bytes = 256 * MIB
    high_water_bytes: Bytes = MIB
    linger: Nanos = SECOND
    write_timeout: Nanos = 60 * SECOND
    allocate: Allocate = uninitialised
    arrivals: Arrivals | None = None
    outbox: Outbox | None = None

    def __post_init__(self) -> None:
        """Check the value of ``max_frame_bytes``.

        Raises:
            InvalidRequestError: the limit is out of range.
        """
        if not 0 < self.max_frame_bytes <= FRAME_BYTES_CEILING:
            raise InvalidRequestError(
                f"frame limit is {self.max_frame_bytes} bytes; it must be 1 to {FRAME_BYTES_CEILING}"
            )


DEFAULT_LINK: Final = LinkConfig()
