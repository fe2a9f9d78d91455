"""Recent requests are listed and explained, for every scheduler, within limited memory."""

from itertools import count
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from msgspec.structs import astuple, replace

from builders import infer_request
from clockwork.controller.config import LoadSpec
from clockwork.controller.events import Respond, ShedRequest
from clockwork.controller.recording import MAX_AHEAD, Recorder, Sampler
from clockwork.controller.records import PackedRecord, unpack
from clockwork.messages.explanation import MAX_LISTED, Explanation, RequestSummary
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.request_ids import MAX_REQUEST_ID
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    ExplainRequest,
    ExplainResponse,
    InferRequest,
    InferResponse,
    ListRequestsRequest,
    ListRequestsResponse,
    RequestTiming,
)
from clockwork.messages.status import Status
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.clockwork.refusals import ADMITTED
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config, serving
from fake_worker import File
from served import FILES

QUESTIONS = count(900_000)


def explain(cluster: Cluster, request_id: str) -> Explanation:
    number = next(QUESTIONS)
    cluster.ask(ExplainRequest(number, request_id), 2)
    response = cluster.answer(number, 2)
    assert isinstance(response, ExplainResponse)
    assert response.explanation is not None, response.message
    return response.explanation


def why_not(cluster: Cluster, request_id: str) -> str:
    number = next(QUESTIONS)
    cluster.ask(ExplainRequest(number, request_id), 2)
    response = cluster.answer(number, 2)
    assert isinstance(response, ExplainResponse)
    assert response.explanation is None
    return response.message


def listed(cluster: Cluster, outcome: str = "", model: str = "", limit: int = 20) -> tuple[RequestSummary, ...]:
    number = next(QUESTIONS)
    cluster.ask(ListRequestsRequest(number, outcome, model, limit), 2)
    response = cluster.answer(number, 2)
    assert isinstance(response, ListRequestsResponse)
    assert response.status == 0, response.message
    return response.requests


def named(number: int, **more: Any) -> InferRequest:
    return replace(infer_request(number, **more), request_id=f"r{number}")


def fields_of(kind: type) -> set[str]:
    """Return the attributes of a class that is compiled or has slots."""
    kinds = (MemberDescriptorType, GetSetDescriptorType)
    return {name for name, value in vars(kind).items() if isinstance(value, kinds) and not name.startswith("__")}


def test_records_of_requests_in_time_are_packed_without_a_loss() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in (1, 2, 3):
        cluster.ask(named(number))
    cluster.run_until(cluster.now + seconds(1))
    responds = [command for _, command in cluster.said if isinstance(command, Respond) and command.request is not None]
    kept = cluster.controller._serving.recorder._in_time
    assert len(kept) == len(responds) == 3
    for packed, respond in zip(kept, responds, strict=True):
        assert isinstance(packed, PackedRecord)
        record, request = unpack(packed), respond.request
        assert record.response == respond.response
        assert request is not None
        assert request.sent is not None
        assert record.request is not None
        assert record.request.sent is not None
        for field in fields_of(PendingRequest) - {"sent"}:
            assert getattr(record.request, field) == getattr(request, field), field
        assert astuple(record.request.sent) == astuple(request.sent)
        assert [each.id for each in record.ahead] == [each.id for each in unpack(packed).ahead]


def test_a_request_in_time_is_explained_with_its_batch_and_what_the_device_did_before() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in (1, 2, 3):
        cluster.ask(named(number))
    cluster.run_until(cluster.now + seconds(1))
    first, last = explain(cluster, "r1"), explain(cluster, "r3")
    assert (first.outcome, first.model, first.version, first.status) == ("in_time", "a", "1", "SUCCESS")
    assert (first.slo, first.slo_source) == (ms(100), "the client's argument slo")
    assert first.device == last.device == "w0/gpu0"
    assert not first.ahead
    assert last.mates == ("r2",)
    assert [(action.kind, action.rows) for action in last.ahead] == [("infer", 1)]
    steps = {step.name: step for step in last.steps}
    assert list(steps) == ["plan", "device", "input", "exec", "output", "response"]
    assert steps["device"].end == steps["exec"].begin >= last.ahead[0].end  # type: ignore[operator]
    assert steps["response"].end == last.total
    compared = {each.name: each for each in last.compared}
    assert last.action is not None
    assert compared["exec"].planned == last.action.expected
    assert (compared["completion"].planned, compared["completion"].actual) == (last.predicted, last.total)


def test_a_cold_request_is_explained_with_the_load_for_which_it_waited() -> None:
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(pages=3)})
    cluster.ask(EvictRequest(1, "a"))
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(named(2, slo=seconds(1)))
    cluster.run_until(cluster.now + seconds(2))
    found = explain(cluster, "r2")
    assert found.cold_start
    assert found.load is not None
    assert found.load.kind == "load"
    assert found.load.begin is not None
    assert [step.name for step in found.steps] == ["plan", "load", "device", "input", "exec", "output", "response"]
    assert {each.name for each in found.compared} == {"load", "begin", "exec", "response", "completion"}


def test_a_refused_request_is_explained_with_its_reason_and_the_retry_time() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1, slo=ms(1)))
    cluster.run_until(cluster.now + ms(50))
    found = explain(cluster, "r1")
    assert (found.outcome, found.reason, found.broken) == ("refused", "device_too_slow", False)
    assert found.predicted is not None
    assert found.action is None
    assert not found.steps


def test_a_late_request_is_explained_with_what_the_device_did_before() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for number in range(12):
        cluster.ask(named(number, slo=ms(10)))
    cluster.run_until(cluster.now + seconds(2))
    late = listed(cluster, "late")
    assert late
    found = explain(cluster, late[0].request_id)
    assert (found.outcome, found.status) == ("late", "TIMEOUT")
    assert found.total > found.slo == ms(10)


def test_the_default_slo_names_its_source() -> None:
    config = quick_config(models=(LoadSpec("a.onnx"),))
    for slos, source in (({}, "the default SLO of the server"), ({"a": ms(70)}, "the default SLO of the model")):
        cluster = serving(SimpleScheduler(), FILES, config=replace(config, model_slos=slos))
        cluster.ask(named(1, slo=None))
        cluster.run_until(cluster.now + seconds(1))
        assert explain(cluster, "r1").slo_source == source


def test_requests_that_never_became_pending_are_recorded() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(named(1, model="nobody"))
    cluster.ask(named(2, slo=-1))
    assert explain(cluster, "r1").message.startswith("model 'nobody' is unknown")
    assert explain(cluster, "r2").outcome == "failed"
    assert [request.request_id for request in listed(cluster, "failed")] == ["r2", "r1"]


def test_lists_are_filtered_and_the_newest_request_comes_first() -> None:
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(), "b.onnx": File()}, pages=8)
    for number, model in enumerate(("a", "b", "a", "b")):
        cluster.ask(named(number, model=model))
        cluster.run_until(cluster.now + ms(50))
    assert [request.request_id for request in listed(cluster)] == ["r3", "r2", "r1", "r0"]
    assert [request.request_id for request in listed(cluster, model="a")] == ["r2", "r0"]
    assert [request.request_id for request in listed(cluster, "in_time", "b", 1)] == ["r3"]
    assert listed(cluster, "refused") == ()


def test_wrong_questions_are_refused() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for message in (
        ListRequestsRequest(1, "slow"),
        ListRequestsRequest(2, limit=0),
        ListRequestsRequest(3, limit=MAX_LISTED + 1),
    ):
        cluster.ask(message)
        response = cluster.answer(message.id)
        assert isinstance(response, ListRequestsResponse)
        assert response.status == Status.INVALID_REQUEST
    assert why_not(cluster, "nobody").startswith("request 'nobody' is not recorded")


def test_a_cancelled_request_is_explained() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1), 3)
    cluster.ask(named(2), 3)
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(CancelRequest(1), 3)
    cluster.lose_client(3)
    cluster.run_until(cluster.now + seconds(1))
    assert [request.request_id for request in listed(cluster, "cancelled")] == ["r2", "r1"]
    found = explain(cluster, "r1")
    assert (found.outcome, found.status, found.broken, found.total) == ("cancelled", "CANCELLED", False, ms(1))
    assert found.message == "the client cancelled the request or disconnected"
    assert found.predicted is not None
    assert found.verdict is not None
    assert found.device == "w0/gpu0"


def test_a_request_that_is_cancelled_while_the_device_executes_it_has_no_way_back() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1))
    cluster.run_until(cluster.now + ms(1))
    assert cluster.sent()
    cluster.ask(CancelRequest(1))
    waiting = explain(cluster, "r1").steps
    assert [(step.name, step.end) for step in waiting] == [("plan", waiting[0].end), ("device", ms(1))]
    cluster.run_until(cluster.now + seconds(1))
    steps = explain(cluster, "r1").steps
    assert [step.name for step in steps] == ["plan", "device", "input", "exec", "output"]
    assert all(step.begin <= step.end for step in steps)


def test_a_request_whose_worker_is_lost_names_the_loss_and_how_long_it_waited() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    cluster.ask(named(1, slo=seconds(1)))
    cluster.run_until(cluster.now + ms(1))
    cluster.lose("w0")
    found = explain(cluster, "r1")
    assert (found.outcome, found.reason, found.broken) == ("refused", "promise_broken", True)
    assert found.message.startswith(f"{ADMITTED}: worker w0 was lost; no device can serve a now")
    assert [step.name for step in found.steps] == ["plan", "device"]
    assert found.steps[-1].end == found.total == ms(1)


def test_an_id_is_cut_in_a_question_as_in_the_record() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(replace(named(1), request_id="x" * MAX_REQUEST_ID))
    cluster.run_until(cluster.now + ms(50))
    assert explain(cluster, "x" * 10_000).outcome == "in_time"


def test_a_pending_request_is_not_explained_yet() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(named(1))
    assert why_not(cluster, "r1") == "request 'r1' is still pending; retry later"


def test_the_last_request_with_an_id_is_explained() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for number in (1, 2):
        cluster.ask(replace(named(number), request_id="same"))
        cluster.run_until(cluster.now + ms(50))
    found = explain(cluster, "same")
    assert found.same_id == 1
    assert found.age < ms(50)


def test_without_recording_requests_are_served_and_not_explained() -> None:
    config = quick_config(models=(LoadSpec("a.onnx"),))
    cluster = serving(SimpleScheduler(), FILES, config=replace(config, explain_requests=0))
    cluster.ask(named(1))
    cluster.run_until(cluster.now + ms(50))
    assert cluster.answer(1) is not None
    assert "--explain-requests" in why_not(cluster, "r1")


def test_the_records_of_each_reason_are_limited_and_do_not_displace_others() -> None:
    recorder = Recorder(10, 5)
    message = infer_request(1)
    for number in range(100):
        for status, reason in (
            (Status.SKIPPED_BY_CONTROLLER, RefusalReason.SERVER_FULL),
            (Status.CONTROLLER_COULD_NOT_START_IN_TIME, RefusalReason.DEVICE_BUSY),
            (Status.TIMEOUT, RefusalReason.OTHER),
        ):
            name = f"{reason.value}-{number}"
            response = InferResponse(1, int(status), "", (), RequestTiming(1), request_id=name)
            recorder.refused(number, message, response, reason)
    assert len(list(recorder)) == 15
    assert [record.response.request_id for record in recorder.last("refused", "", 2)] == [
        "server_full-99",
        "device_busy-99",
    ]


def test_actions_are_limited_and_those_of_lost_workers_are_forgotten() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    recorder = cluster.controller._serving.recorder
    for number in range(20):
        cluster.ask(named(number))
        cluster.run_until(cluster.now + ms(20))
    (actions,) = recorder._by_device.values()
    assert len(actions) == 20
    for number in range(100, 100 + MAX_AHEAD):
        cluster.ask(named(number))
        cluster.run_until(cluster.now + ms(20))
    assert len(actions) == MAX_AHEAD
    assert not recorder._outstanding
    cluster.ask(named(50))
    assert recorder._outstanding
    cluster.lose("w0")
    assert not recorder._outstanding
    assert not recorder._by_device


def test_requests_in_time_are_sampled_and_all_others_are_kept() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    recorder = cluster.controller._serving.recorder
    for number in range(1000):
        cluster.ask(named(number))
        cluster.run_until(cluster.now + ms(5))
    assert 295 <= len(listed(cluster, "in_time", limit=1000)) <= 305
    missing = [number for number in range(990, 1000) if recorder.find(f"r{number}")[0] is None]
    assert "not sampled" in why_not(cluster, f"r{missing[0]}")
    for number in range(2000, 2100):
        cluster.ask(named(number, slo=1))
    cluster.run_until(cluster.now + ms(50))
    late = listed(cluster, "late", limit=1000) + listed(cluster, "refused", limit=1000)
    assert len(late) == 100


def test_a_sampler_takes_a_burst_and_then_its_rate() -> None:
    sampler = Sampler()
    assert sum(sampler.takes(seconds(10)) for _ in range(1000)) == 51
    taken = sum(sampler.takes(seconds(10) + number * ms(1)) for number in range(5000))
    assert 245 <= taken <= 250
    assert sum(sampler.takes(seconds(100)) for _ in range(1000)) == 51


def test_a_cold_request_is_kept_although_many_requests_in_time_follow() -> None:
    cluster = serving(ClockworkScheduler(), {"a.onnx": File(pages=3)})
    cluster.ask(EvictRequest(1, "a"))
    cluster.run_until(cluster.now + ms(10))
    cluster.ask(named(2, slo=seconds(1)))
    cluster.run_until(cluster.now + seconds(1))
    for number in range(1000, 7000):
        cluster.ask(named(number))
        cluster.run_until(cluster.now + ms(10))
    assert explain(cluster, "r2").cold_start


def test_what_a_device_executed_before_a_request_stays_known() -> None:
    cluster = serving(ClockworkScheduler(), FILES)
    for number in (1, 2, 3):
        cluster.ask(named(number))
    cluster.run_until(cluster.now + seconds(1))
    before = explain(cluster, "r3")
    for number in range(100, 100 + 2 * MAX_AHEAD):
        cluster.ask(named(number))
        cluster.run_until(cluster.now + ms(20))
    after = explain(cluster, "r3")
    assert after.ahead == before.ahead != ()


def test_what_a_device_executed_is_known_for_a_request_whose_batch_ends_after_its_response() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    for number in range(12):
        cluster.ask(named(number, slo=ms(10)))
    cluster.run_until(cluster.now + seconds(2))
    assert any(explain(cluster, late.request_id).ahead for late in listed(cluster, "late"))
    assert not cluster.controller._serving.recorder._waiting


def test_a_request_that_the_host_has_refused_is_listed_with_its_reason() -> None:
    recorder = Recorder(10, 5)
    for number in range(10):
        recorder.shed(ShedRequest(f"s{number}", "a", number, ms(3), ms(10), "the server is overloaded", ms(7)))
    found = recorder.last("refused", "a", 10)
    assert [record.response.request_id for record in found] == ["s9", "s8", "s7", "s6", "s5"]
    record, _ = recorder.find("s9")
    assert record is not None
    assert (record.reason, record.slo) == (RefusalReason.SERVER_OVERLOADED, ms(10))
    assert (record.response.timing.total, record.response.retry_after) == (ms(3), ms(7))


def test_a_recorded_request_keeps_no_payload() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(named(1))
    cluster.run_until(cluster.now + ms(50))
    (record,) = cluster.controller._serving.recorder
    assert record.request is not None
    assert record.request.payload is None


def test_a_request_that_arrives_after_its_deadline_is_listed_with_the_counted_reason() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    late = replace(infer_request(1, "a"), slo=1, request_id="late")
    cluster.ask(late, arrival=cluster.now - 10)
    (found,) = listed(cluster, "refused")
    assert (found.request_id, found.reason) == ("late", "device_too_slow")
