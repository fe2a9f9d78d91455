"""The ids under which requests are recorded and explained.

The id of a request is the client's own id, else the trace id of the header ``traceparent`` (W3C Trace Context), else an
id that the server chooses. Every response contains the id. Only the server's ids are certainly unique.
"""

import re
from typing import Final

MAX_REQUEST_ID: Final = 128
"""Number of characters of a request's id that are kept. The rest of a longer id is cut off."""

ID_HEADER: Final = "clockwork-request-id"
"""HTTP header, and key of gRPC's trailing metadata, with the id of the request that a response answers."""

TRACE_HEADER: Final = "traceparent"
"""HTTP header, and key of gRPC's metadata, with the trace id of a request."""

_TRACE: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE: Final = "0" * 32


def trace_id(traceparent: str) -> str:
    """Return the trace id in a ``traceparent``, or an empty string if the value is invalid."""
    found = _TRACE.fullmatch(traceparent, 0, MAX_REQUEST_ID)
    return "" if found is None or found[1] == _NO_TRACE else found[1]
