"""Limits on what the client of one connection may do that costs the server work and the client almost nothing."""

from typing import Final

from msgspec import Struct

from clockwork.http2.frames import ENHANCE_YOUR_CALM, Http2Error
from clockwork.units import SECOND, Bytes, Nanos

MAX_RESETS: Final = 2000
"""Number of streams that a client may reset in a burst. A client that resets more is disconnected."""

RESETS_PER_S: Final = 100
"""Number of streams that a client may reset in each second in the long run, besides those in return for responses."""

MAX_USELESS: Final = 1000
"""Number of frames without a purpose that a client may send in a burst."""

USELESS_PER_S: Final = 100
"""Number of frames without a purpose that a client may send in each second in the long run."""

MAX_UPDATES: Final = 10_000
"""Number of WINDOW_UPDATE frames that a client may send in a burst, besides those in return for DATA."""

UPDATES_PER_S: Final = 10_000
"""Number of WINDOW_UPDATE frames that a client may send in each second in the long run."""

MIN_PING_INTERVAL: Final[Nanos] = 5 * SECOND
"""Shortest time between two pings of a client without a response in between."""

MAX_PING_STRIKES: Final = 2
"""Number of pings that may come too early. The next one ends the connection."""


class Limits(Struct, frozen=True):
    """The limits that a server announces to its clients."""

    max_streams: int
    max_headers: Bytes


class _Bucket:
    """Allows ``burst`` events at once, and ``per_s`` events per second in the long run."""

    __slots__ = ("_full", "_interval", "_span")

    def __init__(self, burst: int, per_s: int, now: Nanos) -> None:
        self._interval: Nanos = SECOND // per_s
        self._span = burst * self._interval
        self._full = now  #: time at which the whole burst is allowed again

    def take(self, now: Nanos, count: int = 1) -> bool:
        """Count events. Return whether they are allowed."""
        self._full = max(self._full, now) + count * self._interval
        return self._full - now <= self._span

    def give_back(self, count: int = 1) -> None:
        """Allow more events."""
        self._full -= count * self._interval


class Strikes:
    """Counts the suspicious events of one connection."""

    __slots__ = ("_last_ping", "_pings", "_resets", "_updates", "_useless")

    def __init__(self, now: Nanos) -> None:
        """Start without any event."""
        self._resets = _Bucket(MAX_RESETS, RESETS_PER_S, now)
        self._useless = _Bucket(MAX_USELESS, USELESS_PER_S, now)
        self._updates = _Bucket(MAX_UPDATES, UPDATES_PER_S, now)
        self._last_ping: Nanos | None = None
        self._pings = 0

    def pardon_pings(self) -> None:
        """Note that the server sends something other than replies to pings. This pardons early pings."""
        self._pings = 0
        self._last_ping = None

    def responded(self) -> None:
        """Note that the server sends a whole response.

        This pardons early pings, one reset, one frame without a purpose and two updates. A client that gives up a call
        at its deadline often resets the stream when the response is already on its way.
        """
        self.pardon_pings()
        self._resets.give_back()
        self._useless.give_back()
        self._updates.give_back(2)

    def sent(self) -> None:
        """Note that the server sends a part of a response. This pardons early pings and two updates."""
        self.pardon_pings()
        self._updates.give_back(2)

    def add(self, now: Nanos, count: int = 1) -> None:
        """Count a frame without a purpose.

        Raises:
            Http2Error: there are too many.
        """
        if count and not self._useless.take(now, count):
            raise Http2Error(ENHANCE_YOUR_CALM, "too many frames without a purpose")

    def reset(self, now: Nanos) -> None:
        """Count a stream that the client has reset.

        Raises:
            Http2Error: there are too many.
        """
        if not self._resets.take(now):
            raise Http2Error(ENHANCE_YOUR_CALM, "too many streams were reset")

    def update(self, now: Nanos) -> None:
        """Count a change of a window.

        Raises:
            Http2Error: there are too many.
        """
        if not self._updates.take(now):
            raise Http2Error(ENHANCE_YOUR_CALM, "too many changes of windows")

    def ping(self, now: Nanos) -> None:
        """Count a ping.

        Raises:
            Http2Error: there are too many.
        """
        if self._last_ping is not None and now - self._last_ping < MIN_PING_INTERVAL:
            self._pings += 1
            if self._pings > MAX_PING_STRIKES:
                raise Http2Error(ENHANCE_YOUR_CALM, "too_many_pings")
        self._last_ping = now
