"""Estimates follow devices that become slow, and worker clocks that are wrong break no promises."""

from msgspec.structs import replace

from clockwork.paced.durations import NoiseModel
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import FaultSpec, ModelSpec, Scenario
from clockwork.units import ms
from clockwork.workload.spec import StreamSpec

BASE = Scenario(
    models=(ModelSpec("resnet50", copies=15, profile="resnet50-v100"),),
    workload=(StreamSpec("poisson", rate=300.0),),
    duration_s=12.0,
    warmup_s=0.0,
    bucket_s=0.5,
    noise=NoiseModel("normal", 0.02),
)


def simulated(scenario: Scenario) -> Simulation:
    simulation = Simulation(scenario, 1).run()
    assert simulation.watcher.violations == []
    return simulation


def test_a_device_that_becomes_slow_is_detected_within_a_second_and_admits_less() -> None:
    slow = FaultSpec("slow-device", at_s=4.0, for_s=4.0, factor=3.0)
    series = simulated(replace(BASE, faults=(slow,))).outcomes.series
    before, then, after = slice(0, 8), slice(10, 16), slice(18, 24)
    assert sum(series["missed"][before]) + sum(series["refused"][before]) == 0
    assert sum(series["missed"][then]) <= 0.01 * sum(series["sent"][then])
    assert sum(series["refused"][then]) > 0.2 * sum(series["sent"][then]), "what it cannot do is refused"
    assert sum(series["in_time"][then]) > 0.2 * sum(series["sent"][then]), "what it can do is done"
    assert sum(series["in_time"][after]) == sum(series["sent"][after]), "and it is believed again"


def test_a_device_that_drifts_keeps_its_promises() -> None:
    drift = FaultSpec("drift", at_s=2.0, for_s=8.0, factor=1.5)
    total = simulated(replace(BASE, faults=(drift,))).outcomes.total
    assert total.admitted_missed <= 0.005 * total.sent


def test_a_clock_with_offset_and_drift_makes_no_visible_difference() -> None:
    for offset, drift in ((3_600_000.0, 100.0), (50.0, -100.0), (0.05, 0.0)):
        skew = FaultSpec("clock-skew", offset_ms=offset, drift_ppm=drift)
        simulation = simulated(replace(BASE, faults=(skew,), noise=NoiseModel()))
        total = simulation.outcomes.total
        assert (total.in_time, total.admitted_missed) == (total.sent, 0)
        server = simulation.cluster.ask_status()
        infer = server.predictions["infer"]
        errors = infer.completion
        assert errors.count > 1000
        # A clock that drifts by 100 ppm gains 0.05 ms between two pings.
        assert max(errors.over_max, errors.under_max) < ms(0.2), errors
