"""The ids under which requests are recorded and explained.

If the client sends an id, this is the id of the request. Otherwise, the trace id in the header ``traceparent`` (W3C
Trace Context) is the id. If both are missing, the server chooses an id. Every response contains the id. Only ids that
the server chooses are certainly unique.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_REQUEST_ID: Final = 128
"""Longest id of a request, in characters. Longer ids are cut."""

ID_HEADER: Final = "clockwork-request-id"
"""HTTP header, and key of gRPC's trailing metadata, with the id of the request that a response answers."""

TRACE_HEADER: Final = "traceparent"
"""HTTP header, and key of gRPC's metadata, with the trace id of a request."""

STATE_HEADER: Final = "tracestate"
"""HTTP header, and key of gRPC's metadata, with the state that tracing systems add to a trace context."""

_TRACE: Final = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
"""A ``traceparent``. Only versions after 00 may be longer than 55 characters. Ids of zeros are invalid."""


class TraceParent(NamedTuple):
    """The parts of a ``traceparent``, in hexadecimal."""

    trace_id: str
    span_id: str
    flags: str


def parsed_traceparent(traceparent: str) -> TraceParent | None:
    """Return the parts of a ``traceparent``, or None if the value is invalid."""
    found = _TRACE.fullmatch(traceparent, 0, MAX_REQUEST_ID)
    return None if found is None else TraceParent(found[1], found[2], found[3])


def trace_context(parents: Sequence[str], states: Sequence[str]) -> tuple[str, str]:
    """Return the ``traceparent`` and the ``tracestate`` of a request. The arguments are the values of its headers.

    Several values of ``tracestate`` are joined. A request with several values of ``traceparent`` has no trace context.
    """
    return (parents[0], ",".join(states)) if len(parents) == 1 else ("", "")


def trace_id(traceparent: str) -> str:
    """Return the trace id in a ``traceparent``, or an empty string if the value is invalid."""
    found = parsed_traceparent(traceparent)
    return "" if found is None else found.trace_id
