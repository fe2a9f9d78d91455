"""Maps failures of requests to HTTP statuses and gRPC codes. Both transports use the same table.

==================================================  =====  ===================
failure                                             HTTP   gRPC
==================================================  =====  ===================
the deadline cannot be met, or the server is full   503    RESOURCE_EXHAUSTED
the deadline has passed                             504    DEADLINE_EXCEEDED
the server is starting up or shutting down          503    UNAVAILABLE
the request is wrong                                400    INVALID_ARGUMENT
the model is unknown                                404    NOT_FOUND
the token is missing or unknown                     401    UNAUTHENTICATED
the token does not give the right                   403    PERMISSION_DENIED
Clockwork lacks the feature                         501    UNIMPLEMENTED
any other failure                                   500    INTERNAL
==================================================  =====  ===================
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
    """A failed request, as it is reported to the client.

    A failure has an HTTP status, the name of a gRPC code, a message and Clockwork's status. A failure may also have the
    predicted completion, the retry time and the request's id.
    """

    http: int
    grpc: str
    message: str
    status: int
    predicted: Nanos | None = None
    retry_after: Nanos | None = None
    request_id: str = ""

    @classmethod
    def from_status(
        cls,
        status: int,
        message: str,
        predicted: Nanos | None = None,
        retry_after: Nanos | None = None,
        request_id: str = "",
    ) -> "Failure":
        """Return the failure that reports one of Clockwork's statuses."""
        http, grpc = _CODES.get(status, (500, "INTERNAL"))
        return cls(http, grpc, message or status_name(status), status, predicted, retry_after, request_id)

    @classmethod
    def from_response(cls, response: InferResponse) -> "Failure":
        """Return the failure that reports an unsuccessful inference, from the controller's response."""
        return cls.from_status(
            response.status, response.message, response.predicted, response.retry_after, response.request_id
        )

    @classmethod
    def from_denial(cls, error: NotPermittedError) -> "Failure":
        """Return the failure of a request whose token is missing, unknown or lacks the right."""
        return cls.from_status(error.status or Status.NOT_AUTHENTICATED, str(error))

    @classmethod
    def unsupported(cls, message: str) -> "Failure":
        """Return the failure of a request that needs a feature which Clockwork lacks."""
        return cls(501, "UNIMPLEMENTED", message, Status.INVALID_REQUEST)

    def body(self) -> dict[str, Any]:
        """Return the content of an HTTP reply's JSON. Times are in milliseconds.

        The JSON has the protocol's field ``error``, and further fields that Clockwork defines.
        """
        content: dict[str, Any] = {
            "error": self.message,
            "status": self.status,
            "status_name": status_name(self.status),
        }
        if self.predicted is not None:
            content["predicted_ms"] = self.predicted / MILLISECOND
        if self.retry_after is not None:
            content["retry_after_ms"] = self.retry_after / MILLISECOND
        if self.request_id:
            content["id"] = self.request_id
        return content

    def retry_after_s(self) -> str | None:
        """Return the value of the header Retry-After, or None if there is no retry time.

        The value is in whole seconds, and at least 1 (RFC 9110, section 10.2.3).
        """
        return None if self.retry_after is None else str(max(1, -(-self.retry_after // SECOND)))


class RequestFailedError(ClockworkError):
    """The exception that ends an HTTP or gRPC request with a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        """Create an exception with the message of the failure."""
        super().__init__(failure.message)
        self.failure = failure


def bad_request(message: str, http: int = 400) -> RequestFailedError:
    """Return the error for a wrong request. ``http`` is the HTTP status."""
    return RequestFailedError(Failure(http, "INVALID_ARGUMENT", message, Status.INVALID_REQUEST))


def http_statuses() -> set[int]:
    """Return all HTTP statuses that a failed request can have."""
    return {500, *(http for http, _ in _CODES.values())}
