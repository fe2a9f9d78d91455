"""The exception tree.

::

    ClockworkError
    +-- InvalidRequestError        what was asked is wrong: a name, a type, a shape, a path, a size
    |   +-- UnknownModelError      no such model
    |   +-- InvalidModelError      a model file that is missing, broken, unsupported or outside the model root
    +-- DeadlineError              the answer would come, or came, too late
    |   +-- RequestTimeoutError    the deadline passed
    |   +-- RequestRefusedError    refused before its deadline: it could not have been met, or the server is full
    +-- NotPermittedError          a token is missing, unknown, or of another right
    +-- InitializingError          the server is starting up
    +-- ServerError                the server failed at something it should have managed
    |   +-- DeviceLostError        a device does nothing any more: its worker has to end
    +-- ConnectionLostError        the other side went away, or was never there
    +-- ProtocolError              bytes that are no frame, no message, or of another version

Rules of the file: no HTTP and no gRPC in it; a message says what was asked, what was found, and what to do.
"""


class ClockworkError(Exception):
    """Whatever Clockwork raises on purpose."""

    status: int | None = None
    """The number of `clockwork.messages.status.Status` that a server answered with, if one did."""

    status_name: str | None = None
    """The name of that status, as HTTP and gRPC tell it too: ``TIMEOUT``."""


class InvalidRequestError(ClockworkError):
    """What was asked is wrong; asking again changes nothing."""


class UnknownModelError(InvalidRequestError):
    """No model of that name is served."""


class InvalidModelError(InvalidRequestError):
    """The model file is missing, broken, of an unsupported kind, too big, or outside the model root."""


class NotPermittedError(ClockworkError):
    """The server wants a token: none was sent, it is not known, or it does not give the right that was needed."""


class DeadlineError(ClockworkError):
    """The request cannot be, or was not, answered in time."""

    predicted: float | None = None
    """Seconds after its arrival at which the request would have been answered, if the server said so."""

    retry_after: float | None = None
    """Seconds after which asking again makes sense, if the server said so."""


class RequestTimeoutError(DeadlineError):
    """The deadline passed before the answer was there."""


class RequestRefusedError(DeadlineError):
    """Refused before its deadline: it could not have been met, or the server is full."""


class InitializingError(ClockworkError):
    """The server is still starting up: load models, profile them, then serve."""


class ServerError(ClockworkError):
    """The server failed at something that it should have managed."""


class DeviceLostError(ServerError):
    """A device does nothing any more, whatever it is asked: its worker has to end."""


class ConnectionLostError(ClockworkError):
    """The connection could not be made, or ended while an answer was awaited."""


class ProtocolError(ClockworkError):
    """The peer sent bytes that are no frame, no known message, or of another version."""
