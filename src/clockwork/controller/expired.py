"""Answers requests whose deadline passes before a device executes them, with a time-out or with a refusal.

If the SLO is shorter than the model's time on the fastest device, the answer is a refusal, even for a late request. The
reason is that the scheduler would have refused this request in any case.
"""

from collections.abc import Iterable
from typing import Final

from clockwork.controller.events import Respond
from clockwork.controller.guard import request_ids
from clockwork.controller.tally import Counts
from clockwork.messages.actions import DeviceAction, Infer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferRequest, InferResponse, RequestTiming
from clockwork.messages.status import Status
from clockwork.state import PendingRequest
from clockwork.units import Nanos, show_duration

IMPOSSIBLE: Final = "no device can meet this SLO: the fastest needs {time}"
"""Message of the refusal if the SLO of a request is shorter than the model's execution time."""


def expired_at_arrival(
    now: Nanos, counts: Counts, client_id: int, request: InferRequest, waited: Nanos, slo: Nanos, fastest: Nanos
) -> tuple[Respond, RefusalReason]:
    """Answer a request whose deadline has passed before the controller handles it, and count it.

    Return the response, and the reason if the response is a refusal.

    ``waited`` is the time since the request's arrival. ``fastest`` is the model's time on the fastest device.
    """
    timing = RequestTiming(waited)
    predicted: Nanos | None
    if fastest > slo:
        status, text = Status.CONTROLLER_COULD_NOT_START_IN_TIME, IMPOSSIBLE.format(time=show_duration(fastest))
        reason = RefusalReason.DEVICE_TOO_SLOW
        counts.answered(now, status, waited, slo, reason=reason)
        predicted = waited + fastest
    else:
        counts.answered(now, Status.TIMEOUT, waited, slo)
        counts.late_ns += waited - slo
        status, predicted, reason = Status.TIMEOUT, None, RefusalReason.OTHER
        text = (
            f"the deadline passed before the controller handled the request, {show_duration(waited)} after its first "
            "byte arrived: the request took long to receive, or the server is overloaded"
        )
    response = InferResponse(request.id, int(status), text, (), timing, predicted, request_id=request.request_id)
    return Respond(client_id, response), reason


def impossible_slo(request: PendingRequest, sent: Iterable[DeviceAction]) -> Nanos | None:
    """If the request's SLO is shorter than the model's time on the fastest device, return this time, else None.

    ``sent`` are the unfinished actions of the devices. If one of these actions contains the request, return None.
    """
    if request.promised is not None or not request.model.profiles:
        return None
    fastest = request.model.infer_estimate(request.batch_size)
    if fastest <= request.deadline - request.arrival:
        return None
    if any(isinstance(action, Infer) and request.id in request_ids(action) for action in sent):
        return None
    return fastest
