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


class WorkerResult(Struct, frozen=True):
    """A worker has sent a result; ``payloads`` has one handle per output of an InferResult."""

    worker_id: str
    result: Result
    payloads: tuple[object, ...] = ()


class ClientRequest(Struct, frozen=True):
    """A client has sent a request. ``wrong``: why an InferRequest contradicts its payload, or is too large, if so."""

    client_id: int
    request: Request
    payload: object = None
    wrong: str = ""


class ClientLost(Struct, frozen=True):
    """A client's connection has ended: nobody waits for its answers."""

    client_id: int


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


Event: TypeAlias = WorkerConnected | WorkerLost | WorkerResult | ClientRequest | ClientLost | Drain | OutputsCompared


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
