"""Implements the stage DRAINING, in which pending requests are finished and new requests are refused.

Theory of operation. The operator can begin the drain in any stage. From then on, requests are refused with
SHUTTING_DOWN. Before SERVING, no request has been admitted. A drain that begins before SERVING also refuses the
requests that wait for SERVING, and ends at once. During SERVING, the scheduler continues with the pending requests. The
drain ends when no request is pending, or when its time limit is reached. Requests that are still pending at the limit
get SHUTTING_DOWN.
"""

from typing import Final

from clockwork.controller.events import ControllerCommand, Drained, Report, Respond
from clockwork.controller.responses import Refusable, refusal_response
from clockwork.controller.serving import Serving
from clockwork.messages.requests import InferRequest
from clockwork.messages.status import Status
from clockwork.units import Nanos, show_duration


class Draining:
    """The drain of a controller. The object records whether the drain has begun and when it ends."""

    text: Final = "the server is shutting down; send the request to another server"

    def __init__(self, serving: Serving) -> None:
        """``serving`` contains the pending requests."""
        self._serving = serving
        self._limit: Nanos = 0
        self._ends: Nanos = 0
        self._over = False
        self.begun = False

    def begin(self, now: Nanos, limit: Nanos) -> Report:
        """Begin the drain. The drain takes at most ``limit``."""
        self.begun = True
        self._limit = limit
        self._ends = now + limit
        text = f"draining: {self._serving.pending} requests are pending; the limit is {show_duration(limit)}"
        return Report("INFO", text, "drain_begin", {"pending": self._serving.pending, "limit_ns": limit})

    def refuse(self, now: Nanos, client_id: int, request: Refusable) -> Respond:
        """Refuse a request that arrives during the drain or that was waiting for SERVING."""
        if isinstance(request, InferRequest):
            return self._serving.refusing.refuse(now, client_id, request, Status.SHUTTING_DOWN, self.text)
        return refusal_response(client_id, request, Status.SHUTTING_DOWN, self.text)

    def settle(self, now: Nanos) -> list[ControllerCommand]:
        """End the drain if no request is pending, or if its time limit is reached.

        Call this method after every event.
        """
        left = self._serving.pending
        if self._over or (left and now < self._ends):
            return []
        self._over = True
        if not left:
            return [Report("INFO", "drained: no request is pending", "drain_end", {"unfinished": 0}), Drained(0)]
        text = f"the drain reached its limit of {show_duration(self._limit)}: {left} requests get SHUTTING_DOWN"
        report = Report("WARNING", text, "drain_end", {"unfinished": left})
        return [report, *self._serving.shut_down(now, self.text), Drained(left)]

    def next_wakeup(self) -> Nanos | None:
        """Return when the drain reaches its time limit, or None if no drain is under way."""
        return self._ends if self.begun and not self._over else None
