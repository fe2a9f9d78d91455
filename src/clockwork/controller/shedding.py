"""Refuses requests that the server itself cannot handle in time, before anything is done for them.

The scheduler knows when a device will be done with a request. Before that, the request waits until the controller takes
it in. Under overload this wait, and not the devices, decides whether the answer is in time. So the controller keeps the
time that it takes from one request to the next, measured like a model's execution time, and predicts the wait from the
number of requests that were read and not yet taken in.

Rules of the file: it decides before a body is parsed and before the model is known, so it may use nothing but counts,
times and the SLO. A doubt admits the request: the scheduler decides about it with all that is known.
"""

from typing import Final

from msgspec import Struct

from clockwork.messages.requests import InferResponse, RequestTiming
from clockwork.messages.status import Status
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Nanos, show_duration

WAIT_SHARE: Final = 0.3
"""Share of an SLO that a request may spend waiting for the controller. With a longer queue no more requests are served,
since the controller is busy in any case, and each has less time left for the device and the way back. With a shorter
one, a burst is refused that could be served in time."""

MIN_WAIT: Final[Nanos] = 2 * MILLISECOND
"""A wait that is shorter than this is no reason to refuse by `WAIT_SHARE`."""

PATIENT: Final[Nanos] = 1 * SECOND
"""Requests with a longer SLO wait in a queue of their own, so that a burst of them does not delay the others."""

PATIENT_SHARE: Final = 4
"""One in so many requests that are taken in is a patient one, while both kinds wait."""

MAX_WAITING: Final = 10_000
"""Requests that wait at most, whatever their SLOs."""

SEED_COST: Final[Nanos] = 200 * MICROSECOND
"""Time from one request to the next, until it is measured."""

WEIGHT: Final = 0.005
"""Weight of one request in the moving average of the cost. It spans several turns of an event loop: what is begun in
one turn may be worked on in the next."""

MAX_COST: Final[Nanos] = 20 * MILLISECOND
"""One request is not believed to take longer: the process was stopped, or waited for something else."""

MAX_GROWTH: Final = 4
"""A sample counts as so many times the average at most: one stop of the process must not make an idle server refuse."""

FASTEST_RETRY: Final[Nanos] = 5 * MILLISECOND
"""No client is asked to come back sooner."""


class Shed(Struct, frozen=True):
    """Why a request is refused before the scheduler sees it, and the time after which to retry.

    ``wait``: until the controller could take it in; None: the devices have no room for most requests of its model.
    """

    wait: Nanos | None
    retry_after: Nanos

    @property
    def message(self) -> str:
        """The refusal for people."""
        if self.wait is None:
            return "the devices have no room before the deadline: most requests for the model are refused at present"
        waits = show_duration(self.wait)
        hint = "retry, or set a later deadline"
        return f"the server is overloaded: requests wait {waits} before it can look at them; {hint}"

    def response(self, request_id: int) -> InferResponse:
        """Return the answer to the request with this id."""
        status = int(Status.CONTROLLER_COULD_NOT_START_IN_TIME)
        return InferResponse(request_id, status, self.message, (), RequestTiming(0), None, self.retry_after)


class Shedder:
    """The queue of requests that wait for the controller, as far as its length and pace matter."""

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.urgent = 0  #: requests that wait, with an SLO of at most `PATIENT`
        self.patient = 0  #: requests that wait, with a longer SLO
        self.cost: Nanos = SEED_COST  #: moving average of the time from one request to the next, while some wait
        self._count = 1 / WEIGHT  #: requests taken in, with a decay
        self._time = SEED_COST * self._count  #: and the time that they took
        self._last: Nanos | None = None  #: when requests were taken in last and others were left waiting

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self.urgent + self.patient

    def wait(self, slo: Nanos) -> Nanos:
        """Return how long a request that is queued now waits."""
        if slo > PATIENT:
            return self.waiting * self.cost
        between = min(self.patient, self.urgent // (PATIENT_SHARE - 1))  # patient ones that are taken in before it
        return (self.urgent + between) * self.cost

    def refuses(self, now: Nanos, arrival: Nanos, slo: Nanos, least: Nanos = 0) -> Shed | None:
        """Return why a request must be refused now, or None if it may be queued.

        ``least``: the time that it needs at least once the controller has taken it in.
        """
        if not self.waiting and now + least <= arrival + slo:
            return None
        wait = self.wait(slo)
        allowed = max(int(WAIT_SHARE * slo), MIN_WAIT)
        in_time = wait <= allowed and now + wait + self.cost + least <= arrival + slo
        if in_time and self.waiting < MAX_WAITING:
            return None
        return Shed(now - arrival + wait, max(FASTEST_RETRY, wait))

    def queued(self, slo: Nanos) -> None:
        """One more request waits."""
        if slo > PATIENT:
            self.patient += 1
        else:
            self.urgent += 1

    def withdrawn(self, slo: Nanos) -> None:
        """A request that waited is not wanted any more, or is about to be taken in."""
        if slo > PATIENT:
            self.patient -= 1
        else:
            self.urgent -= 1

    def taken(self, now: Nanos, count: int) -> None:
        """``count`` requests that waited, and were `withdrawn`, were taken in by ``now``."""
        if self._last is not None and count:
            kept = (1 - WEIGHT) ** count
            self._time = kept * self._time + min(now - self._last, count * min(MAX_COST, MAX_GROWTH * self.cost))
            self._count = kept * self._count + count
            self.cost = max(1, int(self._time / self._count))
        self._last = now if self.waiting else None
