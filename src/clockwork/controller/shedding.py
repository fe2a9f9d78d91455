"""Refuses requests that the server itself cannot handle in time, before they are parsed.

The scheduler predicts when a device will finish a request. But before the scheduler gets the request, the request waits
until the controller handles it. Under overload, this wait decides whether the response is in time. So the controller
measures its time per request, just as it measures a model's execution time. The controller predicts the wait from the
number of requests that were read but not handled yet.

The decision is made before the body is parsed and before the model is known. So the decision uses only counts, times
and the SLO. A request is refused only if these clearly show that the request would be late. All other requests are
accepted, because the scheduler knows more.
"""

from typing import Final

from msgspec import Struct

from clockwork.controller.expired import IMPOSSIBLE
from clockwork.messages.requests import InferRequest, InferResponse, RequestTiming
from clockwork.messages.status import Status
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Nanos, show_duration

WAIT_SHARE: Final = 0.3
"""Share of its SLO that a request may spend waiting for the controller.

A larger share would not serve more requests, because the controller is busy in any case. A larger share would leave
each request less time for the device and the response. A smaller share would refuse bursts that could be served in
time.
"""

MIN_WAIT: Final[Nanos] = 2 * MILLISECOND
"""If the predicted wait is shorter than this time, no request is refused because of `WAIT_SHARE`."""

MAX_URGENT_SLO: Final[Nanos] = 1 * SECOND
"""Requests with a longer SLO are *patient*.

Patient requests wait in a separate queue, so that a burst of patient requests does not delay urgent requests.
"""

PATIENT_INTERVAL: Final = 4
"""If both patient and urgent requests wait, every fourth request that is handled is a patient request."""

MAX_WAITING: Final = 10_000
"""Limit of the requests that wait, whatever their SLO."""

SEED_COST: Final[Nanos] = 200 * MICROSECOND
"""Time per request that is assumed before the first measurement."""

WEIGHT: Final = 0.005
"""Weight of one request in the moving average of the time per request.

The average spans several turns of the event loop, because work that begins in one turn may continue in the next.
"""

MAX_COST: Final[Nanos] = 20 * MILLISECOND
"""Limit of the time that is counted for one request. A longer time means that the process was stopped or did other
work.
"""

MAX_GROWTH: Final = 4
"""The time that is counted for one request is at most this multiple of the average.

Without this limit, an idle server would refuse requests after its process was stopped once.
"""

MIN_RETRY: Final[Nanos] = 5 * MILLISECOND
"""Shortest retry time."""


class Shed(Struct):
    """The refusal of a request before it reaches the scheduler, with the reason and the retry time.

    The host sets ``request_id``, the id of the refused request.

    ``wait`` is the time until the controller could handle the request. ``wait`` is None if the devices have no capacity
    for most requests for the model. If the SLO is shorter than the model's time on the fastest device, ``fastest`` is
    this time. In this case, waiting does not help, and there is no retry time.
    """

    wait: Nanos | None
    retry_after: Nanos | None
    fastest: Nanos | None = None
    request_id: str = ""

    @property
    def rounded(self) -> tuple[int, int, Nanos]:
        """The times in whole milliseconds, and ``fastest``. Equal values mean equal responses, except for the ids.

        A time that is unknown is -1.
        """
        wait = -1 if self.wait is None else self.wait // MILLISECOND
        retry = -1 if self.retry_after is None else self.retry_after // MILLISECOND
        return wait, retry, -1 if self.fastest is None else self.fastest

    @property
    def message(self) -> str:
        """Text of the response."""
        if self.fastest is not None:
            return IMPOSSIBLE.format(time=show_duration(self.fastest))
        if self.wait is None:
            return (
                "the devices have no capacity before the deadline: most requests for the model are refused at present"
            )
        waits = show_duration(self.wait)
        return f"the server is overloaded: requests wait {waits} before it handles them; retry, or set a longer SLO"

    def response(self, request: InferRequest) -> InferResponse:
        """Return the response to the request."""
        status = int(Status.CONTROLLER_COULD_NOT_START_IN_TIME)
        return InferResponse(
            id=request.id,
            status=status,
            message=self.message,
            outputs=(),
            timing=RequestTiming(0),
            retry_after=self.retry_after,
            request_id=request.request_id,
        )


class Shedder:
    """Predicts how long a request waits, from the length of the queue and the controller's time per request."""

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.urgent = 0  #: waiting requests with an SLO of at most `MAX_URGENT_SLO`
        self.patient = 0  #: waiting requests with a longer SLO
        self.cost: Nanos = SEED_COST  #: moving average of the time per request while requests wait
        self._count = 1 / WEIGHT  #: decaying count of handled requests
        self._time = SEED_COST * self._count  #: decaying sum of the times of handled requests
        self._last: Nanos | None = None  #: when requests were last handled while other requests waited

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self.urgent + self.patient

    def wait(self, slo: Nanos) -> Nanos:
        """Return how long a request would wait if it was queued now."""
        if slo > MAX_URGENT_SLO:
            return self.waiting * self.cost
        # number of patient requests that are handled before this one
        between = min(self.patient, self.urgent // (PATIENT_INTERVAL - 1))
        return (self.urgent + between) * self.cost

    def refuses(self, now: Nanos, arrival: Nanos, slo: Nanos, least: Nanos = 0) -> Shed | None:
        """Return a refusal if a request must be refused now, or None if it may be queued.

        ``least`` is the shortest time that the request takes after the controller has handled it.
        """
        if not self.waiting and now + least <= arrival + slo:
            return None
        wait = self.wait(slo)
        allowed = max(int(WAIT_SHARE * slo), MIN_WAIT)
        in_time = wait <= allowed and now + wait + self.cost + least <= arrival + slo
        if in_time and self.waiting < MAX_WAITING:
            return None
        return Shed(now - arrival + wait, max(MIN_RETRY, wait))

    def queued(self, slo: Nanos) -> None:
        """Count a request that begins to wait."""
        if slo > MAX_URGENT_SLO:
            self.patient += 1
        else:
            self.urgent += 1

    def withdrawn(self, slo: Nanos) -> None:
        """Stop counting a request, because it was cancelled or is about to be handled."""
        if slo > MAX_URGENT_SLO:
            self.patient -= 1
        else:
            self.urgent -= 1

    def taken(self, now: Nanos, count: int) -> None:
        """Record that ``count`` requests have been handled by ``now``.

        The caller has already called `withdrawn` for each of these requests.
        """
        if self._last is not None and count:
            kept = (1 - WEIGHT) ** count
            self._time = kept * self._time + min(now - self._last, count * min(MAX_COST, MAX_GROWTH * self.cost))
            self._count = kept * self._count + count
            self.cost = max(1, int(self._time / self._count))
        self._last = now if self.waiting else None
