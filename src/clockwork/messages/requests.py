"""Requests of clients, and the controller's responses.

The client chooses the ``id`` of a request. The ``id`` must be unique among the outstanding requests of one connection.
The response has the same ``id``. Every request gets exactly one response, unless the client cancels it or disconnects.
"""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.messages.counts import DeviceCounts, ModelCounts, ModelDemand, RecentCounts
from clockwork.messages.explanation import DEFAULT_LISTED, Explanation, RequestSummary
from clockwork.messages.findings import Finding
from clockwork.messages.prediction import PredictionSummary
from clockwork.messages.profile import ModelProfile
from clockwork.messages.results import DEFAULT_VERSION, GPUInfo, ModelInfo
from clockwork.messages.scaling import KindScaling
from clockwork.messages.shadows import ShadowStatus
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.messages.timeline import TimelineRequest, TimelineResponse
from clockwork.units import SECOND, Bytes, Nanos

DEFAULT_RETRY: Final[Nanos] = 1 * SECOND
"""Retry time of a refusal whose cause may last for an unknown time.

For example, no worker is connected, or the server is starting up.
"""


class InferRequest(Struct, frozen=True, array_like=True, tag=16):
    """Request the execution of a model. The payload of ``inputs`` follows the message.

    - ``slo``: time in nanoseconds from the request's arrival to its deadline
    - ``slo_factor``: the SLO as a multiple of the model's estimate at batch size 1 on the fastest kind of device. If
      both are set, the shorter SLO applies. If neither is set, the server's default applies.
    - ``outputs``: names of the requested outputs; empty for all outputs
    - ``generated``: the request has no payload, and the worker generates the inputs
    - ``version``: number or label of a version; empty for the model's default version
    - ``request_id``: the id under which the request is recorded (`clockwork.messages.request_ids`); empty if the server
      chooses it
    - ``slo_source``: a key of `clockwork.messages.explanation.SLO_SOURCES`, set by front ends
    """

    id: int
    model: str
    inputs: tuple[TensorSpec, ...]
    slo: Nanos | None = None
    slo_factor: float | None = None
    outputs: tuple[str, ...] = ()
    generated: bool = False
    version: str = ""
    request_id: str = ""
    slo_source: str = ""


class RequestTiming(Struct, frozen=True, array_like=True):
    """The controller's measurements of how long each part of a request took, in nanoseconds.

    - ``total``: time from the request's arrival at the controller to the response
    - ``queue``: time from the arrival to the start of the request's batch on a device
    - ``exec``: time in which the device executed the whole batch
    - ``cold_start``: whether no device had the model's weights when the request arrived
    - ``load``: the part of ``queue`` in which the device loaded the model's weights
    """

    total: Nanos
    queue: Nanos = 0
    exec: Nanos = 0
    batch_size: int = 0
    cold_start: bool = False
    load: Nanos = 0


class InferResponse(Struct, frozen=True, array_like=True, tag=17):
    """The response to InferRequest. The payload of ``outputs`` follows the message.

    - ``message``: the reason if ``status`` is not SUCCESS
    - ``predicted``: the predicted completion in nanoseconds after the request's arrival, or None if it is unknown
    - ``retry_after``: the retry time in nanoseconds from now, or None if it is unknown
    - ``admitted``: whether the server had promised a response by ``predicted``. If ``status`` is not SUCCESS, this
      promise is broken. ``admitted`` is false if the client was at fault, or if the operator ended the server.
    - ``version``: number of the version that was chosen for the request; empty if the request was refused before this
      choice
    - ``request_id``: the id under which the request is recorded
    """

    id: int
    status: int
    message: str
    outputs: tuple[TensorSpec, ...]
    timing: RequestTiming
    predicted: Nanos | None = None
    retry_after: Nanos | None = None
    admitted: bool = False
    version: str = ""
    request_id: str = ""


def cancelled_response(
    id: int, request_id: str, timing: RequestTiming, predicted: Nanos | None = None, version: str = ""
) -> InferResponse:
    """Return the response that records and traces contain for a request that its client has cancelled.

    No client gets this response. The arguments are fields of `InferResponse`.
    """
    text = "the client cancelled the request or disconnected"
    status = int(Status.CANCELLED)
    return InferResponse(id, status, text, (), timing, predicted, version=version, request_id=request_id)


class CancelRequest(Struct, frozen=True, array_like=True, tag=18):
    """Cancel the InferRequest with this ``id``. A CancelRequest has no response."""

    id: int


class ModelVersion(Struct, frozen=True, array_like=True):
    """A version of a model: its number, and the path of its directory or file below the workers' model roots.

    ``number`` is empty if the path contains the number.
    """

    number: str
    path: str


class LoadModelRequest(Struct, frozen=True, array_like=True, tag=19):
    """Request that every worker loads a model. ``path`` is relative to the workers' model roots.

    If ``name`` is empty, the model's name is derived from the path. The other fields are only used while the server is
    serving:

    - ``versions``: the versions to load. If the list is empty, ``path`` is the only version. If ``path`` is empty too,
      the model is loaded again from the path of its last load.
    - ``keep``: whether the model's other versions continue to be served. If ``keep`` is false, this load replaces the
      other versions.
    - ``wait``: whether the response is sent when the versions are ready. If ``wait`` is false, the response is sent at
      once.
    """

    id: int
    path: str
    name: str = ""
    no_of_copies: int = 1
    versions: tuple[ModelVersion, ...] = ()
    keep: bool = False
    wait: bool = True


class LoadModelResponse(Struct, frozen=True, array_like=True, tag=20):
    """The response to LoadModelRequest. ``models`` contains the name of each copy."""

    id: int
    status: int
    message: str
    models: tuple[str, ...] = ()


class UnloadModelRequest(Struct, frozen=True, array_like=True, tag=28):
    """Request that a model is no longer served and is removed from the workers.

    An empty ``version`` means all versions. Admitted requests are finished first. If ``wait`` is false, the response is
    sent at once.
    """

    id: int
    name: str
    version: str = ""
    wait: bool = True


class UnloadModelResponse(Struct, frozen=True, array_like=True, tag=29):
    """The response to UnloadModelRequest. ``versions`` contains the unloaded versions."""

    id: int
    status: int
    message: str
    versions: tuple[str, ...] = ()


class PromoteRequest(Struct, frozen=True, array_like=True, tag=30):
    """Request that a version becomes its model's default.

    If ``label`` is not empty, the version gets this label instead.
    """

    id: int
    name: str
    version: str
    label: str = ""


class PromoteResponse(Struct, frozen=True, array_like=True, tag=31):
    """The response to PromoteRequest. ``message`` is the reason of a failure."""

    id: int
    status: int
    message: str


class ShadowRequest(Struct, frozen=True, array_like=True, tag=32):
    """Request that a version executes copies of a ``share`` of the model's requests, which other versions answer.

    ``version`` is a number or a label. An empty ``version`` ends the model's shadow.
    """

    id: int
    name: str
    version: str = ""
    share: float = 0.0


class ShadowResponse(Struct, frozen=True, array_like=True, tag=33):
    """The response to ShadowRequest. ``message`` is the reason of a failure."""

    id: int
    status: int
    message: str


class ListModelsRequest(Struct, frozen=True, array_like=True, tag=21):
    """Request a list of the served models. ``clockwork ls`` sends this request."""

    id: int


class ModelSummary(Struct, frozen=True, array_like=True):
    """The description of a served version of a model for clients.

    - ``default``: whether this version serves requests that name no version
    - ``labels``: names that requests may use in place of ``version``
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    max_batch_size: int
    weights_bytes: Bytes
    version: str = DEFAULT_VERSION
    default: bool = True
    labels: tuple[str, ...] = ()


class ListModelsResponse(Struct, frozen=True, array_like=True, tag=22):
    """The response to ListModelsRequest. ``models`` is sorted by name, then by version."""

    id: int
    status: int
    message: str
    models: tuple[ModelSummary, ...] = ()


class EvictRequest(Struct, frozen=True, array_like=True, tag=23):
    """Request that a model's weights are evicted from every device. The model's next request is then a cold start.

    ``version`` is a number or a label; empty for the default version.
    """

    id: int
    model: str
    version: str = ""


class EvictResponse(Struct, frozen=True, array_like=True, tag=24):
    """The response to EvictRequest. ``devices`` is the number of devices from which the weights were evicted."""

    id: int
    status: int
    message: str
    devices: int = 0


class StatusRequest(Struct, frozen=True, array_like=True, tag=25):
    """Request the server's status. The server answers this request at once in every stage."""

    id: int


class Progress(Struct, frozen=True, array_like=True):
    """The progress of a stage: ``done`` of ``total`` models are finished.

    ``remaining`` is None if the time is unknown.
    """

    done: int = 0
    total: int = 0
    remaining: Nanos | None = None


class GPUStatus(Struct, frozen=True, array_like=True):
    """The state of a device: the models that have weights on it, and the number of its outstanding actions.

    ``predictions`` has the keys ``load`` and ``infer``, for the actions that the device has executed while serving. If
    the device has executed no actions of a kind, the key of this kind is missing.
    """

    gpu: GPUInfo
    used_pages: int
    outstanding: int
    predictions: dict[str, PredictionSummary] = {}
    counts: DeviceCounts = DeviceCounts()


class WorkerStatus(Struct, frozen=True, array_like=True):
    """The state of a worker and its devices.

    - ``ready``: whether the worker serves requests and is not silent
    - ``silent``: whether the worker is connected but has sent nothing for about a second
    - ``lacks``: the models that the worker cannot load, with the worker's messages; other workers serve these models
    - ``software``: name and version of the worker's software, such as ``clockwork 0.1.0``; empty if it is unknown
    - ``findings``: what disturbs the worker's machine, with the worst first, as far as the worker found it at its start
    """

    id: str
    ready: bool
    page_size: Bytes
    gpus: tuple[GPUStatus, ...]
    silent: bool = False
    lacks: dict[str, str] = {}
    software: str = ""
    findings: tuple[Finding, ...] = ()


class ModelStatus(Struct, frozen=True, array_like=True):
    """The state of a served version of a model: its profile for each kind of device, and its requests' outcomes.

    - ``late``: number of requests that were not answered by their deadline
    - ``refused``: number of requests that were refused before their deadline
    - ``failed``: number of requests with any other error
    - ``broken_promises``: number of late, refused and failed requests that had been admitted with a predicted
      completion
    - ``recent``: profiles of durations that were recently measured while serving, only for kinds of device whose stored
      profile differs
    - ``predictions``: summaries of the prediction errors of the model's ``load`` and ``infer`` actions on all devices,
      if there were any
    - ``counts``: numbers and times of all requests by status. Only ``counts`` includes cancelled requests.
    - ``ready``: whether a connected device can execute the model, and the device's worker is not silent
    - ``unbatched``: the reason why requests are no longer batched; empty if they are batched
    - ``default_slo``: the SLO of requests that set no SLO; 0 if it is unknown
    - ``demand``: the recent requests per second for each SLO
    - ``default``, ``labels``: as in `ModelSummary`
    - ``last_10_s``, ``last_5_min``: the requests that were answered recently. The other counts begin with the
      controller's start.
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
    default: bool = True
    labels: tuple[str, ...] = ()
    last_10_s: RecentCounts = RecentCounts()
    last_5_min: RecentCounts = RecentCounts()


class VersionStatus(Struct, frozen=True, array_like=True):
    """The state of a version of a model, in Triton's terms.

    ``reason`` is the reason why the version is not READY, or why its last load failed.
    """

    name: str
    version: str
    state: str
    reason: str = ""


class ServerStatus(Struct, frozen=True, array_like=True):
    """The state of the whole server.

    - ``broken``: the models that cannot be loaded or measured, with the reason of each
    - ``models``: the versions that are READY
    - ``versions``: all other versions, and the versions whose last load failed
    - ``serving_ns``: time since serving began
    - ``predictions``: summaries of the prediction errors of all ``load`` and ``infer`` actions, including the actions
      of lost devices
    - ``without_model``: number of requests that were answered before their model was known, by the status's name
    - ``ready``: whether the server is serving and at least one worker is not silent
    - ``shadows``: the versions that execute copies of live requests, by name
    - ``scaling``: the devices of each kind that the server wants
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
    versions: tuple[VersionStatus, ...] = ()
    shadows: tuple[ShadowStatus, ...] = ()
    scaling: tuple[KindScaling, ...] = ()


class StatusResponse(Struct, frozen=True, array_like=True, tag=26):
    """The response to StatusRequest. ``server`` is the state of the server."""

    id: int
    server: ServerStatus


class ListRequestsRequest(Struct, frozen=True, array_like=True, tag=36):
    """Request the last answered requests.

    - ``outcome``: one of `clockwork.messages.explanation.OUTCOMES`; empty for all requests
    - ``model``: name of a model; empty for all models
    - ``limit``: largest number of requests in the response
    """

    id: int
    outcome: str = ""
    model: str = ""
    limit: int = DEFAULT_LISTED


class ListRequestsResponse(Struct, frozen=True, array_like=True, tag=37):
    """The response to ListRequestsRequest. The newest request comes first."""

    id: int
    status: int
    message: str
    requests: tuple[RequestSummary, ...] = ()


class ExplainRequest(Struct, frozen=True, array_like=True, tag=38):
    """Request the explanation of the request with the id ``request_id``."""

    id: int
    request_id: str


class ExplainResponse(Struct, frozen=True, array_like=True, tag=39):
    """The response to ExplainRequest. ``explanation`` is None if the request is not recorded."""

    id: int
    status: int
    message: str
    explanation: Explanation | None = None


class ErrorResponse(Struct, frozen=True, array_like=True, tag=27):
    """The response to a request that the server could not decode. The request may be of any type."""

    id: int
    status: int
    message: str


Request: TypeAlias = (
    InferRequest
    | CancelRequest
    | LoadModelRequest
    | UnloadModelRequest
    | PromoteRequest
    | ShadowRequest
    | ListModelsRequest
    | EvictRequest
    | StatusRequest
    | ListRequestsRequest
    | ExplainRequest
    | TimelineRequest
)
Response: TypeAlias = (
    InferResponse
    | LoadModelResponse
    | UnloadModelResponse
    | PromoteResponse
    | ShadowResponse
    | ListModelsResponse
    | EvictResponse
    | StatusResponse
    | ListRequestsResponse
    | ExplainResponse
    | TimelineResponse
    | ErrorResponse
)
