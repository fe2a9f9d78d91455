"""The results of actions. A worker reports exactly one result per action.

Each type of action has a type of result for its success, with its times. The result of a failed action is an
`ErrorResult`.
"""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.units import Bytes, Nanos, Pages

DEFAULT_VERSION: Final = "1"
"""Version of a model whose path has none."""


class Timing(Struct, frozen=True, array_like=True):
    """When a step began and ended, and how long the device worked on the step; in nanoseconds.

    ``duration`` may be less than ``end - begin`` where work is asynchronous.
    """

    begin: Nanos
    end: Nanos
    duration: Nanos


class DeviceTime(Struct, frozen=True, array_like=True):
    """A duration on a device's own clock in nanoseconds, and the device's clock frequency during it; 0: unknown."""

    duration: Nanos
    clock_mhz: int = 0


class ExampleInputs(Struct, frozen=True, array_like=True):
    """The inputs that a worker measures a model with, if the worker looked for inputs that the model accepts.

    - ``shapes``: the shape of each required input, in order, with one row if the model has a batch dimension
    - ``source``: where the inputs come from; for people
    - ``unmeasured``: why the model cannot be measured: it accepts none of the inputs; empty if it accepts them
    - ``refused``: inputs that were tried before and refused, with the model's reasons
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    source: str = ""
    unmeasured: str = ""
    refused: tuple[str, ...] = ()


class ModelInfo(Struct, frozen=True, array_like=True):
    """A worker's description of a model that it holds.

    - ``path``: relative to the worker's model root
    - ``digest``: identifies the content of the file and the operator's options for it
    - ``runtime``: the runtime with its version
    - ``batchable``: false if the inputs and outputs have no common free first dimension, or if the model may compute
      across rows; such a model executes one request at a time
    - ``load``, ``copies``: the name and the ``no_of_copies`` of the LoadModelFromDisk that loaded it
    - ``max_batch``: the largest batch size that the model's own configuration permits; 0: no limit
    - ``version``: the number that names the directory of the model's file, or `DEFAULT_VERSION`
    - ``example``: the inputs to measure the model with; None: the controller chooses shapes
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


class GPUInfo(Struct, frozen=True, array_like=True):
    """A device. ``kind`` is the hardware with the number of threads: devices of one kind are equally fast.

    ``models`` are the models with weights in its cache, least recently used first.
    """

    id: int
    kind: str
    total_pages: Pages
    models: tuple[str, ...] = ()


class WorkerInfo(Struct, frozen=True, array_like=True):
    """A worker's devices and models."""

    page_size: Bytes
    gpus: tuple[GPUInfo, ...]
    models: tuple[ModelInfo, ...] = ()


class ErrorResult(Struct, frozen=True, array_like=True, tag=64):
    """The action failed. ``action`` is the name of its type; ``message`` is for people."""

    id: int
    action: str
    status: int
    message: str


class LoadModelFromDiskResult(Struct, frozen=True, array_like=True, tag=65):
    """The models that were loaded, in the order of the numbers in their names."""

    id: int
    models: tuple[ModelInfo, ...]
    timing: Timing


class UnloadModelResult(Struct, frozen=True, array_like=True, tag=66):
    """The models are unloaded."""

    id: int


class LoadWeightsResult(Struct, frozen=True, array_like=True, tag=67):
    """The weights are in the device's cache."""

    id: int
    timing: Timing


class EvictWeightsResult(Struct, frozen=True, array_like=True, tag=68):
    """The weights are evicted, and their pages are free."""

    id: int
    timing: Timing


class InferOutput(Struct, frozen=True, array_like=True):
    """One request's share of a batch's outputs; the payload follows the message.

    ``refusal``: why the model refuses this request's inputs, or, with ``failed``, why the runtime could not execute
    this request although it executed others of the batch. In both cases there are no tensors.
    """

    request_id: int
    tensors: tuple[TensorSpec, ...]
    refusal: str = ""
    failed: bool = False


class InferResult(Struct, frozen=True, array_like=True, tag=69):
    """The batch was executed. ``outputs`` are in the order of the action's inputs.

    ``exec`` is the time that the lane was busy; estimates are made from it. ``device`` is the device's share of that
    time, by the device's own clock; None if the device has no clock.
    """

    id: int
    outputs: tuple[InferOutput, ...]
    copy_input: Timing
    exec: Timing
    copy_output: Timing
    device: DeviceTime | None = None


class ClearCacheResult(Struct, frozen=True, array_like=True, tag=70):
    """The weights caches are empty."""

    id: int


class GetWorkerStateResult(Struct, frozen=True, array_like=True, tag=71):
    """The worker's state at the time of this result."""

    id: int
    worker: WorkerInfo


Result: TypeAlias = (
    ErrorResult
    | LoadModelFromDiskResult
    | UnloadModelResult
    | LoadWeightsResult
    | EvictWeightsResult
    | InferResult
    | ClearCacheResult
    | GetWorkerStateResult
)
