"""Writes log lines about broken promises and overload.

The number of log lines does not grow with the number of requests.

Theory of operation. Responses are counted when they are sent. The first broken promise is logged at once. After that,
the number of new broken promises is logged once a minute, until there are no new ones. Refusals are counted in
*periods*. A period begins with a refusal. An overload begins with a period that has `MIN_OVERLOAD_REFUSALS` refusals.
The overload ends with the third period in a row that has fewer refusals.
"""

import asyncio
import logging
from typing import Final

from clockwork.host.log_events import event_fields
from clockwork.messages.requests import InferResponse
from clockwork.messages.status import Status

MINUTE: Final = 60.0
"""Seconds between two lines about broken promises."""

PERIOD: Final = 10.0
"""Length of a period in seconds."""

MIN_OVERLOAD_REFUSALS: Final = 10
"""Smallest number of refusals in a period that counts as an overload. Fewer refusals may come from one client with
impossible deadlines.
"""

CALM_PERIODS: Final = 3
"""Number of successive periods with fewer refusals after which an overload ends."""

_REFUSED: Final = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME)


class ResponseLog:
    """Counts responses and writes log lines about them. Create and use this object on one running event loop."""

    def __init__(self, log: logging.Logger, minute: float = MINUTE, period: float = PERIOD) -> None:
        """``log`` gets the lines. ``minute`` and ``period`` are in seconds."""
        self._log = log
        self._minute = minute
        self._period = period
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._broken = 0  #: broken promises since the last line
        self._last = ""  #: message of the last broken promise
        self._answered = 0  #: responses in this period
        self._refused = 0  #: refusals in this period
        self._overload_since: float | None = None
        self._refused_in_all = 0  #: refusals in this overload
        self._calm = 0

    def answered(self, response: InferResponse) -> None:
        """Count a response that was sent to a client."""
        self._answered += 1
        if response.status == Status.SUCCESS:
            return
        if response.admitted:
            self._broken += 1
            self._last = response.message
            if "broken" not in self._timers:
                self._log_broken()
        elif response.status in _REFUSED:
            self._count_refused(1)

    def refused(self, count: int) -> None:
        """Count requests that were refused before they were handled. `answered` is not called for these requests."""
        self._answered += count
        self._count_refused(count)

    def _count_refused(self, count: int) -> None:
        self._refused += count
        if "period" not in self._timers:
            self._answered = count
            self._arm("period")

    def close(self) -> None:
        """Log the broken promises that have not been logged, and stop."""
        if self._broken:
            self._log_broken()
        for timer in self._timers.values():
            timer.cancel()

    def _arm(self, timer: str) -> None:
        after, then = (self._minute, self._minute_over) if timer == "broken" else (self._period, self._period_over)
        self._timers[timer] = self._loop.call_later(after, then)

    def _log_broken(self) -> None:
        plural = "promise was" if self._broken == 1 else "promises were"
        extra = event_fields("promises_broken", count=self._broken, reason=self._last)
        self._log.warning("%d %s broken; the last: %s", self._broken, plural, self._last, extra=extra)
        self._broken = 0
        self._arm("broken")

    def _minute_over(self) -> None:
        del self._timers["broken"]
        if self._broken:
            self._log_broken()

    def _period_over(self) -> None:
        del self._timers["period"]
        refused, answered = self._refused, self._answered
        self._refused = self._answered = 0
        over = refused >= MIN_OVERLOAD_REFUSALS
        if over and self._overload_since is None:
            self._overload_since = self._loop.time() - self._period
            self._refused_in_all = 0
            extra = event_fields("overload_begin", refused=refused, answered=answered, seconds=self._period)
            text = "overload: %d of %d requests were refused in %g s"
            self._log.warning(text, refused, answered, self._period, extra=extra)
        self._refused_in_all += refused
        self._calm = 0 if over else self._calm + 1
        if self._overload_since is not None and self._calm >= CALM_PERIODS:
            self._log_end(self._overload_since)
        if self._overload_since is not None:
            self._arm("period")

    def _log_end(self, since: float) -> None:
        lasted = self._loop.time() - since - CALM_PERIODS * self._period
        extra = event_fields("overload_end", refused=self._refused_in_all, seconds=round(lasted, 3))
        text = "the overload is over after %.0f s: %d requests were refused"
        self._log.info(text, lasted, self._refused_in_all, extra=extra)
        self._overload_since = None
