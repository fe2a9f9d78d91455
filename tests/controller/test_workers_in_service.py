"""Workers that are lost, that return, and that send wrong results."""

import pytest

from builders import infer_request
from clockwork.controller.events import DropWorker, WorkerResult
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer, LoadModelFromDisk, LoadWeights
from clockwork.messages.results import (
    ErrorResult,
    InferResult,
    LoadWeightsResult,
    Timing,
)
from clockwork.messages.status import Status
from clockwork.scheduling.common import NO_DEVICE
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config, serving
from fake_worker import FakeWorker, File
from schedulers import Eager
from served import FILES, infer_response, result_of


def test_a_lost_worker_that_returns_without_models_loads_them_before_it_is_used() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.lose("w0")
    cluster.ask(infer_request(1))
    assert infer_response(cluster, 1).message == NO_DEVICE.format(model="a")
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(cluster.now + ms(5) - 1)
    assert not cluster.state.workers
    cluster.run_until(cluster.now + 1)
    assert list(cluster.state.workers) == ["w0"]
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + ms(11))
    assert infer_response(cluster, 2).status == Status.SUCCESS


def test_a_worker_that_returns_with_its_models_is_used_at_once() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    worker = cluster.lose("w0")
    loads = len(cluster.actions(LoadModelFromDisk)), len(cluster.actions(LoadWeights))
    cluster.connect(worker)
    cluster.run_until(cluster.now)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(3))
    assert infer_response(cluster, 1).status == Status.SUCCESS
    assert (len(cluster.actions(LoadModelFromDisk)), len(cluster.actions(LoadWeights))) == loads


def test_a_model_that_only_a_new_worker_has_is_not_served() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.connect(FakeWorker("w1", FILES | {"b.onnx": File()}).hold("a.onnx").hold("b.onnx", warm=True))
    cluster.run_until(cluster.now + seconds(1))
    assert list(cluster.state.models) == ["a"]
    assert list(cluster.state.workers) == ["w0", "w1"]


def test_a_worker_that_cannot_load_one_model_serves_the_others() -> None:
    cluster = serving(SimpleScheduler(), FILES | {"b.onnx": File()})
    cluster.lose("w0")
    cluster.connect(FakeWorker("w1", FILES))
    cluster.run_until(cluster.now + seconds(1))
    cluster.ask(infer_request(1))
    cluster.ask(infer_request(2, "b"))
    cluster.run_until(cluster.now + seconds(1))
    assert infer_response(cluster, 1).status == Status.SUCCESS
    assert infer_response(cluster, 2).message == NO_DEVICE.format(model="b")


def test_requests_for_a_model_that_was_not_measured_are_refused() -> None:
    cluster = Cluster(SimpleScheduler(), quick_config(workers=2))
    holder = FakeWorker("w1", {"b.onnx": File(), **FILES}).hold("b.onnx")
    cluster.connect(holder)
    cluster.connect(FakeWorker("w0", FILES))
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(10) + ms(5))
    cluster.lose("w1")
    cluster.run_until(seconds(11))
    assert cluster.stage is Stage.SERVING
    cluster.ask(infer_request(2, "b", slo_factor=2.0))
    why = "model b has not been measured: no connected worker has it"
    assert (infer_response(cluster, 2).status, infer_response(cluster, 2).message) == (
        Status.SKIPPED_BY_CONTROLLER,
        why,
    )
    cluster.connect(holder)
    cluster.run_until(seconds(12))
    cluster.ask(infer_request(3, "b", slo_factor=9.0))
    cluster.run_until(seconds(13))
    assert infer_response(cluster, 3).status == Status.SUCCESS


@pytest.mark.parametrize(
    ("action", "status", "dropped"),
    [
        ("LoadWeights", Status.WEIGHTS_ALREADY_LOADED, True),
        ("LoadWeights", Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE, True),
        ("LoadWeights", Status.UNKNOWN_MODEL, True),
        ("LoadWeights", Status.RUNTIME_ERROR, False),
        ("LoadWeights", Status.COULD_NOT_START_IN_TIME, False),
        ("Infer", Status.WEIGHTS_NOT_PRESENT, True),
        ("Infer", Status.UNKNOWN_MODEL, True),
        ("Infer", Status.INVALID_INPUT, False),
        ("Infer", Status.RUNTIME_ERROR, False),
        ("EvictWeights", Status.WEIGHTS_IN_USE, True),
    ],
)
def test_a_worker_that_contradicts_the_picture_is_dropped(action: str, status: Status, dropped: bool) -> None:
    cluster = serving(SimpleScheduler(), FILES | {"b.onnx": File(pages=4)})
    cluster.workers["w0"].fail[action] = (status, "no")
    cluster.ask(infer_request(1))  # evicts b, loads a
    cluster.run_until(cluster.now + seconds(1))
    drops = [command for _, command in cluster.said if isinstance(command, DropWorker)]
    assert bool(drops) is dropped
    cluster.check_all_answered()


@pytest.mark.parametrize(
    ("status", "answered"),
    [
        (Status.RUNTIME_ERROR, Status.ERROR),
        (Status.INVALID_INPUT, Status.INVALID_REQUEST),
        (Status.COULD_NOT_START_IN_TIME, Status.CONTROLLER_COULD_NOT_START_IN_TIME),
    ],
)
def test_a_client_gets_the_error_of_a_failed_infer(status: Status, answered: Status) -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.workers["w0"].fail["Infer"] = (status, "no")
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(10))
    assert infer_response(cluster, 1).status == answered


def test_a_failed_load_makes_only_the_infer_behind_it_fail() -> None:
    cluster = serving(Eager(), FILES | {"b.onnx": File(pages=4)})
    cluster.workers["w0"].fail["LoadWeights"] = (Status.RUNTIME_ERROR, "no")
    cluster.ask(infer_request(1))  # LoadWeights and Infer at once
    cluster.run_until(cluster.now + ms(10))
    assert list(cluster.workers) == ["w0"]
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + seconds(1))
    assert [infer_response(cluster, number).status for number in (1, 2)] == [Status.TIMEOUT, Status.SUCCESS]
    cluster.check_rest()


def test_a_result_with_outputs_of_other_requests_is_not_delivered() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1), client_id=1)
    cluster.ask(infer_request(2), client_id=2)
    first, second = (send.action for send in cluster.actions(Infer)[-2:])
    assert isinstance(first, Infer)
    swapped, payloads = result_of(second)
    took = Timing(0, 0, 0)
    cluster.feed(WorkerResult("w0", InferResult(first.id, swapped.outputs, took, took, took), payloads))
    assert infer_response(cluster, 1).message == "the worker received the requests [1] but answered [2]"
    assert cluster.answer(2, client_id=2) is None
    cluster.workers["w0"].reset()


def test_a_result_of_the_wrong_type_is_an_error() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    action = cluster.actions(Infer)[-1].action
    cluster.feed(WorkerResult("w0", LoadWeightsResult(action.id, Timing(0, 0, 0))))
    assert infer_response(cluster, 1).message == "the worker answered Infer with LoadWeightsResult"
    cluster.workers["w0"].reset()


def test_a_result_of_an_unknown_action_is_reported_and_ignored() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.feed(WorkerResult("w0", ErrorResult(999, "Infer", Status.ERROR, "what?")))
    assert "an action that it does not have" in cluster.reports("WARNING")[-1]
