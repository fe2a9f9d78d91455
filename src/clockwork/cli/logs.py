"""The log: lines for people, or JSON for programs; on stderr.

Rules of the file: with JSON nothing else comes on stderr, whoever speaks: warnings, what nobody has caught, the last
line of a command that fails. It is the logging module and one formatter.
"""

import json
import logging
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from clockwork import log_writer
from clockwork.host.telling import about

HUMAN: Final = "human"
JSON: Final = "json"

_log = logging.getLogger("clockwork.cli")
_wanted = HUMAN


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: ts (UTC, ISO 8601), level, logger, event, message, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        made: dict[str, Any] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        made |= {key: value for key, value in getattr(record, "fields", {}).items() if key not in made}
        if record.exc_info:
            made["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            made["stack"] = record.stack_info
        return json.dumps(made, default=str)


def want(log_format: str) -> None:
    """From now on, what is said is said in this format."""
    global _wanted  # noqa: PLW0603 - there is one stderr
    _wanted = log_format


def wants_json() -> bool:
    """Whether stderr is for JSON only."""
    return _wanted == JSON


def say(line: str) -> None:
    """An error, whether the log has begun or not."""
    if wants_json():
        record = logging.LogRecord(_log.name, logging.ERROR, "", 0, line, None, None)
        record.event = "failed"
        line = JsonFormatter().format(record)
    with suppress(OSError):  # nobody reads it: there is nobody to tell
        print(line, file=sys.stderr, flush=True)


def queued(formatter: logging.Formatter) -> None:
    """Write stdout and stderr from threads from now on, so that nothing waits for their reader."""

    def notice(count: int) -> str:
        text = f"{count} lines of the log were dropped: nobody read it"
        record = logging.LogRecord(_log.name, logging.WARNING, "", 0, text, None, None)
        record.__dict__.update(about("log_lines_dropped", count=count))
        return formatter.format(record) + "\n"

    log_writer.install(notice)


def start_json(level: str) -> None:
    """Write the log as JSON, and what would be written beside it, too."""
    formatter = JsonFormatter()
    queued(formatter)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core writes lines of its own
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _log.critical("internal error: %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value
    _log.error("%s: %r", args.err_msg or "ignored", args.object, exc_info=error if error is not None else False)
