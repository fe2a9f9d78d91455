"""Limits on pending requests per client, on single requests, and on the workers that may be lost with a request."""

from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.checking import check_infer
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.events import ClientRequest, Respond
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import Infer
from clockwork.messages.requests import CancelRequest, InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import MAX_NAME, MAX_TENSORS, TensorSpec, spec
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import MIB, seconds
from cluster import QUICK, Cluster, quick_config, serving
from fake_worker import FakeWorker, File
from schedulers import Eager, Forgetful

FILES = {"a.onnx": File()}


def limited(**limits: int) -> Cluster:
    """A server with these limits whose scheduler answers no request. The inputs of a request take 8 bytes."""
    config = replace(ControllerConfig(models=(LoadSpec("a.onnx"),), profiling=QUICK), **limits)
    return serving(Forgetful(), FILES, config=config)


def refused(cluster: Cluster) -> list[tuple[int, int]]:
    """Clients and ids of the requests that were refused because of a limit."""
    answers = [command for _, command in cluster.said if isinstance(command, Respond)]
    for answer in answers:
        assert isinstance(answer.response, InferResponse)
        assert answer.response.status == Status.SKIPPED_BY_CONTROLLER
    return [(answer.client_id, answer.response.id) for answer in answers]


@pytest.mark.parametrize("limit", [{"max_client_pending": 2}, {"max_client_bytes": 16}])
def test_a_client_at_its_limit_is_refused_and_other_clients_are_not(limit: dict[str, int]) -> None:
    cluster = limited(**limit)
    for number in (1, 2, 3):
        cluster.ask(infer_request(number), client_id=1)
        cluster.ask(infer_request(number), client_id=2)
    assert refused(cluster) == [(1, 3), (2, 3)]
    answer = cluster.answer(3)
    assert isinstance(answer, InferResponse)
    assert answer.message.startswith(
        "this connection has too many pending requests: 2 requests with 16 B of inputs are pending"
    )
    cluster.ask(CancelRequest(1), client_id=1)
    cluster.ask(infer_request(4), client_id=1)
    assert len(refused(cluster)) == 2, "the client is below its limit again"


def test_a_client_that_serves_many_connections_has_no_limit_of_its_own() -> None:
    cluster = limited(max_client_pending=2)
    for number in range(5):
        cluster.asked[1, number] = infer_request(number)
        cluster.feed(ClientRequest(1, infer_request(number), "payload", shared=True))
    assert not refused(cluster)


def test_generated_requests_are_limited_by_their_bytes_and_each_answered_once() -> None:
    cluster = limited(max_pending_bytes=1000 * 8)
    for number in range(9600):
        cluster.ask(infer_request(number, generated=True, slo=seconds(5)))
    assert refused(cluster) == [(1, number) for number in range(1000, 9600)]
    cluster.run_until(cluster.now + seconds(6))
    assert len(cluster.responses()) == 9600
    assert set(cluster.answers.values()) == {1}


# --- limits of one request ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (infer_request(1, outputs=("y",) * 100_000), f"request has 100000 outputs; at most {MAX_TENSORS} are accepted"),
        (infer_request(1, outputs=("y" * 1001,)), f"output name {'y' * 40!r}... has 1001 characters"),
        (infer_request(1, "m" * 1001), f"model name {'m' * 40!r}... has 1001 characters"),
        (infer_request(1, inputs=(spec("x" * 1001, "FP32", (1, 2)),)), f"input name {'x' * 40!r}... has 1001"),
        (infer_request(1, inputs=(TensorSpec("x", "UINT8", (0,), 0),) * 257), "257 inputs; at most 256"),
        (infer_request(1, inputs=(spec("x", "FP32", (MIB,)),), generated=True), "take 4194304 bytes; at most 1048576"),
    ],
)
def test_a_request_beyond_a_limit_is_invalid(request_: InferRequest, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_infer(request_, 0 if request_.generated else sum(tensor.nbytes for tensor in request_.inputs), MIB)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_request_within_the_limits_is_accepted() -> None:
    names = tuple("y" * (MAX_NAME - 3) + f"{i:03}" for i in range(MAX_TENSORS))
    check_infer(infer_request(1, "m" * MAX_NAME, outputs=names), 8, 8)


def test_an_output_named_twice_is_sent_once() -> None:
    cluster = serving(Eager(), FILES)
    cluster.ask(infer_request(1, outputs=("y",) * MAX_TENSORS))
    (sent,) = [send.action for send in cluster.actions(Infer) if not is_of_profiling(send.action)]
    assert isinstance(sent, Infer)
    assert sent.inputs[0].outputs == ("y",)


def test_an_unknown_model_s_long_name_is_not_repeated_in_full() -> None:
    cluster = serving(Forgetful(), FILES)
    cluster.ask(infer_request(1, "m" * 100_000))
    answer = cluster.answer(1)
    assert isinstance(answer, InferResponse)
    assert (answer.status, len(answer.message) < 2 * MAX_NAME) == (Status.UNKNOWN_MODEL, True)


# --- workers that are lost with a request ----------------------------------------------------------------------------


def is_of_profiling(action: Any) -> bool:
    return isinstance(action, Infer) and action.inputs[0].generated


def holders(cluster: Cluster) -> list[str]:
    """The workers that were sent an Infer for a client's request, in order."""
    return [send.worker_id for send in cluster.actions(Infer) if not is_of_profiling(send.action)]


@pytest.mark.parametrize("policy", ["clockwork", "edf", "fifo", "simple"])
def test_a_request_that_two_workers_were_lost_with_is_not_tried_on_a_third(policy: str) -> None:
    config = quick_config(workers=3, models=(LoadSpec("a.onnx"),))
    cluster = Cluster(make_scheduler(policy), config)
    for number in range(3):
        cluster.connect(FakeWorker(f"w{number}", FILES))
    cluster.run_until(seconds(1))
    cluster.ask(infer_request(1, slo=seconds(30)))
    for lost in (1, 2):
        while len(holders(cluster)) < lost:
            cluster.run_until(cluster.now + 100_000)
            assert cluster.now < seconds(20)
        assert not cluster.responses()
        cluster.lose(holders(cluster)[-1])
    (answer,) = cluster.responses()
    assert isinstance(answer, InferResponse)
    assert answer.status == Status.ERROR
    assert answer.message == (
        f"2 workers were lost while they held this request, the last {holders(cluster)[1]}: "
        "the request may be the cause and is not tried again"
    )
    cluster.run_until(cluster.now + seconds(31))
    assert len(set(holders(cluster))) == len(holders(cluster)) == 2
    cluster.ask(infer_request(2, slo=seconds(1)))
    cluster.run_until(cluster.now + seconds(1))
    assert isinstance(found := cluster.answer(2), InferResponse)
    assert found.status == Status.SUCCESS, "the third worker serves other requests"


@pytest.mark.parametrize("policy", ["clockwork", "edf", "fifo", "simple"])
def test_a_request_whose_worker_is_lost_once_is_answered_by_another(policy: str) -> None:
    cluster = Cluster(make_scheduler(policy), quick_config(workers=2, models=(LoadSpec("a.onnx"),)))
    for number in range(2):
        cluster.connect(FakeWorker(f"w{number}", FILES))
    cluster.run_until(seconds(1))
    cluster.ask(infer_request(1, slo=seconds(5)))
    while not holders(cluster):
        cluster.run_until(cluster.now + 100_000)
        assert cluster.now < seconds(5)
    cluster.lose(holders(cluster)[0])
    cluster.run_until(cluster.now + seconds(5))
    (answer,) = cluster.responses()
    assert isinstance(answer, InferResponse)
    assert answer.status == Status.SUCCESS
