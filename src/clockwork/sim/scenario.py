"""Reads scenarios in TOML. Scenarios define the fleet, models, workload and faults of a simulation.

::

    name = "overload"
    duration_s = 20            # duration of the workload; pending requests may end later
    warmup_s = 2               # excluded from the results
    scheduler = "clockwork"
    slo_ms = 100               # SLO of streams that set none
    shadows = ["resnet50-1=2:0.1"]   # NAME=VERSION:SHARE, as the option --shadow

    [devices]
    workers = 1
    per_worker = 1
    pages = 1376               # weights cache of each device, in pages of 16 MiB

    [[devices.others]]         # devices of another kind; see clockwork.sim.devices_spec
    kind = "old"
    factor = 3.0

    [[models]]
    name = "resnet50"
    copies = 15
    profile = "resnet50-v100"  # or load_ms = 8.31 and infer_ms = {"1" = 2.73, "2" = 4.05}

    [[workload]]               # see clockwork.workload
    kind = "poisson"
    rate = 900

    [controller]               # time of its work: cost_per_request_ms, cost_per_result_ms, ...
    [network]                  # delay_ms, jitter_ms, loss, client_delay_ms
    [noise]                    # kind = "normal", share = 0.05
    [[changes]]                # kind = "replace", at_s = 5, every_s = 1, models = ["resnet50-*"]
    [[faults]]                 # kind = "slow-device", at_s = 5, for_s = 2, worker = 0, factor = 2.0
    [sweep]                    # one run per value: slo_ms = [10, 25], load = [0.5, 1.0], devices = [1, 2, 4]
    [[compare]]                # another system in plots: name, slo_ms = [10, 25], goodput_rps = [2, 545]
    [autoscaler]               # max_workers = 20, startup_s = 10
    [clockwork]                # constants of the scheduler: efficiency_floor = 0.9, schedule_ahead_ms = 5

A load test of a live server uses only the workload. The input is text, not a file. An error names the table and the
key.
"""

import tomllib
from collections.abc import Sequence
from itertools import product
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from clockwork.controller.shadow_specs import parse_shadows
from clockwork.errors import InvalidRequestError
from clockwork.messages.profile import ModelProfile
from clockwork.paced.durations import NoiseModel
from clockwork.paced.models import PROFILES, RESNET50_BYTES, PacedModel, constant_profile, scaled
from clockwork.scheduling.clockwork import ClockworkConfig
from clockwork.sim.autoscaler_spec import AutoscalerSpec, check_autoscaler
from clockwork.sim.change_spec import ChangeSpec, check_changes
from clockwork.sim.controller import Costs
from clockwork.sim.devices_spec import MAX_WORKERS, DevicesSpec, check_devices
from clockwork.sim.links import LinkModel
from clockwork.units import Bytes, Nanos, ms
from clockwork.workload.spec import StreamSpec, check_finite, has_slo_factor, with_slo_scaled, without_slo
from clockwork.workload.spec import scaled as scaled_stream

MAX_MODELS: Final = 100_000
MAX_COST_MS: Final = 1000.0
MAX_DURATION: Final = 31 * 24 * 3600.0


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Similar model files. ``kinds`` is the number of files.

    The times of each file are multiplied by a factor between ``spread[0]`` and ``spread[1]``.
    """

    name: str
    copies: int = 1
    profile: str = ""
    load_ms: float = 0.0
    infer_ms: dict[str, float] = {}
    weights_bytes: Bytes = RESNET50_BYTES
    kinds: int = 1
    spread: tuple[float, float] = (1.0, 1.0)


class NetworkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Delays of the links to workers and clients, in milliseconds for each direction."""

    delay_ms: float = 0.1
    jitter_ms: float = 0.0
    loss: float = 0.0
    resend_ms: float = 200.0
    client_delay_ms: float = 0.1

    def link(self) -> LinkModel:
        """Return the link to a worker."""
        return LinkModel(ms(self.delay_ms), ms(self.jitter_ms), self.loss, ms(self.resend_ms))


class ControllerSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Times that the controller's work takes, in milliseconds. Events that arrive while the controller works must wait.

    A request costs ``cost_per_request_ms`` if the scheduler decides about it, and ``cost_per_refusal_ms`` if the
    controller refuses it early. A worker's result costs ``cost_per_result_ms``. Sending an Infer costs
    ``cost_per_action_ms``.
    """

    cost_per_request_ms: float = 0.0
    cost_per_refusal_ms: float = 0.0
    cost_per_result_ms: float = 0.0
    cost_per_action_ms: float = 0.0

    def costs(self) -> Costs:
        """Return the costs in nanoseconds."""
        return Costs(
            ms(self.cost_per_request_ms),
            ms(self.cost_per_refusal_ms),
            ms(self.cost_per_result_ms),
            ms(self.cost_per_action_ms),
        )


class FaultSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A fault that begins ``at_s`` seconds after the workload's start and lasts ``for_s`` seconds.

    The kind "slow-device" multiplies durations by ``factor``. The kind "drift" makes durations gradually longer, until
    they are ``factor`` times as long. With "stalled-link", no message arrives in either direction. With "worker-death",
    the worker dies and returns as a new process. With "failing", a share ``factor`` of all Infers fails. The kind
    "clock-skew" lasts from the start: the worker's clock is ahead by ``offset_ms`` and gains ``drift_ppm``.
    """

    kind: Literal["slow-device", "drift", "stalled-link", "worker-death", "failing", "clock-skew"]
    at_s: float = 0.0
    for_s: float = 1.0
    worker: int = 0
    factor: float = 2.0
    offset_ms: float = 0.0
    drift_ppm: float = 0.0


class SweepSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Values to sweep. There is one run for each combination of values.

    ``load`` multiplies the request rates of the workload, and the numbers of clients of closed loops.
    """

    slo_ms: tuple[float, ...] = ()
    load: tuple[float, ...] = ()
    devices: tuple[int, ...] = ()


class ComparedSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Goodput of a different system at the values of the sweep.

    Plots show this goodput beside the simulated goodput.
    """

    name: str
    goodput_rps: tuple[float, ...]
    slo_ms: tuple[float, ...] = ()
    load: tuple[float, ...] = ()


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario with the fields of its file; the module's docstring explains them."""

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
    changes: tuple[ChangeSpec, ...] = ()
    shadows: tuple[str, ...] = ()
    sweep: SweepSpec = SweepSpec()
    compare: tuple[ComparedSpec, ...] = ()
    autoscaler: AutoscalerSpec = AutoscalerSpec()
    clockwork: dict[str, float | bool] = field(default_factory=dict)

    def scheduler_config(self) -> ClockworkConfig:
        """Return the constants of the Clockwork scheduler, with the changes of the scenario.

        Raises:
            InvalidRequestError: a constant is unknown or out of range.
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
                raise InvalidRequestError(f"unknown constant {name!r} in [clockwork]; known are {names}")
            values[target] = _constant(name, value, known, duration)
        return replace(default, **values)

    def sim_models(self) -> list[tuple[PacedModel, int]]:
        """Return the model files, each with its number of copies."""
        return [model for spec in self.models for model in _sim_models(spec)]

    def model_names(self) -> list[str]:
        """Return the names that the controller gives to all models."""
        names = []
        for model, copies in self.sim_models():
            stem = model.path.removesuffix(".onnx")
            names += [stem] if copies == 1 else [f"{stem}-{i + 1}" for i in range(copies)]
        return names

    def ideal_rate(self) -> float | None:
        """Return the highest number of requests/s that the devices can execute, with batches of the best size.

        Return None if the models' times differ.
        """
        profiles = [model.profile for model, _ in self.sim_models()]
        if any(profile != profiles[0] for profile in profiles):
            return None
        rates = [size * 1e9 / profiles[0].infer[size].median for size in profiles[0].infer]
        return max(rates) * self.devices.speed

    def bucket(self) -> Nanos:
        """Return the length of a step of the time series. A run has at most about a thousand steps."""
        return round((self.bucket_s or max(1.0, self.duration_s / 1000)) * 1e9)


COUNTS: Final = ("window", "choices", "evictions_considered", "loads_outstanding")
"""Constants of the scheduler that are counts, not durations."""


def _constant(name: str, value: object, known: object, duration: bool) -> object:
    """Check a constant of the scheduler, and convert it to the type of its default.

    Raises:
        InvalidRequestError: the type of the value is wrong, or the value is out of range.
    """
    if isinstance(known, bool) or isinstance(value, bool):
        if isinstance(known, bool) and isinstance(value, bool):
            return value
        raise InvalidRequestError(
            f"[clockwork] {name} is {value!r}; it must be {'true or false' if isinstance(known, bool) else 'a number'}"
        )
    assert isinstance(value, int | float)
    if not 0 <= value <= 1e6 or (isinstance(known, float) and name != "optimism" and value > 1):
        limit = 1 if isinstance(known, float) and name != "optimism" else 1_000_000
        raise InvalidRequestError(f"[clockwork] {name} is {value}; the range is 0 to {limit}")
    if duration:
        return ms(value)
    if isinstance(known, int) and (value < 1 or value != int(value)):
        raise InvalidRequestError(f"[clockwork] {name} is {value}; it must be a whole number of at least 1")
    return int(value) if isinstance(known, int) else float(value)


def parse_scenario(text: str, where: str = "the scenario") -> Scenario:
    """Parse a scenario from TOML. Errors contain ``where`` as the name of the source.

    Raises:
        InvalidRequestError: the text is not a valid scenario.
    """
    try:
        return checked(msgspec.convert(tomllib.loads(text), Scenario, strict=False), where)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequestError(f"{where} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{where}: {error}") from None


def checked(scenario: Scenario, where: str = "the scenario") -> Scenario:
    """Check a scenario, and return it.

    Raises:
        InvalidRequestError: a value is out of range or contradicts another value.
    """
    try:
        check_finite(scenario, "")
        _check_fleet(scenario)
        _check_models(scenario)
        _check_times(scenario)
        _check_faults(scenario)
        check_autoscaler(scenario.autoscaler)
        check_changes(scenario.changes, scenario.duration_s)
        parse_shadows(scenario.shadows)
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
    network, controller = scenario.network, scenario.controller
    check_devices(scenario.devices)
    costs = [getattr(controller, name) for name in controller.__struct_fields__]
    delays = (network.delay_ms, network.jitter_ms, network.resend_ms, network.client_delay_ms)
    _refuse(
        {
            f"[controller] costs must be 0 to {MAX_COST_MS:g} ms": not 0 <= min(costs) <= max(costs) <= MAX_COST_MS,
            "a delay in [network] is out of range; the range is 0 to 1e6 ms": min(delays) < 0 or max(delays) > 1e6,
            f"[network] loss is {network.loss}; it must be at least 0 and less than 1": not 0 <= network.loss < 1,
            f"[noise] share is {scenario.noise.share}; the range is 0 to 1": not 0 <= scenario.noise.share <= 1,
        }
    )


def _check_models(scenario: Scenario) -> None:
    models = scenario.models
    if any(model.copies < 1 or model.kinds < 1 for model in models):
        raise InvalidRequestError("copies or kinds of a [[models]] is below 1; the minimum is 1")
    copies = sum(model.copies * model.kinds for model in models)
    names = [model.name for model in models]
    _refuse(
        {
            f"scenario has {copies} models; the range is 1 to {MAX_MODELS}": not 1 <= copies <= MAX_MODELS,
            f"two [[models]] have the same name: {', '.join(names)}": len(set(names)) < len(names),
            "weights_bytes of a model is below 1; the minimum is 1": any(model.weights_bytes < 1 for model in models),
            "spread of a model must be two factors from 0.001 to 1000, the smaller one first": any(
                not 0.001 <= model.spread[0] <= model.spread[1] <= 1000 for model in models
            ),
            "a time of a model is out of range; the range is 0 to 1e7 ms": any(
                max(model.load_ms, *model.infer_ms.values(), 0.0) > 1e7 or model.load_ms < 0 for model in models
            ),
        }
    )


def _check_times(scenario: Scenario) -> None:
    duration = scenario.duration_s
    _refuse(
        {
            "scenario has no [[workload]]; add one": not scenario.workload,
            f"duration_s is {duration}; the range is 0.001 to {MAX_DURATION:.0f}, 31 days": not 0.001
            <= duration
            <= MAX_DURATION,
            "warmup_s must be 0 to 0.001 less than duration_s": not 0 <= scenario.warmup_s <= duration - 0.001,
            f"slo_ms is {scenario.slo_ms}; it must be positive and at most 86400000, one day": not 0
            < scenario.slo_ms
            <= 86_400_000,
            "a workload has an slo_factor, which cannot be combined with [[changes]]; set slo_ms": bool(
                scenario.changes
            )
            and any(has_slo_factor(stream) for stream in scenario.workload),
            f"bucket_s is {scenario.bucket_s}; it must be 0, or divide duration_s into at most 10000 steps": (
                scenario.bucket_s != 0 and not duration / 10_000 <= scenario.bucket_s <= MAX_DURATION
            ),
            "a value in [sweep] is out of range; values must be positive and at most 1e8": any(
                not 0 < value <= 1e8 for value in (*scenario.sweep.slo_ms, *scenario.sweep.load)
            ),
            f"a number of devices in [sweep] is out of range; the range is 1 to {MAX_WORKERS}": any(
                not 1 <= count <= MAX_WORKERS for count in scenario.sweep.devices
            ),
        }
    )


def _check_faults(scenario: Scenario) -> None:
    faults = scenario.faults
    _refuse(
        {
            "a fault names a worker that does not exist; workers count from 0": any(
                not 0 <= fault.worker < scenario.devices.all_workers for fault in faults
            ),
            "at_s or for_s of a fault is out of range; at_s must be at least 0 and for_s positive": any(
                fault.at_s < 0 or fault.for_s <= 0 or fault.at_s + fault.for_s > MAX_DURATION for fault in faults
            ),
            "a stalled-link or worker-death fault ends after duration_s; it must end before": any(
                fault.kind in ("stalled-link", "worker-death") and fault.at_s + fault.for_s > scenario.duration_s
                for fault in faults
            ),
            "factor of a fault must be positive and at most 1000": any(
                not 0 < fault.factor <= 1000 for fault in faults
            ),
            "offset_ms or drift_ppm of a fault exceeds 1e9 ms or 1000 ppm": any(
                abs(fault.offset_ms) > 1e9 or abs(fault.drift_ppm) > 1000 for fault in faults
            ),
        }
    )


def variants(scenario: Scenario) -> list[tuple[float, Scenario]]:
    """Return one pair for each combination of the sweep's values: the load, and a scenario without a sweep."""
    runs: list[tuple[float, Scenario]] = []
    sweep = scenario.sweep
    for load, slo_ms in product(sweep.load or (1.0,), sweep.slo_ms or (scenario.slo_ms,)):
        streams = tuple(scaled_stream(stream, load) for stream in scenario.workload)
        variant = replace(scenario, slo_ms=slo_ms, workload=streams, sweep=SweepSpec())
        counts = sweep.devices or (scenario.devices.count,)
        runs += [(load, with_devices(variant, count)) for count in counts]
    return runs


def with_devices(scenario: Scenario, count: int) -> Scenario:
    """Return a copy of the scenario with this number of devices. The devices of other kinds remain.

    Raises:
        InvalidRequestError: there are more devices of other kinds, or the rest is not a multiple of the number of
            devices per worker.
    """
    devices, each = scenario.devices, scenario.devices.per_worker
    others = devices.count - devices.workers * each
    if count <= others:
        raise InvalidRequestError(
            f"cannot have {count} devices: [[devices.others]] has {others}; set at least {others + each}"
        )
    if (count - others) % each:
        raise InvalidRequestError(f"cannot have {count} devices: each worker has {each} (per_worker in [devices])")
    return replace(scenario, devices=replace(devices, workers=(count - others) // each))


def altered(
    scenario: Scenario,
    *,
    devices: Sequence[int] = (),
    load: float = 1.0,
    slo: float = 1.0,
    slo_ms: float | None = None,
    profile: str | None = None,
) -> Scenario:
    """Return a copy of the scenario with a different number of devices, request rate, SLO or profile.

    There is one run for each number in ``devices``. ``load`` and ``slo`` are factors. ``slo_ms`` replaces every SLO.
    """
    if profile is not None:
        models = tuple(replace(model, profile=profile) if model.profile else model for model in scenario.models)
        scenario = replace(scenario, models=models)
    streams = tuple(with_slo_scaled(scaled_stream(stream, load), slo) for stream in scenario.workload)
    slos, default = tuple(value * slo for value in scenario.sweep.slo_ms), scenario.slo_ms * slo
    if slo_ms is not None:
        streams, slos, default = tuple(map(without_slo, streams)), (), slo_ms
    sweep = replace(scenario.sweep, slo_ms=slos, devices=tuple(devices) or scenario.sweep.devices)
    if len(devices) == 1:
        scenario, sweep = with_devices(scenario, devices[0]), replace(sweep, devices=())
    return checked(replace(scenario, workload=streams, slo_ms=default, sweep=sweep))


def _sim_models(spec: ModelSpec) -> list[tuple[PacedModel, int]]:
    profile = _profile(spec)
    if spec.kinds == 1:
        return [(PacedModel(f"{spec.name}.onnx", f"sim-{spec.name}", profile, spec.weights_bytes), spec.copies)]
    low, high = spec.spread
    models = []
    for kind in range(spec.kinds):
        factor = low * (high / low) ** (kind / (spec.kinds - 1))
        name = f"{spec.name}{kind:02d}"
        size = max(1, round(spec.weights_bytes * factor))
        models.append((PacedModel(f"{name}.onnx", f"sim-{name}", scaled(profile, factor), size), spec.copies))
    return models


def _profile(spec: ModelSpec) -> ModelProfile:
    if spec.profile:
        if spec.profile not in PROFILES:
            raise InvalidRequestError(f"unknown profile {spec.profile!r}; known are {', '.join(PROFILES)}")
        return PROFILES[spec.profile]
    try:
        infer = {int(size): ms(time) for size, time in spec.infer_ms.items()}
    except ValueError:
        raise InvalidRequestError(f"keys of infer_ms must be batch sizes; found {spec.infer_ms}") from None
    if not infer or min(infer) != 1 or min(infer.values()) <= 0 or spec.load_ms <= 0:
        raise InvalidRequestError(
            f"model {spec.name} has no times; set profile ({', '.join(PROFILES)}), or load_ms and infer_ms "
            "with a time for batch size 1"
        )
    return constant_profile(ms(spec.load_ms), infer)
