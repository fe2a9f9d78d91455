"""Readiness of the server and its models, silent workers, and the responses to requests that no worker can serve."""

import pytest

from builders import infer_request
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.events import Drain, Report, WorkerSilent
from clockwork.messages.requests import DEFAULT_RETRY, InferResponse, ServerStatus, StatusRequest, StatusResponse
from clockwork.messages.status import Status
from clockwork.scheduling.common import NO_DEVICE
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import seconds
from cluster import Cluster, quick_config, serving
from fake_worker import FakeWorker, File
from schedulers import Eager

FILES = {"a.onnx": File(), "b.onnx": File(pages=9)}
POLICIES = ("clockwork", "edf", "fifo", "simple")


def silence(cluster: Cluster, worker: str, silent: bool = True) -> None:
    """The worker becomes silent, or its silence ends."""
    cluster.feed(WorkerSilent(worker, silent))


def ready(cluster: Cluster) -> tuple[bool, bool, bool]:
    """Readiness of the server, of the model that each device can hold, and of the one that needs a larger device."""
    is_ready = cluster.controller.is_ready
    return is_ready(), is_ready("a"), is_ready("b")


def status(cluster: Cluster, number: int) -> ServerStatus:
    cluster.ask(StatusRequest(number))
    answer = cluster.answer(number)
    assert isinstance(answer, StatusResponse)
    return answer.server


def events(cluster: Cluster) -> list[str]:
    reports = [command for _, command in cluster.said if isinstance(command, Report)]
    return [report.event for report in reports if report.event in ("worker_silent", "worker_heard")]


def small_and_large() -> Cluster:
    """A cluster whose worker ``w0`` is too small for model ``b`` and whose worker ``large`` is not."""
    config = quick_config(workers=2, models=tuple(LoadSpec(path) for path in FILES))
    cluster = Cluster(Eager(), config)
    cluster.connect(FakeWorker("w0", FILES, pages=4))
    cluster.connect(FakeWorker("large", FILES, pages=16))
    assert ready(cluster) == (False, False, False), "it starts"
    cluster.run_until(seconds(5))
    return cluster


def test_a_server_is_ready_while_a_worker_serves_and_a_model_while_a_device_can_hold_it() -> None:
    cluster = small_and_large()
    assert ready(cluster) == (True, True, True)
    assert not cluster.controller.is_ready("unknown")
    large = cluster.lose("large")
    assert ready(cluster) == (True, True, False)
    small = cluster.lose("w0")
    assert ready(cluster) == (False, False, False)
    cluster.connect(small)
    cluster.connect(large)
    cluster.run_until(cluster.now + seconds(1))
    assert ready(cluster) == (True, True, True)
    cluster.feed(Drain(seconds(1)))
    assert ready(cluster) == (False, False, False)


def test_a_silent_worker_is_not_ready_until_its_silence_ends() -> None:
    cluster = small_and_large()
    silence(cluster, "large")
    assert ready(cluster) == (True, True, False)
    silence(cluster, "w0")
    silence(cluster, "w0")
    assert ready(cluster) == (False, False, False)
    server = status(cluster, 1)
    assert (server.ready, [model.ready for model in server.models]) == (False, [False, False])
    assert [(worker.ready, worker.silent) for worker in server.workers] == [(False, True)] * 2
    silence(cluster, "w0", False)
    silence(cluster, "large", False)
    assert ready(cluster) == (True, True, True)
    server = status(cluster, 2)
    assert (server.ready, [model.ready for model in server.models]) == (True, [True, True])
    assert [(worker.ready, worker.silent) for worker in server.workers] == [(True, False)] * 2
    assert events(cluster) == ["worker_silent", "worker_silent", "worker_heard", "worker_heard"]


def test_the_silence_of_a_worker_that_has_not_reported_changes_nothing() -> None:
    cluster = Cluster(Eager(), quick_config())
    silence(cluster, "nobody")
    assert events(cluster) == []


def test_a_silent_worker_that_is_lost_is_ready_when_it_returns() -> None:
    cluster = serving(Eager(), FILES, pages=16)
    silence(cluster, "w0")
    cluster.connect(cluster.lose("w0"))
    cluster.run_until(cluster.now + seconds(1))
    assert ready(cluster) == (True, True, True)


@pytest.mark.parametrize("name", POLICIES)
def test_a_request_that_no_device_can_serve_gets_a_retry_time(name: str) -> None:
    cluster = serving(make_scheduler(name), FILES, pages=16)
    cluster.lose("w0")
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + seconds(1))
    answer = cluster.answer(1)
    assert isinstance(answer, InferResponse)
    assert (answer.status, answer.message) == (Status.SKIPPED_BY_CONTROLLER, NO_DEVICE.format(model="a"))
    assert answer.retry_after == DEFAULT_RETRY


def test_clockwork_plans_nothing_on_a_silent_worker() -> None:
    cluster = serving(make_scheduler("clockwork"), FILES, pages=16)
    silence(cluster, "w0")
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + seconds(1))
    answer = cluster.answer(1)
    assert isinstance(answer, InferResponse)
    assert (answer.status, answer.retry_after, answer.admitted) == (Status.SKIPPED_BY_CONTROLLER, DEFAULT_RETRY, False)
    silence(cluster, "w0", False)
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + seconds(1))
    answer = cluster.answer(2)
    assert isinstance(answer, InferResponse)
    assert answer.status == Status.SUCCESS


def test_clockwork_serves_from_the_worker_that_is_not_silent() -> None:
    config = ControllerConfig(workers=2, models=(LoadSpec("a.onnx"),), profiling=quick_config().profiling)
    cluster = serving(make_scheduler("clockwork"), {"a.onnx": File()}, workers=2, config=config)
    silence(cluster, "w0")
    sent = len(cluster.sent("w0"))
    for number in range(20):
        cluster.ask(infer_request(number, slo=seconds(1)))
    cluster.run_until(cluster.now + seconds(1))
    answers = [cluster.answer(number) for number in range(20)]
    assert {answer.status for answer in answers if isinstance(answer, InferResponse)} == {Status.SUCCESS}
    assert len(cluster.sent("w0")) == sent
