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

An error message says what was wrong, what was found or which limit applies, and what to do. The exceptions know nothing
about HTTP and gRPC.
"""


class ClockworkError(Exception):
    """The base class of all exceptions that Clockwork raises on purpose."""

    status: int | None = None
    """The `clockwork.messages.status.Status` of a server's response, if the error comes from one."""

    status_name: str | None = None
    """The name of that status, such as ``TIMEOUT``; HTTP and gRPC responses contain it too."""


class InvalidRequestError(ClockworkError):
    """The request is wrong. A retry fails again."""


class UnknownModelError(InvalidRequestError):
    """No served model has this name."""


class InvalidModelError(InvalidRequestError):
    """The model file is missing, broken, of an unsupported kind, too big, or outside the model root."""


class NotPermittedError(ClockworkError):
    """The server needs a token: the token is missing or unknown, or does not give the right."""


class DeadlineError(ClockworkError):
    """The deadline passed, or would be missed."""

    predicted: float | None = None
    """The predicted completion in seconds after the request's arrival; None: unknown."""

    retry_after: float | None = None
    """The retry time in seconds; None: unknown."""


class RequestTimeoutError(DeadlineError):
    """The deadline passed before there was a response."""


class RequestRefusedError(DeadlineError):
    """The request was refused before its deadline: the deadline would be missed, or the server is full."""


class InitializingError(ClockworkError):
    """The server is still starting up."""


class ServerError(ClockworkError):
    """The server failed to process a correct request."""


class DeviceLostError(ServerError):
    """A device no longer works, so its worker must end."""


class ConnectionLostError(ClockworkError):
    """The connection could not be made, or ended before the response."""


class ProtocolError(ClockworkError):
    """The peer sent bytes that are not a frame or a known message, or a message of another protocol version."""
