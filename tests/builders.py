"""Builders of test objects, such as descriptions of models and workers, requests and states.

All defaults are literal.
"""

from collections.abc import Sequence

from clockwork.messages.actions import InferInput, model_names
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.requests import InferRequest
from clockwork.messages.results import GPUInfo, ModelInfo, WorkerInfo
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec, spec
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, WorkerState
from clockwork.units import MIB, Nanos, ms

PAGE = 16 * MIB
RUNTIME = "fake 1"
KIND = "gpu"

INPUT = TensorInfo("x", Datatype.FP32, (-1, 2))
OUTPUT = TensorInfo("y", Datatype.FP32, (-1, 2))


def model_info(
    name: str = "a",
    *,
    path: str = "",
    digest: str = "",
    pages: int = 1,
    inputs: tuple[TensorInfo, ...] = (INPUT,),
    batchable: bool = True,
    load: str = "",
    copies: int = 1,
) -> ModelInfo:
    """Return the model ``a`` from ``a.onnx`` with content ``sha-a``. It has one page and one input ``x FP32[-1,2]``."""
    load = load or name
    return ModelInfo(
        name=name,
        path=path or f"{load}.onnx",
        digest=digest or f"sha-{load}",
        runtime=RUNTIME,
        inputs=inputs,
        outputs=(OUTPUT,),
        batchable=batchable,
        weights_bytes=pages * PAGE,
        weights_pages=pages,
        load=load,
        copies=copies,
    )


def copies_of(load: str, copies: int, **fields: object) -> tuple[ModelInfo, ...]:
    """Return all models that one LoadModelFromDisk creates."""
    names = model_names(load, copies)
    return tuple(model_info(name, load=load, copies=copies, **fields) for name in names)  # type: ignore[arg-type]


def worker_info(
    models: Sequence[ModelInfo] = (), *, gpus: int = 1, pages: int = 4, warm: tuple[str, ...] = (), kind: str = KIND
) -> WorkerInfo:
    """Return a worker that has ``models``. The weights of ``warm`` are on its first device."""
    devices = tuple(GPUInfo(gpu, kind, pages, warm if gpu == 0 else ()) for gpu in range(gpus))
    return WorkerInfo(PAGE, devices, tuple(models))


def tensors(rows: int = 1) -> tuple[TensorSpec, ...]:
    """Return the inputs of a request with ``rows`` rows, for a model with the default inputs."""
    return (spec("x", Datatype.FP32, (rows, 2)),)


def infer_request(
    id: int,
    model: str = "a",
    *,
    rows: int = 1,
    slo: Nanos | None = ms(100),
    slo_factor: float | None = None,
    inputs: tuple[TensorSpec, ...] | None = None,
    outputs: tuple[str, ...] = (),
    generated: bool = False,
) -> InferRequest:
    """Return a client's request with valid inputs and an SLO of 100 ms."""
    inputs = tensors(rows) if inputs is None else inputs
    return InferRequest(id, model, inputs, slo, slo_factor, outputs, generated)


def measurement(*samples: Nanos) -> Measurement:
    """Return a measurement with these samples."""
    return Measurement(samples)


def profile(load: Nanos = ms(8), *, b1: Nanos = ms(3), max_batch_size: int = 4) -> ModelProfile:
    """Return a profile: LoadWeights takes 8 ms, and Infer takes 3 ms plus 1 ms for each further row.

    The batch sizes are the powers of two.
    """
    sizes = [1 << i for i in range(max_batch_size.bit_length())]
    infer = {size: measurement(b1 + ms(size - 1)) for size in sizes}
    return ModelProfile(measurement(load), infer, max_batch_size, ((2,),))


def model_state(info: ModelInfo, kind: str = KIND) -> ModelState:
    """Return a model that was measured on devices of ``kind``."""
    model = ModelState(info)
    model.profiles[kind] = profile()
    return model


def a_state(
    models: Sequence[ModelInfo], *, workers: int = 1, gpus: int = 1, pages: int = 4, warm: tuple[str, ...] = ()
) -> ClockworkState:
    """Return a state with workers ``w0``, ``w1``, ... that have all models.

    The weights of ``warm`` are on the first device of each worker.
    """
    state = ClockworkState()
    for i in range(workers):
        info = worker_info(models, gpus=gpus, pages=pages, warm=warm)
        state.workers[f"w{i}"] = WorkerState(f"w{i}", info, state.actions, state.holders)
    for model in models:
        state.models[model.name] = model_state(model)
    return state


def a_gpu(
    models: Sequence[ModelInfo], *, pages: int = 4, warm: tuple[str, ...] = ()
) -> tuple[ClockworkState, GPUState]:
    """Return a state with one device, and the device."""
    state = a_state(models, pages=pages, warm=warm)
    return state, next(state.gpus())


def pending(id: int, model: ModelState, *, rows: int = 1, arrival: Nanos = 0, slo: Nanos = ms(100)) -> PendingRequest:
    """Return a request that the controller has accepted. Its payload is ``payload-<id>``."""
    share = InferInput(id, rows, tensors(rows))
    return PendingRequest(id, 1, id, model, share, f"payload-{id}", arrival, arrival + slo)
