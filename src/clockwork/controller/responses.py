"""How a request of any kind is told that it is not served now."""

from typing import Final

from clockwork.controller.events import Respond
from clockwork.controller.tally import Tally
from clockwork.messages.requests import (
    DEFAULT_RETRY,
    EvictRequest,
    EvictResponse,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    RequestTiming,
)
from clockwork.messages.status import Status
from clockwork.units import Nanos, show_duration

Refusable = InferRequest | ListModelsRequest | LoadModelRequest | EvictRequest
"""Requests that can be refused: the others are answered in every stage, or not at all."""


_COMES_BACK: Final = frozenset(
    {Status.INITIALIZING, Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME}
)


def retry_time(status: int, known: Nanos | None = None) -> Nanos | None:
    """When a client that gets ``status`` should come back: ``known``, else a default if the server cannot serve now."""
    return DEFAULT_RETRY if known is None and status in _COMES_BACK else known


def count_refusals(tally: Tally, refusals: list[Respond]) -> list[Respond]:
    """Count the requests that the buffer refuses before their models are known."""
    for refused in refusals:
        if isinstance(refused.response, InferResponse):
            tally.count_without_model(refused.response.status)
    return refusals


def refusal_response(client_id: int, request: Refusable, status: Status, text: str, waited: Nanos = 0) -> Respond:
    """The answer to ``request``, in its own kind of response; it has ``waited`` for that."""
    match request:
        case InferRequest():
            timing, retry = RequestTiming(waited), retry_time(status)
            return Respond(client_id, InferResponse(request.id, int(status), text, (), timing, retry_after=retry))
        case ListModelsRequest():
            return Respond(client_id, ListModelsResponse(request.id, int(status), text))
        case LoadModelRequest():
            return Respond(client_id, LoadModelResponse(request.id, int(status), text))
        case EvictRequest():
            return Respond(client_id, EvictResponse(request.id, int(status), text))


def timeout_response(client_id: int, request_id: int, waited: Nanos) -> Respond:
    """The answer to a request whose deadline has passed before the controller handles it."""
    text = (
        f"the deadline passed before the controller handled the request, {show_duration(waited)} after its first byte "
        "came: it took long to receive, or the server is overloaded"
    )
    return Respond(client_id, InferResponse(request_id, int(Status.TIMEOUT), text, (), RequestTiming(waited)))
