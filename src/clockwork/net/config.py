"""What a peer may cost, and how long it may be silent."""

from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.net.arrival import Arrivals
from clockwork.units import MIB, SECOND, Bytes, Nanos, ms
from clockwork.wire.frame import FRAME_BYTES_CEILING, MAX_FRAME_BYTES, Allocate, uninitialised


class LinkConfig(Struct, frozen=True):
    """How a host treats its connections; times in nanoseconds.

    - ``hello_timeout``: from the connection to its Hello or Welcome.
    - ``heartbeat_interval``: between Pings to a peer that is silent, or, with ``measure_clock``, to any peer. Whoever
      sends actions measures.
    - ``heartbeat_timeout``: without a single byte from the peer; many times the interval, for a loaded host stalls, and
      to lose a worker costs more than to notice a dead one late.
    - ``silent_after``: time without a single byte from the peer after which ``on_silent`` reports it. The connection
      stays. 0: never.
    - ``max_frame_bytes``: longest frame either way. Whoever dials takes over the listener's.
    - ``max_outgoing_bytes``: what may wait for a peer that does not read; it is dropped when more is sent after that.
    - ``high_water_bytes``: what may wait while the connection is still ``writable``: a frame or two with tensors.
    - ``arrivals``: says when the bytes that are read now reached this machine; None: when they are read.
    - ``allocate``: gives the memory that long frames are received into, once there was a greeting.
    - ``write_timeout``: in which a peer that is not ``writable`` has to take a MiB.
    - ``linger``: what a peer has to take our Goodbye and close its side.
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
        """Raises: InvalidRequestError: frames of that size cannot be."""
        if not 0 < self.max_frame_bytes <= FRAME_BYTES_CEILING:
            raise InvalidRequestError(
                f"frames of at most {self.max_frame_bytes} bytes were asked for; it can be 1 to {FRAME_BYTES_CEILING}"
            )


DEFAULT_LINK: Final = LinkConfig()
