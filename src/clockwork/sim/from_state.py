"""Makes a scenario from the output of ``clockwork status --json`` for a live system.

The scenario has the models, times and devices of the live system, and its recent load with SLOs. If there are enough
measurements while serving, durations are drawn from them. If not, durations are drawn from the profile. If a model was
measured on several kinds of devices, the first kind is used for all devices.
"""

from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.paced.durations import NoiseModel
from clockwork.paced.from_status import DAMAGED, models_of, whole
from clockwork.sim.devices_spec import DevicesSpec
from clockwork.sim.scenario import ModelSpec, NetworkSpec, Scenario
from clockwork.units import MILLISECOND, SECOND
from clockwork.workload.spec import MAX_RATE, StreamSpec

DURATION_S: Final = 60.0
WARMUP_S: Final = 5.0

DEFAULT_SLO: Final = 100 * MILLISECOND
"""SLO of requests if the file contains no SLOs, because an older server wrote the file."""


def scenario_of(state: dict[str, Any], scenario: Scenario | None = None) -> Scenario:
    """Return a scenario with the devices and models of the state.

    The workload is taken from ``scenario``. Without ``scenario``, the workload consists of the recent requests of each
    model with their SLOs.

    Raises:
        InvalidRequestError: the state has no usable models (see `models_of`), or the server has received no requests
            and no scenario was given.
    """
    models = models_of(state)
    try:
        gpus = [gpu for worker in state["workers"] for gpu in worker["gpus"]]
        pages = min(whole(gpu["gpu"]["total_pages"]) for gpu in gpus)
        devices = DevicesSpec(workers=len(gpus), pages=pages)
        streams = () if scenario is not None else _streams(state)
    except DAMAGED as error:
        raise InvalidRequestError(f"devices or counts of the state cannot be read: {error!r}") from None
    specs = tuple(ModelSpec(model.path[:-5], infer_ms={"1": 1.0}, load_ms=1.0) for model, _ in models)
    if scenario is not None:
        return replace(scenario, models=specs, devices=devices, noise=NoiseModel("measured"))
    scheduler = str(state.get("scheduler", "clockwork"))
    return Scenario(
        models=specs,
        workload=streams,
        name="from-state",
        slo_ms=_usual_slo_ms(streams),
        duration_s=DURATION_S,
        warmup_s=WARMUP_S,
        scheduler=scheduler,
        devices=devices,
        network=NetworkSpec(),
        noise=NoiseModel("measured"),
    )


def _streams(state: dict[str, Any]) -> tuple[StreamSpec, ...]:
    """Return a stream for each model and SLO.

    The rate is the recent demand. If the file contains no recent demand, the rate is the mean rate since the start.
    """
    streams = [stream for model in state["models"] for stream in _recent_streams(model)]
    streams = streams or [stream for model in state["models"] for stream in _mean_stream(model, state)]
    if not streams:
        raise InvalidRequestError("the server has received no requests; give a SCENARIO.toml with a workload as well")
    return tuple(streams)


def _recent_streams(model: dict[str, Any]) -> Iterator[StreamSpec]:
    demand = {whole(entry["slo"]) if entry["slo"] else 0: _rate(entry["rate"]) for entry in model.get("demand", ())}
    # If requests were refused before their SLO was read, they count under the most frequent SLO.
    unread = demand.pop(0, 0.0)
    if unread:
        usual = max(demand, key=lambda slo: demand[slo]) if demand else model.get("default_slo") or DEFAULT_SLO
        demand[usual] = demand.get(usual, 0.0) + unread
    for slo, rate in sorted(demand.items()):
        yield _stream(model, rate, slo / MILLISECOND)


def _mean_stream(model: dict[str, Any], state: dict[str, Any]) -> Iterator[StreamSpec]:
    seconds = state.get("serving_ns", 0) / SECOND
    count = sum(model.get(name, 0) for name in ("in_time", "late", "refused", "failed"))
    if count and seconds > 0:
        slo = model.get("default_slo")
        yield _stream(model, count / seconds, whole(slo) / MILLISECOND if slo else None)


def _stream(model: dict[str, Any], rate: float, slo_ms: float | None) -> StreamSpec:
    name = model["info"]["name"]
    return StreamSpec("poisson", name=name, rate=rate, models=(name,), slo_ms=slo_ms)


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_RATE:
        raise ValueError(f"{value!r} is not a rate")
    return float(value)


def _usual_slo_ms(streams: tuple[StreamSpec, ...]) -> float:
    """Return the most frequent SLO of the requests."""
    rates: dict[float, float] = {}
    for stream in streams:
        slo = stream.slo_ms or DEFAULT_SLO / MILLISECOND
        rates[slo] = rates.get(slo, 0.0) + stream.rate
    return max(rates, key=lambda slo: rates[slo])
