"""Simulates random scenarios with faults, to find defects that no test covers.

The seed determines each scenario completely. A scenario never exceeds the limits of the system. So any violation is a
defect of Clockwork or of the checkers.
"""

from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from msgspec.structs import replace

from clockwork.paced.durations import NoiseModel
from clockwork.sim.change_spec import ChangeSpec
from clockwork.sim.devices_spec import DevicesSpec, WorkerSpec
from clockwork.sim.run import Record, Simulation
from clockwork.sim.scenario import (
    ControllerSpec,
    FaultSpec,
    ModelSpec,
    NetworkSpec,
    Scenario,
    SweepSpec,
    checked,
    variants,
)
from clockwork.workload.spec import StreamSpec

CHECK_EVERY: Final = 50
"""Number of events between checks of the machines' invariants."""

SCHEDULERS: Final = ("clockwork", "clockwork", "clockwork", "fifo", "edf", "simple")
CLOSED_SHARE: Final = 0.15
"""Share of streams that are closed loops."""

COSTLY_SHARE: Final = 0.2
"""Share of seeds with a controller that needs time for its work.

In these seeds, broken promises are not violations, because admission does not consider the controller's time.
"""

QUIET_SHARE: Final = 0.6
"""Among seeds with changes, the share without noise, without costs, and without faults except lost workers."""

MEASURED_SHARE: Final = 0.25
"""Share of the changes that load a version with known times."""

SAME_SHARE: Final = 0.1
"""Share of the changes that load the same content again."""

KINDS_SHARE: Final = 0.2
"""Share of the seeds whose fleet has devices of several kinds."""

RESERVE: Final = 0.8
"""Load that a controller must be able to handle, as a share of its capacity with batches of one request."""

OVERLOAD: Final = 3.0
"""Request rate at which goodput must not collapse, as a multiple of the controller's capacity. This capacity does not
include the cost of batches.
"""

MAX_FACTOR: Final = 1.9
"""Largest factor by which a change multiplies the times of a model.

For the first LoadWeights of a new file, the controller reserves twice the slowest known time per page.
"""

MIN_KEPT: Final = 0.5
"""Smallest allowed goodput under `OVERLOAD`, as a share of the goodput at `RESERVE`.

In scenarios with `OVERLOAD`, a refusal costs a fifth of a request. So the share can be at most 62 %.
"""

_FaultKind = Literal["slow-device", "drift", "stalled-link", "worker-death", "failing", "clock-skew"]
_OpenKind = Literal["poisson", "fixed", "gamma", "on-off", "ramp"]
FAULTS: Final[tuple[_FaultKind, ...]] = (
    "slow-device",
    "drift",
    "stalled-link",
    "worker-death",
    "failing",
    "clock-skew",
)


def draw(seed: int) -> Scenario:
    """Return a random scenario of a few seconds."""
    rng = Random(seed)
    devices = DevicesSpec(rng.randint(1, 4), rng.choice((1, 1, 2)), rng.choice((15, 40, 100, 1376)))
    models = tuple(_model(rng, number) for number in range(rng.randint(1, 4)))
    streams = tuple(_stream(rng) for _ in range(rng.randint(1, 3)))
    noise = NoiseModel(rng.choice(("none", "none", "normal", "lognormal")), rng.choice((0.01, 0.05, 0.1)))
    faults = tuple(_fault(rng, devices.workers) for _ in range(rng.choice((0, 1, 1, 2, 3))))
    network = NetworkSpec(
        rng.choice((0.05, 0.1, 1.0)),
        rng.choice((0.0, 0.0, 0.2, 2.0)),
        rng.choice((0.0, 0.0, 0.0, 0.001)),
        resend_ms=50.0,
        client_delay_ms=rng.choice((0.0, 0.1)),
    )
    duration = rng.uniform(1.0, 4.0)
    return checked(
        Scenario(
            models=models,
            workload=streams,
            name=f"swarm-{seed}",
            duration_s=duration,
            warmup_s=0.0,
            scheduler=rng.choice(SCHEDULERS),
            slo_ms=rng.choice((5.0, 12.0, 25.0, 100.0, 100.0, 500.0)),
            devices=replace(devices, others=_others(seed)),
            network=network,
            noise=noise,
            faults=tuple(_within(fault, duration) for fault in faults),
            controller=_controller(seed),
        )
    )


def draw_changes(seed: int) -> Scenario:
    """Return the scenario of `draw` with changes of its models. Many of these scenarios have no other disturbances.

    With noise, faults or costs, a promise that a change breaks would go unnoticed.
    """
    rng = Random(f"changes {seed}")
    scenario = draw(seed)
    lost = tuple(
        FaultSpec(
            "worker-death", rng.uniform(0.1, 0.6) * scenario.duration_s, 0.2, rng.randrange(scenario.devices.workers)
        )
        for _ in range(rng.choice((0, 0, 1)))
    )
    faults = tuple(_within(fault, scenario.duration_s) for fault in lost)
    if rng.random() < QUIET_SHARE:
        network = replace(scenario.network, jitter_ms=0.0, loss=0.0)
        scenario = replace(scenario, noise=NoiseModel(), controller=ControllerSpec(), network=network)
    else:
        faults += scenario.faults
    names = scenario.model_names()
    changes = tuple(_change(rng, names, scenario.duration_s) for _ in range(rng.randint(1, 4)))
    return checked(replace(scenario, name=f"swarm-changes-{seed}", faults=faults, changes=changes))


def draw_shadows(seed: int) -> Scenario:
    """Return the scenario of `draw_changes` with a few loads of second versions, which are shadows."""
    rng = Random(f"shadows {seed}")
    scenario = draw_changes(seed)
    models = scenario.model_names()
    names = sorted({rng.choice(models) for _ in range(rng.randint(1, 3))})
    load = ChangeSpec(
        "load",
        tuple(names),
        every_s=0.01,
        stop_s=0.01 * len(names),
        read_ms=rng.choice((0.0, 50.0)),
        factor=rng.choice((0.5, 1.0, MAX_FACTOR)),
        measured=rng.random() < MEASURED_SHARE,
    )
    shadows = tuple(f"{name}=2:{rng.choice((0.05, 0.5, 1.0, 1.0))}" for name in names)
    changes = (load, *scenario.changes)
    return checked(replace(scenario, name=f"swarm-shadows-{seed}", changes=changes, shadows=shadows))


def draw_overload(seed: int) -> Scenario:
    """Return a scenario in which the controller is the bottleneck, with the loads `RESERVE` and `OVERLOAD`."""
    rng = Random(f"overload {seed}")
    request = rng.choice((0.05, 0.1, 0.3))
    costs = ControllerSpec(request, request * rng.choice((0.1, 0.2)), request * rng.choice((0.5, 1.0)), 2 * request)
    singles = 1000 / (costs.cost_per_request_ms + costs.cost_per_result_ms + costs.cost_per_action_ms)
    base = rng.choice((0.2, 0.5))
    infer = {str(size): base * (1 + 0.05 * (size - 1)) for size in (1, 2, 4, 8, 16)}
    kinds: tuple[_OpenKind, ...] = ("poisson", "gamma")
    return checked(
        Scenario(
            models=(ModelSpec("m", rng.choice((1, 8)), "", 0.5, infer, weights_bytes=1 << 24),),
            workload=(StreamSpec(rng.choice(kinds), rate=RESERVE * singles, cv=2.0),),
            name=f"overload-{seed}",
            duration_s=2.0,
            warmup_s=0.5,
            slo_ms=rng.choice((20.0, 100.0, 500.0)),
            devices=DevicesSpec(rng.choice((4, 8))),
            controller=costs,
            sweep=SweepSpec(load=(1.0, OVERLOAD * 1000 / request / (RESERVE * singles))),
        )
    )


def run_overload(seed: int) -> list[str]:
    """Simulate `draw_overload`. Return the violations, which include a collapse of the goodput."""
    goodput, problems = [], list[str]()
    for _, scenario in variants(draw_overload(seed)):
        simulation = Simulation(scenario, seed, check_every=CHECK_EVERY).run()
        problems += simulation.watcher.violations
        goodput.append(simulation.outcomes.total.in_time)
    before, overloaded = goodput
    if overloaded < MIN_KEPT * before:
        problems.append(
            f"goodput collapses: {overloaded} requests are in time at {OVERLOAD:g} times the controller's capacity and "
            f"{before} at {RESERVE:g} times; at least {MIN_KEPT:.0%} of those must be left"
        )
    return problems


def run(seed: int, record: Record | None = None) -> Simulation:
    """Simulate the scenario of a seed, with changes of its models in every second seed, and shadows in every fourth.

    ``record`` gets a record of each request and action.
    """
    scenario = draw(seed) if seed % 2 else draw_changes(seed) if seed % 4 else draw_shadows(seed)
    return Simulation(scenario, seed, check_every=CHECK_EVERY, record=record).run()


def _controller(seed: int) -> ControllerSpec:
    """Return the costs of the controller. One seed in five has costs; the others have none.

    The costs come from a separate random generator, so that a seed's scenario is otherwise the same with and without
    costs.
    """
    rng = Random(f"costs {seed}")
    if rng.random() >= COSTLY_SHARE:
        return ControllerSpec()
    request = rng.choice((0.02, 0.1, 0.4))
    return ControllerSpec(request, request / 5, request * rng.choice((0.5, 1.0)), request * rng.choice((0.0, 2.0)))


def _others(seed: int) -> tuple[WorkerSpec, ...]:
    """Return the workers with devices of other kinds. One seed in five has such workers.

    They come from a separate random generator, so that a seed's scenario is otherwise the same.
    """
    rng = Random(f"kinds of devices {seed}")
    if rng.random() >= KINDS_SHARE:
        return ()
    factors = rng.sample((0.3, 1.0, 3.0, 10.0), rng.randint(1, 2))
    return tuple(
        WorkerSpec(f"x{factor:g}", rng.randint(1, 2), rng.choice((1, 2)), rng.choice((15, 40, 1376)), factor)
        for factor in factors
    )


def _within(fault: FaultSpec, duration: float) -> FaultSpec:
    """Return a copy of the fault, moved so that it begins and ends while the workload runs."""
    at = min(fault.at_s, duration / 2)
    return replace(fault, at_s=at, for_s=min(fault.for_s, duration - at))


def _model(rng: Random, number: int) -> ModelSpec:
    base = rng.choice((0.3, 1.0, 3.0, 10.0))
    gain = rng.choice((0.3, 0.7, 1.0))
    infer = {str(size): base * (1 + gain * (size - 1)) for size in (1, 2, 4, 8, 16)[: rng.randint(1, 5)]}
    pages = rng.randint(1, 14)
    return ModelSpec(
        f"m{number}", rng.choice((1, 2, 5, 20)), "", rng.choice((0.5, 3.0, 8.0)), infer, weights_bytes=pages << 24
    )


def _stream(rng: Random) -> StreamSpec:
    kinds: tuple[_OpenKind, ...] = ("poisson", "poisson", "fixed", "gamma", "on-off", "ramp")
    slo = rng.choice((None, None, 3.0, 20.0, 80.0, 300.0))
    if rng.random() < CLOSED_SHARE:
        return StreamSpec("closed", concurrency=rng.randint(1, 8), think_ms=rng.choice((0.0, 5.0)), slo_ms=slo)
    return StreamSpec(
        rng.choice(kinds),
        rate=rng.choice((20.0, 100.0, 400.0, 1000.0)),
        rate_end=rng.choice((50.0, 500.0)),
        cv=rng.choice((0.5, 2.0, 4.0)),
        on_s=0.2,
        off_s=0.3,
        mix=rng.choice(("uniform", "zipf")),
        slo_ms=slo,
        batch_size=1,
    )


def _change(rng: Random, models: Sequence[str], duration: float) -> ChangeSpec:
    first = rng.choice((1.0, 1.0, 2.0, 3.0))
    return ChangeSpec(
        rng.choice(("replace", "replace", "replace", "load", "reload", "unload", "promote")),
        tuple(sorted({rng.choice(models) for _ in range(rng.choice((1, 1, 2, 4)))})),
        rng.uniform(0.0, 0.8) * duration,
        rng.choice((0.0, 0.05, 0.2, 1.0)),
        read_ms=rng.choice((0.0, 10.0, 100.0, 500.0)),
        factor=rng.choice((0.5, 1.0, 1.0, MAX_FACTOR)),
        trial_factor=rng.choice((0.0, 1.0, 2.0, 5.0)),  # the bound, three times this, covers slow first executions
        first_factor=first,
        first_count=rng.choice((1, 2, 5)),
        measured=rng.random() < MEASURED_SHARE,
        same=rng.random() < SAME_SHARE,
        fails=rng.choice(("none", "none", "none", "one", "all")),
    )


def _fault(rng: Random, workers: int) -> FaultSpec:
    kind = rng.choice(FAULTS)
    factor = rng.choice((0.1, 0.5)) if kind == "failing" else rng.choice((1.5, 3.0, 10.0))
    return FaultSpec(
        kind,
        rng.uniform(0.2, 2.0),
        rng.uniform(0.05, 1.0),
        rng.randrange(workers),
        factor,
        rng.choice((-500.0, 3.0, 10_000.0)),
        rng.choice((-50.0, 0.0, 50.0)),
    )
