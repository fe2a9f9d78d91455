"""Closed loops: clients that wait for responses."""

from collections import Counter
from random import Random
from typing import Any

from clockwork.messages.status import Status
from clockwork.units import SECOND, ms, seconds
from clockwork.workload.request import WorkloadRequest, comes_back
from clockwork.workload.spec import LadderSpec, StreamSpec, make_workload
from clockwork.workload.workload import Workload


def closed(duration: float = 100, **fields: Any) -> Workload:
    return make_workload([StreamSpec("closed", **fields)], ["a", "b"], seconds(duration), Random(1))


def take_all(workload: Workload) -> list[WorkloadRequest]:
    requests = []
    while workload.next_send() is not None:
        requests.append(workload.take())
    return requests


def test_every_client_of_every_model_sends_once_and_then_waits() -> None:
    workload = closed(concurrency=3, start_s=2)
    requests = take_all(workload)
    assert Counter(request.model for request in requests) == {"a": 3, "b": 3}
    assert sorted(request.client for request in requests) == list(range(6))
    assert {request.intended for request in requests} == {2 * SECOND}
    assert workload.next_send() is None
    assert not workload.done


def test_first_requests_are_spread_over_the_stagger() -> None:
    times = [request.intended for request in take_all(closed(concurrency=500, stagger_ms=100, start_s=1))]
    assert times == sorted(times)
    assert seconds(1) <= times[0] < seconds(1) + ms(5)
    assert seconds(1) + ms(95) < times[-1] < seconds(1) + ms(100)
    assert 400 < sum(at < seconds(1) + ms(50) for at in times) < 600


def test_a_client_sends_again_after_a_response() -> None:
    workload = closed(models=("a",))
    first = workload.take()
    workload.answered(ms(30), first, None)
    assert workload.next_send() == ms(30)
    assert workload.take() == WorkloadRequest(0, 0, "a", ms(30), None, None)


def test_a_client_pauses_before_it_sends_again() -> None:
    workload = closed(models=("a",), think_ms=4)
    workload.answered(ms(30), workload.take(), None)
    assert workload.next_send() == ms(34)


def test_a_refused_client_sends_again_after_its_retry_time_and_pause() -> None:
    for think_ms, at_ms in ((0, 26), (4, 26), (400, 401)):
        workload = closed(models=("a",), think_ms=think_ms)
        workload.answered(ms(1), workload.take(), ms(25))
        assert workload.next_send() == ms(at_ms)


def test_requests_name_their_client() -> None:
    workload = closed(models=("a",), concurrency=2)
    first, second = take_all(workload)
    workload.answered(ms(9), second, None)
    workload.answered(ms(10), first, ms(50))
    assert [workload.take().client for _ in range(2)] == [second.client, first.client]


def test_a_response_may_cause_a_request_before_the_next_one() -> None:
    workload = closed(models=("a",), concurrency=2)
    first, second = take_all(workload)
    workload.answered(ms(1), first, ms(500))
    assert workload.next_send() == ms(501)
    workload.answered(ms(2), second, None)
    assert [workload.take().intended, workload.take().intended] == [ms(2), ms(501)]
    assert workload.next_send() is None


def test_a_response_to_one_stream_does_not_affect_another() -> None:
    specs = [StreamSpec("closed", models=("a",)), StreamSpec("fixed", rate=10)]
    workload = make_workload(specs, ["a", "b"], seconds(10), Random(1))
    first = workload.take()
    assert (first.stream, workload.next_send()) == (0, ms(100))
    workload.answered(ms(150), first, None)
    assert [workload.take().stream for _ in range(3)] == [1, 0, 1]


def test_a_client_answered_after_the_end_sends_no_more_and_the_workload_is_done() -> None:
    workload = closed(duration=1, models=("a",))
    first = workload.take()
    assert not workload.done
    workload.answered(seconds(1), first, None)
    assert workload.next_send() is None
    assert workload.done


def test_a_client_sends_no_more_after_the_stop_or_the_last_step_of_its_ladder() -> None:
    ladder = LadderSpec(start_ms=1, factor=2, step_s=1, max_ms=2)
    for fields in ({"stop_s": 2}, {"slo_ladder": ladder}):
        workload = closed(models=("a",), **fields)
        workload.answered(ms(1999), workload.take(), None)
        assert workload.next_send() == ms(1999)
        workload.answered(ms(2000), workload.take(), None)
        assert workload.next_send() is None
        assert workload.done


def test_the_same_seed_and_responses_give_the_same_requests() -> None:
    def played() -> list[WorkloadRequest]:
        workload, requests = closed(duration=2, concurrency=5, stagger_ms=50), []
        while workload.next_send() is not None:
            requests.append(workload.take())
            workload.answered(requests[-1].intended + ms(17), requests[-1], None)
        return requests

    assert played() == played()
    assert 1_150 < len(played()) < 1_200  # 10 clients, each sends (2 s - its stagger) / 17 ms requests


def test_a_client_without_a_retry_time_backs_off_by_itself() -> None:
    workload, now = closed(models=("a",)), 0
    waits = []
    for _ in range(12):
        workload.answered(now, workload.take(), comes_back(Status.TIMEOUT, None))
        due = workload.next_send()
        assert due is not None
        waits.append(due - now)
        now = due
    assert all(ms(5) << n <= wait <= ms(10) << n for n, wait in enumerate(waits[:6]))
    assert all(ms(500) <= wait <= seconds(1) for wait in waits[7:])
    workload.answered(now, workload.take(), comes_back(Status.SUCCESS, None))
    assert workload.next_send() == now
    workload.answered(now, workload.take(), comes_back(Status.TIMEOUT, None))
    due = workload.next_send()
    assert due is not None
    assert due - now <= ms(10), "a success ends the back-off"


def test_a_client_with_a_retry_time_does_not_back_off_longer() -> None:
    workload = closed(models=("a",))
    for _ in range(5):
        workload.answered(0, workload.take(), comes_back(Status.SKIPPED_BY_CONTROLLER, ms(3)))
        assert workload.next_send() == ms(3)
        workload.answered(0, workload.take(), None)
