"""The events that a controller handles, and the commands that it returns to its host.

Payloads are opaque handles. Each message of a client has one, and so has each request's share of an Infer's outputs.
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
    """A worker has connected. If a worker is connected under this name already, that connection is lost first."""

    worker_id: str


class WorkerLost(Struct, frozen=True):
    """The connection to a worker has ended; no result of its outstanding actions will come."""

    worker_id: str
    reason: str = "the connection ended"


class WorkerSilent(Struct, frozen=True):
    """A connected worker has sent nothing for a while; with ``silent`` false, it has sent something again."""

    worker_id: str
    silent: bool


class WorkerResult(Struct, frozen=True):
    """A worker has sent a result. ``payloads`` has one handle per output of an InferResult."""

    worker_id: str
    result: Result
    payloads: tuple[object, ...] = ()


class ClientRequest(Struct, frozen=True):
    """A client has sent a request.

    ``wrong``: the fault of an InferRequest that contradicts its payload or is too large; empty if it has no such fault.
    ``arrival``: when the request reached the controller's machine, as far as the host knows; None: when the event is
    handled. The SLO counts from the arrival. ``shared``: the client sends requests for many connections, so the limits
    of one client do not apply to it.
    """

    client_id: int
    request: Request
    payload: object = None
    wrong: str = ""
    arrival: Nanos | None = None
    shared: bool = False


class ClientLost(Struct, frozen=True):
    """A client's connection has ended. Its requests need no response."""

    client_id: int


class RequestsShed(Struct, frozen=True):
    """Number of requests, by model, that the host has refused by itself; "" stands for unknown models."""

    by_model: dict[str, int]


class ServerLoad(Struct, frozen=True):
    """A measurement by the host: ``busy`` is the share of the server's processor time in use, from 0 to 1."""

    busy: float


class Drain(Struct, frozen=True):
    """The operator ends the server: finish pending requests and refuse new ones. `Drained` follows within ``limit``."""

    limit: Nanos


class OutputsCompared(Struct, frozen=True):
    """The answer to `CompareOutputs`.

    ``difference``: how the outputs differ; empty if they agree. ``error``: why they could not be compared; empty if
    they could.
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
    """Compare a request's outputs ``in_batch`` with the outputs of the same request executed ``alone``.

    The payload fields are handles. `OutputsCompared` must follow.
    """

    check_id: int
    in_batch: tuple[TensorSpec, ...]
    in_batch_payload: object
    alone: tuple[TensorSpec, ...]
    alone_payload: object


class SaveProfile(Struct, frozen=True):
    """Store a profile for the next start."""

    key: ProfileKey
    profile: ModelProfile


class DropWorker(Struct, frozen=True):
    """Close the connection to a worker; `WorkerLost` must follow."""

    worker_id: str
    reason: str


class Report(Struct, frozen=True):
    """Write a line to the log. ``level`` is a level name of the logging module.

    ``text`` is for people; ``event`` and ``fields`` are for programs (see docs/operations.md).
    """

    level: str
    text: str
    event: str = "log"
    fields: dict[str, str | int] = {}


class StageEntered(Struct, frozen=True):
    """The controller has entered a stage."""

    stage: str


class GiveUp(Struct, frozen=True):
    """Start-up has failed: a model that the operator named cannot be served."""

    reason: str


class Drained(Struct, frozen=True):
    """The drain is over; no request is pending. ``unfinished`` requests got SHUTTING_DOWN at the limit."""

    unfinished: int


ControllerCommand: TypeAlias = (
    SendAction | Respond | CompareOutputs | SaveProfile | DropWorker | Report | StageEntered | GiveUp | Drained
)
