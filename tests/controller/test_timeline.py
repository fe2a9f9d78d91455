"""The timeline contains what devices did, what they were sent, and what is planned, within limits."""

from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import LoadSpec
from clockwork.controller.timeline import MAX_PLANNED, MAX_UPCOMING
from clockwork.messages.requests import EvictRequest, InferRequest
from clockwork.messages.timeline import (
    MAX_IDS,
    MAX_LIMIT,
    MAX_SPAN,
    Timeline,
    TimelineAction,
    TimelineRequest,
    TimelineResponse,
)
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config, serving
from fake_worker import File
from schedulers import Forgetful
from served import FILES, infer_response

QUESTIONS = count(900_000)


def response(cluster: Cluster, **query: Any) -> TimelineResponse:
    number = next(QUESTIONS)
    cluster.ask(TimelineRequest(number, **query), 2)
    found = cluster.answer(number, 2)
    assert isinstance(found, TimelineResponse)
    return found


def timeline(cluster: Cluster, **query: Any) -> Timeline:
    found = response(cluster, **query)
    assert found.timeline is not None, found.message
    return found.timeline


def named(number: int, **more: Any) -> InferRequest:
    return replace(infer_request(number, **more), request_id=f"r{number}")


def times(action: TimelineAction) -> tuple[int, ...]:
    """Return the times of an executed Infer in the order in which they must be."""
    assert action.sent is not None
    assert action.begin is not None
    assert action.end is not None
    assert action.arrived is not None
    return action.sent, action.begin, action.end, action.arrived


def test_executed_batches_have_their_plan_their_times_and_their_requests() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in (1, 2, 3):
        cluster.ask(named(number))
    cluster.run_until(cluster.now + ms(500))
    found = timeline(cluster)
    assert found.devices == ("w0/gpu0",)
    assert (found.now, found.last, found.dropped) == (cluster.now, found.latest, 0)
    first, second = (action for action in found.ended if action.requests)  # others check the batch
    assert (first.number, first.kind, first.model, first.version, first.rows, first.count) == (
        1,
        "infer",
        "a",
        "1",
        1,
        1,
    )
    assert (second.number, second.rows, second.requests) == (2, 2, ("r2", "r3"))
    for action in (first, second):
        assert list(times(action)) == sorted(times(action))
        assert action.earliest is not None
        assert action.begin is not None
        assert action.earliest <= action.begin
        assert (action.status, action.error, action.late) == ("SUCCESS", "", 0)
        assert action.planned_begin is not None
        assert action.planned_end is not None
        assert action.planned_begin < action.planned_end
    assert not found.upcoming


def test_a_load_and_an_eviction_are_on_the_timeline() -> None:
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(pages=3)})
    cluster.ask(EvictRequest(1, "a"))
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(named(2, slo=seconds(1)))
    cluster.run_until(cluster.now + seconds(1))
    found = timeline(cluster, past=seconds(10))
    assert [action.kind for action in found.ended][-3:] == ["evict", "load", "infer"]
    evict, load, infer = found.ended[-3:]
    assert (evict.rows, evict.count, evict.requests) == (0, 0, ())
    assert load.begin is not None
    assert load.end is not None
    assert infer.begin is not None
    assert load.begin < load.end <= infer.begin


def test_the_future_contains_what_was_sent_and_then_what_is_planned() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in range(1, 21):
        cluster.ask(named(number, slo=seconds(1)))
    cluster.run_until(cluster.now + ms(1))
    found = timeline(cluster)
    assert found.pending == 20
    sent = [action for action in found.upcoming if action.id]
    planned = [action for action in found.upcoming if not action.id]
    assert sent
    assert planned
    assert list(found.upcoming) == sent + planned
    names = [name for action in found.upcoming for name in action.requests]
    assert sorted(names) == sorted(f"r{number}" for number in range(1, 21))
    assert sum(action.count for action in found.upcoming) == 20
    begins = [action.planned_begin for action in found.upcoming]
    assert begins == sorted(begins, key=lambda begin: begin or 0)
    assert all(action.begin is None and not action.status for action in found.upcoming)
    assert found.at_risk == 0


def test_the_plan_comes_true() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in range(1, 9):
        cluster.ask(named(number, slo=seconds(1)))
    cluster.run_until(cluster.now + ms(3))
    planned = {action.requests: action for action in timeline(cluster).upcoming}
    cluster.run_until(cluster.now + seconds(1))
    executed = {action.requests: action for action in timeline(cluster, past=seconds(2)).ended}
    assert set(planned) <= set(executed)
    for requests, plan in planned.items():
        assert plan.planned_end is not None
        assert (executed[requests].end or 0) <= plan.planned_end


def test_planned_batches_after_the_horizon_are_left_out() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in range(1, 101):
        cluster.ask(named(number, slo=seconds(3)))
    cluster.run_until(cluster.now + ms(3))
    far, near = timeline(cluster, horizon=seconds(3)), timeline(cluster, horizon=ms(10))
    assert len(near.upcoming) < len(far.upcoming)
    assert all(action.id or (action.planned_begin or 0) < cluster.now + ms(10) for action in near.upcoming)
    assert not timeline(cluster, horizon=0).upcoming
    assert len([action for action in far.upcoming if not action.id]) <= MAX_PLANNED


def test_requests_that_will_be_late_are_at_risk_and_late_requests_are_counted() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for number in range(12):
        cluster.ask(named(number, slo=ms(10)))
    cluster.run_until(cluster.now + ms(9))
    before = timeline(cluster)
    assert before.at_risk == sum(action.late for action in before.upcoming) > 0
    cluster.run_until(cluster.now + seconds(1))
    executed = timeline(cluster, past=seconds(2)).ended
    late = {int(name[1:]) for action in executed if action.late for name in action.requests}
    in_time = {int(name[1:]) for action in executed if not action.late for name in action.requests}
    assert late
    assert all(infer_response(cluster, number).status != 0 for number in late)
    assert all(infer_response(cluster, number).status == 0 for number in in_time)


def test_a_reader_gets_every_action_once_in_pieces() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    numbers: list[int] = []
    after = 0
    for number in range(1, 41):
        cluster.ask(named(number, slo=seconds(3)))
        cluster.run_until(cluster.now + ms(10))
        if number % 10 == 0:
            while True:
                found = timeline(cluster, after=after, past=seconds(60), limit=3)
                numbers += [action.number for action in found.ended]
                assert len(found.ended) <= 3
                after = found.last
                if after == found.latest:
                    break
    assert numbers == list(range(1, timeline(cluster).latest + 1))
    assert len(numbers) > 10


def test_actions_that_are_no_longer_recorded_are_counted() -> None:
    cluster = serving(
        ClockworkScheduler(), FILES, config=quick_config(models=(LoadSpec("a.onnx"),), explain_requests=5)
    )
    for number in range(1, 13):
        cluster.ask(named(number))
        cluster.run_until(cluster.now + ms(50))
    found = timeline(cluster, after=1, past=seconds(60))
    assert found.latest == 12
    assert [action.number for action in found.ended] == [8, 9, 10, 11, 12]
    assert found.dropped == 6
    restarted = timeline(cluster, after=1000, past=seconds(60))
    assert (len(restarted.ended), restarted.dropped) == (5, 0)


def test_old_actions_are_left_out() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1))
    cluster.run_until(cluster.now + seconds(2))
    found = timeline(cluster, past=seconds(1))
    assert (found.ended, found.last, found.latest) == ((), 1, 1)


def test_a_timeline_contains_a_limited_number_of_ids_and_actions() -> None:
    files = {f"m{number}.onnx": File() for number in range(2)}
    cluster = serving(ClockworkScheduler(), files)
    for number in range(MAX_UPCOMING + 200):
        cluster.ask(named(number, model=f"m{number % 2}", slo=seconds(100)))
    cluster.run_until(cluster.now + ms(3))
    found = timeline(cluster, horizon=MAX_SPAN)
    assert len(found.upcoming) <= MAX_UPCOMING
    assert all(len(action.requests) <= MAX_IDS for action in found.upcoming)


@pytest.mark.parametrize(
    "query",
    [{"after": -1}, {"limit": 0}, {"limit": MAX_LIMIT + 1}, {"past": -1}, {"past": MAX_SPAN + 1}, {"horizon": -1}],
    ids=str,
)
def test_a_wrong_query_is_refused_with_the_limit(query: dict[str, int]) -> None:
    found = response(serving(ClockworkScheduler(), FILES), **query)
    assert found.timeline is None
    assert next(iter(query)) in found.message


def test_a_server_that_records_nothing_says_how_to_change_that() -> None:
    config = quick_config(models=(LoadSpec("a.onnx"),), explain_requests=0)
    cluster = serving(ClockworkScheduler(), FILES, config=config)
    assert "--explain-requests" in response(cluster).message


def test_a_starting_server_has_an_empty_timeline() -> None:
    cluster = Cluster(ClockworkScheduler(), quick_config(models=(LoadSpec("a.onnx"),)))
    found = timeline(cluster)
    assert (found.devices, found.ended, found.upcoming, found.latest) == ((), (), (), 0)


def test_a_lost_worker_leaves_the_future_and_keeps_its_past() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1))
    cluster.run_until(cluster.now + ms(100))
    cluster.ask(named(2))
    cluster.run_until(cluster.now + ms(1))
    assert timeline(cluster).upcoming
    cluster.lose("w0")
    found = timeline(cluster)
    assert (found.devices, found.upcoming) == ((), ())
    assert [action.requests for action in found.ended] == [("r1",)]


@pytest.mark.parametrize("returned", [None, (1,), RuntimeError("no plan")], ids=str)
def test_a_scheduler_with_a_faulty_plan_is_reported_and_the_rest_is_shown(returned: object) -> None:
    class Faulty(Forgetful):
        def planned(self, *args: Any) -> Any:
            if isinstance(returned, Exception):
                raise returned
            return returned

    cluster = serving(Faulty(), FILES)
    assert timeline(cluster).devices == ("w0/gpu0",)
    (report,) = cluster.reports("ERROR")
    assert "planned" in report
