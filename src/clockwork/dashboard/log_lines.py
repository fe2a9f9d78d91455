"""Keeps the last lines of the log, so that the dashboard can show them."""

import logging
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

from msgspec import Struct

from clockwork.messages.faults import as_utf8

MAX_LINES: Final = 200
"""Number of log lines that are kept."""

MAX_TEXT: Final = 500
"""Longest text of a line that is kept, in characters. Longer texts are cut."""


class LogLine(Struct, frozen=True):
    """One line of the log.

    - ``number``: number of the line, which is larger than the numbers of all earlier lines
    - ``at``: time of day in seconds since 1970
    - ``event``: one of the names in docs/operations.md, or ``log``
    """

    number: int
    at: float
    level: str
    event: str
    text: str


class LogLines(logging.Handler):
    """Keeps the last lines that the package logs while the context lasts.

    The level of the log decides which lines exist. Any thread may log.
    """

    def __init__(self) -> None:
        """Start without lines."""
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)
        self._last = 0

    def __enter__(self) -> Self:
        """Begin to keep lines."""
        logging.getLogger("clockwork").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep no further lines."""
        logging.getLogger("clockwork").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line. `logging.Handler` calls this method while it holds the handler's lock."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a line with wrong arguments must not end the code that logs it
            self.handleError(record)
            return
        self._last += 1
        event: Any = getattr(record, "event", "log")
        line = LogLine(self._last, record.created, record.levelname.lower(), str(event), as_utf8(text[:MAX_TEXT]))
        self._lines.append(line)

    def after(self, number: int) -> list[LogLine]:
        """Return the kept lines whose number is larger than ``number``."""
        self.acquire()
        try:
            return [line for line in self._lines if line.number > number]
        finally:
            self.release()
