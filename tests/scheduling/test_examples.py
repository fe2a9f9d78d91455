"""The example schedulers work, and are found by the name that users give."""

import sys
from pathlib import Path

import pytest

from builders import infer_request
from clockwork.messages.actions import Infer
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.registry import make_scheduler
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import ModelSpec, Scenario
from clockwork.units import ms, seconds
from clockwork.workload.spec import StreamSpec
from cluster import serving
from fake_worker import File
from interleavings import check_interleavings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for module in ("least_loaded", "at_home", "batching"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def least_loaded() -> Scheduler:
    return make_scheduler("least_loaded:LeastLoaded")


def test_each_request_goes_to_the_device_with_the_fewest_requests() -> None:
    cluster = serving(least_loaded(), {"a.onnx": File(), "slow.onnx": File(infer=ms(90))}, workers=2)
    before = len(cluster.actions(Infer))
    for number, model in enumerate(["slow", "a", "a", "a"]):
        cluster.ask(infer_request(number, model))
        cluster.run_until(cluster.now + ms(20))
    assert [send.worker_id for send in cluster.actions(Infer)[before:]] == ["w0", "w1", "w1", "w1"]
    cluster.run_until(cluster.now + seconds(1))
    cluster.check_all_answered()


def test_each_model_is_served_on_its_own_device_behind_its_load() -> None:
    cluster = serving(make_scheduler("at_home:AtHome"), {"a.onnx": File(), "b.onnx": File()}, workers=2)
    for number in range(6):
        cluster.ask(infer_request(number, "a" if number % 2 else "b"))
    cluster.run_until(cluster.now + seconds(1))
    cluster.check_all_answered()
    homes = {(send.action.model, send.worker_id) for send in cluster.actions(Infer) if isinstance(send.action, Infer)}
    assert len(homes) >= 2


@pytest.mark.parametrize("name", ["least_loaded:LeastLoaded", "at_home:AtHome", "batching:Batching"])
def test_each_request_is_answered_once_and_memory_is_right_in_any_order_of_events(name: str) -> None:
    check_interleavings(lambda: make_scheduler(name))


@pytest.mark.parametrize("name", ["least_loaded:LeastLoaded", "at_home:AtHome", "batching:Batching"])
def test_an_example_serves_requests_in_time_below_capacity_and_under_overload(name: str) -> None:
    for rate in (200.0, 800.0):
        scenario = Scenario(
            models=(ModelSpec("m", copies=3, load_ms=1.0, infer_ms={"1": 2.0}),),
            workload=(StreamSpec("poisson", rate=rate),),
            duration_s=3.0,
            warmup_s=1.0,
            slo_ms=50.0,
        )
        counts = Simulation(scenario, 1, scheduler=make_scheduler(name)).run().outcomes.total
        assert counts.in_time > 0.5 * min(rate, 500) * 2


def test_the_batching_example_has_more_goodput_than_the_others_under_overload() -> None:
    scenario = Scenario(
        models=(ModelSpec("m", copies=3, load_ms=1.0, infer_ms={"1": 2.0, "2": 2.4, "4": 3.2, "8": 4.8}),),
        workload=(StreamSpec("poisson", rate=1500.0),),
        duration_s=3.0,
        warmup_s=1.0,
        slo_ms=50.0,
    )
    goodputs = {
        name: Simulation(scenario, 1, scheduler=make_scheduler(name)).run().outcomes.total.in_time
        for name in ("least_loaded:LeastLoaded", "at_home:AtHome", "batching:Batching", "clockwork")
    }
    assert goodputs["batching:Batching"] > 1.5 * goodputs["least_loaded:LeastLoaded"], goodputs
    assert goodputs["batching:Batching"] > 1.5 * goodputs["at_home:AtHome"], goodputs
    assert goodputs["batching:Batching"] > 0.8 * goodputs["clockwork"], goodputs
