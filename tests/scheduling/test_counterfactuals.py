"""What would have happened to a refused request: the answers of the scheduler come true."""

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import LoadSpec
from clockwork.messages.explanation import Explanation, WhatIf
from clockwork.messages.requests import EvictRequest, ExplainRequest, ExplainResponse, InferRequest
from clockwork.messages.status import Status
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config, serving
from fake_worker import File
from served import FILES, infer_response


def named(number: int, **more: Any) -> InferRequest:
    return replace(infer_request(number, **more), request_id=f"r{number}")


def explain(cluster: Cluster, request_id: str, number: int = 900_000) -> Explanation:
    cluster.ask(ExplainRequest(number, request_id), 2)
    response = cluster.answer(number, 2)
    assert isinstance(response, ExplainResponse)
    assert response.explanation is not None, response.message
    return response.explanation


def busy(requests: int, slo: Nanos = ms(200)) -> Cluster:
    """Return a cluster whose only device has work for these requests of 2 rows, each of which takes 4 ms."""
    cluster = serving(ClockworkScheduler(), FILES)
    for number in range(1, requests + 1):
        cluster.ask(named(number, rows=2, slo=slo))
    cluster.run_until(cluster.now + ms(1))
    return cluster


def by_change(found: Explanation) -> dict[str, WhatIf]:
    return {each.change: each for each in found.what_if}


@pytest.mark.parametrize("waiting", [3, 8, 20])
def test_a_request_with_the_slo_of_the_counterfactual_is_admitted_and_a_shorter_slo_is_not(waiting: int) -> None:
    cluster = busy(waiting)
    cluster.ask(named(100, slo=ms(9)))
    cluster.run_until(cluster.now + ms(1))
    assert infer_response(cluster, 100).status == Status.CONTROLLER_COULD_NOT_START_IN_TIME
    needed = by_change(explain(cluster, "r100"))["slo"]
    assert needed.value is not None
    assert needed.admitted
    for slo, admitted in ((needed.value, True), (needed.value - ms(1), False)):
        other = busy(waiting)
        other.ask(named(100, slo=slo))
        other.run_until(other.now + seconds(1))
        response = infer_response(other, 100)
        assert (response.status == 0) is admitted
        if admitted:
            assert response.predicted == needed.completion


def test_the_verdict_names_the_batches_ahead_and_its_parts_add_up() -> None:
    cluster = busy(6)
    cluster.ask(named(100, slo=ms(9)))
    cluster.run_until(cluster.now + ms(1))
    verdict = explain(cluster, "r100").verdict
    assert verdict is not None
    assert [(each.model, each.batches) for each in verdict.ahead] == [("a", verdict.sent + verdict.planned)]
    assert verdict.sent + verdict.planned >= 5
    assert verdict.end - verdict.start == verdict.estimate
    found = explain(cluster, "r100", 900_001)
    assert found.predicted == verdict.end + verdict.way_back


def test_one_more_device_would_have_helped_a_busy_server() -> None:
    cluster = busy(8)
    cluster.ask(named(100, slo=ms(9)))
    cluster.run_until(cluster.now + ms(1))
    found = by_change(explain(cluster, "r100"))
    assert found["device"].admitted
    other = serving(ClockworkScheduler(), FILES)
    other.ask(named(100, slo=ms(9)))
    other.run_until(other.now + seconds(1))
    assert infer_response(other, 100).status == 0
    assert found["alone"].admitted


def test_no_device_would_have_helped_a_request_that_is_too_urgent() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1, slo=ms(1)))
    cluster.run_until(cluster.now + ms(50))
    found = by_change(explain(cluster, "r1"))
    assert not found["device"].admitted
    assert not found["alone"].admitted
    assert found["slo"].value is not None
    assert found["slo"].value > ms(3)


def test_weights_on_the_device_would_have_helped_a_cold_request() -> None:
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(pages=3)})
    cluster.ask(EvictRequest(1, "a"))
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(named(2, slo=ms(8)))
    cluster.run_until(cluster.now + ms(5))
    found = explain(cluster, "r2")
    assert (found.outcome, found.reason) == ("refused", "weights_not_loaded")
    assert found.verdict is not None
    assert found.verdict.weights_ready is not None
    changes = by_change(found)
    assert changes["weights"].admitted
    assert changes["slo"].value is not None
    assert changes["slo"].value > ms(8)


def test_an_admitted_request_has_a_verdict_and_would_have_been_faster_alone() -> None:
    cluster = busy(3)
    cluster.run_until(cluster.now + seconds(1))
    found = explain(cluster, "r3")
    assert found.verdict is not None
    (alone,) = found.what_if
    assert alone.change == "alone"
    assert alone.completion is not None
    assert alone.completion < found.total
    other = busy(1)
    other.run_until(other.now + seconds(1))
    assert alone.completion == explain(other, "r1").predicted
    compared = {each.name: each for each in found.compared}
    assert compared["begin"].planned == found.verdict.start


def test_a_cold_request_in_time_would_have_been_faster_with_its_weights_on_the_device() -> None:
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(pages=3)})
    cluster.ask(EvictRequest(1, "a"))
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(named(2, slo=seconds(1)))
    cluster.run_until(cluster.now + seconds(2))
    found = explain(cluster, "r2")
    assert found.outcome == "in_time"
    assert found.cold_start
    changes = by_change(found)
    warm = serving(ClockworkScheduler(), {"a.onnx": File(pages=3)})
    warm.ask(named(2, slo=seconds(1)))
    warm.run_until(warm.now + seconds(2))
    assert changes["alone"].completion == explain(warm, "r2").predicted
    assert changes["weights"].completion is not None
    assert changes["alone"].completion is not None
    assert changes["alone"].completion <= changes["weights"].completion < found.total


def test_without_kept_plans_a_refused_request_is_told_its_time_alone() -> None:
    cluster = busy(20)
    for number in (100, 101):
        cluster.ask(named(number, slo=ms(9)))
        cluster.run_until(cluster.now + ms(1))
    assert set(by_change(explain(cluster, "r100"))) >= {"slo", "device", "alone"}
    assert set(by_change(explain(cluster, "r101", 900_001))) == {"alone"}


def test_the_state_of_decisions_is_kept_at_a_limited_rate_and_number() -> None:
    cluster = busy(20)
    scheduler = cluster.controller._scheduler
    assert isinstance(scheduler, ClockworkScheduler)
    for number in range(100, 160):
        cluster.ask(named(number, slo=ms(9)))
        cluster.run_until(cluster.now + ms(1))
    assert 1 <= len(scheduler._keeper._kept) <= 4


def test_without_recording_no_verdict_is_made() -> None:
    config = replace(quick_config(models=(LoadSpec("a.onnx"),)), explain_requests=0)
    cluster = serving(ClockworkScheduler(), FILES, config=config)
    cluster.ask(named(1))
    (pending,) = cluster.controller._serving._pending
    assert pending.verdict is None


def played(seed: int, slo_of: dict[int, Nanos], last: int) -> Cluster:
    """Return a cluster that has served random requests for three models. ``slo_of`` replaces SLOs by number."""
    rng = Random(seed)
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(pages=1), "b.onnx": File(pages=2), "c.onnx": File(pages=3)})
    at = cluster.now
    for number in range(1, last + 1):
        at += round(rng.expovariate(1 / rng.choice([ms(0.3), ms(2), ms(6)])))
        slo = ms(rng.choice([6, 10, 20, 40, 80]))
        rows, model = rng.choice([1, 1, 1, 2]), rng.choice("aabbc")
        cluster.run_until(at)
        cluster.ask(named(number, model=model, rows=rows, slo=slo_of.get(number, slo)))
    cluster.run_until(cluster.now + seconds(1))
    return cluster


@pytest.mark.parametrize("seed", [0, 2, 3, 5, 7, 8])
def test_the_counterfactuals_of_random_requests_come_true(seed: int) -> None:
    cluster, checked = played(seed, {}, 60), 0
    for number in range(1, 61):
        if infer_response(cluster, number).status != Status.CONTROLLER_COULD_NOT_START_IN_TIME:
            continue
        found = explain(cluster, f"r{number}", 900_000 + number)
        needed = by_change(found).get("slo")
        if needed is None or found.broken:
            continue
        assert needed.value is not None
        assert needed.value > found.slo
        other = played(seed, {number: needed.value}, number)
        assert infer_response(other, number).status == 0, (number, needed)
        checked += 1
    assert checked
