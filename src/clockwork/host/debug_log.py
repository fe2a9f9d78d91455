"""Writes debug lines about requests, actions and results. These lines are too many for any other level.

The functions return at once if debug lines are not logged.
"""

import logging
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.host.log_events import event_fields
from clockwork.messages.actions import Action, EvictWeights, Infer, LoadWeights
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.results import ErrorResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status, status_name
from clockwork.units import FOREVER, MILLISECOND, Nanos

log: Final = logging.getLogger("clockwork.controller")


def request_arrived(request: InferRequest, client_id: int) -> None:
    """Log a request that is passed to the controller's machine."""
    if log.isEnabledFor(logging.DEBUG):
        slo = "the default SLO" if request.slo is None else f"an SLO of {_ms(request.slo)}"
        extra = event_fields("request", request=request.request_id, model=request.model, client=client_id)
        log.debug("request %s for %s arrived with %s", request.request_id, request.model, slo, extra=extra)


def request_answered(response: InferResponse) -> None:
    """Log a response that is sent to a client."""
    if log.isEnabledFor(logging.DEBUG):
        status, total = status_name(response.status), response.timing.total
        predicted = "none" if response.predicted is None else _ms(response.predicted)
        extra = event_fields(
            "response",
            request=response.request_id,
            status=status,
            total_ns=total,
            predicted_ns=response.predicted,
            reason=response.message,
        )
        text = "request %s: %s after %s; predicted completion: %s%s"
        reason = f"; {response.message}" if response.message else ""
        log.debug(text, response.request_id, status, _ms(total), predicted, reason, extra=extra)


def action_sent(clock: Clock, worker: str, action: Action) -> None:
    """Log an action that is sent to a worker. The action's times are of ``clock``."""
    if log.isEnabledFor(logging.DEBUG):
        name, fields = type(action).__name__, _fields(action)
        text = "action %d to worker %s: %s%s%s"
        extra = event_fields("action", worker=worker, action=action.id, kind=name, **fields)
        shown = "".join(f" {key}={value}" for key, value in fields.items())
        log.debug(text, action.id, worker, name, shown, _window(clock.now(), action), extra=extra)


def result_arrived(worker: str, result: Result) -> None:
    """Log a result from a worker."""
    if log.isEnabledFor(logging.DEBUG):
        status = status_name(result.status if isinstance(result, ErrorResult) else Status.SUCCESS)
        took: Nanos | None = None
        if isinstance(result, InferResult):
            took = result.exec.end - result.exec.begin
        elif isinstance(result, LoadWeightsResult):
            took = result.timing.end - result.timing.begin
        extra = event_fields("result", worker=worker, action=result.id, status=status, took_ns=took)
        duration = "" if took is None else f" in {_ms(took)}"
        log.debug("action %d on worker %s: %s%s", result.id, worker, status, duration, extra=extra)


def _fields(action: Action) -> dict[str, Any]:
    match action:
        case Infer():
            return {"gpu": action.gpu, "model": action.model, "batch_size": action.batch_size}
        case LoadWeights() | EvictWeights():
            return {"gpu": action.gpu, "model": action.model}
    return {}


def _window(now: Nanos, action: Action) -> str:
    """Return the time window of an action relative to ``now``, or an empty string if it has none."""
    if not isinstance(action, Infer | LoadWeights | EvictWeights) or action.latest >= FOREVER:
        return ""
    begin = max(0, action.earliest - now)
    return f", to start between {_ms(begin)} and {_ms(action.latest - now)} from now"


def _ms(duration: Nanos) -> str:
    return f"{duration / MILLISECOND:.3f} ms"
