"""Requests are answered once, with outputs and times, or at their deadline."""

import pytest
from msgspec.structs import replace

from builders import infer_request, tensors
from clockwork.controller.events import Respond, WorkerResult
from clockwork.messages.actions import Infer
from clockwork.messages.requests import (
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
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import SECOND, Nanos, ms, seconds
from cluster import serving
from fake_worker import File
from served import FILES, infer_response, result_of


def test_a_successful_infer_answers_its_requests_with_outputs_and_times() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(7), client_id=3, payload="in")
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(infer_request(8), client_id=4)
    cluster.run_until(cluster.now + ms(9))
    first, second = infer_response(cluster, 7, 3), infer_response(cluster, 8, 4)
    assert first == InferResponse(7, 0, "", tensors(), RequestTiming(ms(3), 0, ms(3), 1), version="1")
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
    cold, warm = (infer_response(cluster, number).timing for number in (1, 2))
    assert (cold.cold_start, warm.cold_start) == (True, False)
    assert 0 < cold.load <= cold.queue
    assert warm.load == 0


@pytest.mark.parametrize(("slo", "status"), [(ms(3), Status.SUCCESS), (ms(3) - 1, Status.TIMEOUT)])
def test_an_answer_at_the_deadline_is_in_time_and_one_after_it_is_not(slo: Nanos, status: Status) -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1, slo=slo))
    cluster.run_until(cluster.now + ms(10))
    assert infer_response(cluster, 1).status == status
    assert infer_response(cluster, 1).timing.total == ms(3)
    cluster.check_rest()


def test_a_late_result_is_late_even_if_the_host_feeds_it_before_the_wake_of_the_deadline() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1, slo=ms(1)))
    cluster.run_until(cluster.now)
    cluster.now += ms(50)
    cluster.feed(WorkerResult("w0", *result_of(cluster.actions(Infer)[-1].action)))
    assert infer_response(cluster, 1).status == Status.TIMEOUT
    cluster.workers["w0"].reset()


@pytest.mark.parametrize(("failed", "status"), [(False, Status.INVALID_REQUEST), (True, Status.ERROR)])
def test_a_request_that_fails_in_a_successful_infer_is_not_tried_again(failed: bool, status: Status) -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now)
    result, payloads = result_of(cluster.actions(Infer)[-1].action)
    sent = len(cluster.actions(Infer))
    refused = replace(result, outputs=(replace(result.outputs[0], refusal="that is evil", failed=failed),))
    cluster.feed(WorkerResult("w0", refused, payloads))
    answer = infer_response(cluster, 1)
    assert (answer.status, answer.message, answer.outputs) == (status, "that is evil", ())
    assert len(cluster.actions(Infer)) == sent
    cluster.workers["w0"].reset()


def test_a_cancelled_request_is_not_answered_even_if_it_is_executed() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(CancelRequest(1))
    cluster.ask(CancelRequest(1))
    cluster.ask(CancelRequest(99))
    cluster.run_until(cluster.now + seconds(1))
    assert cluster.responses() == []
    cluster.check_rest()


def test_a_client_that_went_away_gets_no_answers_and_other_clients_do() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for client_id in (1, 2):
        for number in (1, 2, 3, 4, 5):
            cluster.ask(infer_request(number), client_id)
    cluster.lose_client(1)
    cluster.run_until(cluster.now + seconds(1))
    assert [response.id for response in cluster.responses()] == [1, 2, 3, 4, 5]
    assert not cluster.reports("ERROR")


def test_ls_and_status_report_the_models_and_the_counts_of_their_requests() -> None:
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
    for recent in (server.models[0].last_10_s, server.models[0].last_5_min):
        assert (recent.in_time, recent.late, recent.per_second) == (2, 2, 4 * SECOND / server.serving_ns)
        assert (recent.min_slo, recent.max_slo) == (ms(1), ms(100))
        assert recent.p99 >= ms(5)
    (worker,) = server.workers
    assert (worker.id, worker.ready, worker.gpus[0].used_pages, worker.gpus[0].outstanding) == ("w0", True, 4, 0)


def test_an_operator_evicts_a_model_from_all_devices_that_do_not_use_it() -> None:
    cluster = serving(SimpleScheduler(), FILES, workers=2)
    cluster.ask(infer_request(1))  # on w0, where it was measured
    cluster.ask(EvictRequest(2, "a"))
    assert cluster.answer(2) == EvictResponse(2, Status.WEIGHTS_IN_USE, "a is in use on w0/gpu0; retry later")
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(EvictRequest(3, "a"))
    cluster.ask(EvictRequest(4, "a"))
    cluster.ask(EvictRequest(5, "b"))
    cluster.run_until(cluster.now + ms(10))
    assert cluster.answer(3) == EvictResponse(3, Status.SUCCESS, "", 1)
    assert cluster.answer(4) == EvictResponse(4, Status.SUCCESS, "", 0)
    assert cluster.answer(5) == EvictResponse(5, Status.UNKNOWN_MODEL, "model 'b' is unknown; served models: a")
    assert not cluster.workers["w0"].gpus[0].weights
    cluster.ask(infer_request(6))
    cluster.run_until(cluster.now + ms(11))
    assert infer_response(cluster, 6).status == Status.SUCCESS
    cluster.check_rest()
