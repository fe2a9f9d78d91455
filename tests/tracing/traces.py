"""Makes traces for tests."""

from clockwork.messages.requests import InferResponse, RequestTiming
from clockwork.messages.status import Status
from clockwork.tracing.trace import Call, Trace
from clockwork.units import Nanos, ms

CALL = Call("POST /infer", {"http.request.method": "POST"})


def ended(
    status: Status = Status.SUCCESS, timing: RequestTiming | None = None, number: int = 1, end: Nanos = ms(20)
) -> Trace:
    """Return a trace of a request that arrived at the time 0. Without ``timing``, the controller has not answered."""
    trace = Trace(number, 2, 3, None, True, 0, CALL)
    if timing is not None:
        message = "" if status == Status.SUCCESS else "why"
        trace.response = InferResponse(1, int(status), message, (), timing, ms(15), request_id="r")
        trace.model, trace.pending = "m", True
    trace.passed, trace.end, trace.code = ms(1), end, "200"
    return trace


def executed(number: int = 1) -> Trace:
    """Return a trace of a request that was executed for 4 ms."""
    return ended(timing=RequestTiming(total=ms(18), queue=ms(10), exec=ms(4), batch_size=2), number=number)
