"""Decides which lines this process logs, and changes this while the process runs.

A process has one log. `LOG` is the object for it.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from clockwork.oip.log_settings import DEFAULT_FORMAT, LogSettings

_LIBRARIES: Final = ("asyncio",)
"""Loggers of libraries that log only warnings, unless debug lines are logged."""

_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


class LogLevels:
    """The levels of the lines that are logged. Until `attach` is called, changes have no effect on any logger."""

    def __init__(self) -> None:
        """Start with the level ``info``."""
        self.settings = LogSettings()
        self._handler: logging.Handler | None = None

    def attach(self, handler: logging.Handler, level: str, log_format: str = DEFAULT_FORMAT) -> None:
        """Apply the settings to ``handler``, which is the only handler of the root logger.

        ``level`` is debug, info, warning or error.
        """
        number = logging.getLevelNamesMapping()[level.upper()]
        self._handler = handler
        self.settings = LogSettings(
            log_info=number <= logging.INFO,
            log_warning=number <= logging.WARNING,
            log_verbose_level=int(number <= logging.DEBUG),
            log_format=log_format,
        )
        handler.addFilter(lambda record: self._permits(record.levelno))
        self._apply()

    def change(self, values: Mapping[str, Any]) -> LogSettings:
        """Change some settings, and return all settings.

        Raises:
            RequestFailedError: a value is wrong; no setting was changed.
        """
        self.settings = self.settings.changed(values)
        self._apply()
        return self.settings

    def _permits(self, level: int) -> bool:
        settings = self.settings
        if level >= logging.ERROR:
            return settings.log_error
        if level >= logging.WARNING:
            return settings.log_warning
        return settings.log_info if level >= logging.INFO else settings.log_verbose_level > 0

    def _apply(self) -> None:
        if self._handler is None:
            return
        lowest = next(filter(self._permits, _LEVELS), logging.CRITICAL + 1)
        logging.getLogger().setLevel(lowest)
        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.NOTSET if lowest <= logging.DEBUG else logging.WARNING)


LOG: Final = LogLevels()
"""The log of this process. `clockwork.cli.logs` attaches the handler."""
