"""The event and the fields of a log line, for programs that read the log.

Rules of the file: the text of a line contains the same information for people. ``event`` is one of the words in
docs/operations.md; ``worker``, ``model``, ``stage``, ``address`` and other fields are set where they are known.
"""

from typing import Any

EVENT = "event"
FIELDS = "fields"


def event_fields(event: str, **fields: Any) -> dict[str, Any]:
    """Return the argument ``extra`` of a logging call."""
    return {EVENT: event, FIELDS: fields}
