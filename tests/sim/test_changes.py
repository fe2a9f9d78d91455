"""Scenarios whose models are loaded, replaced and unloaded during the load."""

from typing import Any

import pytest
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.sim import swarm
from clockwork.sim.change_spec import ChangeSpec, timed_changes
from clockwork.sim.devices_spec import DevicesSpec
from clockwork.sim.leftovers import leftovers
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import Scenario, checked, parse_scenario
from clockwork.units import seconds
from schedulers import Forgetful

BASE = """
duration_s = 4
warmup_s = 0
slo_ms = 100
[devices]
workers = 2
[[models]]
name = "m"
copies = 3
load_ms = 3
infer_ms = { "1" = 2, "2" = 3, "4" = 5 }
[[workload]]
kind = "poisson"
rate = 200
"""


def scenario(*changes: ChangeSpec, **others: Any) -> Scenario:
    return checked(replace(parse_scenario(BASE), changes=changes, **others))


def run(*changes: ChangeSpec, **others: Any) -> Simulation:
    simulation = Simulation(scenario(*changes, **others), 1, check_every=5).run()
    assert simulation.watcher.violations == []
    return simulation


def change(kind: str = "replace", **fields: Any) -> ChangeSpec:
    return ChangeSpec(kind, **{"models": ("m-1",), "at_s": 1.0} | fields)  # type: ignore[arg-type]


def test_changes_are_read_from_a_scenario() -> None:
    text = '[[changes]]\nkind = "replace"\nmodels = ["m-*"]\nat_s = 1\nevery_s = 0.5\nfails = "one"\n'
    assert parse_scenario(BASE + text).changes == (ChangeSpec("replace", ("m-*",), at_s=1.0, every_s=0.5, fails="one"),)


def test_each_repetition_changes_the_next_model() -> None:
    spec = ChangeSpec("replace", ("m-*",), at_s=1.0, every_s=0.5, stop_s=3.0)
    changes = timed_changes((spec,), ("m-1", "m-2", "m-3", "other"), seconds(4))
    assert [(each.at, each.model) for each in changes] == [
        (seconds(1.0), "m-1"),
        (seconds(1.5), "m-2"),
        (seconds(2.0), "m-3"),
        (seconds(2.5), "m-1"),
    ]


def test_replacing_a_model_every_half_second_breaks_no_promise_and_refuses_no_request() -> None:
    simulation = run(change(models=("m-*",), at_s=0.5, every_s=0.5, first_factor=2.0, first_count=2))
    summary = simulation.changes.summary()
    assert (summary["count"], summary["succeeded"]) == (7, 7)
    assert 100 < summary["ready_ms_p50"] < 2000
    assert summary["meanwhile"]["requests"] > 100
    assert simulation.outcomes.total.in_time == simulation.outcomes.total.sent


def test_a_measurement_on_one_device_breaks_no_promise_on_the_devices_that_execute_slowly_at_first() -> None:
    simulation = run(change(first_factor=3.0, first_count=2), devices=DevicesSpec(4), slo_ms=25.0)
    assert simulation.changes.summary()["succeeded"] == 1
    assert simulation.outcomes.total.admitted_missed == 0
    seed = swarm.run(1086)
    assert seed.watcher.violations == []


def test_a_version_whose_times_are_known_is_ready_when_it_is_read() -> None:
    summary = run(change(measured=True, read_ms=50.0)).changes.summary()
    assert 50 <= summary["ready_ms_p100"] < 52


def test_a_version_with_other_times_is_planned_with_them() -> None:
    simulation = run(change(factor=3.0, models=("m-*",), every_s=1.0), duration_s=8.0)
    late = simulation.outcomes.total
    assert late.in_time == late.sent


def test_a_version_that_one_worker_lacks_is_served_by_the_others() -> None:
    simulation = run(change(fails="one"))
    summary = simulation.changes.summary()
    assert (summary["count"], summary["failed"]) == (1, 0)
    assert simulation.outcomes.total.in_time == simulation.outcomes.total.sent


def test_a_load_that_fails_leaves_the_earlier_version_serving() -> None:
    simulation = run(change(fails="all"))
    summary = simulation.changes.summary()
    assert (summary["count"], summary["failed"]) == (1, 1)
    assert "has no profile on this worker" in "".join(summary["reasons"])
    assert simulation.outcomes.total.in_time == simulation.outcomes.total.sent


def test_requests_of_an_unloaded_model_fail_until_it_is_loaded_again() -> None:
    simulation = run(change("unload", at_s=1.0), change("load", at_s=2.0))
    total = simulation.outcomes.total
    assert simulation.changes.summary()["succeeded"] == 2
    assert 40 < total.failed < 140
    assert total.in_time + total.failed == total.sent


def test_versions_are_loaded_beside_others_promoted_and_reloaded() -> None:
    changes = (
        change("load"),
        change("promote", at_s=2.0),
        change("reload", at_s=2.5),
        change("load", at_s=3, same=True),
    )
    simulation = run(*changes)
    assert simulation.changes.summary()["succeeded"] == 4
    assert simulation.outcomes.total.in_time == simulation.outcomes.total.sent


@pytest.mark.parametrize("scheduler", ["fifo", "edf", "simple", "echo"])
def test_other_schedulers_follow_the_changes(scheduler: str) -> None:
    simulation = run(change(models=("m-*",), at_s=0.5, every_s=0.5), scheduler=scheduler)
    assert simulation.changes.summary()["succeeded"] == 7


def test_a_scheduler_without_the_methods_for_changes_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="does not define model_added"):
        Simulation(scenario(change()), 1, scheduler=Forgetful())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"at_s": 5.0}, "at_s is 5"),
        ({"every_s": -1.0}, "every_s is -1"),
        ({"read_ms": -1.0}, "read_ms is -1"),
        ({"factor": 0.0}, "factor is 0"),
        ({"first_count": 5000}, "first_count is 5000"),
    ],
)
def test_a_change_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        scenario(change(**fields))


def test_changes_cannot_be_combined_with_an_slo_factor() -> None:
    stream = replace(parse_scenario(BASE).workload[0], slo_factor=5.0)
    with pytest.raises(InvalidRequestError, match="slo_factor"):
        scenario(change(), workload=(stream,))


def test_two_loads_of_one_content_are_planned_although_one_of_them_is_not_fully_measured() -> None:
    simulation = Simulation(swarm.draw_changes(2483), 2483, check_every=swarm.CHECK_EVERY).run()
    assert simulation.watcher.violations == []


def test_slow_first_executions_are_planned_although_the_content_was_executed_under_another_name_before() -> None:
    simulation = Simulation(swarm.draw_shadows(800340), 800340, check_every=swarm.CHECK_EVERY).run()
    assert simulation.watcher.violations == []


@pytest.mark.parametrize("seed", [800009, 800211, 800433])
def test_a_measurement_of_the_controller_is_no_action_that_was_forgotten(seed: int) -> None:
    simulation = swarm.run(seed)
    assert simulation.watcher.violations == []


@pytest.mark.parametrize("seed", [1001362, 1001590, 1001920])
def test_known_slow_first_executions_break_no_promise_in_a_fleet_with_several_kinds_of_devices(seed: int) -> None:
    simulation = swarm.run(seed)
    assert simulation.watcher.violations == []


@pytest.mark.parametrize("seed", [1001404, 1002244])
def test_changes_do_not_wait_for_measurements_on_other_kinds_of_devices(seed: int) -> None:
    simulation = swarm.run(seed)
    assert simulation.watcher.violations == []


@pytest.mark.parametrize("seed", [3001128, 3001368, 3006664])
def test_a_request_of_the_controller_may_begin_while_the_final_state_is_checked(seed: int) -> None:
    simulation = swarm.run(seed)
    assert simulation.watcher.violations == []


@pytest.mark.parametrize("seed", [6, 16, 20, 700096, 800390])
def test_nothing_is_left_of_the_models_that_were_unloaded(seed: int) -> None:
    simulation = Simulation(swarm.draw_changes(seed), seed, check_every=swarm.CHECK_EVERY).run()
    assert simulation.watcher.violations == []
    assert simulation.changes.summary()["succeeded"] > 0


def test_the_places_where_the_name_of_a_model_is_left_are_found() -> None:
    assert leftovers({"a": [("x", 1)]}, frozenset({"x"})) == ["x in dict > list > tuple"]
    assert leftovers({"a": [("x", 1)]}, frozenset({"y"})) == []
