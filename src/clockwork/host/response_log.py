"""Lines of the log about promises that were broken, and about overload: few, however many requests it is about.

Theory of operation. Answers are counted as they leave. Broken promises are told at once the first time, and then once
a minute, as a count, while there are any. Overload is looked at in *periods*, which begin with a refusal: it begins
with a period that has `MIN_OVERLOAD_REFUSALS` refusals, and ends with the third in a row that has fewer.
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
"""Seconds between two looks at the refusals."""

MIN_OVERLOAD_REFUSALS: Final = 10
"""Refusals of a period that are an overload: fewer may be a client that asks for the impossible."""

CALM_PERIODS: Final = 3
"""Periods in a row without overload after which it is over."""

_REFUSED: Final = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME)


class ResponseLog:
    """Counts what clients are told; make it and use it on one running event loop."""

    def __init__(self, log: logging.Logger, minute: float = MINUTE, period: float = PERIOD) -> None:
        """Lines go to ``log``."""
        self._log = log
        self._minute = minute
        self._period = period
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._broken = 0  #: since the last line
        self._last = ""  #: what was said of the last one
        self._answered = 0  #: of the period
        self._refused = 0
        self._overload_since: float | None = None
        self._refused_in_all = 0  #: of the overload
        self._calm = 0

    def answered(self, response: InferResponse) -> None:
        """A client has its answer."""
        self._answered += 1
        if response.status == Status.SUCCESS:
            return
        if response.admitted:
            self._broken += 1
            self._last = response.message
            if "broken" not in self._timers:
                self._tell_broken()
        elif response.status in _REFUSED:
            self._count_refused(1)

    def refused(self, count: int) -> None:
        """Count requests that were refused before they were handled: `answered` is not called for them."""
        self._answered += count
        self._count_refused(count)

    def _count_refused(self, count: int) -> None:
        self._refused += count
        if "period" not in self._timers:
            self._answered = count
            self._arm("period")

    def close(self) -> None:
        """Tell what has not been told; nothing more comes."""
        if self._broken:
            self._tell_broken()
        for timer in self._timers.values():
            timer.cancel()

    def _arm(self, what: str) -> None:
        after, then = (self._minute, self._minute_over) if what == "broken" else (self._period, self._period_over)
        self._timers[what] = self._loop.call_later(after, then)

    def _tell_broken(self) -> None:
        plural = "promise was" if self._broken == 1 else "promises were"
        extra = event_fields("promises_broken", count=self._broken, reason=self._last)
        self._log.warning("%d %s broken; the last: %s", self._broken, plural, self._last, extra=extra)
        self._broken = 0
        self._arm("broken")

    def _minute_over(self) -> None:
        del self._timers["broken"]
        if self._broken:
            self._tell_broken()

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
            self._tell_end(self._overload_since)
        if self._overload_since is not None:
            self._arm("period")

    def _tell_end(self, since: float) -> None:
        lasted = self._loop.time() - since - CALM_PERIODS * self._period
        extra = event_fields("overload_end", refused=self._refused_in_all, seconds=round(lasted, 3))
        text = "the overload is over after %.0f s: %d requests were refused"
        self._log.info(text, lasted, self._refused_in_all, extra=extra)
        self._overload_since = None
