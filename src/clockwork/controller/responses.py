"""Makes responses to requests that the controller does not serve."""

from typing import Final

from clockwork.controller.events import Respond
from clockwork.controller.tally import Tally
from clockwork.messages.commands import NO_RETRY
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
    PromoteRequest,
    PromoteResponse,
    RequestTiming,
    ShadowRequest,
    ShadowResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.status import Status
from clockwork.units import Nanos

Refusable = (
    InferRequest
    | ListModelsRequest
    | LoadModelRequest
    | UnloadModelRequest
    | PromoteRequest
    | ShadowRequest
    | EvictRequest
)
"""The types of requests that can be refused. All other types are answered in every stage, or need no response."""


_WORTH_RETRYING: Final = frozenset(
    {Status.INITIALIZING, Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME}
)


def retry_time(status: int, known: Nanos | None = None) -> Nanos | None:
    """Return the retry time for a response with this status.

    If a retry time is ``known``, the result is this time. Otherwise, if ``status`` means that a retry may succeed, the
    result is a default. In all other cases, and if waiting does not help (``known`` is `NO_RETRY`), the result is None.
    """
    if known == NO_RETRY:
        return None
    return DEFAULT_RETRY if known is None and status in _WORTH_RETRYING else known


def count_refusals(tally: Tally, refusals: list[Respond]) -> list[Respond]:
    """Count the refusals of InferRequests whose model was not looked up. Return the same refusals."""
    for refused in refusals:
        if isinstance(refused.response, InferResponse):
            tally.count_without_model(refused.response.status)
    return refusals


def refusal_response(
    client_id: int,
    request: Refusable,
    status: Status,
    text: str,
    waited: Nanos = 0,
    retry_after: Nanos | None = None,
) -> Respond:
    """Return the response that refuses ``request``.

    ``waited`` is the time since the request's arrival. ``retry_after`` is the retry time, `NO_RETRY`, or None if
    unknown.
    """
    match request:
        case InferRequest():
            infer_response = InferResponse(
                id=request.id,
                status=int(status),
                message=text,
                outputs=(),
                timing=RequestTiming(waited),
                retry_after=retry_time(status, retry_after),
                request_id=request.request_id,
            )
            return Respond(client_id, infer_response)
        case ListModelsRequest():
            return Respond(client_id, ListModelsResponse(request.id, int(status), text))
        case LoadModelRequest():
            return Respond(client_id, LoadModelResponse(request.id, int(status), text))
        case UnloadModelRequest():
            return Respond(client_id, UnloadModelResponse(request.id, int(status), text))
        case PromoteRequest():
            return Respond(client_id, PromoteResponse(request.id, int(status), text))
        case ShadowRequest():
            return Respond(client_id, ShadowResponse(request.id, int(status), text))
        case EvictRequest():
            return Respond(client_id, EvictResponse(request.id, int(status), text))
