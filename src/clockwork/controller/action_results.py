"""Checks the result of an action, records how long the action took, and explains why it was late or lost.

If a result has the wrong type or the outputs of other requests, an `ErrorResult` replaces it. So the rest of the
controller can assume that every result matches its action.
"""

from collections.abc import Mapping
from typing import Final

from clockwork.messages.actions import DeviceAction, EvictWeights, Infer, LoadWeights
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import (
    ErrorResult,
    EvictWeightsResult,
    InferResult,
    LoadWeightsResult,
    Result,
    Timing,
)
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, GPUState, PendingRequest
from clockwork.units import Nanos, as_ms

MAX_LOSSES: Final = 2
"""Number of workers that may be lost while they hold the same request.

After the first loss, the request is tried once more, because it is unlikely to be the cause. After the second loss, the
request is treated as the cause and is not tried again. Without this limit, one request could crash every worker.
"""

RESULT_OF: Final[Mapping[type, type]] = {
    LoadWeights: LoadWeightsResult,
    EvictWeights: EvictWeightsResult,
    Infer: InferResult,
}
"""Maps the type of an action to the type of its result if the action succeeds."""


def checked_result(state: ClockworkState, action: DeviceAction, result: Result) -> Result:
    """Return the result if it is usable. Otherwise, return an `ErrorResult` that states the fault.

    The result of a batch is also unusable if, since the batch was sent, a check has found that its model must not be
    batched.
    """
    if isinstance(result, ErrorResult):
        return result
    name = type(action).__name__
    if not isinstance(result, RESULT_OF[type(action)]):
        text = f"the worker answered {name} with {type(result).__name__}"
        return ErrorResult(action.id, name, Status.ERROR, text)
    if not isinstance(action, Infer) or not isinstance(result, InferResult):
        return result
    expected = [share.request_id for share in action.inputs]
    found = [output.request_id for output in result.outputs]
    if expected != found:
        text = f"the worker received the requests {expected} but answered {found}"
        return ErrorResult(action.id, name, Status.ERROR, text)
    model = state.models.get(action.model)
    if model is not None and model.unbatched and len(action.inputs) > 1 and not action.apart:
        text = "the request was in a batch when the model was found to give other outputs in batches; retry it"
        return ErrorResult(action.id, name, Status.RUNTIME_ERROR, text)
    return result


def count_loss(request: PendingRequest, worker_id: str) -> str:
    """Count a worker that was lost while it had a request.

    Return why the request is not tried again, or an empty text if it is tried again.
    """
    request.losses += 1
    if request.losses < MAX_LOSSES:
        return ""
    return (
        f"{request.losses} workers were lost while they held this request, the last {worker_id}: "
        "the request may be the cause and is not tried again"
    )


def record_result(state: ClockworkState, gpu: GPUState, action: DeviceAction, result: Result) -> Nanos:
    """Record how long an action took, and the errors of its predicted times.

    Return how long the action occupied the device.
    """
    model = state.models.get(action.model)
    gpu.compare(action, result, model)
    gpu.work.count(result)
    if model is None:
        return 0  # the worker has a model that is not served
    if isinstance(action, Infer) and isinstance(result, InferResult):
        duration = gpu.occupied(action.earliest, result.exec)
        profile = model.profiles.get(gpu.kind)
        if profile is not None and profile.unmeasured and not any(output.refusal for output in result.outputs):
            model.executed_first(gpu.kind, tuple([tensor.shape for tensor in action.inputs[0].tensors]), duration)
        model.took(gpu.kind, action.batch_size, duration)
        return duration
    if isinstance(action, LoadWeights) and isinstance(result, LoadWeightsResult):
        model.took(gpu.kind, 0, result.timing.duration)
        gpu.loads[action.model] = result.timing
        return result.timing.duration
    return 0


def _overlap(timing: Timing, begin: Nanos, end: Nanos) -> Nanos:
    """Return how much of a time span lies between two moments."""
    return max(0, min(timing.end, end) - max(timing.begin, begin))


def why_late(now: Nanos, action: Infer, result: InferResult) -> str:
    """Return why the result of an Infer arrived after the deadlines of its requests."""
    timing = result.exec
    return (
        f"Infer {action.id} began {as_ms(timing.begin - action.earliest):.3f} ms after it was sent and took "
        f"{as_ms(timing.duration):.3f} ms (estimate: {as_ms(action.expected_duration):.3f} ms); its result took "
        f"{as_ms(now - timing.end):.3f} ms to arrive"
    )


def request_timing(
    now: Nanos, gpu: GPUState, request: PendingRequest, action: Infer, result: InferResult
) -> RequestTiming:
    """Return how the time of an executed request was spent."""
    loaded = gpu.loads.get(action.model)
    return RequestTiming(
        total=now - request.arrival,
        queue=max(0, result.exec.begin - request.arrival),
        exec=result.exec.duration,
        batch_size=action.batch_size,
        cold_start=request.cold_start,
        load=0 if loaded is None else _overlap(loaded, request.arrival, result.exec.begin),
    )
