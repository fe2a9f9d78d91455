"""Broken promises: the server can break a promise, a client or the operator cannot."""

import pytest

from builders import infer_request
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.events import Drain
from clockwork.controller.promises import Promise, outcome
from clockwork.messages.actions import Infer
from clockwork.messages.requests import CancelRequest, InferResponse
from clockwork.messages.results import ErrorResult, InferOutput, InferResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import Nanos, ms, seconds
from cluster import QUICK, Cluster
from fake_worker import FakeWorker, File

FILES = {"a.onnx": File()}
SOON, PROMISED, LATER = 10, 20, 30


@pytest.mark.parametrize(
    ("now", "promised", "status", "expected"),
    [
        (SOON, PROMISED, Status.SUCCESS, Promise.KEPT),
        (LATER, PROMISED, Status.SUCCESS, Promise.KEPT),  # later than promised, but within the deadline
        (SOON, None, Status.SUCCESS, Promise.NONE),
        (LATER, None, Status.TIMEOUT, Promise.NONE),
        (LATER, PROMISED, Status.TIMEOUT, Promise.BROKEN),
        (SOON, PROMISED, Status.ERROR, Promise.BROKEN),
        (SOON, PROMISED, Status.RUNTIME_ERROR, Promise.BROKEN),
        (SOON, PROMISED, Status.SKIPPED_BY_CONTROLLER, Promise.BROKEN),
        (SOON, PROMISED, Status.CONTROLLER_COULD_NOT_START_IN_TIME, Promise.BROKEN),
        (SOON, PROMISED, Status.INVALID_REQUEST, Promise.NONE),
        (LATER, PROMISED, Status.INVALID_REQUEST, Promise.NONE),
        (SOON, PROMISED, Status.INVALID_INPUT, Promise.NONE),
        (SOON, PROMISED, Status.INVALID_BATCH_SIZE, Promise.NONE),
        (SOON, PROMISED, Status.CANCELLED, Promise.NONE),
        (SOON, PROMISED, Status.SHUTTING_DOWN, Promise.NONE),  # the drain limit came first
        (LATER, PROMISED, Status.SHUTTING_DOWN, Promise.BROKEN),
    ],
)
def test_only_the_server_can_break_a_promise(
    now: Nanos, promised: Nanos | None, status: Status, expected: Promise
) -> None:
    assert outcome(now, promised, status) is expected


class Picky(FakeWorker):
    """Refuses the bytes of request ``refused``: with an error, or in a batch with the request's share of the result."""

    refused = -1

    def step(self, now: Nanos) -> list[Result]:
        return [self._picky(result) if isinstance(result, InferResult) else result for result in super().step(now)]

    def _picky(self, result: InferResult) -> Result:
        ids = [output.request_id for output in result.outputs]
        if self.refused not in ids:
            return result
        if len(ids) == 1:
            return ErrorResult(result.id, Infer.__name__, Status.INVALID_INPUT, "index out of range")
        outputs = [InferOutput(i, (), "index out of range" if i == self.refused else "") for i in ids]
        return InferResult(result.id, tuple(outputs), result.copy_input, result.exec, result.copy_output)


def promising() -> tuple[Cluster, Picky]:
    """A cluster whose scheduler makes promises."""
    config = ControllerConfig(models=(LoadSpec("a.onnx"),), profiling=QUICK)
    cluster = Cluster(make_scheduler("clockwork"), config)
    worker = Picky("w0", FILES)
    cluster.connect(worker)
    cluster.run_until(seconds(5))
    return cluster, worker


def broken(cluster: Cluster) -> int:
    return cluster.controller._serving.tally.of("a").broken_promises


def kept(cluster: Cluster) -> int:
    return cluster.controller._serving.tally.of("a").kept_promises


def answer(cluster: Cluster, number: int) -> InferResponse:
    found = cluster.answer(number)
    assert isinstance(found, InferResponse)
    return found


@pytest.mark.parametrize("requests", [1, 3])
def test_bytes_that_the_device_refuses_break_no_promise(requests: int) -> None:
    cluster, worker = promising()
    worker.refused = requests  # the first is executed alone, the others in one batch
    for number in range(requests):
        cluster.ask(infer_request(number, slo=ms(200)))
    cluster.run_until(cluster.now + seconds(1))
    refused = [answer(cluster, number) for number in range(requests) if answer(cluster, number).status]
    assert [(response.status, response.message, response.admitted) for response in refused] == [
        (Status.INVALID_REQUEST, "index out of range", False)
    ]
    assert (broken(cluster), kept(cluster)) == (0, requests - 1)


def test_a_request_that_a_client_cancels_breaks_no_promise() -> None:
    cluster, _ = promising()
    cluster.ask(infer_request(1))
    cluster.ask(CancelRequest(1))
    cluster.ask(infer_request(2), client_id=2)
    cluster.lose_client(2)
    cluster.run_until(cluster.now + seconds(1))
    assert (broken(cluster), kept(cluster)) == (0, 0)


def test_a_drain_that_ends_before_the_promised_time_breaks_no_promise() -> None:
    cluster, _ = promising()
    cluster.ask(infer_request(1))
    cluster.feed(Drain(ms(1)))
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + ms(1))
    assert [answer(cluster, number).status for number in (1, 2)] == [Status.SHUTTING_DOWN] * 2
    assert not any(answer(cluster, number).admitted for number in (1, 2))
    assert (broken(cluster), kept(cluster)) == (0, 0)


def test_the_loss_of_a_worker_breaks_its_promises() -> None:
    cluster, _ = promising()
    cluster.ask(infer_request(1))
    cluster.lose("w0")
    cluster.run_until(cluster.now + seconds(1))
    assert answer(cluster, 1).admitted
    assert (broken(cluster), kept(cluster)) == (1, 0)
