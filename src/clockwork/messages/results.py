"""The results of actions. A worker sends exactly one result for each action.

Each type of action has its own type of result for success. The result of every failed action is an `ErrorResult`.
"""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.messages.findings import Finding
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.units import Bytes, Nanos, Pages

DEFAULT_VERSION: Final = "1"
"""Version of a model whose path contains no version."""


class Timing(Struct, frozen=True, array_like=True):
    """The start and the end of a step, and the time for which the device worked on the step.

    All three values are in nanoseconds. If the device works asynchronously, ``duration`` may be less than ``end -
    begin``.
    """

    begin: Nanos
    end: Nanos
    duration: Nanos


class DeviceTime(Struct, frozen=True, array_like=True):
    """A duration in nanoseconds that a device measured with its own clock.

    ``clock_mhz`` is the frequency at which the device ran, or 0 if it is unknown.
    """

    duration: Nanos
    clock_mhz: int = 0


class TrialRun(Struct, frozen=True, array_like=True):
    """The trial execution of one row on the worker's CPU, when the worker read the model.

    ``duration`` is in nanoseconds. ``elements`` is the number of elements of the inputs.
    """

    duration: Nanos
    elements: int


class ExampleInputs(Struct, frozen=True, array_like=True):
    """The inputs with which a worker measures a model, if the worker looked for inputs that the model accepts.

    - ``shapes``: the shape of each required input, in order, with one row if the model has a batch dimension
    - ``source``: a text for people about the source of the inputs
    - ``unmeasured``: the reason why the model cannot be measured, because it accepts none of the inputs; else empty
    - ``refused``: inputs that the model refused before, with the reasons
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    source: str = ""
    unmeasured: str = ""
    refused: tuple[str, ...] = ()


class ModelInfo(Struct, frozen=True, array_like=True):
    """A worker's description of a model that it has loaded.

    - ``path``: path of the file, relative to the worker's model root
    - ``digest``: identifies the content of the file and the operator's options for it
    - ``runtime``: name and version of the runtime
    - ``batchable``: whether requests can be batched. Batching needs a common free first dimension of all inputs and
      outputs, and no computation across rows. If requests cannot be batched, each request is executed alone.
    - ``load``, ``copies``: the name and ``no_of_copies`` of the LoadModelFromDisk action that loaded the model
    - ``max_batch``: the largest batch size that the model's own configuration permits; 0 if it has no limit
    - ``version``: name of the directory that contains the model's file, if this is a number, or `DEFAULT_VERSION`
    - ``example``: the inputs with which the model is measured; None if the controller chooses their shapes
    - ``trial``: the trial execution on the CPU, which gives a bound of the time on a device; None if there was no trial
    """

    name: str
    path: str
    digest: str
    runtime: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    weights_bytes: Bytes
    weights_pages: Pages
    load: str
    copies: int = 1
    max_batch: int = 0
    version: str = DEFAULT_VERSION
    example: ExampleInputs | None = None
    trial: TrialRun | None = None

    @property
    def required_inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs that every request has. The model has defaults for all other inputs."""
        return tuple([info for info in self.inputs if not info.optional])


class GPUInfo(Struct, frozen=True, array_like=True):
    """A worker's description of one of its devices.

    ``kind`` is the hardware and the number of threads. Devices of one kind are equally fast. ``models`` are the models
    whose weights are in the device's cache, least recently used first.
    """

    id: int
    kind: str
    total_pages: Pages
    models: tuple[str, ...] = ()


class WorkerInfo(Struct, frozen=True, array_like=True):
    """The devices and the models of a worker. ``page_size`` is the size of a page of the weights caches, in bytes.

    ``findings`` are the causes of varying execution times that the worker found on its machine when it started, with
    the worst first. Older workers report none.
    """

    page_size: Bytes
    gpus: tuple[GPUInfo, ...]
    models: tuple[ModelInfo, ...] = ()
    findings: tuple[Finding, ...] = ()


class ErrorResult(Struct, frozen=True, array_like=True, tag=64):
    """The result of a failed action. ``action`` is the name of the action's type. ``message`` is for people."""

    id: int
    action: str
    status: int
    message: str


class LoadModelFromDiskResult(Struct, frozen=True, array_like=True, tag=65):
    """The result of a successful LoadModelFromDisk. ``models`` is in the order of the numbers in the models' names."""

    id: int
    models: tuple[ModelInfo, ...]
    timing: Timing


class UnloadModelResult(Struct, frozen=True, array_like=True, tag=66):
    """The result of a successful UnloadModel. The worker no longer has the models."""

    id: int


class LoadWeightsResult(Struct, frozen=True, array_like=True, tag=67):
    """The result of a successful LoadWeights. The weights are in the device's cache."""

    id: int
    timing: Timing


class EvictWeightsResult(Struct, frozen=True, array_like=True, tag=68):
    """The result of a successful EvictWeights. The pages of the weights are free."""

    id: int
    timing: Timing


class InferOutput(Struct, frozen=True, array_like=True):
    """The part of a batch's outputs that belongs to one request. The payload follows the message.

    If only this request of the batch failed, ``refusal`` is the reason and there are no tensors. In this case,
    ``failed`` is true if the runtime could not execute the request, and false if the model does not accept the
    request's inputs.
    """

    request_id: int
    tensors: tuple[TensorSpec, ...]
    refusal: str = ""
    failed: bool = False


class InferResult(Struct, frozen=True, array_like=True, tag=69):
    """The result of a successful Infer. ``outputs`` are in the order of the action's inputs.

    ``exec`` is the time for which the lane was busy. Estimates are computed from ``exec``. ``device`` is the time for
    which the device was busy, measured with the device's own clock, or None if the device has no clock.
    """

    id: int
    outputs: tuple[InferOutput, ...]
    copy_input: Timing
    exec: Timing
    copy_output: Timing
    device: DeviceTime | None = None


class ClearCacheResult(Struct, frozen=True, array_like=True, tag=70):
    """The result of a successful ClearCache. The weights caches are empty."""

    id: int


class GetWorkerStateResult(Struct, frozen=True, array_like=True, tag=71):
    """The result of a successful GetWorkerState. ``worker`` is the worker's state at the time of this result."""

    id: int
    worker: WorkerInfo


class FetchModelResult(Struct, frozen=True, array_like=True, tag=72):
    """The result of a successful FetchModel. The worker has all files of the content.

    ``received`` is the number of bytes that this action transferred.
    """

    id: int
    received: Bytes = 0


Result: TypeAlias = (
    ErrorResult
    | LoadModelFromDiskResult
    | UnloadModelResult
    | LoadWeightsResult
    | EvictWeightsResult
    | InferResult
    | ClearCacheResult
    | GetWorkerStateResult
    | FetchModelResult
)
