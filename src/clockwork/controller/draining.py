"""The last stage: what is pending is finished, nothing new is begun, and then it is over.

Theory of operation. An operator asks for the drain, in whatever stage. From then on requests are refused, with
SHUTTING_DOWN. Before SERVING nothing has been promised to anybody: whoever waits is refused too, and the drain is over
at once. While SERVING the scheduler goes on with what is pending; the drain is over as soon as nothing is, and at its
limit at the latest: who then still waits is answered SHUTTING_DOWN.
"""

from typing import Final

from clockwork.controller.events import ControllerCommand, Drained, Report, Respond
from clockwork.controller.responses import Refusable, refusal_response
from clockwork.controller.serving import Serving
from clockwork.messages.requests import InferRequest
from clockwork.messages.status import Status
from clockwork.units import Nanos, show_duration


class Draining:
    """Whether a controller drains, and until when."""

    text: Final = "the server is shutting down: ask another"

    def __init__(self, serving: Serving) -> None:
        """Not begun; ``serving`` has the requests that are pending."""
        self._serving = serving
        self._limit: Nanos = 0
        self._ends: Nanos = 0
        self._over = False
        self.begun = False

    def begin(self, now: Nanos, limit: Nanos) -> Report:
        """From now on, for at most ``limit``."""
        self.begun = True
        self._limit = limit
        self._ends = now + limit
        text = f"draining: {self._serving.pending} requests are pending and have {show_duration(limit)}"
        return Report("INFO", text, "drain_begin", {"pending": self._serving.pending, "limit_ns": limit})

    def refuse(self, client_id: int, request: Refusable) -> Respond:
        """The answer to whom comes meanwhile, or waits for a start that will not be."""
        if isinstance(request, InferRequest):
            return self._serving.refuse(client_id, request, Status.SHUTTING_DOWN, self.text)
        return refusal_response(client_id, request, Status.SHUTTING_DOWN, self.text)

    def settle(self, now: Nanos) -> list[ControllerCommand]:
        """End the drain if it is time to; called after whatever happens."""
        left = self._serving.pending
        if self._over or (left and now < self._ends):
            return []
        self._over = True
        if not left:
            return [Report("INFO", "drained: nothing is pending any more", "drain_end", {"unfinished": 0}), Drained(0)]
        text = f"the drain ends after {show_duration(self._limit)}: {left} requests are told that the server shuts down"
        report = Report("WARNING", text, "drain_end", {"unfinished": left})
        return [report, *self._serving.shut_down(now, self.text), Drained(left)]

    def next_wakeup(self) -> Nanos | None:
        """When time alone ends the drain."""
        return self._ends if self.begun and not self._over else None
