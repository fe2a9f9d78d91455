"""The swarm: scenarios and faults drawn from a seed, to find what nobody thought of.

Rules of the file: a seed decides everything. What it draws is within what the system is built for; so any violation is
a defect, of Clockwork or of the checkers.
"""

from random import Random
from typing import Final, Literal

from msgspec.structs import replace

from clockwork.paced.durations import NoiseModel
from clockwork.sim.run import Record, Simulation
from clockwork.sim.scenario import DevicesSpec, FaultSpec, ModelSpec, NetworkSpec, Scenario, checked
from clockwork.workload.spec import StreamSpec

CHECK_EVERY: Final = 50
"""Events between checks of the machines' invariants."""

SCHEDULERS: Final = ("clockwork", "clockwork", "clockwork", "fifo", "edf", "simple")
CLOSED_SHARE: Final = 0.15
"""Of the streams."""

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
    """A scenario of a few seconds."""
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
            devices=devices,
            network=network,
            noise=noise,
            faults=tuple(_within(fault, duration) for fault in faults),
        )
    )


def run(seed: int, record: Record | None = None) -> Simulation:
    """Draw, and simulate; ``record`` takes requests and actions."""
    return Simulation(draw(seed), seed, check_every=CHECK_EVERY, record=record).run()


def _within(fault: FaultSpec, duration: float) -> FaultSpec:
    """The fault, begun and ended while there is load."""
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
