"""What a line of the log is about, for programs that read it.

Rules of the file: a line for people says the same in its text. ``event`` is one of the words in docs/operations.md;
``worker``, ``model``, ``stage``, ``address`` and the rest are given where they are known.
"""

from typing import Any

EVENT = "event"
FIELDS = "fields"


def event_fields(event: str, **fields: Any) -> dict[str, Any]:
    """For ``extra`` of a logging call."""
    return {EVENT: event, FIELDS: fields}
