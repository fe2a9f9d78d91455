"""Responses and results of a served cluster, for tests of the SERVING stage."""

from clockwork.messages.actions import Action, Infer
from clockwork.messages.requests import InferResponse, ServerStatus, StatusRequest, StatusResponse
from clockwork.messages.results import InferOutput, InferResult, Timing
from cluster import Cluster
from fake_worker import File

FILES = {"a.onnx": File()}
LATE = "the deadline passed before the response was ready"


def infer_response(cluster: Cluster, number: int, client_id: int = 1) -> InferResponse:
    """Return the response to a client's request. The response must already exist."""
    response = cluster.answer(number, client_id)
    assert isinstance(response, InferResponse)
    return response


def result_of(action: Action) -> tuple[InferResult, tuple[object, ...]]:
    """Return the result of an Infer that succeeds, and its payloads."""
    assert isinstance(action, Infer)
    took = Timing(0, 0, 0)
    outputs = tuple(InferOutput(share.request_id, ()) for share in action.inputs)
    return InferResult(action.id, outputs, took, took, took), tuple("output" for _ in outputs)


def status_of(cluster: Cluster, number: int) -> ServerStatus:
    """Return the server's status. ``number`` is the id of the status request."""
    cluster.ask(StatusRequest(number))
    response = cluster.answer(number)
    assert isinstance(response, StatusResponse)
    return response.server
