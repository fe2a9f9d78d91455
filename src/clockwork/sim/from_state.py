"""A scenario from what ``clockwork status --json`` prints of a live system.

Rules of the file: models, times, devices and the load that was seen are the live system's. Durations are drawn from
what was measured in service, where there is enough of it, else from the profile; where a model was measured on several
kinds of devices, the first kind is taken for all.
"""

from typing import Any

from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.tensors import TensorInfo
from clockwork.sim.devices import NoiseModel
from clockwork.sim.models import MAX_BATCH, SimModel
from clockwork.sim.scenario import DevicesSpec, ModelSpec, NetworkSpec, Scenario
from clockwork.workload.spec import StreamSpec

_DAMAGED = (AttributeError, KeyError, TypeError, ValueError, IndexError, StopIteration)
DURATION_S = 60.0
WARMUP_S = 5.0
PAGE = 16 << 20


def sim_models_of(state: dict[str, Any]) -> list[tuple[SimModel, int]]:
    """The models of a live system.

    Raises:
        InvalidRequestError: the state has none that were measured, or is not in the form of ``status --json``.
    """
    try:
        made = [(_model(model), 1) for model in state["models"] if model["profiles"]]
    except _DAMAGED as error:
        raise InvalidRequestError(f"the state is not what clockwork status --json prints: {error!r}") from None
    if not made:
        raise InvalidRequestError("the state has no model whose times are known: ask the server when it is serving")
    return made


def scenario_of(state: dict[str, Any], given: Scenario | None = None) -> Scenario:
    """A scenario with the state's devices and models, and the workload of ``given``, or as the server has seen it.

    Raises:
        InvalidRequestError: as `sim_models_of`; or the server has seen no requests, and nothing was given.
    """
    models = sim_models_of(state)
    try:
        gpus = [gpu for worker in state["workers"] for gpu in worker["gpus"]]
        pages = min(_whole(gpu["gpu"]["total_pages"]) for gpu in gpus)
        devices = DevicesSpec(workers=len(gpus), pages=pages)
        streams = () if given is not None else _streams(state)
    except _DAMAGED as error:
        raise InvalidRequestError(f"the state has no devices or counts that could be read: {error!r}") from None
    specs = tuple(ModelSpec(model.path[:-5], infer_ms={"1": 1.0}, load_ms=1.0) for model, _ in models)
    if given is not None:
        return replace(given, models=specs, devices=devices, noise=NoiseModel("measured"))
    scheduler = str(state.get("scheduler", "clockwork"))
    return Scenario(
        models=specs,
        workload=streams,
        name="from-state",
        duration_s=DURATION_S,
        warmup_s=WARMUP_S,
        scheduler=scheduler,
        devices=devices,
        network=NetworkSpec(),
        noise=NoiseModel("measured"),
    )


def _streams(state: dict[str, Any]) -> tuple[StreamSpec, ...]:
    seconds = state.get("serving_ns", 0) / 1e9
    streams = []
    for model in state["models"]:
        count = sum(model.get(name, 0) for name in ("in_time", "late", "refused", "failed"))
        if count and seconds > 0:
            streams.append(StreamSpec("poisson", rate=count / seconds, models=(model["info"]["name"],)))
    if not streams:
        raise InvalidRequestError("the server has seen no requests: give a SCENARIO.toml with a workload as well")
    return tuple(streams)


def _model(model: dict[str, Any]) -> SimModel:
    info, profiles = model["info"], model["profiles"]
    kind = sorted(profiles)[0]
    profile = model.get("recent", profiles).get(kind, profiles[kind])
    infer = {_whole(int(size)): _measurement(times) for size, times in profile["infer"].items()}
    if 1 not in infer:
        raise ValueError(f"{info['name']} has no time for one row")
    made = ModelProfile(_measurement(profile["load_weights"]), dict(sorted(infer.items())), MAX_BATCH)
    return SimModel(
        f"{_text(info['name'])}.onnx",
        _text(info["digest"]),
        made,
        _whole(info["weights_pages"]) * PAGE,
        tuple(_tensor(tensor) for tensor in info["inputs"]),
        tuple(_tensor(tensor) for tensor in info["outputs"]),
        info["batchable"],
    )


def _tensor(tensor: dict[str, Any]) -> TensorInfo:
    return TensorInfo(tensor["name"], tensor["datatype"], tuple(tensor["shape"]))


def _measurement(times: dict[str, Any]) -> Measurement:
    samples = tuple(_whole(sample) for sample in times["samples"])
    if not samples:
        raise ValueError("a measurement without samples")
    return Measurement(samples)


def _whole(value: Any) -> int:
    """A number of things, or of nanoseconds: at least 1, and within reason."""
    if not isinstance(value, int) or not 1 <= value <= 1 << 50:
        raise ValueError(f"{value!r} is no number from 1 on")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError(f"{value!r} is no name")
    return value
