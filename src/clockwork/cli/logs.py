"""Configures the log on stderr. The log has lines of text for people, or lines of JSON for programs.

In JSON mode, every line of stderr is a JSON document. Even warnings, uncaught exceptions, and the error of a command
that fails are JSON documents.
"""

import json
import logging
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from clockwork import log_writer
from clockwork.host.log_events import event_fields
from clockwork.host.log_levels import LOG
from clockwork.oip.log_settings import DEFAULT_FORMAT
from clockwork.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

HUMAN: Final = "human"
JSON: Final = "json"

log = logging.getLogger("clockwork.cli")
_format = HUMAN
_at_start: Final[list[str]] = []


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON.

    The keys of the JSON are ts (UTC, ISO 8601), level, logger, event, message, fields and exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of JSON, without a newline."""
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, Any] = {
            "ts": now.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in getattr(record, "fields", {}).items() if key not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as text for people.

    Clients choose parts of some lines, such as ids and names of models. So control characters are escaped, and further
    lines of a message are indented. A client can neither forge a line nor control the terminal.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is that of `logging`
        """Return the text of a record without its traceback."""
        return escaped(super().formatMessage(record))


def escaped(text: str) -> str:
    """Return a text whose control characters are escaped, and whose lines after the first are indented."""
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character == "\n":
        return "\n  "
    if character.isprintable() or character in "\t\u00a0":
        return character
    return character.encode("unicode_escape").decode()


def set_format(log_format: str) -> None:
    """Set the format of errors that `report` writes after this call."""
    global _format  # noqa: PLW0603 - a process has one stderr
    _format = log_format


def is_json() -> bool:
    """Return whether stderr must contain only JSON."""
    return _format == JSON


def report(error: str) -> None:
    """Write an error to stderr, even if the log has not been started."""
    if is_json():
        record = logging.LogRecord(log.name, logging.ERROR, "", 0, error, None, None)
        record.event = "failed"
        error = JsonFormatter().format(record)
    with suppress(OSError):  # if stderr is closed, the error cannot be reported
        print(error, file=sys.stderr, flush=True)


def warn_at_start(text: str) -> None:
    """Store a warning until the log starts, and log it then.

    Code that runs before the start of the log uses this function.
    """
    _at_start.append(text)


def start_log(level: str, log_format: str) -> "Console":
    """Start the log on stderr, and return the console for progress bars. The console draws nothing in JSON mode.

    On a terminal, the console also prints the lines of the log, so that they do not overwrite a progress bar.
    """
    from rich.console import Console

    console = Console(stderr=True, force_terminal=False if log_format == JSON else None)
    handler: logging.Handler
    if log_format == JSON:
        handler = _start_json()
    else:
        plain = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        _write_from_threads(plain)
        handler = logging.StreamHandler()
        if console.is_terminal:
            from rich.logging import RichHandler

            handler = RichHandler(console=console, show_path=False, log_time_format="[%X]")
            handler.setFormatter(TextFormatter("%(message)s"))
        else:
            handler.setFormatter(plain)
        logging.basicConfig(handlers=[handler])
    LOG.attach(handler, level, JSON if log_format == JSON else DEFAULT_FORMAT)
    log.info("clockwork %s begins", __version__, extra=event_fields("start", version=__version__, pid=os.getpid()))
    for text in _at_start:
        log.warning("%s", text)
    _at_start.clear()
    return console


def _start_json() -> logging.Handler:
    """Start a log of JSON, and return its handler. Other text that Python writes to stderr becomes JSON too."""
    formatter = JsonFormatter()
    _write_from_threads(formatter)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would write lines of text
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    return handler


def _write_from_threads(formatter: logging.Formatter) -> None:
    """Make threads write the text of stdout and stderr, so that a slow reader does not block this process."""

    def dropped_line(count: int) -> str:
        text = f"{count} log lines were dropped because nothing read the log"
        record = logging.LogRecord(log.name, logging.WARNING, "", 0, text, None, None)
        record.__dict__.update(event_fields("log_lines_dropped", count=count))
        return formatter.format(record) + "\n"

    log_writer.install(dropped_line)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("internal error: %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value
    log.error("%s: %r", args.err_msg or "ignored", args.object, exc_info=error if error is not None else False)
