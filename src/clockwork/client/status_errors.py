"""The exceptions that clients raise when a response reports an error."""

from collections.abc import Mapping
from typing import Final

from clockwork.errors import (
    ClockworkError,
    DeadlineError,
    InitializingError,
    InvalidModelError,
    InvalidRequestError,
    NotPermittedError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
)
from clockwork.messages.status import Status, status_name
from clockwork.units import Nanos, as_seconds

EXCEPTIONS: Final[Mapping[int, type[ClockworkError]]] = {
    Status.TIMEOUT: RequestTimeoutError,
    Status.INITIALIZING: InitializingError,
    Status.INVALID_REQUEST: InvalidRequestError,
    Status.SKIPPED_BY_CONTROLLER: RequestRefusedError,
    Status.CONTROLLER_COULD_NOT_START_IN_TIME: RequestRefusedError,
    Status.UNKNOWN_MODEL: UnknownModelError,
    Status.INVALID_INPUT: InvalidRequestError,
    Status.INVALID_BATCH_SIZE: InvalidRequestError,
    Status.INVALID_MODEL_NAME: InvalidModelError,
    Status.INVALID_MODEL_PATH: InvalidModelError,
    Status.INVALID_MODEL: InvalidModelError,
    Status.MODEL_TOO_BIG: InvalidModelError,
    Status.NOT_AUTHENTICATED: NotPermittedError,
    Status.NOT_PERMITTED: NotPermittedError,
}
"""The exception for each status. For a status that is not in this table, `ServerError` is raised."""


def error_for_status(
    status: int,
    message: str,
    predicted: Nanos | None = None,
    retry_after: Nanos | None = None,
    request_id: str = "",
) -> ClockworkError:
    """Return the exception for a status other than SUCCESS.

    ``predicted`` and ``retry_after`` are in nanoseconds; the exception has them in seconds.
    """
    error = EXCEPTIONS.get(status, ServerError)(message)
    error.status, error.status_name, error.request_id = status, status_name(status), request_id
    if isinstance(error, DeadlineError):
        error.predicted = None if predicted is None else as_seconds(predicted)
        error.retry_after = None if retry_after is None else as_seconds(retry_after)
    return error
