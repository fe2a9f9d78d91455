"""Adds the name of an event and fields to a log line, for programs that read the log.

The text of a line contains the same information for people. ``event`` is one of the names in docs/operations.md. Fields
such as ``worker``, ``model``, ``stage`` and ``address`` are set if they are known.
"""

import logging
from typing import Any

from clockwork.controller.events import DropWorker, Report, StageEntered

EVENT = "event"
FIELDS = "fields"


def event_fields(event: str, **fields: Any) -> dict[str, Any]:
    """Return the argument ``extra`` of a logging call."""
    return {EVENT: event, FIELDS: fields}


def log_command(log: logging.Logger, command: Report | StageEntered | DropWorker) -> None:
    """Log a command of the controller: a `Report`, a new stage, or a worker that is dropped."""
    match command:
        case Report():
            level = logging.getLevelNamesMapping()[command.level]
            log.log(level, "%s", command.text, extra=event_fields(command.event, **command.fields))
        case StageEntered():
            log.info("stage: %s", command.stage, extra=event_fields("stage", stage=command.stage))
        case DropWorker():
            extra = event_fields("worker_dropped", worker=command.worker_id, reason=command.reason)
            log.error("dropping worker %s: %s", command.worker_id, command.reason, extra=extra)
