"""Chooses the `Failure` that reports an exception, or a request that an overloaded server refuses."""

import logging

from clockwork.controller.shedding import Shed
from clockwork.errors import ConnectionLostError, InvalidRequestError, NotPermittedError
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure, RequestFailedError


def failure_of_error(error: Exception, log: logging.Logger) -> Failure:
    """Return the failure for an exception; an unexpected one is logged, and its text is not sent to the client."""
    match error:
        case RequestFailedError():
            return error.failure
        case InvalidRequestError():
            return Failure.from_status(Status.INVALID_REQUEST, str(error))
        case NotPermittedError():
            return Failure.from_denial(error)
        case ConnectionLostError():
            return Failure.from_status(Status.SHUTTING_DOWN, "the server is shutting down")
    log.error("a request failed unexpectedly", exc_info=error)
    return Failure.from_status(Status.ERROR, "the server failed; see its log")


def failure_of_shed(shed: Shed) -> Failure:
    """Return the failure for a request that is refused before anything is done for it."""
    status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
    return Failure.from_status(status, shed.message, retry_after=shed.retry_after)
