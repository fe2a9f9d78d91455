"""The events that a worker's core handles, and the commands that it returns to its host.

For the core, payloads, models in host memory and models on a device are opaque handles (``object``). The host creates
these handles when it executes a task. The core stores the handles and passes them to later tasks, so the host needs no
tables of models.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.actions import Action, Infer
from clockwork.messages.results import DEFAULT_VERSION, ExampleInputs, Result, Timing, TrialRun
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo
from clockwork.units import Bytes, Nanos


class LaneKind(StrEnum):
    """The kinds of lanes. The worker has one HOST lane (``gpu`` is None).

    Each device has a LOAD lane and an EXEC lane.
    """

    HOST = "host"  #: LoadModelFromDisk, UnloadModel
    LOAD = "load"  #: LoadWeights, EvictWeights and ClearCache, in their order
    EXEC = "exec"  #: Infer, one at a time


class StartTask(Struct, frozen=True):
    """Start a task on its lane now. The lane is busy until `TaskFinished`.

    ``handles`` contains the objects that the action uses. An Infer or EvictWeights uses a `LoadedModel`, and a
    LoadWeights uses a `HostModel`. ClearCache and UnloadModel close every `LoadedModel` in the list. For
    LoadModelFromDisk, the list is empty. ``payloads`` contains one payload for each request of an Infer, or None for a
    generated input.
    """

    gpu: int | None
    lane: LaneKind
    action: Action
    payloads: tuple[object, ...] = ()
    handles: tuple[object, ...] = ()


class SendResult(Struct, frozen=True):
    """Send a result to the controller."""

    result: Result


class SendOutputs(Struct, frozen=True):
    """Split the outputs of an Infer by request and send them as its result.

    This command is not a task and does not occupy the lane, so the next Infer need not wait.
    """

    action: Infer
    outputs: object
    copy_input: Timing
    exec: Timing


ResultCommand: TypeAlias = SendResult | SendOutputs
"""Commands that answer an action."""

Command: TypeAlias = StartTask | ResultCommand


class ModelRead(Struct, frozen=True):
    """Outcome of a LoadModelFromDisk that has succeeded.

    ``handle`` is the `HostModel`, which all copies of the model share. The other fields describe the model.
    """

    handle: object
    digest: str
    runtime: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    weights_bytes: Bytes
    max_batch: int = 0
    version: str = DEFAULT_VERSION
    example: ExampleInputs | None = None
    trial: TrialRun | None = None


class WeightsLoaded(Struct, frozen=True):
    """Outcome of a LoadWeights that has succeeded. ``handle`` is the `LoadedModel` on the device."""

    handle: object


class Released(Struct, frozen=True):
    """Outcome of an EvictWeights, ClearCache or UnloadModel: the host has closed the handles."""


class Executed(Struct, frozen=True):
    """Outcome of an Infer that has succeeded. ``outputs`` is a handle of the outputs of the whole batch."""

    outputs: object
    copy_input: Timing
    exec: Timing


class TaskFailed(Struct, frozen=True):
    """Outcome of a task that has failed. ``message`` is an error message for people."""

    status: Status
    message: str


Outcome: TypeAlias = ModelRead | WeightsLoaded | Released | Executed | TaskFailed


class ActionReceived(Struct, frozen=True):
    """The controller has sent an action. ``payloads`` contains one handle for each request of an Infer."""

    action: Action
    payloads: tuple[object, ...] = ()


class TaskFinished(Struct, frozen=True):
    """A lane's task has ended. The task ran from ``begin`` to ``end``."""

    gpu: int | None
    lane: LaneKind
    begin: Nanos
    end: Nanos
    outcome: Outcome


class ControllerLost(Struct, frozen=True):
    """The connection to the controller has ended. Models and weights stay for the next controller."""


class Leave(Struct, frozen=True):
    """The worker is about to end.

    The worker refuses waiting and new actions, but finishes running tasks and sends their results.
    """


Event: TypeAlias = ActionReceived | TaskFinished | ControllerLost | Leave
