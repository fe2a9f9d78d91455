"""How a request of any kind is told that it is not served now."""

from clockwork.controller.events import Respond
from clockwork.messages.requests import (
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
from clockwork.units import Nanos

Refusable = InferRequest | ListModelsRequest | LoadModelRequest | EvictRequest
"""Requests that can be refused: the others are answered in every stage, or not at all."""


def refusal(client_id: int, request: Refusable, status: Status, text: str, waited: Nanos = 0) -> Respond:
    """The answer to ``request``, in its own kind of response; it has ``waited`` for that."""
    match request:
        case InferRequest():
            return Respond(client_id, InferResponse(request.id, int(status), text, (), RequestTiming(waited)))
        case ListModelsRequest():
            return Respond(client_id, ListModelsResponse(request.id, int(status), text))
        case LoadModelRequest():
            return Respond(client_id, LoadModelResponse(request.id, int(status), text))
        case EvictRequest():
            return Respond(client_id, EvictResponse(request.id, int(status), text))
