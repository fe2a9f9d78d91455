"""Requests are checked against the model and the limits, and get their deadline."""

import math

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.admission import MAX_KNOWN_INPUTS
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.events import Respond
from clockwork.controller.serving import MAX_EXPIRED
from clockwork.messages.commands import Answer
from clockwork.messages.requests import (
    CancelRequest,
    InferRequest,
    InferResponse,
    RequestTiming,
)
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, TensorSpec, spec
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import SECOND, Nanos, ms, seconds
from cluster import QUICK, quick_config, serving
from fake_worker import File
from schedulers import Forgetful, Furious
from served import FILES, LATE, infer_response

TWO = (TensorInfo("x", "FP32", (-1, 2)), TensorInfo("mask", "INT64", (-1, -1)))


RIGHT = (spec("x", "FP32", (2, 2)), spec("mask", "INT64", (2, 7)))


TAKES = "model m takes x FP32[-1,2], mask INT64[-1,-1]"


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (RIGHT, ""),
        (RIGHT[::-1], ""),
        ((), f"input 'x', 'mask' are missing; {TAKES}"),
        (RIGHT[:1], f"input 'mask' is missing; {TAKES}"),
        ((*RIGHT, spec("z", "FP32", (2, 2))), f"input 'z' is unknown; {TAKES}"),
        ((RIGHT[0], RIGHT[0]), f"input 'x' is unknown; {TAKES}"),
        ((spec("x", "FP64", (2, 2)), RIGHT[1]), f"input 'x' has datatype FP64; {TAKES}"),
        ((TensorSpec("x", "FP4", (2, 2), 2), RIGHT[1]), f"input 'x' has datatype 'FP4'; {TAKES}"),
        ((spec("x", "FP32", (2, 3)), RIGHT[1]), f"input 'x' has shape [2, 3]; {TAKES}"),
        ((spec("x", "FP32", (2,)), RIGHT[1]), f"input 'x' has shape [2]; {TAKES}"),
        ((spec("x", "FP32", ()), RIGHT[1]), f"input 'x' has shape []; {TAKES}"),
        ((spec("x", "FP32", (2, 2, 1)), RIGHT[1]), f"input 'x' has shape [2, 2, 1]; {TAKES}"),
        ((RIGHT[0], spec("mask", "INT64", (2, -7))), f"input 'mask' has shape [2, -7]; {TAKES}"),
        ((spec("x", "FP32", (-2, 2)), spec("mask", "INT64", (-2, 7))), f"input 'x' has shape [-2, 2]; {TAKES}"),
        (
            (RIGHT[0], spec("mask", "INT64", (1, 7))),
            "inputs have different batch dimensions: [1, 2]; the first dimensions must be equal",
        ),
        (
            (spec("x", "FP32", (0, 2)), spec("mask", "INT64", (0, 7))),
            "request has 0 rows; model m takes 1 to 2 rows in one request",
        ),
        (
            (spec("x", "FP32", (1 << 62, 2)), spec("mask", "INT64", (1 << 62, 7))),
            f"request has {1 << 62} rows; model m takes 1 to 2 rows in one request",
        ),
    ],
)
def test_inputs_must_fit_the_model(inputs: tuple[TensorSpec, ...], why: str) -> None:
    cluster = serving(EchoScheduler(), {"m.onnx": File(inputs=TWO)})
    cluster.ask(infer_request(1, "m", inputs=inputs))
    cluster.ask(infer_request(2, "m", inputs=inputs))  # correct inputs are remembered, wrong ones are not
    status = Status.INVALID_REQUEST if why else Status.SUCCESS
    assert [(r.status, r.message) for r in map(cluster.answer, (1, 2))] == [(status, why)] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "status", "why"),
    [
        (infer_request(1, "b"), Status.UNKNOWN_MODEL, "model 'b' is unknown; served models: a"),
        (infer_request(1, ""), Status.UNKNOWN_MODEL, "model '' is unknown"),
        (infer_request(1, outputs=("y",)), Status.SUCCESS, ""),
        (infer_request(1, outputs=("y", "z")), Status.INVALID_REQUEST, "output 'z' is unknown; model a has y"),
        (infer_request(1, slo=0), Status.INVALID_REQUEST, "slo is 0 us; it must be positive"),
        (infer_request(1, slo=-1), Status.INVALID_REQUEST, "it must be positive"),
        (infer_request(1, slo=-(1 << 80)), Status.INVALID_REQUEST, "it must be positive"),
        (infer_request(1, slo=24 * 3600 * SECOND), Status.SUCCESS, ""),
        (infer_request(1, slo=24 * 3600 * SECOND + 1), Status.INVALID_REQUEST, "; the limit is "),
        (infer_request(1, slo=1 << 80), Status.INVALID_REQUEST, "; the limit is "),
        (infer_request(1, slo=None), Status.SUCCESS, ""),
        (infer_request(1, slo=None, slo_factor=2.0), Status.SUCCESS, ""),
        (infer_request(1, slo_factor=0.0), Status.INVALID_REQUEST, "slo_factor is 0.0; it must be a positive number"),
        (infer_request(1, slo_factor=-1.0), Status.INVALID_REQUEST, "slo_factor is -1.0"),
        (infer_request(1, slo_factor=math.nan), Status.INVALID_REQUEST, "slo_factor is nan"),
        (infer_request(1, slo_factor=math.inf), Status.INVALID_REQUEST, "slo_factor is inf"),
        (infer_request(1, slo=None, slo_factor=1e-300), Status.INVALID_REQUEST, "it must be positive"),
        (infer_request(1, slo=None, slo_factor=1e300), Status.SUCCESS, ""),
    ],
)
def test_a_request_needs_a_known_model_and_outputs_and_a_valid_slo(
    request_: InferRequest, status: Status, why: str
) -> None:
    cluster = serving(EchoScheduler(), FILES)
    cluster.ask(request_)
    answer = infer_response(cluster, 1)
    assert answer.status == status
    assert why in answer.message


@pytest.mark.parametrize(
    ("slo", "factor", "rows", "timeout_after"),
    [
        (None, None, 1, ms(100)),
        (ms(7), None, 1, ms(7)),
        (None, 2.0, 1, ms(6)),
        (None, 2.0, 2, ms(6)),  # of the time of batch size 1
        (ms(7), 2.0, 1, ms(6)),
        (ms(5), 2.0, 1, ms(5)),
        (None, 1e300, 1, 24 * 3600 * SECOND),
    ],
)
def test_the_deadline_comes_from_the_shorter_of_slo_and_slo_factor_or_from_the_default(
    slo: Nanos | None, factor: float | None, rows: int, timeout_after: Nanos
) -> None:
    cluster = serving(Forgetful(), FILES)
    cluster.ask(infer_request(1, rows=rows, slo=slo, slo_factor=factor))
    asked = cluster.now
    cluster.run_until(asked + timeout_after)
    assert cluster.answer(1) is None  # an answer at the deadline would be in time
    cluster.run_until(asked + timeout_after + 1)
    assert cluster.answer(1) == InferResponse(
        1, Status.TIMEOUT, LATE, (), RequestTiming(timeout_after + 1), version="1"
    )


@pytest.mark.parametrize(("slo", "factor", "within"), [(None, None, ms(100)), (ms(7), None, ms(7)), (None, 2.0, ms(6))])
def test_the_deadline_counts_from_the_arrival_that_the_host_reports(
    slo: Nanos | None, factor: float | None, within: Nanos
) -> None:
    cluster = serving(Forgetful(), FILES)
    cluster.run_until(arrival := cluster.now)
    cluster.run_until(arrival + ms(2))
    cluster.ask(infer_request(1, slo=slo, slo_factor=factor), arrival=arrival)
    cluster.run_until(arrival + within)
    assert cluster.answer(1) is None
    cluster.run_until(arrival + within + 1)
    assert cluster.answer(1) == InferResponse(1, Status.TIMEOUT, LATE, (), RequestTiming(within + 1), version="1")


def test_a_request_handled_after_its_deadline_never_reaches_the_scheduler() -> None:
    cluster = serving(Furious(), FILES)  # it raises at every request
    arrival = cluster.now
    cluster.run_until(arrival + ms(7) + 1)
    cluster.ask(infer_request(1, slo=ms(7)), arrival=arrival)
    answer = infer_response(cluster, 1)
    assert (answer.status, answer.timing.total, answer.admitted) == (Status.TIMEOUT, ms(7) + 1, False)
    assert answer.message == (
        "the deadline passed before the controller handled the request, 7 ms after its first byte arrived: "
        "the request took long to receive, or the server is overloaded"
    )
    counts = cluster.controller._serving.tally.of("a")
    assert (counts.answers, counts.late_ns, counts.pending) == ({Status.TIMEOUT: 1}, 1, 0)
    assert cluster.controller._serving.pending == 0


def test_an_slo_that_no_device_can_meet_is_refused_even_if_its_deadline_has_passed_at_arrival() -> None:
    cluster = serving(Furious(), FILES)  # it raises at every request
    arrival = cluster.now
    cluster.run_until(arrival + ms(5))
    cluster.ask(infer_request(1, slo=ms(2)), arrival=arrival)
    answer = infer_response(cluster, 1)
    assert (answer.status, answer.timing.total) == (Status.CONTROLLER_COULD_NOT_START_IN_TIME, ms(5))
    assert answer.message == "no device can meet this SLO: the fastest needs 3 ms"
    assert (answer.predicted, answer.retry_after, answer.admitted) == (ms(8), None, False)
    counts = cluster.controller._serving.tally.of("a")
    assert (counts.answers, counts.late_ns) == ({Status.CONTROLLER_COULD_NOT_START_IN_TIME: 1}, 0)


def test_an_slo_that_no_device_can_meet_is_refused_even_if_its_deadline_passes_before_the_scheduler_answers() -> None:
    cluster = serving(Forgetful(), FILES)
    cluster.ask(infer_request(1, slo=ms(2)))
    cluster.run_until(cluster.now + ms(2) + 1)
    answer = infer_response(cluster, 1)
    assert answer.status == Status.CONTROLLER_COULD_NOT_START_IN_TIME
    assert answer.message == "no device can meet this SLO: the fastest needs 3 ms"


def test_many_requests_that_expire_at_once_are_answered_in_several_wakes() -> None:
    cluster = serving(Forgetful(), FILES)
    for number in range(2 * MAX_EXPIRED + 1):
        cluster.ask(infer_request(number, slo=ms(5)))
    now = cluster.now + ms(5) + 1
    for answered in (MAX_EXPIRED, MAX_EXPIRED, 1):
        due = cluster.controller.next_wakeup()
        assert due is not None
        assert due <= now
        assert sum(isinstance(command, Respond) for command in cluster.controller.wake(now)) == answered
    assert cluster.controller._serving.pending == 0


def test_an_arrival_after_now_counts_as_now() -> None:
    cluster = serving(EchoScheduler(), FILES)
    cluster.ask(infer_request(1), arrival=cluster.now + ms(5))
    assert infer_response(cluster, 1).timing.total == 0


def test_a_second_request_with_a_pending_id_is_refused_and_the_first_is_served() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    del cluster.asked[1, 1]
    cluster.ask(infer_request(1))
    assert infer_response(cluster, 1).message == "request id 1 is used by another pending request of this client"
    cluster.answers.clear()
    cluster.run_until(cluster.now + ms(3))
    assert cluster.statuses() == [Status.INVALID_REQUEST, Status.SUCCESS]


def test_a_server_with_the_limit_of_pending_requests_refuses() -> None:
    cluster = serving(Forgetful(), FILES, config=quick_config(models=(LoadSpec("a.onnx"),), max_pending=2))
    for number in (1, 2, 3):
        cluster.ask(infer_request(number))
    assert infer_response(cluster, 3).status == Status.SKIPPED_BY_CONTROLLER
    assert infer_response(cluster, 3).message == (
        "the server is full: 2 requests with 16 B of inputs are pending; "
        "the limit is 2 requests and 2.0 GiB; retry later"
    )
    cluster.ask(CancelRequest(1))
    cluster.ask(infer_request(4))
    assert cluster.answer(4) is None


def test_a_server_with_the_limit_of_pending_bytes_refuses() -> None:
    config = ControllerConfig(models=(LoadSpec("a.onnx"),), profiling=QUICK, max_pending_bytes=8)
    cluster = serving(Forgetful(), FILES, config=config)
    cluster.ask(infer_request(1))
    cluster.ask(infer_request(2))
    assert infer_response(cluster, 2).status == Status.SKIPPED_BY_CONTROLLER


def test_generated_inputs_count_towards_the_limit_of_bytes() -> None:
    config = ControllerConfig(models=(LoadSpec("a.onnx"),), profiling=QUICK, max_pending_bytes=24)
    cluster = serving(Forgetful(), FILES, config=config)
    for number in range(5):
        cluster.ask(infer_request(number, generated=True))
    assert [response.id for response in cluster.responses()] == [3, 4]
    assert infer_response(cluster, 3).status == Status.SKIPPED_BY_CONTROLLER


def test_the_table_of_valid_inputs_has_a_limit() -> None:
    cluster = serving(EchoScheduler(), {"m.onnx": File(inputs=(TensorInfo("x", "FP32", (-1, -1)),))})
    for number in range(MAX_KNOWN_INPUTS + 10):
        cluster.ask(infer_request(number, "m", inputs=(spec("x", "FP32", (1, number)),)))
    assert {response.status for response in cluster.responses()} == {Status.SUCCESS}  # type: ignore[union-attr]
    assert len(cluster.controller._serving.admission._batch_sizes) <= MAX_KNOWN_INPUTS


def test_deadlines_of_requests_that_are_over_do_not_accumulate() -> None:
    class AllButTheFirst(EchoScheduler):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            return [] if request.id == 1 else super().infer(now, request)

    cluster = serving(AllButTheFirst(), FILES)
    for number in range(5000):
        cluster.ask(infer_request(number, slo=seconds(3600 + number)))
        cluster.controller.next_wakeup()
    assert len(cluster.controller._serving._pending._deadlines) < 2000
    cluster.run_until(cluster.now + seconds(3601))
    assert infer_response(cluster, 0).status == Status.TIMEOUT


def test_a_model_can_have_its_own_default_slo() -> None:
    files = {"m.onnx": File(), "n.onnx": File()}
    named = tuple(LoadSpec(path) for path in files)
    config = replace(quick_config(models=named), default_slo=ms(7), model_slos={"n": ms(50), "other": ms(1)})
    cluster = serving(Forgetful(), files, config=config)
    for number, (model, slo) in enumerate((("m", None), ("n", None), ("n", ms(60)), ("n", ms(5))), 1):
        cluster.ask(infer_request(number, model, slo=slo))
    cluster.run_until(cluster.now + ms(100))
    waited = [infer_response(cluster, number).timing.total for number in (1, 2, 3, 4)]
    assert waited == [ms(7) + 1, ms(50) + 1, ms(60) + 1, ms(5) + 1]
