"""Scenarios: what is simulated, or played against a live server, as TOML.

::

    name = "overload"
    duration_s = 20            # of load; what is under way then may still end
    warmup_s = 2               # not counted
    scheduler = "clockwork"
    slo_ms = 100               # of requests whose stream says nothing

    [devices]
    workers = 1
    per_worker = 1
    pages = 1376               # of 16 MiB each

    [[models]]
    name = "resnet50"
    copies = 15
    profile = "resnet50-v100"  # or load_ms = 8.31 and infer_ms = {"1" = 2.73, "2" = 4.05}

    [[workload]]               # see clockwork.workload
    kind = "poisson"
    rate = 900

    [controller]               # what its work takes: cost_per_request_ms, cost_per_result_ms, ...
    [network]                  # delay_ms, jitter_ms, loss, client_delay_ms
    [noise]                    # kind = "normal", share = 0.05
    [[faults]]                 # kind = "slow-device", at_s = 5, for_s = 2, worker = 0, factor = 2.0
    [sweep]                    # one run per value: slo_ms = [10, 25], load = [0.5, 1.0], models, devices
    [clockwork]                # constants of the scheduler: efficiency_floor = 0.9, schedule_ahead_ms = 5

Rules of the file: it reads text, not files. What is unknown, or makes no sense, is said with the place it is at.
"""

import tomllib
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.messages.profile import ModelProfile
from clockwork.paced.durations import NoiseModel
from clockwork.paced.models import PROFILES, RESNET50_BYTES, PacedModel, constant_profile, scaled
from clockwork.scheduling.clockwork import ClockworkConfig
from clockwork.sim.controller import Costs
from clockwork.sim.links import LinkModel
from clockwork.units import Bytes, Nanos, ms
from clockwork.workload.spec import StreamSpec, check_finite, with_slo_scaled
from clockwork.workload.spec import scaled as scaled_stream

MAX_WORKERS: Final = 10_000
MAX_MODELS: Final = 100_000
MAX_PAGES: Final = 1 << 24
MAX_COST_MS: Final = 1000.0
MAX_DURATION: Final = 31 * 24 * 3600.0


class DevicesSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The fleet."""

    workers: int = 1
    per_worker: int = 1
    pages: int = 1376


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One model file, or ``kinds`` of them whose times differ by factors from ``spread[0]`` to ``spread[1]``."""

    name: str
    copies: int = 1
    profile: str = ""
    load_ms: float = 0.0
    infer_ms: dict[str, float] = {}
    weights_bytes: Bytes = RESNET50_BYTES
    kinds: int = 1
    spread: tuple[float, float] = (1.0, 1.0)


class NetworkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """All links: of workers, and of clients. Each way, in milliseconds."""

    delay_ms: float = 0.1
    jitter_ms: float = 0.0
    loss: float = 0.0
    resend_ms: float = 200.0
    client_delay_ms: float = 0.1

    def link(self) -> LinkModel:
        """A worker's link."""
        return LinkModel(ms(self.delay_ms), ms(self.jitter_ms), self.loss, ms(self.resend_ms))


class ControllerSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What the controller's work takes, in milliseconds; 0: no time. Events that arrive meanwhile wait.

    ``cost_per_request_ms``: a request that the scheduler decides about; ``cost_per_refusal_ms``: one that is answered
    as soon as it is handled; ``cost_per_result_ms``: a worker's result; ``cost_per_action_ms``: an Infer that is sent.
    """

    cost_per_request_ms: float = 0.0
    cost_per_refusal_ms: float = 0.0
    cost_per_result_ms: float = 0.0
    cost_per_action_ms: float = 0.0

    def costs(self) -> Costs:
        """In nanoseconds."""
        return Costs(
            ms(self.cost_per_request_ms),
            ms(self.cost_per_refusal_ms),
            ms(self.cost_per_result_ms),
            ms(self.cost_per_action_ms),
        )


class FaultSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Something that goes wrong ``at_s`` seconds after the load began, for ``for_s`` seconds.

    slow-device: durations times ``factor``; drift: growing to ``factor`` over the time; stalled-link: nothing gets
    through, both ways; worker-death: dies, and returns as a new process; failing: a share of ``factor`` of Infers
    fails; clock-skew: from the start, ``offset_ms`` ahead and gaining ``drift_ppm``.
    """

    kind: Literal["slow-device", "drift", "stalled-link", "worker-death", "failing", "clock-skew"]
    at_s: float = 0.0
    for_s: float = 1.0
    worker: int = 0
    factor: float = 2.0
    offset_ms: float = 0.0
    drift_ppm: float = 0.0


class SweepSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One run for each value, or each pair of values. ``load`` multiplies the workload's."""

    slo_ms: tuple[float, ...] = ()
    load: tuple[float, ...] = ()


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """See the module."""

    models: tuple[ModelSpec, ...] = ()
    workload: tuple[StreamSpec, ...] = ()
    name: str = "scenario"
    duration_s: float = 20.0
    warmup_s: float = 2.0
    scheduler: str = "clockwork"
    slo_ms: float = 100.0
    bucket_s: float = 0.0
    devices: DevicesSpec = DevicesSpec()
    controller: ControllerSpec = ControllerSpec()
    network: NetworkSpec = NetworkSpec()
    noise: NoiseModel = NoiseModel()
    faults: tuple[FaultSpec, ...] = ()
    sweep: SweepSpec = SweepSpec()
    clockwork: dict[str, float | bool] = field(default_factory=dict)

    def scheduler_config(self) -> ClockworkConfig:
        """The constants of the Clockwork scheduler, with those of the scenario in their place.

        Raises:
            InvalidRequestError: there is no such constant.
        """
        values: dict[str, Any] = {}
        default = ClockworkConfig()
        for name, value in self.clockwork.items():
            target = name.removesuffix("_ms")
            known = getattr(default, target, None) if target in ClockworkConfig.__struct_fields__ else None
            duration = isinstance(known, int) and not isinstance(known, bool) and target not in COUNTS
            if known is None or duration != name.endswith("_ms"):
                names = ", ".join(
                    f"{it}_ms" if isinstance(getattr(default, it), int) and it not in (*COUNTS, "preload") else it
                    for it in ClockworkConfig.__struct_fields__
                )
                raise InvalidRequestError(f"[clockwork] has no constant {name!r}: there are {names}")
            values[target] = _constant(name, value, known, duration)
        return replace(default, **values)

    def sim_models(self) -> list[tuple[PacedModel, int]]:
        """The model files, and the copies of each."""
        return [made for spec in self.models for made in _sim_models(spec)]

    def model_names(self) -> list[str]:
        """All models, as the controller will name them."""
        names = []
        for model, copies in self.sim_models():
            stem = model.path.removesuffix(".onnx")
            names += [stem] if copies == 1 else [f"{stem}-{i + 1}" for i in range(copies)]
        return names

    def bucket(self) -> Nanos:
        """The length of a step of the time series: at most a thousand of them."""
        return round((self.bucket_s or max(1.0, self.duration_s / 1000)) * 1e9)


COUNTS: Final = ("window", "choices", "evictions_considered", "loads_outstanding")
"""Constants of the scheduler that are numbers of things, not durations."""


def _constant(name: str, value: object, known: object, duration: bool) -> object:
    """A constant of the scheduler, in its own type and within reason."""
    if isinstance(known, bool) or isinstance(value, bool):
        if isinstance(known, bool) and isinstance(value, bool):
            return value
        raise InvalidRequestError(f"[clockwork] {name} is {value!r}; it is of another type")
    assert isinstance(value, int | float)
    if not 0 <= value <= 1e6 or (isinstance(known, float) and name != "optimism" and value > 1):
        raise InvalidRequestError(f"[clockwork] {name} is {value}; that makes no sense")
    if duration:
        return ms(value)
    if isinstance(known, int) and (value < 1 or value != int(value)):
        raise InvalidRequestError(f"[clockwork] {name} is {value}; it is a number of things, at least 1")
    return int(value) if isinstance(known, int) else float(value)


def parse_scenario(text: str, where: str = "the scenario") -> Scenario:
    """A scenario from TOML.

    Raises:
        InvalidRequestError: it is none; the message says where and why.
    """
    try:
        return checked(msgspec.convert(tomllib.loads(text), Scenario, strict=False), where)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequestError(f"{where} is no TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{where}: {error}") from None


def checked(scenario: Scenario, where: str = "the scenario") -> Scenario:
    """The scenario, if it makes sense.

    Raises:
        InvalidRequestError: it does not.
    """
    try:
        check_finite(scenario, "")
        _check_fleet(scenario)
        _check_models(scenario)
        _check_times(scenario)
        _check_faults(scenario)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error}") from None
    scenario.scheduler_config()
    scenario.sim_models()
    return scenario


def _refuse(problems: dict[str, bool]) -> None:
    for problem, is_one in problems.items():
        if is_one:
            raise InvalidRequestError(problem)


def _check_fleet(scenario: Scenario) -> None:
    devices, network, controller = scenario.devices, scenario.network, scenario.controller
    costs = [getattr(controller, name) for name in controller.__struct_fields__]
    delays = (network.delay_ms, network.jitter_ms, network.resend_ms, network.client_delay_ms)
    _refuse(
        {
            f"[devices] workers is {devices.workers}; 1 to {MAX_WORKERS} can be simulated": not (
                1 <= devices.workers <= MAX_WORKERS
            ),
            f"[devices] per_worker is {devices.per_worker}; a worker has 1 to 64": not 1 <= devices.per_worker <= 64,
            f"[devices] pages is {devices.pages}; 1 to {MAX_PAGES} make sense": not 1 <= devices.pages <= MAX_PAGES,
            f"[controller] costs are 0 to {MAX_COST_MS:g} ms": not 0 <= min(costs) <= max(costs) <= MAX_COST_MS,
            "[network] delays are 0 to 1e6 ms": min(delays) < 0 or max(delays) > 1e6,
            f"[network] loss is {network.loss}; 0 to less than 1 makes sense": not 0 <= network.loss < 1,
            f"[noise] share is {scenario.noise.share}; 0 to 1 makes sense": not 0 <= scenario.noise.share <= 1,
        }
    )


def _check_models(scenario: Scenario) -> None:
    models = scenario.models
    if any(model.copies < 1 or model.kinds < 1 for model in models):
        raise InvalidRequestError("a [[models]] has copies or kinds below 1")
    copies = sum(model.copies * model.kinds for model in models)
    names = [model.name for model in models]
    _refuse(
        {
            f"{copies} models; 1 to {MAX_MODELS} can be simulated": not 1 <= copies <= MAX_MODELS,
            f"two [[models]] have one name: {', '.join(names)}": len(set(names)) < len(names),
            "a model's weights_bytes are below 1": any(model.weights_bytes < 1 for model in models),
            "a model's spread is not two factors from 0.001 to 1000, the smaller first": any(
                not 0.001 <= model.spread[0] <= model.spread[1] <= 1000 for model in models
            ),
            "a model's times are 0 to 1e7 ms": any(
                max(model.load_ms, *model.infer_ms.values(), 0.0) > 1e7 or model.load_ms < 0 for model in models
            ),
        }
    )


def _check_times(scenario: Scenario) -> None:
    duration = scenario.duration_s
    _refuse(
        {
            "there is no [[workload]]": not scenario.workload,
            f"duration_s is {duration}; a millisecond to a month can be simulated": not 0.001
            <= duration
            <= MAX_DURATION,
            "warmup_s must be shorter than duration_s by a millisecond": not 0 <= scenario.warmup_s <= duration - 0.001,
            f"slo_ms is {scenario.slo_ms}; it must be positive, and at most a day": not 0
            < scenario.slo_ms
            <= 86_400_000,
            f"bucket_s is {scenario.bucket_s}; there are 1 to 10000 of them in the time, or it is 0": (
                scenario.bucket_s != 0 and not duration / 10_000 <= scenario.bucket_s <= MAX_DURATION
            ),
            "[sweep] has a value that is not positive, or too large": any(
                not 0 < value <= 1e8 for value in (*scenario.sweep.slo_ms, *scenario.sweep.load)
            ),
        }
    )


def _check_faults(scenario: Scenario) -> None:
    faults = scenario.faults
    _refuse(
        {
            "a fault names a worker that is not there": any(
                not 0 <= fault.worker < scenario.devices.workers for fault in faults
            ),
            "a fault's at_s and for_s lie within the scenario's duration": any(
                fault.at_s < 0 or fault.for_s <= 0 or fault.at_s + fault.for_s > MAX_DURATION for fault in faults
            ),
            "a stalled link or a dead worker comes back by the end: at_s + for_s is after duration_s": any(
                fault.kind in ("stalled-link", "worker-death") and fault.at_s + fault.for_s > scenario.duration_s
                for fault in faults
            ),
            "a fault's factor is above 0, and at most 1000": any(not 0 < fault.factor <= 1000 for fault in faults),
            "a clock is off by at most 1e9 ms and drifts by at most 1000 ppm": any(
                abs(fault.offset_ms) > 1e9 or abs(fault.drift_ppm) > 1000 for fault in faults
            ),
        }
    )


def variants(scenario: Scenario) -> list[tuple[float, Scenario]]:
    """The runs of a scenario: (load, scenario without a sweep), one per combination of the sweep's values."""
    made = []
    for load in scenario.sweep.load or (1.0,):
        for slo_ms in scenario.sweep.slo_ms or (scenario.slo_ms,):
            streams = tuple(scaled_stream(stream, load) for stream in scenario.workload)
            made.append((load, replace(scenario, slo_ms=slo_ms, workload=streams, sweep=SweepSpec())))
    return made


def altered(
    scenario: Scenario,
    *,
    workers: int | None = None,
    load: float = 1.0,
    slo: float = 1.0,
    profile: str | None = None,
) -> Scenario:
    """What if: other devices, a multiple of the load, a multiple of every SLO, another profile by name."""
    if profile is not None:
        models = tuple(replace(model, profile=profile) if model.profile else model for model in scenario.models)
        scenario = replace(scenario, models=models)
    streams = tuple(with_slo_scaled(scaled_stream(stream, load), slo) for stream in scenario.workload)
    devices = scenario.devices if workers is None else replace(scenario.devices, workers=workers)
    sweep = replace(scenario.sweep, slo_ms=tuple(value * slo for value in scenario.sweep.slo_ms))
    return checked(replace(scenario, workload=streams, devices=devices, slo_ms=scenario.slo_ms * slo, sweep=sweep))


def _sim_models(spec: ModelSpec) -> list[tuple[PacedModel, int]]:
    profile = _profile(spec)
    if spec.kinds == 1:
        return [(PacedModel(f"{spec.name}.onnx", f"sim-{spec.name}", profile, spec.weights_bytes), spec.copies)]
    low, high = spec.spread
    made = []
    for kind in range(spec.kinds):
        factor = low * (high / low) ** (kind / (spec.kinds - 1))
        name = f"{spec.name}{kind:02d}"
        size = max(1, round(spec.weights_bytes * factor))
        made.append((PacedModel(f"{name}.onnx", f"sim-{name}", scaled(profile, factor), size), spec.copies))
    return made


def _profile(spec: ModelSpec) -> ModelProfile:
    if spec.profile:
        if spec.profile not in PROFILES:
            raise InvalidRequestError(f"model {spec.name}: no profile {spec.profile!r}; known: {', '.join(PROFILES)}")
        return PROFILES[spec.profile]
    try:
        infer = {int(size): ms(time) for size, time in spec.infer_ms.items()}
    except ValueError:
        raise InvalidRequestError(f"model {spec.name}: infer_ms has batch sizes for keys: {spec.infer_ms}") from None
    if not infer or min(infer) != 1 or min(infer.values()) <= 0 or spec.load_ms <= 0:
        raise InvalidRequestError(
            f"model {spec.name} needs a profile by name ({', '.join(PROFILES)}), or load_ms and infer_ms "
            "with a time for batch size 1 at least"
        )
    return constant_profile(ms(spec.load_ms), infer)
