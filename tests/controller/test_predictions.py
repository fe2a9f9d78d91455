"""The status reports the errors of predictions."""

import pytest

from builders import infer_request
from clockwork.messages.commands import Answer
from clockwork.messages.prediction import ErrorSummary
from clockwork.messages.status import Status
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import FOREVER, Nanos, ms, us
from cluster import serving
from fake_worker import File
from schedulers import Eager
from served import FILES, infer_response, status_of


def test_the_status_reports_the_errors_of_predictions() -> None:
    files = {"a.onnx": File(), "b.onnx": File()}
    cluster = serving(SimpleScheduler(), files)
    assert status_of(cluster, 1).predictions == {}, "what was measured before serving is not counted"
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + ms(100))
    files["a.onnx"] = File(infer=ms(3) + us(50))
    cluster.ask(infer_request(3))
    cluster.run_until(cluster.now + ms(100))
    files["a.onnx"] = File(infer=ms(3) - us(20))
    cluster.ask(infer_request(4))
    cluster.run_until(cluster.now + ms(100))
    server = status_of(cluster, 5)
    infer = server.predictions["infer"]
    assert infer.start == ErrorSummary(3), "the device was idle each time"
    assert infer.duration == infer.completion == ErrorSummary(3, 1, us(20), us(20), us(20), 1, us(50), us(50), us(50))
    assert (infer.within, infer.failed) == (2, 0)
    by_model = {model.info.name: model.predictions for model in server.models}
    assert by_model["a"]["infer"].duration.under_max == us(50)
    assert "infer" not in by_model["b"]
    (worker,) = server.workers
    assert worker.gpus[0].predictions == server.predictions


def test_an_infer_behind_another_is_predicted_to_begin_when_that_ends() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for number in (1, 2):
        cluster.ask(infer_request(number))
    cluster.run_until(cluster.now + ms(100))
    infer = status_of(cluster, 3).predictions["infer"]
    assert infer.start == infer.completion == ErrorSummary(2)


def test_failed_actions_are_counted_separately_and_counts_of_lost_workers_are_kept() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.workers["w0"].fail["Infer"] = (Status.RUNTIME_ERROR, "no")
    for number in (1, 2):
        cluster.ask(infer_request(number))
    cluster.run_until(cluster.now + ms(100))
    before = status_of(cluster, 3).predictions
    assert (before["infer"].failed, before["infer"].duration.count) == (1, 1)
    cluster.lose("w0")
    server = status_of(cluster, 4)
    assert (server.workers, server.predictions) == ((), before)


@pytest.mark.parametrize("start", [-1, FOREVER, 1 << 2000])
def test_an_impossible_start_of_an_action_is_not_counted_as_a_prediction(start: Nanos) -> None:
    class Vague(Eager):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            next(self.state.gpus()).infer(request.model, [request], now, request.deadline, start=start)
            return []

    cluster = serving(Vague(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    assert infer_response(cluster, 1).status == Status.SUCCESS
    assert not cluster.reports("ERROR")
    assert status_of(cluster, 2).predictions["infer"].start == ErrorSummary(1)
