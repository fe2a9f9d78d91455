"""What a controller hears from its host, and what it asks of it.

Payloads are opaque handles: one per client's message, one per share of an Infer's outputs.
"""

from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import Request, Response
from clockwork.messages.results import Result
from clockwork.messages.tensors import TensorSpec
from clockwork.units import Nanos


class WorkerConnected(Struct, frozen=True):
    """A worker has dialled in. A worker that is connected already under this name is lost first."""

    worker_id: str


class WorkerLost(Struct, frozen=True):
    """The connection to a worker has ended; no result of its outstanding actions will come."""

    worker_id: str
    reason: str = "the connection ended"


class WorkerSilent(Struct, frozen=True):
    """Nothing was received from a worker for a while, or, if not ``silent``, something again. It is still connected."""

    worker_id: str
    silent: bool


class WorkerResult(Struct, frozen=True):
    """A worker has sent a result; ``payloads`` has one handle per output of an InferResult."""

    worker_id: str
    result: Result
    payloads: tuple[object, ...] = ()


class ClientRequest(Struct, frozen=True):
    """A client has sent a request. ``wrong``: why an InferRequest contradicts its payload, or is too large, if so.

    ``arrival``: when the request reached the controller's machine, as far as the host knows; its SLO counts from then.
    None: the moment when the event is handled.
    ``shared``: the client asks for many connections; the limits of one client do not apply to it.
    """

    client_id: int
    request: Request
    payload: object = None
    wrong: str = ""
    arrival: Nanos | None = None
    shared: bool = False


class ClientLost(Struct, frozen=True):
    """A client's connection has ended: nobody waits for its answers."""

    client_id: int


class RequestsShed(Struct, frozen=True):
    """The host has refused requests before they reached the controller: how many by model; "" for other names."""

    by_model: dict[str, int]


class ServerLoad(Struct, frozen=True):
    """The host has measured how busy the server itself is: the share of its processor time in use, from 0 to 1."""

    busy: float


class Drain(Struct, frozen=True):
    """Finish what is pending and begin nothing new; `Drained` follows, after ``limit`` at the latest."""

    limit: Nanos


class OutputsCompared(Struct, frozen=True):
    """The answer to `CompareOutputs`. ``difference``: how the outputs differ; empty if they agree.

    ``error``: why they could not be compared, if so.
    """

    check_id: int
    difference: str = ""
    error: str = ""


Event: TypeAlias = (
    WorkerConnected
    | WorkerLost
    | WorkerSilent
    | WorkerResult
    | ClientRequest
    | ClientLost
    | RequestsShed
    | ServerLoad
    | OutputsCompared
    | Drain
)


class Respond(Struct, frozen=True):
    """Send a response to a client."""

    client_id: int
    response: Response
    payload: object = None


class CompareOutputs(Struct, frozen=True):
    """Compare a request's outputs ``in_batch`` with those of the same request ``alone``; `OutputsCompared` must follow.

    Each has the handle of its payload.
    """

    check_id: int
    in_batch: tuple[TensorSpec, ...]
    in_batch_payload: object
    alone: tuple[TensorSpec, ...]
    alone_payload: object


class SaveProfile(Struct, frozen=True):
    """Remember a profile for the next start."""

    key: ProfileKey
    profile: ModelProfile


class DropWorker(Struct, frozen=True):
    """Close the connection to a worker; `WorkerLost` must follow."""

    worker_id: str
    reason: str


class Report(Struct, frozen=True):
    """Tell the operator. ``level`` is a name of the logging module's.

    ``event`` and ``fields`` say the same to programs: see docs/operations.md.
    """

    level: str
    text: str
    event: str = "log"
    fields: dict[str, str | int] = {}


class StageEntered(Struct, frozen=True):
    """The controller is in another stage now."""

    stage: str


class GiveUp(Struct, frozen=True):
    """Start-up has failed for good: a model that the operator named cannot be served."""

    reason: str


class Drained(Struct, frozen=True):
    """The drain is over: nobody waits any more. ``unfinished`` requests were told SHUTTING_DOWN at its limit."""

    unfinished: int


ControllerCommand: TypeAlias = (
    SendAction | Respond | CompareOutputs | SaveProfile | DropWorker | Report | StageEntered | GiveUp | Drained
)
