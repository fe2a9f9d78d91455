"""Adds an event name and fields to a log line, for programs that read the log.

The text of a line contains the same information for people. ``event`` is one of the names in docs/operations.md. Fields
such as ``worker``, ``model``, ``stage`` and ``address`` are set if they are known.
"""

from typing import Any

EVENT = "event"
FIELDS = "fields"


def event_fields(event: str, **fields: Any) -> dict[str, Any]:
    """Return the argument ``extra`` of a logging call."""
    return {EVENT: event, FIELDS: fields}
