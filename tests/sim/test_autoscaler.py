"""A simulated autoscaler gives the controller the devices that it wants."""

from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from clockwork.errors import InvalidRequestError
from clockwork.sim.devices_spec import WorkerSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import parse_scenario

STEP = parse_scenario("""
duration_s = 60
warmup_s = 0
slo_ms = 500
bucket_s = 1

[devices]
workers = 2

[[models]]
name = "slow"
copies = 4
load_ms = 30
infer_ms = { "1" = 60, "2" = 80, "4" = 120, "8" = 200 }

[[workload]]
kind = "poisson"
rate = 40

[[workload]]
kind = "poisson"
rate = 120
start_s = 15

[autoscaler]
max_workers = 12
startup_s = 5
""")


def test_the_wanted_devices_end_the_refusals_of_a_step() -> None:
    fixed = Simulation(replace(STEP, autoscaler=type(STEP.autoscaler)()), 1, check_every=50).run()
    grown = Simulation(STEP, 1, check_every=50).run()
    assert not grown.watcher.violations
    before, after = (sum(run.outcomes.series["refused"][30:]) for run in (fixed, grown))
    assert before > 1000
    assert after <= 0.05 * before
    assert grown.autoscaler.summary()["devices_wanted_max"] <= 6


def test_workers_are_removed_when_the_load_is_gone_and_promises_are_kept() -> None:
    streams = (replace(STEP.workload[0], rate=20.0), replace(STEP.workload[1], start_s=70.0, stop_s=90.0))
    scenario = replace(STEP, workload=streams, duration_s=410.0, bucket_s=0.0)
    run = Simulation(scenario, 2).run()
    assert not run.watcher.violations
    assert max(devices for _, devices, _ in run.autoscaler.series) >= 5
    assert run.autoscaler.series[-1][1] <= 2
    assert run.outcomes.total.admitted_missed == 0
    devices = [count for _, count, _ in run.autoscaler.series]
    changes = [after - before for before, after in pairwise(devices)]
    first_fall = next(at for at, change in enumerate(changes) if change < 0)
    assert all(change <= 0 for change in changes[first_fall:])


def test_an_autoscaler_that_does_not_follow_only_records_what_is_wanted() -> None:
    records: list[dict[str, Any]] = []
    scenario = replace(STEP, duration_s=30.0, autoscaler=replace(STEP.autoscaler, follow=False))
    Simulation(scenario, 1, record=records.append).run()
    scaling = [record for record in records if record["record"] == "scaling"]
    assert {record["devices"] for record in scaling} == {2}
    assert max(record["wanted"] for record in scaling) > 2


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ("max_workers = 20000", r"\[autoscaler\] max_workers is 20000; the range is 0 to 10000"),
        ("max_workers = 2\nmin_workers = 3", r"\[autoscaler\] min_workers is 3; the range is 1 to max_workers, 2"),
        ("max_workers = 2\nevery_s = 0", r"\[autoscaler\] startup_s must be 0 to 86400, and every_s 0.1 to 86400"),
    ],
)
def test_wrong_values_are_refused(values: str, error: str) -> None:
    text = '[[models]]\nname = "a"\nprofile = "resnet50-v100"\n[[workload]]\nkind = "poisson"\nrate = 1\n[autoscaler]\n'
    with pytest.raises(InvalidRequestError, match=error):
        parse_scenario(text + values)


def test_workers_of_other_kinds_are_not_removed() -> None:
    others = (WorkerSpec("old", workers=2, factor=3.0),)
    spec = replace(STEP.autoscaler, max_workers=1)
    scenario = replace(STEP, duration_s=20.0, devices=replace(STEP.devices, others=others), autoscaler=spec)
    simulation = Simulation(scenario, 1).run()
    assert simulation.watcher.violations == []
    connected = [worker.name for worker in simulation.cluster.workers if worker.connected]
    assert connected == ["w0", "w2", "w3"]
    assert {devices for _, devices, _ in simulation.autoscaler.series} == {2, 1}
