"""Prevents grpcio from logging a traceback for each metadata value that is not UTF-8.

Even a client without a token could flood the log with such values: a request of 545 bytes caused 140 KB of log. grpcio
logs each value with the method ``exception`` of its logger. This module replaces the logger's method. The new method
counts the values, and logs their number from time to time. All other messages of the logger are logged as before. A
logging filter would take ten times as long, because Python creates a log record before it calls the filter.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.host.log_events import event_fields
from clockwork.units import SECOND, Nanos

MIN_REPORT_INTERVAL: Final[Nanos] = 60 * SECOND
"""Shortest time between two log lines about metadata values that are not UTF-8."""

_LOGGER: Final = logging.getLogger("grpc._cython.cygrpc")
_MESSAGE: Final = "Invalid encoding"

log = logging.getLogger("clockwork.grpc")


class _Counter:
    """Counts invalid metadata values. The method `exception` replaces the method of grpcio's logger."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0
        self._next: Nanos = 0

    def exception(self, message: object, *args: Any, **kwargs: Any) -> None:
        if not str(message).startswith(_MESSAGE):
            logging.Logger.exception(_LOGGER, message, *args, **kwargs)
            return
        self._count += 1
        now = self._clock.now()
        if now >= self._next:
            self._next = now + MIN_REPORT_INTERVAL
            text = "values of gRPC metadata that are not UTF-8 since the last report: %d (clients must send ASCII)"
            log.warning(text, self._count, extra=event_fields("bad_metadata", values=self._count))
            self._count = 0


@contextmanager
def bad_metadata_counted(clock: Clock) -> Iterator[None]:
    """Count metadata values that are not UTF-8, and log their number instead of a traceback for each."""
    before = vars(_LOGGER).get("exception")
    _LOGGER.exception = _Counter(clock).exception  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        if before is None:
            del _LOGGER.exception
        else:
            _LOGGER.exception = before  # type: ignore[method-assign]
