"""Requests that come before SERVING wait until it begins, or until their own time-out."""

from collections.abc import Sequence
from functools import partial

import pytest

from builders import infer_request
from clockwork.controller.buffer import SPARE_EXPIRIES, WAITING_SHARE, StartupBuffer
from clockwork.controller.config import ControllerConfig
from clockwork.controller.controller import PIECE
from clockwork.controller.events import ClientRequest, ControllerCommand, Drain, Respond, WorkerResult
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer
from clockwork.messages.requests import (
    DEFAULT_RETRY,
    CancelRequest,
    EvictRequest,
    EvictResponse,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    RequestTiming,
    StatusRequest,
    StatusResponse,
)
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File
from served import infer_response

request = partial(infer_request, slo=None)
"""Make an infer request with the default SLO."""

FILES = {"a.onnx": File()}
STILL = "the server is still starting up 10 s after the request arrived; retry later"


def starting(scheduler: Scheduler | None = None) -> Cluster:
    """A controller that begins to serve 10.035 s after its first load."""
    cluster = Cluster(scheduler or EchoScheduler(), quick_config())
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(0)
    return cluster


def test_each_request_is_answered_ten_seconds_after_its_own_arrival() -> None:
    cluster = starting()
    arrivals = [(seconds(1), 1), (seconds(1) + 1, 2), (seconds(4), 3), (seconds(9) + 1, 4)]
    for at, number in arrivals:
        cluster.run_until(at)
        cluster.ask(request(number, "whatever") if number % 2 else ListModelsRequest(number))
    for at, number in arrivals:
        cluster.run_until(at + seconds(10) - 1)
        assert cluster.answer(number) is None
        cluster.run_until(at + seconds(10))
        answer = cluster.answer(number)
        assert isinstance(answer, InferResponse | ListModelsResponse)
        assert (answer.status, answer.message) == (Status.INITIALIZING, STILL)
    assert cluster.answer(1) == InferResponse(
        1, Status.INITIALIZING, STILL, (), RequestTiming(seconds(10)), retry_after=DEFAULT_RETRY
    )


@pytest.mark.parametrize("ago", [0, ms(2)])
def test_a_buffered_request_that_states_its_slo_is_refused_before_its_deadline(ago: Nanos) -> None:
    cluster = starting()
    cluster.load("a.onnx", 1)
    cluster.run_until(seconds(1))
    cluster.ask(infer_request(2, "a", slo=ms(10)), arrival=seconds(1) - ago)
    cluster.run_until(seconds(1) + ms(9) - ago - 1)
    assert cluster.answer(2) is None
    cluster.run_until(seconds(1) + ms(9) - ago)
    text = (
        "the server is still starting up 9 ms after the request arrived, which leaves too little of its SLO of 10 ms; "
        "retry later"
    )
    assert cluster.answer(2) == InferResponse(
        2, Status.INITIALIZING, text, (), RequestTiming(ms(9)), retry_after=DEFAULT_RETRY
    )


def test_a_buffered_request_with_a_later_deadline_is_served_by_its_deadline_at_the_client() -> None:
    cluster = starting(SimpleScheduler())
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(5))
    serving = seconds(10) + ms(35)
    waited = serving - seconds(5)
    cluster.ask(infer_request(2, slo=round((waited + 1) / WAITING_SHARE)))
    cluster.ask(infer_request(3, slo=round((waited - 1) / WAITING_SHARE)))
    cluster.ask(infer_request(4, slo=None, slo_factor=100.0))  # 300 ms, which is over when serving begins
    cluster.run_until(seconds(11))
    answers = [infer_response(cluster, number) for number in (2, 3, 4)]
    assert answers[0].timing.total == waited + ms(3), "the model takes 3 ms"
    assert [answer.status for answer in answers] == [Status.SUCCESS, Status.INITIALIZING, Status.TIMEOUT]


def test_expired_requests_that_were_cancelled_do_not_accumulate() -> None:
    buffer = StartupBuffer(ControllerConfig())
    for number in range(10 * SPARE_EXPIRIES):
        buffer.add(0, ClientRequest(1, request(number)))
        buffer.cancel(1, number)
        buffer.next_expiry()
    assert len(buffer._expiries) <= SPARE_EXPIRIES + 1


def test_a_request_before_any_worker_has_connected_times_out_too() -> None:
    cluster = Cluster(EchoScheduler())
    cluster.ask(request(1))
    cluster.run_until(seconds(10))
    assert cluster.answer(1) is not None


@pytest.mark.parametrize(
    ("asked_at", "answered", "status"),
    [
        (ms(10), seconds(10) + ms(10), Status.INITIALIZING),
        (ms(30), seconds(10) + ms(30), Status.INITIALIZING),  # serving begins 5 ms later
        (ms(35), seconds(10) + ms(35), Status.INITIALIZING),  # at the same time
        (ms(35) + 1, seconds(10) + ms(35), Status.SUCCESS),
        (ms(36), seconds(10) + ms(35), Status.SUCCESS),
        (seconds(5), seconds(10) + ms(35), Status.SUCCESS),
    ],
)
def test_a_request_is_served_if_serving_begins_before_its_time_out(
    asked_at: Nanos, answered: Nanos, status: Status
) -> None:
    cluster = starting()
    cluster.load("a.onnx", id=1)
    cluster.run_until(asked_at)
    cluster.ask(ListModelsRequest(2))
    cluster.ask(request(3))
    cluster.run_until(seconds(21))
    assert cluster.stages()[-1] == (seconds(10) + ms(35), "serving")
    answers = {r.id: (at, r.status) for at, c in cluster.said if (r := getattr(c, "response", None)) is not None}
    assert answers[2] == answers[3] == (answered, status)


def test_the_default_slo_of_a_buffered_request_counts_from_the_begin_of_serving() -> None:
    cluster = starting(SimpleScheduler())
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    cluster.ask(request(2), payload="mine")
    cluster.run_until(seconds(11))
    answer = cluster.answer(2)
    assert isinstance(answer, InferResponse)
    assert (answer.status, answer.timing.total) == (Status.SUCCESS, ms(3))
    assert cluster.actions(Infer)[-1].payloads == ("mine",)


def test_buffered_requests_are_served_in_the_order_of_their_arrival() -> None:
    cluster = starting()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    for number in range(2, 8):
        cluster.ask(request(number) if number % 2 else ListModelsRequest(number), client_id=number % 3)
    cluster.run_until(seconds(11))
    assert [response.id for response in cluster.responses()] == [1, 2, 3, 4, 5, 6, 7]


class SlowCluster(Cluster):
    """A cluster whose controller takes 1 ms for the requests that it answers in one call."""

    pieces: list[int]  #: number of requests that were answered in each call

    def _carry_out(self, commands: Sequence[ControllerCommand]) -> None:
        answered = sum(isinstance(command, Respond) for command in commands)
        if answered:
            self.pieces = [*getattr(self, "pieces", []), answered]
            self.now += ms(1)
        super()._carry_out(commands)


def test_buffered_requests_are_served_in_pieces_so_that_results_do_not_wait_for_all_of_them() -> None:
    cluster = SlowCluster(EchoScheduler(), quick_config())
    cluster.connect(FakeWorker("w0", FILES))
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(5))
    waited = seconds(5) + ms(35)
    for number in range(2, 2 + 2 * PIECE):
        cluster.ask(request(number))
    cluster.ask(infer_request(100, slo=round((waited + ms(1)) / WAITING_SHARE)))  # its time is over before its turn
    cluster.ask(infer_request(101, slo=seconds(20)))
    cluster.run_until(seconds(11))
    assert cluster.pieces == [1, PIECE, PIECE + 1, 1], "the load, two pieces with the expired request, and the rest"
    assert infer_response(cluster, 100).status == Status.INITIALIZING
    assert infer_response(cluster, 101).timing.total == waited + ms(2)


def test_a_drain_refuses_the_requests_that_have_not_been_taken_from_the_buffer() -> None:
    cluster = starting()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(10) + ms(35) - 1)
    for number in range(2, 2 + 2 * PIECE):
        cluster.ask(request(number))
    cluster.now += 1
    (result,) = cluster.workers["w0"].step(cluster.now)
    cluster.feed(WorkerResult("w0", result))
    cluster.feed(Drain(seconds(1)))
    assert cluster.statuses() == [Status.SUCCESS] * (1 + PIECE) + [Status.SHUTTING_DOWN] * PIECE


def test_a_wrong_buffered_request_is_refused_when_serving_begins() -> None:
    cluster = starting()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    cluster.ask(request(2, "b"))
    cluster.ask(request(3, inputs=()))
    cluster.run_until(seconds(11))
    assert cluster.statuses() == [Status.SUCCESS, Status.UNKNOWN_MODEL, Status.INVALID_REQUEST]


def test_a_cancelled_request_is_not_answered() -> None:
    cluster = starting()
    cluster.ask(request(1))
    cluster.ask(request(2))
    cluster.ask(request(1), client_id=2)
    cluster.ask(CancelRequest(1))
    cluster.run_until(seconds(20))
    assert cluster.answer(1) is None
    assert cluster.answer(1, client_id=2) is not None
    cluster.check_all_answered()


def test_requests_of_a_client_that_disconnected_are_not_answered() -> None:
    cluster = starting()
    cluster.ask(request(1))
    cluster.ask(ListModelsRequest(2))
    cluster.ask(request(1), client_id=2)
    cluster.lose_client(1)
    cluster.run_until(seconds(20))
    assert [response.id for response in cluster.responses()] == [1]


def test_a_full_buffer_refuses_requests_at_once() -> None:
    cluster = Cluster(EchoScheduler(), quick_config(max_pending=2))
    for number in (1, 2, 3):
        cluster.ask(request(number))
    text = (
        "the server is starting up: the server is full: 2 requests with 16 B of inputs are pending; "
        "the limit is 2 requests and 2.0 GiB; retry later"
    )
    assert cluster.responses() == [
        InferResponse(3, Status.INITIALIZING, text, (), RequestTiming(0), retry_after=DEFAULT_RETRY)
    ]
    cluster.run_until(seconds(10))
    cluster.ask(request(4))
    assert cluster.answer(4) is None


def test_a_client_cannot_use_more_than_its_share_of_the_buffer() -> None:
    cluster = Cluster(EchoScheduler(), ControllerConfig(max_client_pending=1))
    for number in (1, 2):
        cluster.ask(request(number), client_id=1)
        cluster.ask(request(number), client_id=2)
    assert [response.id for response in cluster.responses()] == [2, 2]
    cluster.lose_client(1)
    cluster.ask(request(3), client_id=1)
    assert cluster.answer(3) is None


def test_the_bytes_of_sent_and_generated_inputs_fill_the_buffer() -> None:
    cluster = Cluster(EchoScheduler(), ControllerConfig(max_pending_bytes=20))  # a row takes 8
    cluster.ask(request(1, rows=2))
    cluster.ask(request(2, rows=1, generated=True))
    cluster.ask(request(3, rows=1))
    assert [response.id for response in cluster.responses()] == [2, 3]
    cluster.ask(CancelRequest(1))
    cluster.ask(request(4, rows=2))
    assert cluster.answer(4) is None
    cluster.run_until(seconds(10))
    cluster.ask(request(5, rows=2))
    assert cluster.answer(5) is None


def test_evict_and_status_are_answered_at_once_in_every_stage() -> None:
    cluster = starting()
    cluster.load("a.onnx", id=1)
    for number, at in enumerate([0, seconds(10) + ms(7), seconds(11)]):
        cluster.run_until(at)
        cluster.ask(StatusRequest(10 + number))
        cluster.ask(EvictRequest(20 + number, "a"))
    stages = [response.server.stage for response in cluster.responses() if isinstance(response, StatusResponse)]
    assert stages == ["loading", "profiling", "serving"]
    evictions = [response for response in cluster.responses() if isinstance(response, EvictResponse)]
    assert [(e.status, e.message, e.devices) for e in evictions] == [
        (Status.INITIALIZING, "the server is starting up (loading); retry later", 0),
        (Status.INITIALIZING, "the server is starting up (profiling); retry later", 0),
        (Status.SUCCESS, "", 1),
    ]
    assert cluster.stage is Stage.SERVING
