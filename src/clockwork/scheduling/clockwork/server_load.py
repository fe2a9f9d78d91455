"""Records whether the server, and not the devices, is the bottleneck.

An Infer of any size costs the server as much time as one request: about 0.3 ms in the controller and 0.2 ms in the
worker. While the server has time to spare, this time does not matter. If the server is the bottleneck, it is part of
the cost of every batch. Otherwise, batches of one look cheapest for small models, because one row takes less of the
device's time than a share of a large batch. The server then spends its time on actions instead of requests. A
measurement over HTTP on one core, with 64 requests in flight, gave 3,000 requests/s with batches of one, and 6,300
requests/s with this rule.
"""

from typing import Final

from clockwork.units import MICROSECOND, MILLISECOND, Nanos

BUSY: Final = 0.85
"""If more than this share of the server's time is in use, the level rises."""

CALM: Final = 0.7
"""If less than this share of the server's time is in use, the level falls."""

STALE: Final[Nanos] = 200 * MILLISECOND
"""Measurements of the server's load that are older than this time are ignored."""

MAX_LEVEL: Final = 64.0
"""Limit of the level."""

BOTTLENECK: Final = 2.0
"""From this level, the server counts as the bottleneck."""

ACTION_COST: Final[Nanos] = 500 * MICROSECOND
"""Time that an Infer of any size costs the controller and the worker together."""


class ServerLoad:
    """The load of the server, as a *level* from 1.0 to `MAX_LEVEL` that follows the measurements with a delay."""

    __slots__ = ("_level", "_seen")

    def __init__(self) -> None:
        """Start with level 1.0, which means that the server has time to spare."""
        self._level = 1.0
        self._seen: Nanos = -1  #: time of the last measurement

    def note(self, busy: float, at: Nanos) -> None:
        """Adjust the level to the measurement at ``at``: ``busy`` is the share of the server's time in use.

        Do nothing if the level was already adjusted to this measurement.
        """
        if at == self._seen:
            return
        self._seen = at
        if busy > BUSY:
            self._level = min(MAX_LEVEL, self._level * 1.5)
        elif busy < CALM:
            self._level = max(1.0, self._level * 0.8)

    def level(self, now: Nanos) -> float:
        """Return the level, or 1.0 if the last measurement is old."""
        return 1.0 if now - self._seen > STALE else self._level

    def action_cost(self, now: Nanos) -> Nanos:
        """Return the time to count in addition to the device's time; 0 unless the server is the bottleneck."""
        return ACTION_COST if self.level(now) >= BOTTLENECK else 0
