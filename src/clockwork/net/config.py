"""Limits and timings of a connection."""

from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.net.arrival import Arrivals
from clockwork.units import MIB, SECOND, Bytes, Nanos, ms
from clockwork.wire.frame import FRAME_BYTES_CEILING, MAX_FRAME_BYTES, Allocate, uninitialised


class LinkConfig(Struct, frozen=True):
    """The limits and timings of a host's connections; times in nanoseconds.

    - ``hello_timeout``: time limit from the connection to the peer's Hello or Welcome.
    - ``heartbeat_interval``: time between Pings to a silent peer, or to any peer with ``measure_clock``.
    - ``heartbeat_timeout``: time without a single byte from the peer after which the connection is closed. It is many
      times the interval: a loaded host stalls, and losing a worker costs more than noticing a dead worker late.
    - ``silent_after``: time without a single byte from the peer after which ``on_silent`` reports it. The connection
      stays open. 0 means never.
    - ``measure_clock``: estimate the peer's clock; only the side that sends actions does so.
    - ``max_frame_bytes``: longest frame in either direction. The dialling side takes over the listener's limit.
    - ``max_outgoing_bytes``: bytes that may wait for a peer that does not read. If more is sent after that, the peer is
      disconnected.
    - ``high_water_bytes``: bytes that may wait while the connection still counts as ``writable``: a frame or two with
      tensors.
    - ``linger``: time that a peer has to receive the Goodbye and close its side.
    - ``write_timeout``: time in which a peer that is not ``writable`` must take 1 MiB.
    - ``allocate``: allocates the memory for long frames, once the greeting is over.
    - ``arrivals``: determines when the bytes that are read now reached this host; None means when they are read.
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

    def __post_init__(self) -> None:
        """Check the limit on frames.

        Raises:
            InvalidRequestError: the limit is out of range.
        """
        if not 0 < self.max_frame_bytes <= FRAME_BYTES_CEILING:
            raise InvalidRequestError(
                f"frame limit is {self.max_frame_bytes} bytes; it must be 1 to {FRAME_BYTES_CEILING}"
            )


DEFAULT_LINK: Final = LinkConfig()
