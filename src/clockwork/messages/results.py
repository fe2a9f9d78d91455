"""Results: what a worker reports of each action, exactly one per action.

An action that succeeded has a result of its own type, with its timings; one that failed has an `ErrorResult`.
"""

from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.units import Bytes, Nanos, Pages


class Timing(Struct, frozen=True, array_like=True):
    """When something began and ended, and how long the device worked on it; nanoseconds.

    ``duration`` may be less than ``end - begin`` where work is asynchronous.
    """

    begin: Nanos
    end: Nanos
    duration: Nanos


class DeviceTime(Struct, frozen=True, array_like=True):
    """What a device with a clock of its own measured: nanoseconds by that clock, and the frequency it computed at.

    ``clock_mhz`` is 0 where it is not known.
    """

    duration: Nanos
    clock_mhz: int = 0


class ModelInfo(Struct, frozen=True, array_like=True):
    """A model as the worker that holds it describes it.

    ``digest`` identifies the content of the file, and the operator's options for it. ``path`` is relative to the
    worker's model root. ``runtime`` names the runtime and its version. A model that is not ``batchable`` has no free
    first dimension in common to all inputs and outputs, or may compute across rows; it executes one request at a time.
    ``load`` and ``copies`` repeat the name and the ``no_of_copies`` of the LoadModelFromDisk that made it.
    ``max_batch`` is the most rows of a batch that the model's own configuration permits, or 0.
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


class GPUInfo(Struct, frozen=True, array_like=True):
    """A device. ``kind`` names the hardware and the threads it uses: equal kinds execute equally fast.

    ``models`` are those whose weights are in its cache, least recently used first.
    """

    id: int
    kind: str
    total_pages: Pages
    models: tuple[str, ...] = ()


class WorkerInfo(Struct, frozen=True, array_like=True):
    """A worker's answer to GetWorkerState."""

    page_size: Bytes
    gpus: tuple[GPUInfo, ...]
    models: tuple[ModelInfo, ...] = ()


class ErrorResult(Struct, frozen=True, array_like=True, tag=64):
    """The action with this id failed. ``action`` is the name of its type; ``message`` is for people."""

    id: int
    action: str
    status: int
    message: str


class LoadModelFromDiskResult(Struct, frozen=True, array_like=True, tag=65):
    """The models that were made, in the order of their names' numbers."""

    id: int
    models: tuple[ModelInfo, ...]
    timing: Timing


class UnloadModelResult(Struct, frozen=True, array_like=True, tag=66):
    """The models are gone."""

    id: int


class LoadWeightsResult(Struct, frozen=True, array_like=True, tag=67):
    """The weights are in the device's cache."""

    id: int
    timing: Timing


class EvictWeightsResult(Struct, frozen=True, array_like=True, tag=68):
    """The pages are free."""

    id: int
    timing: Timing


class InferOutput(Struct, frozen=True, array_like=True):
    """One request's share of a batch's outputs; its payload lies beside the message.

    ``refusal``: why the model refuses this request's inputs, or with ``failed`` why the runtime could not execute this
    request, although it executed others of the batch. There are no tensors then.
    """

    request_id: int
    tensors: tuple[TensorSpec, ...]
    refusal: str = ""
    failed: bool = False


class InferResult(Struct, frozen=True, array_like=True, tag=69):
    """The batch was executed. ``outputs`` are in the order of the action's inputs.

    ``exec`` is what the lane took, and what is planned with; ``device`` what the device itself took of that, where it
    has a clock.
    """

    id: int
    outputs: tuple[InferOutput, ...]
    copy_input: Timing
    exec: Timing
    copy_output: Timing
    device: DeviceTime | None = None


class ClearCacheResult(Struct, frozen=True, array_like=True, tag=70):
    """The caches are empty."""

    id: int


class GetWorkerStateResult(Struct, frozen=True, array_like=True, tag=71):
    """The worker's state when it answered."""

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
