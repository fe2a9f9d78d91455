"""Requests of clients, and the controller's responses.

The client chooses a request's ``id``, which is unique among its outstanding requests on one connection. The response
repeats it. Every request is answered exactly once, unless the client cancelled it or disconnected.
"""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.messages.counts import DeviceCounts, ModelCounts, ModelDemand
from clockwork.messages.prediction import PredictionSummary
from clockwork.messages.profile import ModelProfile
from clockwork.messages.results import DEFAULT_VERSION, GPUInfo, ModelInfo
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.units import SECOND, Bytes, Nanos

DEFAULT_RETRY: Final[Nanos] = 1 * SECOND
"""Retry time of a refusal if nobody knows when its cause will end: no worker is connected, or the server is starting
up."""


class InferRequest(Struct, frozen=True, array_like=True, tag=16):
    """Execute a model; the payload of ``inputs`` follows the message.

    The deadline is ``slo`` nanoseconds after the request's arrival, or ``slo_factor`` times the model's estimate at
    batch size 1 on the fastest kind of device. With both, the earlier deadline holds; with neither, the server's
    default SLO. ``outputs`` names the requested outputs; empty: all outputs. With ``generated`` there is no payload:
    the worker makes zeros of these shapes.
    """

    id: int
    model: str
    inputs: tuple[TensorSpec, ...]
    slo: Nanos | None = None
    slo_factor: float | None = None
    outputs: tuple[str, ...] = ()
    generated: bool = False


class RequestTiming(Struct, frozen=True, array_like=True):
    """How a request's time was spent: durations in nanoseconds, measured by the controller.

    ``total`` runs from the request's arrival at the controller to its response, ``queue`` from the arrival to the start
    of its batch on the device. ``exec`` is the device's time for the whole batch. ``cold_start``: no device held the
    weights when the request arrived. ``load`` is the part of ``queue`` in which the device loaded the model's weights.
    """

    total: Nanos
    queue: Nanos = 0
    exec: Nanos = 0
    batch_size: int = 0
    cold_start: bool = False
    load: Nanos = 0


class InferResponse(Struct, frozen=True, array_like=True, tag=17):
    """The response to InferRequest; the payload of ``outputs`` follows the message.

    ``message`` is the reason if ``status`` is not SUCCESS. ``predicted`` is the predicted completion in nanoseconds
    after the arrival; ``retry_after`` is the retry time in nanoseconds from now; None: unknown. ``admitted``: the
    server had promised a response by ``predicted``, and if ``status`` is not SUCCESS, the promise is broken.
    ``admitted`` is false if the request itself was wrong, or the operator ended the server
    (`clockwork.controller.promises`).
    """

    id: int
    status: int
    message: str
    outputs: tuple[TensorSpec, ...]
    timing: RequestTiming
    predicted: Nanos | None = None
    retry_after: Nanos | None = None
    admitted: bool = False


class CancelRequest(Struct, frozen=True, array_like=True, tag=18):
    """Cancel the InferRequest with this ``id``. A CancelRequest has no response."""

    id: int


class LoadModelRequest(Struct, frozen=True, array_like=True, tag=19):
    """Load a model from below the workers' model roots, on every worker.

    The default of ``name`` comes from the path.
    """

    id: int
    path: str
    name: str = ""
    no_of_copies: int = 1


class LoadModelResponse(Struct, frozen=True, array_like=True, tag=20):
    """The response to LoadModelRequest: the names of the models, one per copy."""

    id: int
    status: int
    message: str
    models: tuple[str, ...] = ()


class ListModelsRequest(Struct, frozen=True, array_like=True, tag=21):
    """List the served models (``clockwork ls``)."""

    id: int


class ModelSummary(Struct, frozen=True, array_like=True):
    """The description of a served model for clients."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    max_batch_size: int
    weights_bytes: Bytes
    version: str = DEFAULT_VERSION


class ListModelsResponse(Struct, frozen=True, array_like=True, tag=22):
    """The response to ListModelsRequest, ordered by name."""

    id: int
    status: int
    message: str
    models: tuple[ModelSummary, ...] = ()


class EvictRequest(Struct, frozen=True, array_like=True, tag=23):
    """Evict a model's weights from every device that holds them. The next request for the model starts cold."""

    id: int
    model: str


class EvictResponse(Struct, frozen=True, array_like=True, tag=24):
    """The response to EvictRequest: the number of devices from which the weights were evicted."""

    id: int
    status: int
    message: str
    devices: int = 0


class StatusRequest(Struct, frozen=True, array_like=True, tag=25):
    """Request the server's status. The server answers at once, in every stage."""

    id: int


class Progress(Struct, frozen=True, array_like=True):
    """The progress of a stage: ``done`` of ``total`` models, and the remaining time; None: unknown."""

    done: int = 0
    total: int = 0
    remaining: Nanos | None = None


class GPUStatus(Struct, frozen=True, array_like=True):
    """A device, its models in the controller's view, and the number of its outstanding actions.

    ``predictions`` has a summary of its ``load`` and of its ``infer`` actions in service, if there were any.
    """

    gpu: GPUInfo
    used_pages: int
    outstanding: int
    predictions: dict[str, PredictionSummary] = {}
    counts: DeviceCounts = DeviceCounts()


class WorkerStatus(Struct, frozen=True, array_like=True):
    """A worker and its devices.

    ``ready``: the worker serves and is not silent. ``silent``: the worker is connected, but nothing was received from
    it for about a second.
    """

    id: str
    ready: bool
    page_size: Bytes
    gpus: tuple[GPUStatus, ...]
    silent: bool = False


class ModelStatus(Struct, frozen=True, array_like=True):
    """A model, its profile per kind of device, and the outcomes of its requests.

    - ``late`` counts requests that were not answered by their deadline, ``refused`` those that were refused before it,
      and ``failed`` all other errors
    - ``broken_promises`` counts requests of these three groups that had been admitted with a predicted completion
    - ``recent`` has profiles made of recent durations in service, for the kinds of device where they differ
    - ``predictions`` has a summary of the model's ``load`` and of its ``infer`` actions on all devices, if any
    - ``counts`` has the same requests by status, and their times; only ``counts`` includes cancelled requests
    - ``ready``: a connected device can execute the model, and its worker is not silent
    - ``unbatched``: why requests are no longer batched (see `ModelProfile`); empty: they are batched
    - ``default_slo``: the SLO of requests that set none; 0: unknown
    - ``demand``: the recent requests per second by their SLO
    """

    info: ModelInfo
    profiles: dict[str, ModelProfile]
    in_time: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    cold_starts: int = 0
    broken_promises: int = 0
    recent: dict[str, ModelProfile] = {}
    predictions: dict[str, PredictionSummary] = {}
    counts: ModelCounts = ModelCounts()
    ready: bool = False
    unbatched: str = ""
    default_slo: Nanos = 0
    demand: tuple[ModelDemand, ...] = ()


class ServerStatus(Struct, frozen=True, array_like=True):
    """The whole server. ``broken`` has the models that cannot be loaded or measured, with the reason.

    ``serving_ns`` is the time since serving began. ``predictions`` covers the ``load`` and ``infer`` actions of all
    devices, including devices that have left. ``without_model`` counts requests that were answered before their model
    was looked up, by the name of their status. ``ready``: the server is serving, and at least one worker is not silent.
    """

    version: str
    scheduler: str
    stage: str
    progress: Progress
    outstanding: int
    workers: tuple[WorkerStatus, ...]
    models: tuple[ModelStatus, ...]
    broken: dict[str, str] = {}
    serving_ns: Nanos = 0
    predictions: dict[str, PredictionSummary] = {}
    without_model: dict[str, int] = {}
    ready: bool = False


class StatusResponse(Struct, frozen=True, array_like=True, tag=26):
    """The response to StatusRequest."""

    id: int
    server: ServerStatus


class ErrorResponse(Struct, frozen=True, array_like=True, tag=27):
    """The response to a request of any type that could not be read."""

    id: int
    status: int
    message: str


Request: TypeAlias = InferRequest | CancelRequest | LoadModelRequest | ListModelsRequest | EvictRequest | StatusRequest
Response: TypeAlias = (
    InferResponse | LoadModelResponse | ListModelsResponse | EvictResponse | StatusResponse | ErrorResponse
)
