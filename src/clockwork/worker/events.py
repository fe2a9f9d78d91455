"""What a worker's core hears from its host, and what it asks of it.

Rules of the file: payloads, models in host memory and models on a device are opaque handles (``object``). The host
makes them while it carries out a task; the core only keeps them and hands them out again with the tasks that need
them. So the core's tables are the only ones there are.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.actions import Action, Infer
from clockwork.messages.results import Result, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo
from clockwork.units import Bytes, Nanos


class LaneKind(StrEnum):
    """What a lane is for. HOST belongs to the worker (``gpu`` is None), the others to one device each."""

    HOST = "host"  #: LoadModelFromDisk, UnloadModel
    LOAD = "load"  #: LoadWeights, EvictWeights, ClearCache, in order
    EXEC = "exec"  #: Infer, one at a time


class StartTask(Struct, frozen=True):
    """Begin a task on its lane, now; the lane is busy until `TaskFinished`.

    ``handles`` are what the action works on: the `LoadedModel` of an Infer or an EvictWeights, the `HostModel` of a
    LoadWeights, all the `LoadedModel` to close for ClearCache and UnloadModel, nothing for LoadModelFromDisk.
    ``payloads`` are the Infer's, one per input, None for a generated one.
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
    """Share the outputs of an Infer among its requests and send them, as its result.

    This is no task: the lane is free already, so that the next Infer need not wait for it.
    """

    action: Infer
    outputs: object
    copy_input: Timing
    exec: Timing


ResultCommand: TypeAlias = SendResult | SendOutputs
"""What answers an action."""

Command: TypeAlias = StartTask | ResultCommand


class ModelRead(Struct, frozen=True):
    """LoadModelFromDisk has succeeded. ``handle`` is the `HostModel`, shared by all copies; the rest describes it."""

    handle: object
    digest: str
    runtime: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    weights_bytes: Bytes
    max_batch: int = 0


class WeightsLoaded(Struct, frozen=True):
    """LoadWeights has succeeded. ``handle`` is the `LoadedModel`."""

    handle: object


class Released(Struct, frozen=True):
    """The handles of an EvictWeights, ClearCache or UnloadModel are closed."""


class Executed(Struct, frozen=True):
    """Infer has succeeded. ``outputs`` are the whole batch's, as the host has them."""

    outputs: object
    copy_input: Timing
    exec: Timing


class TaskFailed(Struct, frozen=True):
    """The task has failed; ``message`` is for people."""

    status: Status
    message: str


Outcome: TypeAlias = ModelRead | WeightsLoaded | Released | Executed | TaskFailed


class ActionReceived(Struct, frozen=True):
    """The controller has sent an action; ``payloads`` has one handle per input of an Infer."""

    action: Action
    payloads: tuple[object, ...] = ()


class TaskFinished(Struct, frozen=True):
    """The task that its lane was busy with is over. It ran from ``begin`` to ``end``."""

    gpu: int | None
    lane: LaneKind
    begin: Nanos
    end: Nanos
    outcome: Outcome


class ControllerLost(Struct, frozen=True):
    """The connection to the controller has ended. Models and weights stay: a restarted one finds a warm worker."""


class Leave(Struct, frozen=True):
    """The worker is about to end: what waits is refused, and so is what comes; what runs goes on to its result."""


Event: TypeAlias = ActionReceived | TaskFinished | ControllerLost | Leave
