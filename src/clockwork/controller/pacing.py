"""Limits the rate at which the controller sends model files."""

from clockwork.units import SECOND, Bytes, Nanos


class Pace:
    """Decides when the next part of a file may be sent, so that all parts together do not exceed a rate."""

    def __init__(self, rate: Bytes) -> None:
        """``rate`` is in bytes per second."""
        self._rate = rate
        self._free_at: Nanos = 0

    def reserve(self, now: Nanos, nbytes: Bytes) -> Nanos:
        """Reserve the time that ``nbytes`` take at the rate. Return how long to wait before they may be sent.

        Time in which nothing was sent is not made up for.
        """
        begin = max(now, self._free_at)
        self._free_at = begin + nbytes * SECOND // self._rate
        return begin - now
