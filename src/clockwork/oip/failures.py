"""Reports unsuccessful requests over HTTP and gRPC, with one table for both.

A deadline that cannot be met, or a full server: 503 with Retry-After, RESOURCE_EXHAUSTED. A deadline that has passed:
504, DEADLINE_EXCEEDED. A server that is starting up or shutting down: 503, UNAVAILABLE. A wrong request: 400,
INVALID_ARGUMENT. An unknown model: 404, NOT_FOUND. A missing or unknown token: 401, UNAUTHENTICATED; a token without
the right: 403, PERMISSION_DENIED. A feature that Clockwork lacks: 501, UNIMPLEMENTED. Any other failure: 500, INTERNAL.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from clockwork.errors import ClockworkError, NotPermittedError
from clockwork.messages.requests import InferResponse
from clockwork.messages.status import Status, status_name
from clockwork.units import MILLISECOND, SECOND, Nanos

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


class Failure(Struct, frozen=True):
    """An HTTP status, the name of a gRPC code, Clockwork's status, and the predicted and retry times if known."""

    http: int
    grpc: str
    message: str
    status: int
    predicted: Nanos | None = None
    retry_after: Nanos | None = None

    @classmethod
    def from_status(
        cls, status: int, message: str, predicted: Nanos | None = None, retry_after: Nanos | None = None
    ) -> "Failure":
        """Return the failure that reports a status."""
        http, grpc = _CODES.get(status, (500, "INTERNAL"))
        return cls(http, grpc, message or status_name(status), status, predicted, retry_after)

    @classmethod
    def from_response(cls, response: InferResponse) -> "Failure":
        """Return the failure that reports an unsuccessful inference."""
        return cls.from_status(response.status, response.message, response.predicted, response.retry_after)

    @classmethod
    def from_denial(cls, error: NotPermittedError) -> "Failure":
        """Return the failure of a request without the token that it needs."""
        return cls.from_status(error.status or Status.NOT_AUTHENTICATED, str(error))

    @classmethod
    def unsupported(cls, message: str) -> "Failure":
        """Return the failure of a request for a feature that Clockwork lacks."""
        return cls(501, "UNIMPLEMENTED", message, Status.INVALID_REQUEST)

    def body(self) -> dict[str, Any]:
        """Return the JSON of an HTTP reply: the protocol's ``error``, and Clockwork's fields; times in milliseconds."""
        content: dict[str, Any] = {
            "error": self.message,
            "status": self.status,
            "status_name": status_name(self.status),
        }
        if self.predicted is not None:
            content["predicted_ms"] = self.predicted / MILLISECOND
        if self.retry_after is not None:
            content["retry_after_ms"] = self.retry_after / MILLISECOND
        return content

    def retry_after_s(self) -> str | None:
        """Return the header Retry-After: whole seconds, at least one (RFC 9110, section 10.2.3)."""
        return None if self.retry_after is None else str(max(1, -(-self.retry_after // SECOND)))


class RequestFailedError(ClockworkError):
    """Ends a request over HTTP or gRPC with a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        """Take the message from the failure."""
        super().__init__(failure.message)
        self.failure = failure


def bad_request(message: str, http: int = 400) -> RequestFailedError:
    """Return the error for a wrong request; ``http`` is its status."""
    return RequestFailedError(Failure(http, "INVALID_ARGUMENT", message, Status.INVALID_REQUEST))


def http_statuses() -> set[int]:
    """Return the HTTP statuses of all Clockwork statuses but success."""
    return {500, *(http for http, _ in _CODES.values())}
