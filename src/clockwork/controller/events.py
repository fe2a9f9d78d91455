"""The events that a controller handles, and the commands that it returns to its host.

A payload is an opaque handle of bytes that only the host reads. Each client message has one payload. The outputs of an
Infer have one payload for each of its requests.
"""

from typing import TypeAlias

from msgspec import Struct

from clockwork.controller.config import DesiredModels
from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import Request, Response
from clockwork.messages.results import Result
from clockwork.messages.shadows import OutputComparison
from clockwork.messages.tensors import TensorSpec
from clockwork.state import PendingRequest
from clockwork.units import Bytes, Nanos


class WorkerConnected(Struct, frozen=True):
    """A worker has connected. If a worker with this name is already connected, the earlier connection is lost first.

    ``software`` is the name and version of the worker's software, such as ``clockwork 0.1.0``, or empty if unknown.
    ``accepts`` names further actions that the worker can execute (`clockwork.messages.link.Hello`).
    """

    worker_id: str
    software: str = ""
    accepts: tuple[str, ...] = ()


class WorkerLost(Struct, frozen=True):
    """The connection to a worker has ended. No results of its outstanding actions will arrive."""

    worker_id: str
    reason: str = "the connection ended"


class WorkerSilent(Struct, frozen=True):
    """A connected worker has sent nothing for a while. If ``silent`` is false, the worker has sent something again."""

    worker_id: str
    silent: bool


class WorkerResult(Struct, frozen=True):
    """A worker has sent a result. For an InferResult, ``payloads`` contains one handle for each request's outputs."""

    worker_id: str
    result: Result
    payloads: tuple[object, ...] = ()


class ClientRequest(Struct, frozen=True):
    """A client has sent a request.

    ``wrong`` is an error message if an InferRequest contradicts its payload or is too large. Otherwise, ``wrong`` is
    empty. ``arrival`` is the time when the request reached the controller's machine. If ``arrival`` is None, the host
    does not know this time, and the time at which the event is handled is used. The SLO counts from the arrival.
    ``shared`` means that the client is a front end with many connections, so the limits of one client do not apply.
    """

    client_id: int
    request: Request
    payload: object = None
    wrong: str = ""
    arrival: Nanos | None = None
    shared: bool = False


class ClientLost(Struct, frozen=True):
    """A client's connection has ended. The client's requests need no response."""

    client_id: int


class ShedRequest(Struct, frozen=True, gc=False):
    """A request that the host has refused without asking the controller.

    ``model`` is empty if the host does not know it. ``slo`` is 0 if the host has not read it. ``waited`` is the time
    from the request's arrival to the refusal.
    """

    request_id: str
    model: str
    refused: Nanos
    waited: Nanos
    slo: Nanos
    message: str
    retry_after: Nanos | None


class RequestsShed(Struct, frozen=True):
    """The host has refused requests without asking the controller.

    ``by_model`` counts these requests by model and version. The version is the one that the request names. Requests for
    unknown models count under an empty model and version. ``sampled`` are some of these requests.
    """

    by_model: dict[tuple[str, str], int]
    sampled: tuple[ShedRequest, ...] = ()


class ServerLoad(Struct, frozen=True):
    """The host has measured the load of the server.

    ``busy`` is the share of the server's processor time in use, from 0 to 1.
    """

    busy: float


class Drain(Struct, frozen=True):
    """The operator ends the server. Finish pending requests and refuse new ones. `Drained` follows within ``limit``."""

    limit: Nanos


class ModelDescribed(Struct, frozen=True):
    """The host's answer to a `DescribeModel` command.

    ``content`` and ``nbytes`` are the content and the total size of the model's files. If ``problem`` is not empty, it
    is the reason why the files cannot be sent.
    """

    path: str
    name: str
    content: str = ""
    nbytes: Bytes = 0
    problem: str = ""


class OutputsCompared(Struct, frozen=True):
    """The host's answer to a `CompareOutputs` command.

    ``difference`` describes how the outputs differ, and is empty if they agree. ``error`` states why the outputs could
    not be compared. ``error`` is empty if they could be compared.
    """

    check_id: int
    difference: str = ""
    error: str = ""


class ShadowCompared(Struct, frozen=True):
    """The host's answer to a `CompareShadow` command.

    ``outputs`` contains the outputs that were compared. ``mismatches`` describes the first mismatch of each kind
    (`clockwork.messages.shadows.MISMATCHES`). ``error`` states why the outputs could not be compared. ``error`` is
    empty if they could be compared.
    """

    check_id: int
    outputs: tuple[OutputComparison, ...] = ()
    mismatches: dict[str, str] = {}
    error: str = ""


Event: TypeAlias = (
    WorkerConnected
    | WorkerLost
    | ModelDescribed
    | WorkerSilent
    | WorkerResult
    | ClientRequest
    | ClientLost
    | RequestsShed
    | ServerLoad
    | OutputsCompared
    | ShadowCompared
    | Drain
)


class Respond(Struct, frozen=True):
    """Send a response to a client.

    ``request`` and ``reason`` are the answered request and the reason of a refusal, if they are known. They are for
    tracing.
    """

    client_id: int
    response: Response
    payload: object = None
    request: PendingRequest | None = None
    reason: RefusalReason | None = None


class CompareOutputs(Struct, frozen=True):
    """Compare a request's outputs ``in_batch`` with the outputs of the same request executed ``alone``.

    The payload fields are handles. The host must answer with `OutputsCompared`.
    """

    check_id: int
    in_batch: tuple[TensorSpec, ...]
    in_batch_payload: object
    alone: tuple[TensorSpec, ...]
    alone_payload: object


class CompareShadow(Struct, frozen=True):
    """Compare the outputs of a ``live`` request with the outputs of its ``copy``, which another version executed.

    The payload fields are handles. The host must answer with `ShadowCompared`.
    """

    check_id: int
    live: tuple[TensorSpec, ...]
    live_payload: object
    copy: tuple[TensorSpec, ...]
    copy_payload: object


class SaveProfile(Struct, frozen=True):
    """Store a profile for the next start."""

    key: ProfileKey
    profile: ModelProfile


class SaveModels(Struct, frozen=True):
    """Store the models that a restarted controller should serve.

    The models replace the models of the last `SaveModels`.
    """

    desired: DesiredModels


class DropWorker(Struct, frozen=True):
    """Close the connection to a worker. The host must answer with `WorkerLost`."""

    worker_id: str
    reason: str


class DescribeModel(Struct, frozen=True):
    """Find and hash the files of a model, so that workers can receive them. `ModelDescribed` must follow."""

    path: str
    name: str


class Report(Struct, frozen=True):
    """Write a line to the log. ``level`` is the name of a level in Python's module ``logging``.

    ``text`` is for people. ``event`` and ``fields`` are for programs (see docs/operations.md).
    """

    level: str
    text: str
    event: str = "log"
    fields: dict[str, str | int] = {}


class StageEntered(Struct, frozen=True):
    """The controller has entered a stage."""

    stage: str


class GiveUp(Struct, frozen=True):
    """Start-up has failed, because a model that the operator named cannot be served."""

    reason: str


class Drained(Struct, frozen=True):
    """The drain has ended, and no request is pending.

    ``unfinished`` is the number of requests that got SHUTTING_DOWN.
    """

    unfinished: int


ControllerCommand: TypeAlias = (
    SendAction
    | Respond
    | CompareOutputs
    | CompareShadow
    | SaveProfile
    | SaveModels
    | DropWorker
    | DescribeModel
    | Report
    | StageEntered
    | GiveUp
    | Drained
)
