"""Shadows in the simulator: they execute copies in idle time, and change no outcome of a request."""

import pytest
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.messages.shadows import ShadowStatus
from clockwork.sim import swarm
from clockwork.sim.change_spec import ChangeSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import Scenario, checked, parse_scenario

BASE = """
duration_s = 4
warmup_s = 0
slo_ms = 100
[devices]
workers = 1
[[models]]
name = "m"
copies = 3
load_ms = 3
infer_ms = { "1" = 2, "2" = 3, "4" = 5 }
[[workload]]
kind = "poisson"
rate = 100
[[changes]]
kind = "load"
models = ["m-1"]
at_s = 0.5
factor = 1.5
measured = true
"""


def scenario(*shadows: str, rate: float = 100.0, slo_ms: float = 100.0, scheduler: str = "clockwork") -> Scenario:
    base = parse_scenario(BASE)
    workload = (replace(base.workload[0], rate=rate),)
    return checked(replace(base, shadows=shadows, workload=workload, slo_ms=slo_ms, scheduler=scheduler))


def run(scenario: Scenario, seed: int = 1) -> Simulation:
    simulation = Simulation(scenario, seed, check_every=20).run()
    assert simulation.watcher.violations == []
    return simulation


def shadows(simulation: Simulation) -> tuple[ShadowStatus, ...]:
    return simulation.cluster.ask_status().shadows


def promoted(base: Scenario) -> Scenario:
    """Keep version 1 the default, as a shadow does, but without a shadow."""
    return replace(base, changes=(ChangeSpec("promote", ("m-1",), 0.0), *base.changes))


@pytest.mark.parametrize("scheduler", ["clockwork", "fifo", "edf", "simple"])
def test_with_idle_time_the_outcomes_are_those_without_a_shadow(scheduler: str) -> None:
    for seed in (1, 2):
        loaded = run(scenario("m-1=2:1", scheduler=scheduler), seed)
        without = run(promoted(scenario(scheduler=scheduler)), seed)
        (shadow,) = shadows(loaded)
        assert shadow.state == "running"
        assert shadow.compared > 60
        assert shadow.copied == shadow.compared + shadow.dropped
        total, expected = loaded.outcomes.total, without.outcomes.total
        assert (total.sent, total.in_time) == (expected.sent, expected.in_time)
        assert total.in_time == total.sent


def test_a_scenario_without_idle_time_has_the_goodput_of_one_without_a_shadow() -> None:
    loaded = run(scenario("m-1=2:1", rate=3000.0, slo_ms=25.0))
    without = run(promoted(scenario(rate=3000.0, slo_ms=25.0)))
    (shadow,) = shadows(loaded)
    assert shadow.dropped > 0.8 * shadow.copied
    assert loaded.outcomes.total.in_time >= 0.99 * without.outcomes.total.in_time


def test_requests_with_little_time_to_spare_are_not_delayed_by_copies() -> None:
    """A copy takes 3 ms, and a request with an SLO of 5 ms has less than this to spare."""
    loaded = run(scenario("m-1=2:1", rate=30.0, slo_ms=5.0))
    without = run(promoted(scenario(rate=30.0, slo_ms=5.0)))
    (shadow,) = shadows(loaded)
    assert shadow.copied > 0
    assert shadow.compared == 0
    assert loaded.outcomes.total.in_time == without.outcomes.total.in_time


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_no_shadow_of_a_random_scenario_breaks_a_promise(seed: int) -> None:
    drawn = swarm.draw_shadows(seed)
    assert Simulation(drawn, seed, check_every=swarm.CHECK_EVERY).run().watcher.violations == []


def test_random_scenarios_execute_copies() -> None:
    found = [shadow for seed in (0, 4, 8, 12) for shadow in shadows(swarm.run(seed))]
    assert sum(shadow.compared for shadow in found) > 0


def test_a_wrong_shadow_of_a_scenario_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="invalid NAME=VERSION:SHARE 'm-1'"):
        scenario("m-1")
