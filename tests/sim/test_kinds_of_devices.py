"""Fleets with devices of different kinds: each kind has its own times, and a short SLO needs a fast device."""

from typing import Any

import pytest
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.sim.change_spec import ChangeSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import Scenario, altered, parse_scenario
from clockwork.units import ms

FAST = """
duration_s = 3
warmup_s = 0
slo_ms = 15
[devices]
workers = 1
pages = 100
[[models]]
name = "m"
copies = 3
load_ms = 3
infer_ms = { "1" = 5, "2" = 8, "4" = 14 }
[[workload]]
kind = "poisson"
rate = 150
"""
OTHERS = '[[devices.others]]\nkind = "old"\nworkers = 2\npages = 50\nfactor = 4.0\n'


def run(scenario: Scenario) -> tuple[Simulation, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    simulation = Simulation(scenario, 1, check_every=20, record=records.append).run()
    assert simulation.watcher.violations == []
    infers = [record for record in records if record["record"] == "action" and record["type"] == "Infer"]
    return simulation, [record for record in infers if record["latest"] < record["sent"] + ms(100)]  # of clients


def test_a_short_slo_is_kept_by_the_fast_device() -> None:
    alone, _ = run(parse_scenario(FAST))
    both, executed = run(parse_scenario(FAST + OTHERS))
    assert both.outcomes.total.in_time == alone.outcomes.total.in_time
    assert both.outcomes.total.refused == alone.outcomes.total.refused > 0
    assert {record["worker"] for record in executed} == {"w0"}


def test_a_long_slo_uses_all_kinds() -> None:
    alone, _ = run(altered(parse_scenario(FAST), load=2.5, slo_ms=60.0))
    both, executed = run(altered(parse_scenario(FAST + OTHERS), load=2.5, slo_ms=60.0))
    assert both.outcomes.total.admitted_missed == 0
    assert both.outcomes.total.in_time > 1.15 * alone.outcomes.total.in_time
    assert {record["worker"] for record in executed} == {"w0", "w1", "w2"}


def test_each_kind_has_its_own_times() -> None:
    simulation, _ = run(parse_scenario(FAST + OTHERS))
    profiles = simulation.cluster.ask_status().models[0].profiles
    times = {kind: profile.infer_estimate(1) for kind, profile in profiles.items()}
    assert times == {"sim": ms(5), "old": ms(20)}
    assert {kind.kind for kind in simulation.cluster.controller.scaling(simulation.loop.now)} == {"sim", "old"}


def test_known_slow_first_executions_are_planned_on_devices_of_all_kinds() -> None:
    change = ChangeSpec("replace", ("m-1", "m-2", "m-3"), 0.2, 0.3, measured=True, first_factor=3.0, first_count=5)
    scenario = altered(parse_scenario(FAST + OTHERS), load=3.0, slo_ms=90.0)
    simulation, executed = run(replace(scenario, changes=(change,)))
    assert simulation.changes.summary()["succeeded"] > 0
    assert simulation.outcomes.total.admitted_missed == 0
    assert ms(60) in {record["duration"] for record in executed if record["worker"] != "w0"}


@pytest.mark.parametrize("first_factor", [1.0, 3.0])
def test_a_trial_on_a_fast_worker_does_not_bound_the_measurements_on_slow_devices(first_factor: float) -> None:
    change = ChangeSpec("replace", ("m-1", "m-2", "m-3"), 0.2, 0.3, first_factor=first_factor, first_count=2)
    scenario = replace(altered(parse_scenario(FAST + OTHERS), load=2.5, slo_ms=90.0), changes=(change,))
    for seed in range(4):
        simulation = Simulation(scenario, seed, check_every=50).run()
        assert simulation.watcher.violations == []
        assert simulation.changes.summary()["succeeded"] > 0


def test_a_sweep_of_devices_keeps_those_of_other_kinds() -> None:
    base = parse_scenario(FAST + OTHERS)
    assert base.devices.count == 3
    more = altered(base, devices=[5])
    assert (more.devices.workers, more.devices.count) == (3, 5)
    with pytest.raises(InvalidRequestError, match=r"cannot have 2 devices: \[\[devices.others\]\] has 2; .* 3"):
        altered(base, devices=[2])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("factor = 0", r"\[\[devices.others\]\] factor is 0.0; the range is 0.01 to 100.0"),
        ("workers = 0", r"\[\[devices.others\]\] workers is 0; the range is 1 to 10000"),
        ("per_worker = 65", r"\[\[devices.others\]\] per_worker is 65; the range is 1 to 64"),
        ("pages = 0", r"\[\[devices.others\]\] pages is 0"),
        ('kind = ""', r"\[\[devices.others\]\] kind is ''; it must have 1 to 64 printable characters"),
        ('kind = "sim"', "two kinds of devices have the name 'sim'"),
        ("speed = 2", "speed"),
        ("workers = 10000", "the fleet has 10001 workers; the limit is 10000"),
    ],
)
def test_wrong_kinds_are_refused(line: str, problem: str) -> None:
    kind = "" if line.startswith("kind") else 'kind = "old"\n'
    with pytest.raises(InvalidRequestError, match=problem):
        parse_scenario(f"{FAST}[[devices.others]]\n{kind}{line}\n")
    with pytest.raises(InvalidRequestError, match="limit is 16"):
        parse_scenario(FAST + "".join(f'[[devices.others]]\nkind = "k{i}"\n' for i in range(17)))
