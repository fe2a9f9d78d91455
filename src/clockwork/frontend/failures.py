"""Creates the `Failure` that a client receives for an exception, or for a refusal by an overloaded server."""

import logging

from clockwork.controller.shedding import Shed
from clockwork.errors import (
    ConnectionLostError,
    InvalidRequestError,
    NotPermittedError,
    RequestRefusedError,
    ServerError,
)
from clockwork.messages.requests import DEFAULT_RETRY
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure, RequestFailedError


def failure_of_error(error: Exception, log: logging.Logger) -> Failure:
    """Return the failure for an exception.

    An unexpected exception is logged, and the failure does not contain its text.
    """
    match error:
        case RequestFailedError():
            return error.failure
        case InvalidRequestError():
            return Failure.from_status(Status.INVALID_REQUEST, str(error))
        case NotPermittedError():
            return Failure.from_denial(error)
        case RequestRefusedError():
            return Failure.from_status(Status.SKIPPED_BY_CONTROLLER, str(error), retry_after=DEFAULT_RETRY)
        case ServerError():
            return Failure.from_status(Status.ERROR, str(error))
        case ConnectionLostError():
            return Failure.from_status(Status.SHUTTING_DOWN, "the server is shutting down")
    log.error("a request failed unexpectedly", exc_info=error)
    return Failure.from_status(Status.ERROR, "the server failed; see its log")


def failure_of_shed(shed: Shed) -> Failure:
    """Return the failure for a request that the server refuses because it is overloaded."""
    status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
    return Failure.from_status(status, shed.message, retry_after=shed.retry_after, request_id=shed.request_id)
