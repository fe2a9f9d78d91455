"""How an answer that is no success is told over HTTP and gRPC: one contract for both.

Refused because the deadline cannot be met, or the server is full: 503 with Retry-After, RESOURCE_EXHAUSTED. The
deadline has passed: 504, DEADLINE_EXCEEDED. Starting up, or shutting down: 503, UNAVAILABLE. A wrong request: 400,
INVALID_ARGUMENT. An unknown model: 404, NOT_FOUND. No token, or an unknown one: 401, UNAUTHENTICATED; one that does not
suffice: 403, PERMISSION_DENIED. Anything else: 500, INTERNAL.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from clockwork.errors import NotPermittedError
from clockwork.messages.requests import DEFAULT_RETRY, InferResponse
from clockwork.messages.status import Status, status_name
from clockwork.units import MILLISECOND, SECOND, Nanos


class Failure(Struct, frozen=True):
    """What a client is told: an HTTP status, the name of a gRPC code, and when to ask again, if it is known."""

    http: int
    grpc: str
    message: str
    status: int
    predicted: Nanos | None = None
    retry_after: Nanos | None = None

    def body(self) -> dict[str, Any]:
        """As JSON: the protocol's ``error``, and what Clockwork knows; times in milliseconds."""
        made: dict[str, Any] = {"error": self.message, "status": self.status, "status_name": status_name(self.status)}
        if self.predicted is not None:
            made["predicted_ms"] = self.predicted / MILLISECOND
        if self.retry_after is not None:
            made["retry_after_ms"] = self.retry_after / MILLISECOND
        return made

    def retry_after_s(self) -> str | None:
        """The header Retry-After, whole seconds and at least one (RFC 9110, section 10.2.3)."""
        return None if self.retry_after is None else str(max(1, -(-self.retry_after // SECOND)))


MAX_PRIORITY: Final = 2**64 - 1
"""Triton's schedule policy extension: a priority is an unsigned integer of 64 bits."""

_CODES: Final[Mapping[int, tuple[int, str]]] = {
    Status.TIMEOUT: (504, "DEADLINE_EXCEEDED"),
    Status.INITIALIZING: (503, "UNAVAILABLE"),
    Status.SHUTTING_DOWN: (503, "UNAVAILABLE"),
    Status.INVALID_REQUEST: (400, "INVALID_ARGUMENT"),
    Status.INVALID_INPUT: (400, "INVALID_ARGUMENT"),
    Status.INVALID_BATCH_SIZE: (400, "INVALID_ARGUMENT"),
    Status.SKIPPED_BY_CONTROLLER: (503, "RESOURCE_EXHAUSTED"),
    Status.CONTROLLER_COULD_NOT_START_IN_TIME: (503, "RESOURCE_EXHAUSTED"),
    Status.CANCELLED: (499, "CANCELLED"),
    Status.UNKNOWN_MODEL: (404, "NOT_FOUND"),
    Status.INVALID_MODEL_NAME: (400, "INVALID_ARGUMENT"),
    Status.INVALID_MODEL_PATH: (400, "INVALID_ARGUMENT"),
    Status.INVALID_MODEL: (400, "INVALID_ARGUMENT"),
    Status.MODEL_TOO_BIG: (400, "INVALID_ARGUMENT"),
    Status.NOT_AUTHENTICATED: (401, "UNAUTHENTICATED"),
    Status.NOT_PERMITTED: (403, "PERMISSION_DENIED"),
}


def failure_of(response: InferResponse) -> Failure:
    """What a client is told whose request did not succeed."""
    return failure(response.status, response.message, response.predicted, response.retry_after)


def failure(status: int, message: str, predicted: Nanos | None = None, retry_after: Nanos | None = None) -> Failure:
    """What a client is told of a status."""
    http, grpc = _CODES.get(status, (500, "INTERNAL"))
    return Failure(http, grpc, message or status_name(status), status, predicted, retry_after)


def no_device(model: str) -> Failure:
    """What a client that asks whether a model is ready is told if no device can serve the model now."""
    text = f"model {model!r} is not ready: no worker that can serve it answers; retry later"
    return failure(Status.SKIPPED_BY_CONTROLLER, text, retry_after=DEFAULT_RETRY)


def http_statuses() -> set[int]:
    """Those of answers that are no success."""
    return {500, *(http for http, _ in _CODES.values())}


def denial(error: NotPermittedError) -> Failure:
    """What a client is told who is not permitted to ask."""
    return failure(error.status or Status.NOT_AUTHENTICATED, str(error))


def slo_of(parameters: Mapping[str, Any], *others: Nanos | None) -> Nanos | None:
    """The tightest of ``timeout`` (microseconds, Triton's), ``slo_ms`` and ``others``; None: the server's default.

    A timeout of 0 is none, as with Triton.

    Raises:
        ValueError: one is not a number, or negative, or an ``slo_ms`` of zero.
    """
    limits = [limit for limit in others if limit is not None]
    timeout = parameters.get("timeout")
    if timeout is not None and (value := _number("timeout", timeout)):
        limits.append(round(value * 1000))
    slo = parameters.get("slo_ms")
    if slo is not None:
        value = _number("slo_ms", slo)
        if not value:
            raise ValueError("slo_ms is 0; it must be a positive number of milliseconds")
        limits.append(round(value * MILLISECOND))
    return max(1, min(limits)) if limits else None


def check_priority(parameters: Mapping[str, Any]) -> None:
    """Triton's ``priority``: 0 is the model's default, 1 the highest. Checked, and without effect: deadlines order.

    Raises:
        ValueError: it is none.
    """
    priority = parameters.get("priority")
    if priority is not None and (type(priority) is not int or not 0 <= priority <= MAX_PRIORITY):
        raise ValueError(f"priority is {priority!r}; it must be an integer from 0 to {MAX_PRIORITY}")


def check_supported(parameters: Mapping[str, Any]) -> None:
    """Sequences would change the answer, and there are none.

    Raises:
        ValueError: one is asked for.
    """
    for name in _SEQUENCES:
        if parameters.get(name):
            raise ValueError(f"the parameter {name} is not supported; Clockwork has no sequences")


_SEQUENCES: Final = ("sequence_id", "sequence_start", "sequence_end")

MAX_NUMBER: Final = 1e15
"""No parameter that is a number, of milliseconds or microseconds, is larger."""


def _number(name: str, value: Any) -> float:
    """A number from 0 to `MAX_NUMBER`, also as a text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{name} is {value!r}; it must be a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{name} is {value!r}; it must be a number from 0 to {MAX_NUMBER:g}")
    return float(value)
