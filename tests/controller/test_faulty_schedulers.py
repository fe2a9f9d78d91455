"""A scheduler that breaks a rule is reported, and only the requests concerned suffer."""

from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.events import DropWorker
from clockwork.messages.actions import Infer, LoadModelFromDisk
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
)
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import GPUState, ModelState, PendingRequest
from clockwork.units import Nanos, ms, seconds
from cluster import serving
from fake_worker import File
from schedulers import Eager, Forgetful, Furious
from served import FILES, infer_response


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
def test_an_answer_with_a_field_of_a_wrong_type_is_reported_and_has_no_effect(changes: dict[str, Any]) -> None:
    class Confused(Eager):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            return [*super().infer(now, request), replace(Answer(request.id, Status.ERROR, "no"), **changes)]

    cluster = serving(Confused(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    assert infer_response(cluster, 1).status == Status.SUCCESS
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
    assert infer_response(cluster, 1).status == Status.SUCCESS
    assert len(cluster.actions(Infer)) == sent + 1
    (report,) = cluster.reports("ERROR")
    assert report.startswith("the scheduler returned SendAction(")
    assert report.endswith(", which is not a valid Answer")


@pytest.mark.parametrize("request_id", ["1", None, 1.0, -1], ids=str)
def test_an_infer_with_an_unknown_request_id_is_reported_and_not_sent(request_id: Any) -> None:
    class Confused(Eager):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            answers = super().infer(now, request)
            gpu = next(iter(self.state.gpus()))
            gpu.infer_inputs(request.model, (replace(request.input, request_id=request_id),))
            return answers

    cluster = serving(Confused(), FILES)
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + ms(100))
    assert infer_response(cluster, 1).status == Status.SUCCESS
    assert any("for a request that is over" in text for text in cluster.reports("ERROR"))


class Scripted(Forgetful):
    """Calls ``script`` with the device and the request, and returns what it returns."""

    def __init__(self, script: object) -> None:
        self.script = script

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return self.script(next(self.state.gpus()), request)  # type: ignore[operator,no-any-return]


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
        pytest.param(_infer, Status.ERROR, "infer: a is cold on w0/gpu0", id="infer for a cold model"),
        pytest.param(lambda g, r: _load(g, r) + _load(g, r), Status.ERROR, "a is loading on w0/gpu0", id="load twice"),
        pytest.param(_over_commit, Status.ERROR, "c needs 4 pages; w0/gpu0 has 3 free of 4", id="over-commit"),
        pytest.param(lambda g, r: [g.evict_weights("a")], Status.ERROR, "evict_weights: a is cold", id="evict cold"),
        pytest.param(_infer_nothing, Status.ERROR, "infer: [] must be pending requests", id="an Infer of nothing"),
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
def test_a_scheduler_that_breaks_a_rule_is_reported_and_only_this_request_suffers(
    script: object, status: Status, complaint: str | None
) -> None:
    files = {"c.onnx": File(pages=4), **FILES, "b.onnx": File(pages=4)}  # b is measured before c, a first
    cluster = serving(Scripted(script), files)
    cluster.ask(EvictRequest(9, "c"))
    cluster.run_until(cluster.now + ms(1))
    cluster.ask(infer_request(1))
    cluster.run_until(cluster.now + seconds(1))
    assert infer_response(cluster, 1).status == status
    assert any(complaint in text for text in cluster.reports("ERROR")) if complaint else not cluster.reports("ERROR")
    cluster.check_rest()
    assert list(cluster.state.workers) == ["w0"]


def test_an_action_for_a_lost_worker_is_not_sent() -> None:
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
    assert [infer_response(cluster, number).status for number in (0, 1)] == [Status.ERROR] * 2
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
    assert {infer_response(cluster, number).status for number in range(3)} == {Status.ERROR}
    raised = {text.split(":")[0] for text in cluster.reports("ERROR")}
    for method in ("start", "infer", "worker_joined", "worker_lost", "next_wakeup"):
        assert f"the scheduler raised in {method}" in raised
    cluster.check_rest()


def test_an_exception_in_explain_is_reported_and_named_in_the_answer() -> None:
    class Speechless(Forgetful):
        def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
            request.promised = request.deadline
            return []

        def explain(self, now: Nanos, request: PendingRequest) -> str:
            raise KeyError("a defect")

    cluster = serving(Speechless(), FILES)
    cluster.ask(infer_request(1, slo=ms(10)))
    cluster.run_until(cluster.now + ms(20))
    answer = infer_response(cluster, 1)
    assert (answer.status, answer.message.split(": ", 1)[1]) == (
        Status.TIMEOUT,
        "the reason is unknown, because the scheduler raised KeyError",
    )
    (report,) = cluster.reports("ERROR")
    assert report.startswith("the scheduler raised in explain: KeyError: 'a defect'\nTraceback")


@pytest.mark.parametrize("moment", ["soon", 1.5, [1]])
def test_an_invalid_next_wakeup_is_reported(moment: object) -> None:
    class Vague(EchoScheduler):
        def next_wakeup(self) -> Nanos | None:
            return moment  # type: ignore[return-value]

    cluster = serving(Vague(), FILES)
    assert f"the scheduler's next_wakeup is {moment!r}; it must be an integer or None" in cluster.reports("ERROR")
    assert cluster.controller.next_wakeup() is None
