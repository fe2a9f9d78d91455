"""One traced request: what is noted while the request is served, and the parts of its time.

All times are in nanoseconds of `clockwork.clock.MonotonicClock`.
"""

from typing import Any, Final

from msgspec import Struct

from clockwork.messages.requests import InferRequest, InferResponse, RequestTiming, cancelled_response
from clockwork.messages.results import Timing
from clockwork.state import PendingRequest
from clockwork.tracing.context import Parent
from clockwork.units import Nanos

ADMISSION: Final = "admission"
QUEUE: Final = "queue"
LOAD: Final = "load"
EXEC: Final = "exec"
OUTPUT: Final = "output"


class Phase(Struct, frozen=True):
    """A part of a request's time."""

    name: str
    begin: Nanos
    end: Nanos


class Call(Struct, frozen=True):
    """The call of a client, by the semantic conventions of its protocol.

    ``name`` is the name of the span, and ``attributes`` are known before the response.
    """

    name: str
    attributes: dict[str, Any]


class Trace:
    """A request that may be exported.

    - ``trace_id``, ``span_id``, ``exec_id``: the ids of the trace, and of the spans that other spans refer to
    - ``parent``: the client's span; None if the client sent no trace context
    - ``sampled``: whether the request is exported. The tracer may decide this only when the response is known.
    - ``arrival``: when the request reached this machine
    - ``model``, ``passed``: the model that the front end passed to the controller, and when; empty and 0 if the front
      end did not pass the request on
    - ``end``: when the response was sent
    - ``code``: the HTTP status or the gRPC status of the response
    - ``is_error``: whether the code counts as an error in the semantic conventions
    - ``request``, ``response``, ``reason``: what the controller has answered, and why it refused the request
    - ``pending``: whether the request became pending
    - ``loaded``: the load of weights for which the request waited
    - ``links``: the trace ids and the ids of the ``exec`` spans of the traced requests of the same batch
    """

    __slots__ = (
        "action",
        "arrival",
        "call",
        "code",
        "cold_start",
        "decided",
        "device",
        "end",
        "exec_id",
        "is_error",
        "links",
        "loaded",
        "model",
        "parent",
        "passed",
        "pending",
        "reason",
        "response",
        "sampled",
        "slo",
        "span_id",
        "trace_id",
    )

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        exec_id: int,
        parent: Parent | None,
        sampled: bool,
        arrival: Nanos,
        call: Call,
    ) -> None:
        """Create a trace of a request that has just arrived."""
        self.trace_id = trace_id
        self.span_id = span_id
        self.exec_id = exec_id
        self.parent = parent
        self.sampled = sampled
        self.arrival = arrival
        self.call = call
        self.passed: Nanos = 0
        self.end: Nanos = 0
        self.code = ""
        self.is_error = False
        self.response: InferResponse | None = None
        self.reason = ""
        self.model = ""
        self.pending = False
        self.slo: Nanos = 0
        self.decided: Nanos = 0  #: when the scheduler decided about the request; 0 if this is unknown
        self.device = ""
        self.action = 0
        self.cold_start = False
        self.loaded: Timing | None = None
        self.links: list[tuple[int, int]] = []

    def answered(self, response: InferResponse, request: PendingRequest | None, reason: str) -> None:
        """Note what the controller has answered. ``request`` is None if the request did not become pending.

        The trace does not keep the request, because the request may keep its payload.
        """
        self.response = response
        self.reason = reason
        if request is None:
            return
        self.pending = True
        self.slo = request.deadline - request.arrival
        self.cold_start = request.cold_start
        if request.verdict is not None:
            self.decided = request.verdict.at
        if request.sent is not None:
            self.device, self.action = request.sent.device, request.sent.id

    def cancelled(self, request: InferRequest, waited: Nanos) -> None:
        """Note that the client has cancelled a request that the controller had. ``waited`` is since its arrival."""
        self.response = cancelled_response(request.id, request.request_id, RequestTiming(waited))
        self.pending = True

    @property
    def executed(self) -> bool:
        """Whether a device executed the request."""
        return self.response is not None and self.response.timing.batch_size > 0

    @property
    def refused_at_once(self) -> bool:
        """Whether the request was refused without waiting in a queue."""
        if self.response is None or not self.pending:
            return True
        return bool(self.reason) and not (self.executed or self.response.admitted)

    @property
    def spans(self) -> int:
        """Number of the trace's spans."""
        if self.response is None:
            return 2
        if self.refused_at_once:
            return 3
        loads = 0
        if self.loaded is not None:
            loads = sum(load_phase(self, part) is not None for part in phases(self))
        return (5 if self.executed else 4) + loads


def phases(trace: Trace) -> list[Phase]:
    """Return the parts of the time of a request that has ended, in order. Their sum is the whole time.

    - ``admission``: until the scheduler decided about the request. This includes the time in which the server read and
      parsed the request.
    - ``queue``: until a device began to execute the request
    - ``exec``: while the device executed the batch
    - ``output``: until the response was sent
    """
    begin, end = trace.arrival, trace.end
    response = trace.response
    if response is None:
        return [Phase(ADMISSION, begin, end)]
    timing = response.timing
    ends: list[tuple[str, Nanos]] = []
    if trace.refused_at_once:
        ends.append((ADMISSION, begin + timing.total))
    else:
        ends.append((ADMISSION, trace.decided or trace.passed))
        if trace.executed:
            ends += [(QUEUE, begin + timing.queue), (EXEC, begin + timing.queue + timing.exec)]
        else:
            ends.append((QUEUE, begin + timing.total))
    latest = [min(end, max(begin, at)) for _, at in ends]
    for place in range(len(latest) - 2, -1, -1):  # a decision may be later than the begin of the batch that it changed
        latest[place] = min(latest[place], latest[place + 1])
    found = []
    for (name, _), until in zip(ends, latest, strict=True):
        found.append(Phase(name, begin, until))
        begin = until
    return [*found, Phase(OUTPUT, begin, end)]


def load_phase(trace: Trace, queue: Phase) -> Phase | None:
    """Return the load of weights within a queue, or None for other phases and if the request waited for no load."""
    loaded = trace.loaded
    if queue.name != QUEUE or loaded is None or loaded.end <= queue.begin or loaded.begin >= queue.end:
        return None
    return Phase(LOAD, max(loaded.begin, queue.begin), min(loaded.end, queue.end))
