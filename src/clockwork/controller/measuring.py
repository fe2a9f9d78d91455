"""Measures one model on one device with a script of actions.

Theory of operation. The script is a generator. The generator repeatedly yields an action and receives the action's
result. At the end, the generator returns the profile. The generator does not wait, and does not depend on the code that
executes the actions. Warm-ups do not count. Before each measured LoadWeights, the weights are evicted. Each batch size
is measured with inputs that the worker generates. If the model accepts no such inputs, the profile contains an assumed
time and is marked as not measured.
"""

from collections.abc import Generator, Mapping

from clockwork.controller.config import ProfilingConfig
from clockwork.controller.events import Report
from clockwork.errors import ClockworkError
from clockwork.messages.actions import DeviceAction, InferInput
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.results import ErrorResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec, spec
from clockwork.state import GPUState, ModelState, Residency
from clockwork.units import Nanos, as_ms, show_duration

Script = Generator[DeviceAction, Result, ModelProfile]


class MeasurementFailedError(ClockworkError):
    """An action of a script failed. ``refused`` means that the model refuses the inputs."""

    def __init__(self, message: str, refused: bool = False) -> None:
        """Create an error."""
        super().__init__(message)
        self.refused = refused


def measure(gpu: GPUState, model: ModelState, config: ProfilingConfig, *, lenient: bool = False) -> Script:
    """Measure all times that a scheduler needs.

    If ``lenient`` is true and a batch size fails, the profile ends with the next smaller batch size. Some models need
    this, because they declare a free batch dimension but accept only some batch sizes. If the model refuses the inputs
    even at batch size 1, it is not measured.

    Raises:
        MeasurementFailedError: an action failed, or the model does not fit on the device.
    """
    load_weights = yield from _measure_loads(gpu, model, config)
    infer: dict[int, Measurement] = {}
    stopped = ""
    example = model.info.example
    if example is not None and example.unmeasured:
        return unmeasured(load_weights, config, example.unmeasured)
    shapes = yield from _accepted_shapes(gpu, model, config)
    for batch_size in batch_sizes(model, config.max_batch_size):
        try:
            measured = yield from _measure_infer(gpu, model, batch_size, shapes, config)
        except MeasurementFailedError as error:
            if lenient and batch_size == 1 and error.refused:
                return unmeasured(load_weights, config, str(error))
            if not lenient or batch_size == 1:
                raise
            stopped = str(error)
            break
        if isinstance(measured, str):
            stopped = measured
            break
        infer[batch_size] = measured
    stopped = stopped or why_limited(model, config.max_batch_size)
    return ModelProfile(load_weights, infer, config.max_batch_size, shapes, stopped=stopped)


def unmeasured(load_weights: Measurement, config: ProfilingConfig, reason: str) -> ModelProfile:
    """Return a profile with assumed times. The first requests for the model are used as its measurements."""
    assumed = {1: Measurement((config.unmeasured_cap,))}
    return ModelProfile(load_weights, assumed, config.max_batch_size, unmeasured=reason)


def possible_shapes(model: ModelState, config: ProfilingConfig) -> list[tuple[tuple[int, ...], ...]]:
    """Return the input shapes to try in a measurement, without a batch dimension. The list has at least one entry.

    If the worker searched for shapes, these are the shapes that it found. If the worker did not search, free dimensions
    have the size ``free_dim``, or 1 in a second try.
    """
    if model.info.example is not None:
        first = 1 if model.info.batchable else 0
        return [tuple([shape[first:] for shape in model.info.example.shapes])]
    return list(dict.fromkeys([row_shapes(model, config.free_dim), row_shapes(model, 1)]))


def _accepted_shapes(
    gpu: GPUState, model: ModelState, config: ProfilingConfig
) -> Generator[DeviceAction, Result, tuple[tuple[int, ...], ...]]:
    """Return the first possible input shapes that the model accepts."""
    *others, last = possible_shapes(model, config)
    for shapes in others:
        result = yield gpu.infer_inputs(model, generated_inputs(model, 1, shapes))
        if not isinstance(result, ErrorResult):
            return shapes
    return last


def batch_sizes(model: ModelState, largest: int) -> tuple[int, ...]:
    """Return the powers of two up to ``largest`` or the model's own limit, whichever is smaller.

    If the model is not batched, the result is only 1.
    """
    if not model.info.batchable:
        return (1,)
    largest = min(largest, model.info.max_batch or largest)
    return tuple(1 << i for i in range(largest.bit_length()) if 1 << i <= largest)


def why_limited(model: ModelState, largest: int) -> str:
    """Return the model's own limit as text if it is below ``largest``. Otherwise, return an empty text."""
    limit = model.info.max_batch
    if model.info.batchable and limit and limit < largest:
        return f"max_batch_size is {limit} in the model's config.pbtxt"
    return ""


def too_long(batch_size: int, duration: Nanos, limit: Nanos) -> str:
    """Return the reason text for a batch size whose execution took longer than the limit for one batch."""
    return f"batch size {batch_size} takes {show_duration(duration)}; the limit for one batch is {show_duration(limit)}"


def report_measured(
    model: str, device_kind: str, profile: ModelProfile, when: str = "", more: Mapping[str, str] | None = None
) -> Report:
    """Return the report of a new profile. ``when`` is a text that follows the model's name in the report.

    ``more`` contains further fields of the report.
    """
    times = ", ".join(f"b{size} {as_ms(profile.infer[size].p99):.2f}" for size in profile.batch_sizes)
    load = as_ms(profile.load_weights.p99)
    text = f"measured {model}{when}: LoadWeights {load:.2f} ms, Infer {times} ms (p99)"
    if profile.stopped:
        text += f"; no larger batches: {profile.stopped}"
    fields: dict[str, str | int] = {
        "model": model,
        **(more or {}),
        "device_kind": device_kind,
        "load_ns": profile.load_weights.p99,
        "infer_ns": profile.infer[profile.batch_sizes[0]].p99,
    }
    return Report("INFO", text, "model_profiled", fields)


def _measure_loads(
    gpu: GPUState, model: ModelState, config: ProfilingConfig
) -> Generator[DeviceAction, Result, Measurement]:
    samples: list[Nanos] = []
    spent = 0
    warmups = 1
    while _wants_more(samples, spent, config):
        if gpu.residency(model.name) is Residency.WARM:
            _check((yield gpu.evict_weights(model.name)), "EvictWeights")
        yield from _free_pages(gpu, model)
        result = yield gpu.load_weights(model)
        _check(result, "LoadWeights")
        assert isinstance(result, LoadWeightsResult)
        if warmups:
            warmups -= 1
            continue
        samples.append(result.timing.duration)
        spent += result.timing.duration
    return Measurement(tuple(samples))


def _free_pages(gpu: GPUState, model: ModelState) -> Generator[DeviceAction, Result, None]:
    while gpu.cache.free < gpu.models[model.name].weights_pages:
        _check((yield gpu.evict_weights(next(iter(gpu.cache)))), "EvictWeights")


def _measure_infer(
    gpu: GPUState,
    model: ModelState,
    batch_size: int,
    shapes: tuple[tuple[int, ...], ...],
    config: ProfilingConfig,
) -> Generator[DeviceAction, Result, Measurement | str]:
    """Return the times of a batch size.

    If an execution takes longer than ``max_exec``, return why the size is left out.
    """
    samples: list[Nanos] = []
    spent = 0
    warmups = config.warmups
    while _wants_more(samples, spent, config):
        result = yield gpu.infer_inputs(model, generated_inputs(model, batch_size, shapes))
        _check(result, f"Infer with batch size {batch_size}")
        assert isinstance(result, InferResult)
        duration = result.exec.duration
        if warmups:
            warmups -= 1
            if not warmups and batch_size > 1 and duration > config.max_exec:
                return too_long(batch_size, duration, config.max_exec)
            continue
        samples.append(duration)
        spent += duration
    return Measurement(tuple(samples))


def generated_inputs(model: ModelState, batch_size: int, shapes: tuple[tuple[int, ...], ...]) -> tuple[InferInput, ...]:
    """Return the inputs of an Infer. The worker generates their elements. ``shapes`` have no batch dimension."""
    tensors = tuple(
        _generated(info, (batch_size, *shape) if model.info.batchable else shape)
        for info, shape in zip(model.info.required_inputs, shapes, strict=True)
    )
    return (InferInput(0, batch_size, tensors, generated=True),)


def _wants_more(samples: list[Nanos], spent: Nanos, config: ProfilingConfig) -> bool:
    if len(samples) < config.min_samples:
        return True
    return len(samples) < config.max_samples and spent < config.budget


def row_shapes(model: ModelState, free_dim: int) -> tuple[tuple[int, ...], ...]:
    """Return the inputs' shapes without a batch dimension. Free dimensions have the size ``free_dim``."""
    first = 1 if model.info.batchable else 0
    inputs = model.info.required_inputs
    return tuple(tuple(free_dim if dim < 0 else dim for dim in info.shape[first:]) for info in inputs)


def _generated(info: TensorInfo, shape: tuple[int, ...]) -> TensorSpec:
    if info.datatype == Datatype.BYTES:
        return TensorSpec(info.name, info.datatype, shape, 0)
    return spec(info.name, info.datatype, shape)


def _check(result: Result, what: str) -> None:
    if isinstance(result, ErrorResult):
        raise MeasurementFailedError(f"{what} failed: {result.message}", result.status == Status.INVALID_INPUT)
