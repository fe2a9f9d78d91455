"""The exceptions that Clockwork raises.

::

    ClockworkError
    +-- InvalidRequestError        the request is wrong: a name, a type, a shape, a path, a size
    |   +-- UnknownModelError      no served model has this name
    |   +-- InvalidModelError      a model file is missing, broken, unsupported or outside the model root
    +-- DeadlineError              the deadline passed, or would be missed
    |   +-- RequestTimeoutError    the deadline passed
    |   +-- RequestRefusedError    refused before the deadline: it would be missed, or the server is full
    +-- NotPermittedError          a token is missing or unknown, or does not give the right
    +-- InitializingError          the server is starting up
    +-- ServerError                the server failed to process a correct request
    |   +-- DeviceLostError        a device no longer works, so its worker must end
    +-- ConnectionLostError        a connection ended, or could not be made
    +-- ProtocolError              bytes that are not a frame or message, or have another version

An error message names the fault, the value that was found or the limit, and a remedy. The exceptions do not depend on
HTTP or gRPC.
"""


class ClockworkError(Exception):
    """The base class of all exceptions that Clockwork defines."""

    status: int | None = None
    """The status of the server's response (`clockwork.messages.status.Status`), or None if there was no response."""

    status_name: str | None = None
    """The name of the status, such as ``TIMEOUT``. HTTP and gRPC responses also contain this name."""

    request_id: str = ""
    """The id under which the server has recorded the inference request; empty if there was no such request."""


class InvalidRequestError(ClockworkError):
    """Raised if the request is wrong. A retry would fail again."""


class UnknownModelError(InvalidRequestError):
    """Raised if the server does not serve a model with this name."""


class InvalidModelError(InvalidRequestError):
    """Raised if the model file is missing, broken, of an unsupported kind, too big, or outside the model root."""


class NotPermittedError(ClockworkError):
    """Raised if the server needs a token, but the token is missing, unknown or does not give the right."""


class DeadlineError(ClockworkError):
    """Raised if the deadline has passed, or if the request would miss it."""

    predicted: float | None = None
    """The predicted completion in seconds after the request's arrival, or None if it is unknown."""

    retry_after: float | None = None
    """The retry time in seconds from now, or None if it is unknown."""


class RequestTimeoutError(DeadlineError):
    """Raised if the deadline passed before the request had a response."""


class RequestRefusedError(DeadlineError):
    """Raised if the request was refused before its deadline, because it would be late or the server is full."""


class InitializingError(ClockworkError):
    """Raised if the server is still starting up."""


class ServerError(ClockworkError):
    """Raised if the server failed to process a correct request."""


class DeviceLostError(ServerError):
    """Raised if a device no longer works, so that its worker must end."""


class ConnectionLostError(ClockworkError):
    """Raised if the connection could not be made, or ended before the response."""


class OtherVersionError(ConnectionLostError):
    """Raised if the connection could not be made because the peers use different versions of the protocol."""


class ProtocolError(ClockworkError):
    """Raised if the peer sends bytes that are no frame or known message."""
