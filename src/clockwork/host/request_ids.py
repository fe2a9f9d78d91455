"""Chooses ids for requests whose clients sent none.

An id consists of a random part, which is the same for all requests of a process, and a counter. So ids are not repeated
after a restart.
"""

from secrets import token_hex

from msgspec.structs import force_setattr

from clockwork.messages.request_ids import MAX_REQUEST_ID, trace_id
from clockwork.messages.requests import InferRequest


class RequestIds:
    """The ids of one server."""

    def __init__(self) -> None:
        """Choose the random part."""
        self._prefix = token_hex(4)
        self._last = 0

    def next(self) -> str:
        """Return a new id."""
        self._last += 1
        return f"{self._prefix}-{self._last}"

    def choose(self, own: str | None, traceparent: str) -> str:
        """Return the client's own id, else the request's trace id, else a new id."""
        return own[:MAX_REQUEST_ID] if own else trace_id(traceparent) or self.next()

    def named(self, request: InferRequest) -> InferRequest:
        """Set the request's id if the request has no id, and return the request.

        The request is changed in place, because a copy would take longer. The caller must own the request.
        """
        if not request.request_id:
            force_setattr(request, "request_id", self.next())
        elif len(request.request_id) > MAX_REQUEST_ID:
            force_setattr(request, "request_id", request.request_id[:MAX_REQUEST_ID])
        return request
