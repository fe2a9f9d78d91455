"""The fourth stage: requests checked, answered once, in time or not; and a scheduler that may do anything."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request, tensors
from clockwork.controller.admission import MAX_KNOWN_INPUTS
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.events import DropWorker, Report, Respond, WorkerResult
from clockwork.controller.serving import MAX_EXPIRED
from clockwork.controller.stage import Stage
from clockwork.messages.actions import EvictWeights, Infer, LoadModelFromDisk, LoadWeights
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.prediction import ErrorSummary
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    EvictResponse,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    RequestTiming,
    ServerStatus,
    StatusRequest,
    StatusResponse,
)
from clockwork.messages.results import (
    ErrorResult,
    InferOutput,
    InferResult,
    LoadWeightsResult,
    Result,
    Timing,
)
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, TensorSpec, spec
from clockwork.scheduling.common import NO_DEVICE
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import GPUState, ModelState, PendingRequest, Residency
from clockwork.units import FOREVER, SECOND, Nanos, ms, seconds, us
from cluster import QUICK, Cluster, quick_config, serving
from fake_worker import FakeWorker, File
from schedulers import Eager, Forgetful, Furious

FILES = {"a.onnx": File()}
LATE = "the deadline passed before the answer was there"


def infer_answer(cluster: Cluster, number: int, client_id: int = 1) -> InferResponse:
    """The answer to an InferRequest that must have been given."""
    answer = cluster.answer(number, client_id)
    assert isinstance(answer, InferResponse)
    return answer


# --- bad input -------------------------------------------------------------------------------------------------------

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
def test_inputs_are_held_against_the_model(inputs: tuple[TensorSpec, ...], why: str) -> None:
    cluster = serving(EchoScheduler(), {"m.onnx": File(inputs=TWO)})
    cluster.ask(infer_request(1, "m", inputs=inputs))
    cluster.ask(infer_request(2, "m", inputs=inputs))  # correct inputs are remembered, wrong ones are not
    status = Status.INVALID_REQUEST if why else Status.SUCCESS
    assert [(r.status, r.message) for r in map(cluster.answer, (1, 2))] == [(status, why)] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "status", "why"),
    [
        (infer_request(1, "b"), Status.UNKNOWN_MODEL, "no model 'b'; served are: a"),
        (infer_request(1, ""), Status.UNKNOWN_MODEL, "no model ''"),
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
def test_what_else_can_be_wrong_with_a_request(request_: InferRequest, status: Status, why: str) -> None:
    cluster = serving(EchoScheduler(), FILES)
    cluster.ask(request_)
    answer = infer_answer(cluster, 1)
    assert answer.status == status
    assert why in answer.message


@pytest.mark.parametrize(
    ("slo", "factor", "rows", "told_after"),
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
def test_the_deadline_is_the_tighter_of_slo_and_factor_or_the_default(
    slo: Nanos | None, factor: float | None, rows: int, told_after: Nanos
) -> None:
    cluster = serving(Forgetful(), FILES)
    cluster.ask(infer_request(1, rows=rows, slo=slo, slo_factor=factor))
    asked = cluster.now
    cluster.run_until(asked + told_after)
    assert cluster.answer(1) is None  # an answer at the deadline would be in time
    cluster.run_until(asked + told_after + 1)
    assert cluster.answer(1) == InferResponse(1, Status.TIMEOUT, LATE, (), RequestTiming(told_after + 1))


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
    assert cluster.answer(1) == InferResponse(1, Status.TIMEOUT, LATE, (), RequestTiming(within + 1))


def test_a_request_handled_after_its_deadline_never_reaches_the_scheduler() -> None:
    cluster = serving(Furious(), FILES)  # it raises at every request
    arrival = cluster.now
    cluster.run_until(arrival + ms(7) + 1)
    cluster.ask(infer_request(1, slo=ms(7)), arrival=arrival)
    answer = infer_answer(cluster, 1)
    assert (answer.status, answer.timing.total, answer.admitted) == (Status.TIMEOUT, ms(7) + 1, False)
    assert answer.message == (
        "the deadline passed before the controller handled the request, 7 ms after its first byte arrived: "
        "the request took long to receive, or the server is overloaded"
    )
    counts = cluster.controller._serving.tally.of("a")
    assert (counts.answers, counts.late_ns, counts.pending) == ({Status.TIMEOUT: 1}, 1, 0)
    assert cluster.controller._serving.pending == 0


def test_many_deadlines_that_pass_at_once_are_answered_piece_by_piece() -> None:
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
    assert infer_answer(cluster, 1).timing.total == 0


def test_an_id_that_is_in_use_is_refused_and_the_first_request_is_not_disturbed() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    del cluster.asked[1, 1]
    cluster.ask(infer_request(1))
    assert infer_answer(cluster, 1).message == "request id 1 is in use by another request of this client"
    cluster.answers.clear()
    cluster.run_until(cluster.now + ms(3))
    assert cluster.statuses() == [Status.INVALID_REQUEST, Status.SUCCESS]


def test_a_full_server_refuses() -> None:
    cluster = serving(Forgetful(), FILES, config=quick_config(models=(LoadSpec("a.onnx"),), max_pending=2))
    for number in (1, 2, 3):
        cluster.ask(infer_request(number))
    assert infer_answer(cluster, 3).status == Status.SKIPPED_BY_CONTROLLER
    assert infer_answer(cluster, 3).message == (
        "the server is full: 2 requests with 16 B of inputs are pending; "
        "the limit is 2 requests and 2.0 GiB; retry later"
    )
    cluster.ask(CancelRequest(1))
    cluster.ask(infer_request(4))
    assert cluster.answer(4) is None


def test_a_server_full_of_bytes_refuses() -> None:
    config = ControllerConfig(models=(LoadSpec("a.onnx"),), profiling=QUICK, max_pending_bytes=8)
    cluster = serving(Forgetful(), FILES, config=config)
    cluster.ask(infer_request(1))
    cluster.ask(infer_request(2))
    assert infer_answer(cluster, 2).status == Status.SKIPPED_BY_CONTROLLER


def test_generated_inputs_count_as_what_they_become() -> None:
    config = ControllerConfig(models=(LoadSpec("a.onnx"),), profiling=QUICK, max_pending_bytes=24)
    cluster = serving(Forgetful(), FILES, config=config)
    for number in range(5):
        cluster.ask(infer_request(number, generated=True))
    assert [response.id for response in cluster.responses()] == [3, 4]
    assert infer_answer(cluster, 3).status == Status.SKIPPED_BY_CONTROLLER


def test_what_was_found_right_is_remembered_within_bounds() -> None:
    cluster = serving(EchoScheduler(), {"m.onnx": File(inputs=(TensorInfo("x", "FP32", (-1, -1)),))})
    for number in range(MAX_KNOWN_INPUTS + 10):
        cluster.ask(infer_request(number, "m", inputs=(spec("x", "FP32", (1, number)),)))
    assert {response.status for response in cluster.responses()} == {Status.SUCCESS}  # type: ignore[union-attr]
    assert len(cluster.controller._serving._admission._batch_sizes) <= MAX_KNOWN_INPUTS


def test_far_deadlines_of_requests_that_are_over_do_not_pile_up() -> None:
    class AllButTheFirst(EchoScheduler):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            return [] if request.id == 1 else super().infer(now, request)

    cluster = serving(AllButTheFirst(), FILES)
    for number in range(5000):
        cluster.ask(infer_request(number, slo=seconds(3600 + number)))
        cluster.controller.next_wakeup()
    assert len(cluster.controller._serving._pending._deadlines) < 2000
    cluster.run_until(cluster.now + seconds(3601))
    assert infer_answer(cluster, 0).status == Status.TIMEOUT


def test_a_model_may_have_a_default_of_its_own() -> None:
    files = {"m.onnx": File(), "n.onnx": File()}
    named = tuple(LoadSpec(path) for path in files)
    config = replace(quick_config(models=named), default_slo=ms(7), model_slos={"n": ms(50), "other": ms(1)})
    cluster = serving(Forgetful(), files, config=config)
    for number, (model, slo) in enumerate((("m", None), ("n", None), ("n", ms(60)), ("n", ms(5))), 1):
        cluster.ask(infer_request(number, model, slo=slo))
    cluster.run_until(cluster.now + ms(100))
    waited = [infer_answer(cluster, number).timing.total for number in (1, 2, 3, 4)]
    assert waited == [ms(7) + 1, ms(50) + 1, ms(60) + 1, ms(5) + 1]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_an_infer_that_succeeds_answers_with_its_outputs_and_times() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(7), client_id=3, payload="in")
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(infer_request(8), client_id=4)
    cluster.run_until(cluster.now + ms(9))
    first, second = infer_answer(cluster, 7, 3), infer_answer(cluster, 8, 4)
    assert first == InferResponse(7, 0, "", tensors(), RequestTiming(ms(3), 0, ms(3), 1, cold_start=False))
    assert second.timing == RequestTiming(ms(5), ms(2), ms(3), 1, cold_start=False)
    responds = [command for _, command in cluster.said if isinstance(command, Respond)]
    payloads = [command.payload for command in responds if command.response in (first, second)]
    assert payloads == ["output-1", "output-2"]
    assert cluster.actions(Infer)[-2].payloads == ("in",)


def test_a_request_for_cold_weights_is_a_cold_start() -> None:
    cluster = serving(SimpleScheduler(), FILES | {"b.onnx": File(pages=4)})  # b was measured last
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(20))
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + ms(20))
    cold, warm = (infer_answer(cluster, number).timing for number in (1, 2))
    assert (cold.cold_start, warm.cold_start) == (True, False)
    assert 0 < cold.load <= cold.queue
    assert warm.load == 0


@pytest.mark.parametrize(("slo", "status"), [(ms(3), Status.SUCCESS), (ms(3) - 1, Status.TIMEOUT)])
def test_an_answer_at_the_deadline_is_in_time_and_one_after_it_is_not(slo: Nanos, status: Status) -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1, slo=slo))
    cluster.run_until(cluster.now + ms(10))
    assert infer_answer(cluster, 1).status == status
    assert infer_answer(cluster, 1).timing.total == ms(3)
    cluster.check_rest()


def test_a_result_that_the_host_brings_before_it_wakes_the_controller_is_late_all_the_same() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1, slo=ms(1)))
    cluster.run_until(cluster.now)
    cluster.now += ms(50)
    cluster.feed(WorkerResult("w0", *_result_of(cluster.actions(Infer)[-1].action)))
    assert infer_answer(cluster, 1).status == Status.TIMEOUT
    cluster.workers["w0"].reset()


@pytest.mark.parametrize(("failed", "status"), [(False, Status.INVALID_REQUEST), (True, Status.ERROR)])
def test_a_request_that_fails_alone_is_answered_and_not_tried_again(failed: bool, status: Status) -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now)
    result, payloads = _result_of(cluster.actions(Infer)[-1].action)
    sent = len(cluster.actions(Infer))
    refused = replace(result, outputs=(replace(result.outputs[0], refusal="that is evil", failed=failed),))
    cluster.feed(WorkerResult("w0", refused, payloads))
    answer = infer_answer(cluster, 1)
    assert (answer.status, answer.message, answer.outputs) == (status, "that is evil", ())
    assert len(cluster.actions(Infer)) == sent
    cluster.workers["w0"].reset()


def _result_of(action: object) -> tuple[InferResult, tuple[object, ...]]:
    assert isinstance(action, Infer)
    took = Timing(0, 0, 0)
    outputs = tuple(InferOutput(share.request_id, ()) for share in action.inputs)
    return InferResult(action.id, outputs, took, took, took), tuple("output" for _ in outputs)


def test_a_cancelled_request_is_not_answered_though_it_is_executed() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(CancelRequest(1))
    cluster.ask(CancelRequest(1))
    cluster.ask(CancelRequest(99))
    cluster.run_until(cluster.now + seconds(1))
    assert cluster.responses() == []
    cluster.check_rest()


def test_nobody_is_answered_who_went_away_and_the_others_are() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for client_id in (1, 2):
        for number in (1, 2, 3, 4, 5):
            cluster.ask(infer_request(number), client_id)
    cluster.lose_client(1)
    cluster.run_until(cluster.now + seconds(1))
    assert [response.id for response in cluster.responses()] == [1, 2, 3, 4, 5]
    assert not cluster.reports("ERROR")


def test_ls_and_status_tell_what_is_served_and_what_became_of_it() -> None:
    cluster = serving(SimpleScheduler(), {"b.onnx": File(pages=3), **FILES})
    for number, slo in enumerate([ms(100), ms(100), ms(1), ms(5)]):
        cluster.ask(infer_request(number, slo=slo))
    cluster.run_until(cluster.now + seconds(1))
    cluster.ask(ListModelsRequest(10))
    listed = cluster.answer(10)
    assert isinstance(listed, ListModelsResponse)
    assert [(m.name, m.batchable, m.max_batch_size) for m in listed.models] == [("a", True, 2), ("b", True, 2)]
    cluster.ask(StatusRequest(11))
    status = cluster.answer(11)
    assert isinstance(status, StatusResponse)
    server = status.server
    assert (server.scheduler, server.stage, server.outstanding) == ("simple", "serving", 0)
    assert [(m.info.name, m.in_time, m.late, m.refused, m.failed) for m in server.models] == [
        ("a", 2, 2, 0, 0),
        ("b", 0, 0, 0, 0),
    ]
    (worker,) = server.workers
    assert (worker.id, worker.ready, worker.gpus[0].used_pages, worker.gpus[0].outstanding) == ("w0", True, 4, 0)


def status_of(cluster: Cluster, number: int) -> ServerStatus:
    """What the server says of itself."""
    cluster.ask(StatusRequest(number))
    status = cluster.answer(number)
    assert isinstance(status, StatusResponse)
    return status.server


def test_status_tells_how_well_actions_were_predicted() -> None:
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


def test_failures_are_counted_apart_and_lost_workers_are_remembered() -> None:
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
    assert infer_answer(cluster, 1).status == Status.SUCCESS
    assert not cluster.reports("ERROR")
    assert status_of(cluster, 2).predictions["infer"].start == ErrorSummary(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"message": 3},
        {"outputs": None},
        {"predicted": 1.5},
        {"retry_after": "soon"},
        {"status": "bad"},
        {"request_id": "1"},
    ],
    ids=str,
)
def test_an_answer_with_a_field_of_the_wrong_type_is_reported_and_harms_nobody(changes: dict[str, Any]) -> None:
    class Confused(Eager):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            return [*super().infer(now, request), replace(Answer(request.id, Status.ERROR, "no"), **changes)]

    cluster = serving(Confused(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    assert infer_answer(cluster, 1).status == Status.SUCCESS
    assert len(cluster.reports("ERROR")) == 1


def test_a_returned_action_is_reported_and_sent_once() -> None:
    class Confused(Eager):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            super().infer(now, request)
            return [queued.command() for queued in self.state.actions]  # type: ignore[misc]

    cluster = serving(Confused(), FILES)
    sent = len(cluster.actions(Infer))
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    assert infer_answer(cluster, 1).status == Status.SUCCESS
    assert len(cluster.actions(Infer)) == sent + 1
    (report,) = cluster.reports("ERROR")
    assert report.startswith("the scheduler returned SendAction(")
    assert report.endswith(", which is not a valid Answer")


@pytest.mark.parametrize("request_id", ["1", None, 1.0, -1], ids=str)
def test_an_infer_for_what_is_no_request_is_reported_and_not_sent(request_id: Any) -> None:
    class Confused(Eager):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            answers = super().infer(now, request)
            gpu = next(iter(self.state.gpus()))
            gpu.infer_inputs(request.model, (replace(request.input, request_id=request_id),))
            return answers

    cluster = serving(Confused(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    assert infer_answer(cluster, 1).status == Status.SUCCESS
    assert any("for a request that is over" in text for text in cluster.reports("ERROR"))


def test_evict_makes_a_model_cold_wherever_nothing_needs_it() -> None:
    cluster = serving(SimpleScheduler(), FILES, workers=2)
    cluster.ask(infer_request(1))  # on w0, where it was measured
    cluster.ask(EvictRequest(2, "a"))
    assert cluster.answer(2) == EvictResponse(2, Status.WEIGHTS_IN_USE, "a is in use on w0/gpu0: try again")
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(EvictRequest(3, "a"))
    cluster.ask(EvictRequest(4, "a"))
    cluster.ask(EvictRequest(5, "b"))
    cluster.run_until(cluster.now + ms(10))
    assert cluster.answer(3) == EvictResponse(3, Status.SUCCESS, "", 1)
    assert cluster.answer(4) == EvictResponse(4, Status.SUCCESS, "", 0)
    assert cluster.answer(5) == EvictResponse(5, Status.UNKNOWN_MODEL, "no model 'b'; served are: a")
    assert not cluster.workers["w0"].gpus[0].weights
    cluster.ask(infer_request(6))
    cluster.run_until(cluster.now + ms(11))
    assert infer_answer(cluster, 6).status == Status.SUCCESS
    cluster.check_rest()


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_lost_and_returns_empty_is_restored_before_it_is_used() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.lose("w0")
    cluster.ask(infer_request(1))
    assert infer_answer(cluster, 1).message == NO_DEVICE.format(model="a")
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(cluster.now + ms(5) - 1)
    assert not cluster.state.workers
    cluster.run_until(cluster.now + 1)
    assert list(cluster.state.workers) == ["w0"]
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + ms(11))
    assert infer_answer(cluster, 2).status == Status.SUCCESS


def test_a_worker_that_returns_with_its_models_is_used_at_once() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    worker = cluster.lose("w0")
    loads = len(cluster.actions(LoadModelFromDisk)), len(cluster.actions(LoadWeights))
    cluster.connect(worker)
    cluster.run_until(cluster.now)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(3))
    assert infer_answer(cluster, 1).status == Status.SUCCESS
    assert (len(cluster.actions(LoadModelFromDisk)), len(cluster.actions(LoadWeights))) == loads


def test_a_worker_that_brings_a_model_that_is_not_served_keeps_it_for_itself() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.connect(FakeWorker("w1", FILES | {"b.onnx": File()}).hold("a.onnx").hold("b.onnx", warm=True))
    cluster.run_until(cluster.now + seconds(1))
    assert list(cluster.state.models) == ["a"]
    assert list(cluster.state.workers) == ["w0", "w1"]


def test_a_worker_that_cannot_load_a_model_serves_the_others() -> None:
    cluster = serving(SimpleScheduler(), FILES | {"b.onnx": File()})
    cluster.lose("w0")
    cluster.connect(FakeWorker("w1", FILES))
    cluster.run_until(cluster.now + seconds(1))
    cluster.ask(infer_request(1))
    cluster.ask(infer_request(2, "b"))
    cluster.run_until(cluster.now + seconds(1))
    assert infer_answer(cluster, 1).status == Status.SUCCESS
    assert infer_answer(cluster, 2).message == NO_DEVICE.format(model="b")


def test_a_model_whose_only_worker_was_lost_before_it_was_measured_is_refused_until_it_is() -> None:
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
    why = "model b has not been measured: no worker that holds it is connected"
    assert (infer_answer(cluster, 2).status, infer_answer(cluster, 2).message) == (Status.SKIPPED_BY_CONTROLLER, why)
    cluster.connect(holder)
    cluster.run_until(seconds(12))
    cluster.ask(infer_request(3, "b", slo_factor=9.0))
    cluster.run_until(seconds(13))
    assert infer_answer(cluster, 3).status == Status.SUCCESS


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
    drops = [c for _, c in cluster.said if isinstance(c, DropWorker)]
    assert bool(drops) is dropped
    cluster.check_all_answered()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status.RUNTIME_ERROR, Status.ERROR),
        (Status.INVALID_INPUT, Status.INVALID_REQUEST),
        (Status.COULD_NOT_START_IN_TIME, Status.CONTROLLER_COULD_NOT_START_IN_TIME),
    ],
)
def test_an_infer_that_fails_is_told_to_its_client(status: Status, told: Status) -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.workers["w0"].fail["Infer"] = (status, "no")
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(10))
    assert infer_answer(cluster, 1).status == told


def test_an_infer_behind_a_load_that_failed_fails_alone() -> None:
    cluster = serving(Eager(), FILES | {"b.onnx": File(pages=4)})
    cluster.workers["w0"].fail["LoadWeights"] = (Status.RUNTIME_ERROR, "no")
    cluster.ask(infer_request(1))  # LoadWeights and Infer at once
    cluster.run_until(cluster.now + ms(10))
    assert list(cluster.workers) == ["w0"]
    cluster.ask(infer_request(2))
    cluster.run_until(cluster.now + seconds(1))
    assert [infer_answer(cluster, number).status for number in (1, 2)] == [Status.TIMEOUT, Status.SUCCESS]
    cluster.check_rest()


def test_outputs_of_other_requests_are_given_to_nobody() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1), client_id=1)
    cluster.ask(infer_request(2), client_id=2)
    first, second = (send.action for send in cluster.actions(Infer)[-2:])
    assert isinstance(first, Infer)
    swapped, payloads = _result_of(second)
    took = Timing(0, 0, 0)
    cluster.feed(WorkerResult("w0", InferResult(first.id, swapped.outputs, took, took, took), payloads))
    assert infer_answer(cluster, 1).message == "the worker was sent the requests [1] and answered [2]"
    assert cluster.answer(2, client_id=2) is None
    cluster.workers["w0"].reset()


def test_a_result_of_the_wrong_kind_is_an_error() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    action = cluster.actions(Infer)[-1].action
    cluster.feed(WorkerResult("w0", LoadWeightsResult(action.id, Timing(0, 0, 0))))
    assert infer_answer(cluster, 1).message == "the worker answered Infer with LoadWeightsResult"
    cluster.workers["w0"].reset()


def test_a_result_that_nobody_waits_for_is_reported_and_ignored() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.feed(WorkerResult("w0", ErrorResult(999, "Infer", Status.ERROR, "what?")))
    assert "that it was not sent" in cluster.reports("WARNING")[-1]


# --- schedulers that do what they should not -------------------------------------------------------------------------


class Scripted(Forgetful):
    """Says what a test wants it to; ``script`` is called with the device, the request and its number, from 1."""

    def __init__(self, script: object) -> None:
        self.script = script
        self.told: list[Result] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return self.script(next(self.state.gpus()), request)  # type: ignore[operator,no-any-return]

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        self.told.append(result)
        return []


def _load(gpu: GPUState, request: PendingRequest) -> list[Answer]:
    gpu.load_weights(request.model)
    return []


def _infer(gpu: GPUState, request: PendingRequest) -> list[Answer]:
    gpu.infer(request.model, [request])
    return []


def _ok(request: PendingRequest, status: object = Status.SUCCESS) -> Answer:
    return Answer(request.id, status)  # type: ignore[arg-type]


def _no_id() -> Answer:
    return Answer([], Status.ERROR)  # type: ignore[arg-type]


def _over_commit(gpu: GPUState, request: PendingRequest) -> list[Answer]:
    gpu.load_weights(request.model)
    gpu.load_weights(ModelState(gpu.models["c"]))
    return []


def _infer_nothing(gpu: GPUState, request: PendingRequest) -> list[Answer]:
    gpu.load_weights(request.model)
    gpu.infer(request.model, [])
    return []


@pytest.mark.parametrize(
    ("script", "status", "complaint"),
    [
        pytest.param(lambda g, r: [_ok(r), _ok(r)], Status.SUCCESS, "answered request 1, which is over", id="twice"),
        pytest.param(lambda g, r: [Answer(77, Status.SUCCESS)], Status.TIMEOUT, "request 77, which is over", id="id"),
        pytest.param(_infer, Status.ERROR, "a is not on w0/gpu0", id="infer for a cold model"),
        pytest.param(lambda g, r: _load(g, r) + _load(g, r), Status.ERROR, "a is loading on w0/gpu0", id="load twice"),
        pytest.param(_over_commit, Status.ERROR, "c needs 4 pages; w0/gpu0 has 3 free of 4", id="over-commit"),
        pytest.param(lambda g, r: [g.evict_weights("a")], Status.ERROR, "a is cold or in use", id="evict cold"),
        pytest.param(_infer_nothing, Status.ERROR, "[]: none", id="an Infer of nothing"),
        pytest.param(_load, Status.TIMEOUT, None, id="loads only"),
        pytest.param(lambda g, r: [g.load_weights(r.model)], Status.TIMEOUT, "LoadWeights(", id="returns an action"),
        pytest.param(
            lambda g, r: [SendAction("w0", LoadModelFromDisk(9, "a.onnx", "z"))],
            Status.TIMEOUT,
            "which is not a valid Answer",
            id="loads from disk",
        ),
        pytest.param(
            lambda g, r: [*_load(g, r), *_infer(g, r), _ok(r)],
            Status.SUCCESS,
            "for a request that is over",
            id="and both",
        ),
        pytest.param(lambda g, r: None, Status.ERROR, "raised in infer: TypeError", id="None"),
        pytest.param(lambda g, r: 5, Status.ERROR, "raised in infer: TypeError", id="a number"),
        pytest.param(lambda g, r: "no", Status.TIMEOUT, "returned 'n'", id="a text"),
        pytest.param(lambda g, r: [None], Status.TIMEOUT, "returned None", id="nothing"),
        pytest.param(lambda g, r: [DropWorker("w0", "?")], Status.TIMEOUT, "returned DropWorker", id="a command"),
        pytest.param(lambda g, r: [_ok(r, "fine")], Status.TIMEOUT, "status='fine'", id="no status"),
        pytest.param(lambda g, r: [_no_id()], Status.TIMEOUT, "request_id=[]", id="no id"),
        pytest.param(lambda g, r: 1 / 0, Status.ERROR, "ZeroDivisionError", id="raises"),
    ],
)
def test_a_scheduler_that_breaks_a_rule_is_reported_and_harms_this_request_only(
    script: object, status: Status, complaint: str | None
) -> None:
    files = {"c.onnx": File(pages=4), **FILES, "b.onnx": File(pages=4)}  # b is measured before c, a first
    cluster = serving(Scripted(script), files)
    cluster.ask(EvictRequest(9, "c"))
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + seconds(1))
    assert infer_answer(cluster, 1).status == status
    assert any(complaint in text for text in cluster.reports("ERROR")) if complaint else not cluster.reports("ERROR")
    cluster.check_rest()
    assert list(cluster.state.workers) == ["w0"]


def test_an_action_for_a_worker_that_was_lost_goes_nowhere() -> None:
    class Nostalgic(Forgetful):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            old.infer(request.model, [request])
            return []

    cluster = serving(Nostalgic(), FILES)
    (old,) = cluster.state.gpus()
    worker = cluster.lose("w0")
    sent = len(cluster.sent())
    cluster.ask(infer_request(0))
    cluster.run_until(cluster.now + seconds(1))
    cluster.connect(worker)
    cluster.run_until(cluster.now + seconds(1))
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + seconds(1))
    assert [type(send.action).__name__ for send in cluster.sent()[sent:]] == ["GetWorkerState"]
    assert [infer_answer(cluster, number).status for number in (0, 1)] == [Status.ERROR] * 2
    assert all("w0/gpu0 is gone: its worker was lost" in text for text in cluster.reports("ERROR"))


def test_an_action_for_a_worker_that_is_not_in_service_is_reported_and_not_sent() -> None:
    class Hasty(Forgetful):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            early.infer(request.model, [request])
            return []

    cluster = serving(Hasty(), FILES)
    cluster.state.workers.clear()
    (early,) = cluster.state.holders["a"]
    sent = len(cluster.sent())
    cluster.ask(infer_request(1))
    assert len(cluster.sent()) == sent
    assert not early.outstanding
    (report,) = cluster.reports("ERROR")
    assert report.startswith("the scheduler made an action for w0/gpu0, which is not in service: Infer(")


def test_a_request_is_answered_when_its_scheduler_raises_in_every_method() -> None:
    cluster = serving(Furious(), FILES)
    for number in range(3):
        cluster.ask(infer_request(number))
        cluster.run_until(cluster.now + ms(5))
    cluster.connect(cluster.lose("w0"))
    cluster.ask(infer_request(3))
    cluster.ask(CancelRequest(3))
    cluster.run_until(cluster.now + seconds(1))
    assert {infer_answer(cluster, number).status for number in range(3)} == {Status.ERROR}
    raised = {text.split(":")[0] for text in cluster.reports("ERROR")}
    for method in ("start", "infer", "worker_joined", "worker_lost", "next_wakeup"):
        assert f"the scheduler raised in {method}" in raised
    cluster.check_rest()


def test_a_scheduler_that_cannot_say_why_is_reported_and_the_client_is_told_so() -> None:
    class Speechless(Forgetful):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            request.promised = request.deadline
            return []

        def explain(self, now: Nanos, request: PendingRequest) -> str:
            raise KeyError("a defect")

    cluster = serving(Speechless(), FILES)
    cluster.ask(infer_request(1, slo=ms(10)))
    cluster.run_until(cluster.now + ms(20))
    answer = infer_answer(cluster, 1)
    assert (answer.status, answer.message.split(": ", 1)[1]) == (
        Status.TIMEOUT,
        "the scheduler could not say why: it raised KeyError",
    )
    (report,) = cluster.reports("ERROR")
    assert report.startswith("the scheduler raised in explain: KeyError: 'a defect'\nTraceback")


@pytest.mark.parametrize("moment", ["soon", 1.5, [1]])
def test_a_wakeup_that_is_no_moment_is_reported(moment: object) -> None:
    class Vague(EchoScheduler):
        def next_wakeup(self) -> Nanos | None:
            return moment  # type: ignore[return-value]

    cluster = serving(Vague(), FILES)
    assert f"the scheduler's next_wakeup is {moment!r}, which is no number of nanoseconds" in cluster.reports("ERROR")
    assert cluster.controller.next_wakeup() is None


class Slow(Forgetful):
    """Answers SUCCESS 10 ms after the request came."""

    def __init__(self) -> None:
        self.due: list[tuple[Nanos, int]] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.due.append((now + ms(10), request.id))
        return []

    def wake(self, now: Nanos) -> list[Answer]:
        ready = [number for at, number in self.due if at <= now]
        self.due = [entry for entry in self.due if entry[0] > now]
        return [Answer(number, Status.SUCCESS) for number in ready]

    def next_wakeup(self) -> Nanos | None:
        return self.due[0][0] if self.due else None


def test_a_scheduler_is_woken_when_it_asked_to_be() -> None:
    cluster = serving(Slow(), FILES)
    cluster.ask(infer_request(1))
    assert cluster.controller.next_wakeup() == cluster.now + ms(10)
    cluster.run_until(cluster.now + ms(10))
    assert infer_answer(cluster, 1) == InferResponse(1, 0, "", (), RequestTiming(ms(10)))
    assert cluster.controller.next_wakeup() is None


def test_no_success_is_later_than_its_deadline_whatever_the_scheduler_says() -> None:
    cluster = serving(Slow(), FILES)
    cluster.ask(infer_request(1, slo=ms(10) + 1))
    cluster.now += ms(20)  # the host is late: the scheduler is woken after the deadline
    cluster.run_until(cluster.now)
    assert infer_answer(cluster, 1).status == Status.TIMEOUT


def test_nor_if_it_says_so_before_the_controller_is_woken() -> None:
    class Dawdling(Forgetful):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            return [Answer(request.id - 1, Status.SUCCESS)] if request.id > 1 else []

    cluster = serving(Dawdling(), FILES)
    cluster.ask(infer_request(1, slo=ms(10)))
    cluster.now += ms(10) + 1
    cluster.ask(infer_request(2))
    assert infer_answer(cluster, 1) == InferResponse(1, Status.TIMEOUT, LATE, (), RequestTiming(ms(10) + 1))


def test_a_scheduler_hears_of_each_action_that_ended_and_of_nothing_else() -> None:
    scheduler = Scripted(_infer)
    cluster = serving(scheduler, FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(5))
    cluster.ask(EvictRequest(2, "a"))
    cluster.run_until(cluster.now + ms(5))
    assert [type(result).__name__ for result in scheduler.told] == ["InferResult", "EvictWeightsResult"]


def test_the_hand_over_gives_the_scheduler_all_workers_models_and_times() -> None:
    class Curious(Forgetful):
        def start(self, now: Nanos, state: object) -> list[Answer]:
            super().start(now, state)  # type: ignore[arg-type]
            self.seen = (
                [str(gpu) for gpu in self.state.gpus()],
                {name: model.infer_estimate(2) for name, model in self.state.models.items()},
                {str(gpu): gpu.residency("a") for gpu in self.state.gpus()},
            )
            return []

    scheduler = Curious()
    serving(scheduler, FILES, workers=2, gpus=2)
    assert scheduler.seen == (
        ["w0/gpu0", "w0/gpu1", "w1/gpu0", "w1/gpu1"],
        {"a": ms(4)},
        {
            "w0/gpu0": Residency.WARM,
            "w0/gpu1": Residency.COLD,
            "w1/gpu0": Residency.COLD,
            "w1/gpu1": Residency.COLD,
        },
    )


def test_what_a_scheduler_says_at_the_start_is_carried_out() -> None:
    class Prepared(SimpleScheduler):
        def start(self, now: Nanos, state: object) -> list[Answer]:
            super().start(now, state)  # type: ignore[arg-type]
            for gpu in self.state.gpus():
                if not len(gpu.cache):
                    gpu.load_weights(self.state.models["a"])
            return []

    cluster = serving(Prepared(), FILES, workers=3)
    cluster.run_until(cluster.now + ms(8))
    assert all(worker.gpus[0].settled() == ("a",) for worker in cluster.workers.values())
    assert not [c for _, c in cluster.said if isinstance(c, Report) and c.level == "ERROR"]
