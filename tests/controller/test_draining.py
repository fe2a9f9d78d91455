"""The stage DRAINING: pending requests are finished, new ones are refused, and the drain ends in time."""

import pytest

from builders import infer_request
from clockwork.controller.config import LoadSpec
from clockwork.controller.events import Drain, Drained
from clockwork.controller.stage import Stage
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    InferResponse,
    ListModelsRequest,
    LoadModelRequest,
    StatusRequest,
    StatusResponse,
)
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config, serving
from fake_worker import FakeWorker, File
from schedulers import Eager, Forgetful, Furious

FILES = {"a.onnx": File(infer=ms(3))}
LONG = seconds(10)


def drained(cluster: Cluster) -> list[tuple[Nanos, int]]:
    """When the drain was over, and the number of unfinished requests."""
    return [(at, command.unfinished) for at, command in cluster.said if isinstance(command, Drained)]


def status_of(cluster: Cluster, number: int) -> Status:
    answer = cluster.answer(number)
    assert answer is not None
    assert not isinstance(answer, StatusResponse)
    return Status(answer.status)


def test_a_drain_is_over_at_once_if_no_request_is_pending() -> None:
    cluster = serving(Eager(), FILES)
    cluster.feed(Drain(LONG))
    assert drained(cluster) == [(cluster.now, 0)]
    assert cluster.stage is Stage.DRAINING
    assert cluster.stages()[-1] == (cluster.now, "draining")


def test_a_drain_is_over_when_the_last_pending_request_is_answered() -> None:
    cluster = serving(Eager(), FILES)
    begun = cluster.now
    for number in (1, 2):
        cluster.ask(infer_request(number, "a", slo=seconds(1)))
    cluster.feed(Drain(LONG))
    assert drained(cluster) == []
    cluster.run_until(begun + seconds(1))
    assert [status_of(cluster, number) for number in (1, 2)] == [Status.SUCCESS] * 2
    ((at, left),) = drained(cluster)
    assert (at - begun, left) == (ms(6), 0)  # two inferences, one after the other
    cluster.check_all_answered()


def test_requests_during_and_after_a_drain_are_refused() -> None:
    cluster = serving(Eager(), FILES)
    cluster.ask(infer_request(1, "a", slo=seconds(1)))
    cluster.feed(Drain(LONG))
    for first in (2, 12):
        cluster.ask(infer_request(first, "a"))
        cluster.ask(ListModelsRequest(first + 1))
        cluster.ask(LoadModelRequest(first + 2, "a.onnx"))
        cluster.ask(EvictRequest(first + 3, "a"))
        assert [status_of(cluster, number) for number in range(first, first + 4)] == [Status.SHUTTING_DOWN] * 4
        cluster.ask(StatusRequest(first + 4))
        response = cluster.answer(first + 4)
        assert isinstance(response, StatusResponse)
        assert response.server.stage == "draining"
        cluster.run_until(cluster.now + seconds(1))
    assert status_of(cluster, 1) is Status.SUCCESS
    assert len(drained(cluster)) == 1
    (model,) = cluster.controller.description(cluster.now).server().models
    assert model.counts.answers == {"SUCCESS": 1, "SHUTTING_DOWN": 2}


def test_requests_pending_at_the_limit_get_exactly_one_response() -> None:
    cluster = serving(Forgetful(), FILES)
    begun = cluster.now
    for number in (1, 2, 3):
        cluster.ask(infer_request(number, "a", slo=seconds(20)))
    cluster.feed(Drain(seconds(2)))
    cluster.run_until(begun + seconds(2) - 1)
    assert not cluster.responses()
    cluster.run_until(begun + seconds(30))
    assert [status_of(cluster, number) for number in (1, 2, 3)] == [Status.SHUTTING_DOWN] * 3
    assert drained(cluster) == [(begun + seconds(2), 3)]
    answer = cluster.answer(1)
    assert isinstance(answer, InferResponse)
    assert answer.timing.total == seconds(2)
    (model,) = cluster.controller.description(cluster.now).server().models
    assert model.counts.answers == {"SHUTTING_DOWN": 3}
    assert cluster.controller.next_wakeup() is None
    cluster.check_all_answered()


def test_a_result_after_the_limit_answers_no_request_again() -> None:
    cluster = serving(Eager(), {"a.onnx": File(infer=seconds(5))})
    cluster.ask(infer_request(1, "a", slo=seconds(20)))
    cluster.feed(Drain(seconds(1)))
    cluster.run_until(cluster.now + seconds(30))
    assert status_of(cluster, 1) is Status.SHUTTING_DOWN
    cluster.check_rest()


def test_a_request_whose_deadline_passes_during_a_drain_times_out() -> None:
    cluster = serving(Forgetful(), FILES)
    begun = cluster.now
    cluster.ask(infer_request(1, "a", slo=ms(50)))
    cluster.feed(Drain(LONG))
    cluster.run_until(begun + LONG)
    assert status_of(cluster, 1) is Status.TIMEOUT
    assert drained(cluster) == [(begun + ms(50) + 1, 0)]


def test_a_drain_does_not_wait_for_requests_that_were_cancelled_or_whose_client_left() -> None:
    cluster = serving(Forgetful(), FILES)
    cluster.ask(infer_request(1, "a", slo=seconds(20)))
    cluster.ask(infer_request(2, "a", slo=seconds(20)), client_id=2)
    cluster.feed(Drain(LONG))
    cluster.ask(CancelRequest(1))
    assert drained(cluster) == []
    cluster.lose_client(2)
    assert drained(cluster) == [(cluster.now, 0)]


def test_a_second_drain_changes_nothing() -> None:
    cluster = serving(Forgetful(), FILES)
    begun = cluster.now
    cluster.ask(infer_request(1, "a", slo=seconds(20)))
    cluster.feed(Drain(seconds(2)))
    cluster.feed(Drain(seconds(9)))
    cluster.run_until(begun + seconds(30))
    assert drained(cluster) == [(begun + seconds(2), 1)]


def test_a_worker_lost_during_a_drain_does_not_delay_it() -> None:
    cluster = serving(EchoScheduler(), FILES)
    cluster.ask(infer_request(1, "a", slo=seconds(1)))
    cluster.feed(Drain(LONG))
    cluster.lose("w0")
    cluster.run_until(cluster.now + seconds(2))
    assert len(drained(cluster)) == 1
    cluster.check_all_answered()


def test_a_scheduler_that_raises_does_not_delay_a_drain() -> None:
    cluster = serving(Furious(), FILES)
    cluster.ask(infer_request(1, "a", slo=seconds(1)))
    cluster.feed(Drain(ms(1)))
    cluster.run_until(cluster.now + seconds(2))
    assert len(drained(cluster)) == 1
    cluster.check_all_answered()


@pytest.mark.parametrize("stage", [Stage.QUERYING, Stage.LOADING, Stage.PROFILING])
def test_a_drain_before_serving_is_over_at_once(stage: Stage) -> None:
    slow = {"a.onnx": File(disk=ms(500), load=ms(500), infer=ms(500))}
    named = (LoadSpec("a.onnx"),)
    cluster = Cluster(EchoScheduler(), quick_config(models=named if stage is Stage.PROFILING else ()))
    cluster.ask(infer_request(1, "a", slo=None))
    cluster.ask(ListModelsRequest(2))
    if stage is not Stage.QUERYING:
        cluster.connect(FakeWorker("w0", slow))
    if stage is not Stage.PROFILING:
        cluster.load("a.onnx", 3)
    cluster.run_until(ms(600) if stage is Stage.PROFILING else ms(1))
    assert cluster.stage is stage
    begun = cluster.now
    cluster.feed(Drain(LONG))
    assert drained(cluster) == [(begun, 0)]
    cluster.check_all_answered()
    numbers = (1, 2) if stage is Stage.PROFILING else (1, 2, 3)
    assert [status_of(cluster, number) for number in numbers] == [Status.SHUTTING_DOWN] * len(numbers)
    cluster.ask(infer_request(4, "a"))
    assert status_of(cluster, 4) is Status.SHUTTING_DOWN
    cluster.run_until(begun + seconds(60))
    assert cluster.stage is Stage.DRAINING
    assert not cluster.gave_up()
    assert cluster.stages()[-1] == (begun, "draining")


def test_after_a_drain_before_serving_start_up_does_not_go_on() -> None:
    cluster = Cluster(EchoScheduler(), quick_config(models=(LoadSpec("a.onnx"),)))
    worker = FakeWorker("w0", FILES)
    worker.fail["LoadModelFromDisk"] = (Status.ERROR, "the disk is gone")
    cluster.connect(worker)
    sent = len(cluster.sent())
    cluster.feed(Drain(LONG))
    cluster.run_until(seconds(5))
    cluster.lose("w0")
    assert not cluster.gave_up()
    assert len(cluster.sent()) == sent
