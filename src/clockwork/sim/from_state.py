"""A scenario from what ``clockwork status --json`` prints of a live system.

Rules of the file: models, times, devices and the observed load are the live system's. Durations are drawn from the
measurements in service if there are enough of them, else from the profile. If a model was measured on several kinds of
devices, the first kind stands for all.
"""

from typing import Any

from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.paced.durations import NoiseModel
from clockwork.paced.from_status import DAMAGED, models_of, whole
from clockwork.sim.scenario import DevicesSpec, ModelSpec, NetworkSpec, Scenario
from clockwork.workload.spec import StreamSpec

DURATION_S = 60.0
WARMUP_S = 5.0


def scenario_of(state: dict[str, Any], scenario: Scenario | None = None) -> Scenario:
    """Return a scenario with the devices and models of the state.

    The workload is that of ``scenario``; without it, the rates of requests that the server has observed.

    Raises:
        InvalidRequestError: as `models_of`; or the server has received no requests and no scenario was given.
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
        raise InvalidRequestError("the server has received no requests; give a SCENARIO.toml with a workload as well")
    return tuple(streams)
