"""Checks of batches in service: which batches are checked, when, and what a difference causes."""

from collections import Counter
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import ControllerConfig, LoadSpec, ProfilingConfig, VerifyingConfig
from clockwork.controller.events import CompareOutputs, Drain, Drained, OutputsCompared, Respond
from clockwork.controller.pending import NO_CLIENT
from clockwork.messages.actions import Action, DeviceAction, Infer
from clockwork.messages.commands import Answer, SendAction
from clockwork.messages.requests import CancelRequest, InferResponse, ModelStatus, StatusRequest, StatusResponse
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.edf import EdfScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.state import GPUState, PendingRequest
from clockwork.units import Nanos, ms, seconds
from cluster import QUICK, Cluster, Sent, quick_config, serving
from fake_worker import FakeWorker, File
from schedulers import Eager

FILES = {"a.onnx": File()}
BATCHING: tuple[Callable[[], Scheduler], ...] = (ClockworkScheduler, FifoScheduler, EdfScheduler)
WRONG = "output 'y': the largest difference is 1, of elements up to 2"
REASON = f"the outputs of a request differed between a batch of 2 rows and the request alone: {WRONG}"

every_batching_scheduler = pytest.mark.parametrize("scheduler", BATCHING)


def config(verifying: VerifyingConfig | None, profiling: ProfilingConfig = QUICK) -> ControllerConfig:
    models = tuple(LoadSpec(path) for path in FILES)
    return replace(quick_config(models=models, profiling=profiling), verifying=verifying)


def cluster_of(scheduler: Scheduler, verifying: VerifyingConfig | None = VerifyingConfig(0.0)) -> Cluster:
    """A cluster that serves the model ``a`` and has answered request 1."""
    cluster = serving(scheduler, FILES, config=config(verifying))
    ask(cluster, 1)
    cluster.run_until(cluster.now + seconds(1))
    return cluster


def ask(cluster: Cluster, *numbers: int, rows: int = 1, slo: Nanos = seconds(1)) -> None:
    """Send requests with different payloads."""
    for number in numbers:
        cluster.ask(infer_request(number, rows=rows, slo=slo), payload=f"in-{number}")


def burst(cluster: Cluster, first: int) -> None:
    """Send four requests at once, two of which are executed in one batch; then let a second pass."""
    ask(cluster, *range(first, first + 4))
    cluster.run_until(cluster.now + seconds(1))


def infers(cluster: Cluster) -> list[Sent[Infer]]:
    return [send for send in cluster.actions(Infer) if send.payloads and None not in send.payloads]


def batches(cluster: Cluster) -> list[tuple[object, ...]]:
    """The payloads of each Infer that executes several requests as one batch."""
    together = [send for send in infers(cluster) if isinstance(send.action, Infer) and not send.action.apart]
    return [send.payloads for send in together if len(send.payloads) > 1]


def checks_sent(cluster: Cluster) -> list[Sent[Infer]]:
    """The Infers that execute a request of an earlier batch alone."""
    seen: Counter[object] = Counter()
    found = []
    for send in infers(cluster):
        if len(send.payloads) == 1 and seen[send.payloads[0]]:
            found.append(send)
        seen.update(send.payloads)
    return found


def checks(cluster: Cluster) -> list[object]:
    """The payloads of the checks."""
    return [send.payloads[0] for send in checks_sent(cluster)]


def status(cluster: Cluster) -> ModelStatus:
    number = 10_000 + len(cluster.asked)
    cluster.ask(StatusRequest(number))
    answer = cluster.answer(number)
    assert isinstance(answer, StatusResponse)
    return answer.server.models[0]


def statuses(cluster: Cluster) -> Counter[int]:
    return Counter(response.status for response in cluster.responses() if isinstance(response, InferResponse))


# --- which batches are checked --------------------------------------------------------------------------------------


@every_batching_scheduler
def test_two_requests_of_the_first_batch_of_a_size_are_executed_again_alone(
    scheduler: Callable[[], Scheduler],
) -> None:
    cluster = cluster_of(scheduler())
    burst(cluster, 2)
    first = batches(cluster)[0]
    assert checks(cluster) == [first[0], first[-1]]
    burst(cluster, 6)
    assert len(batches(cluster)) > 1
    assert len(checks(cluster)) == 2
    assert status(cluster).counts.checks == {"agreed": 2}


def test_outputs_of_the_batch_are_compared_with_those_of_the_request_alone() -> None:
    cluster = cluster_of(FifoScheduler())
    burst(cluster, 2)
    compared = [command for _, command in cluster.said if isinstance(command, CompareOutputs)]
    in_batch = next(s.action for s in infers(cluster) if isinstance(s.action, Infer) and len(s.action.inputs) > 1)
    ids = [share.request_id for share in in_batch.inputs]
    assert [command.in_batch_payload for command in compared] == [f"output-{number}" for number in ids]
    assert [command.alone_payload for command in compared] == [f"output-{command.check_id}" for command in compared]
    assert all(command.in_batch == command.alone and command.in_batch for command in compared)


def test_a_share_of_batches_is_checked_at_alternating_places() -> None:
    cluster = cluster_of(FifoScheduler(), VerifyingConfig(0.25))
    for turn in range(17):
        burst(cluster, 2 + 4 * turn)
    of_share = checks(cluster)[2:]
    found = batches(cluster)
    assert len(found) == 17
    assert of_share == [found[3][1], found[7][0], found[11][1], found[15][0]]


def test_a_share_of_0_checks_first_batches_only_and_no_configuration_checks_none() -> None:
    for verifying, expected in ((VerifyingConfig(0.0), 2), (None, 0)):
        cluster = cluster_of(FifoScheduler(), verifying)
        for turn in range(4):
            burst(cluster, 2 + 4 * turn)
        assert len(checks(cluster)) == expected


def test_requests_without_a_payload_are_not_checked() -> None:
    cluster = cluster_of(FifoScheduler(), VerifyingConfig(1.0))
    for number in range(2, 6):
        cluster.ask(infer_request(number, slo=seconds(1), generated=True), payload=None)
    cluster.run_until(cluster.now + seconds(1))
    assert any(len(send.action.inputs) > 1 for send in cluster.actions(Infer) if isinstance(send.action, Infer))
    assert not [command for _, command in cluster.said if isinstance(command, CompareOutputs)]
    assert status(cluster).counts.checks == {}


# --- when checks run ------------------------------------------------------------------------------------------------


@every_batching_scheduler
def test_no_check_runs_while_a_request_waits_and_no_promise_is_broken(scheduler: Callable[[], Scheduler]) -> None:
    cluster = cluster_of(scheduler(), VerifyingConfig(1.0))
    asked_at: dict[int, Nanos] = {}
    for number in range(2, 302):  # twice as many as the device can execute, with a pause after each 25
        ask(cluster, number, slo=ms(30))
        asked_at[number] = cluster.now
        cluster.run_until(cluster.now + (ms(100) if number % 25 == 0 else ms(1)))
    cluster.run_until(cluster.now + seconds(1))
    model = status(cluster)
    assert model.counts.checks["agreed"] > 10
    assert model.broken_promises == 0
    answered_at = {command.response.id: at for at, command in cluster.said if isinstance(command, Respond)}
    for at in check_moments(cluster):
        assert not [number for number, since in asked_at.items() if since < at < answered_at[number]]
    cluster.check_all_answered()
    cluster.check_rest()


def check_moments(cluster: Cluster) -> list[Nanos]:
    """When each check was sent."""
    sent = [(at, command) for at, command in cluster.said if isinstance(command, SendAction)]
    return [at for at, send in sent if send in checks_sent(cluster)]


class Waits(Eager):
    """Sends no action before ``open`` is set and an event comes, and answers no request."""

    def __init__(self) -> None:
        self.open = True
        self.kept: list[PendingRequest] = []
        self.cancelled: list[PendingRequest] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.kept.append(request)
        if self.open:
            self.send(now)
        return []

    def send(self, now: Nanos) -> None:
        """Execute all requests that arrived in one batch."""
        kept, self.kept = [send for send in self.kept if not send.over], []
        if not kept:
            return
        (gpu,) = self.state.gpus()
        if kept[0].model.name not in gpu.cache:
            gpu.load_weights(kept[0].model)
        gpu.infer(kept[0].model, kept, now, kept[0].deadline)

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        if self.open:
            self.send(now)
        return []

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.cancelled.append(request)
        return []


def a_pair(cluster: Cluster, scheduler: Waits, first: int) -> None:
    """Two requests in one batch whose check is not sent yet."""
    scheduler.open = False
    ask(cluster, first, first + 1)
    send_now(cluster, scheduler)
    cluster.run_until(cluster.now + ms(50))
    assert len(batches(cluster)[-1]) == 2


def send_now(cluster: Cluster, scheduler: Waits) -> None:
    """Send the actions that the scheduler has kept, without an event."""
    scheduler.send(cluster.now)
    cluster._carry_out(cluster.controller._serving._send_queued(cluster.now))


def test_a_check_that_was_not_sent_is_withdrawn_for_a_request_and_begun_again() -> None:
    scheduler = Waits()
    cluster = cluster_of(scheduler)
    a_pair(cluster, scheduler, 2)
    (check,) = scheduler.kept
    ask(cluster, 4)
    assert scheduler.cancelled == [check]
    assert check.over
    cluster.run_until(cluster.now + ms(50))
    assert status(cluster).counts.checks == {}
    assert len(scheduler.kept) == 2  # a request waits, so no check begins
    scheduler.open = True
    ask(cluster, 5)
    cluster.run_until(cluster.now + seconds(1))
    assert checks(cluster) == ["in-2", "in-3"]
    assert status(cluster).counts.checks == {"agreed": 2}
    assert [send.payloads for send in infers(cluster)][2] == ("in-4", "in-5")


def test_no_check_begins_while_a_device_executes_a_cancelled_request() -> None:
    scheduler = Waits()
    cluster = cluster_of(scheduler)
    a_pair(cluster, scheduler, 2)
    ask(cluster, 4)
    send_now(cluster, scheduler)
    cluster.ask(CancelRequest(4))
    status(cluster)
    assert scheduler.kept == []
    cluster.run_until(cluster.now + ms(50))
    assert [request.client_id for request in scheduler.kept] == [NO_CLIENT]


def test_a_check_that_is_not_executed_is_given_up_after_some_attempts() -> None:
    scheduler = Waits()
    cluster = cluster_of(scheduler, VerifyingConfig(0.0, slo=seconds(5), attempts=2))
    a_pair(cluster, scheduler, 2)
    cluster.run_until(cluster.now + seconds(60))
    assert len(scheduler.kept) == 4
    model = status(cluster)
    assert model.counts.checks == {"skipped": 2}
    assert (model.counts.late_ns, model.late) == (0, 0)
    assert statuses(cluster) == {Status.SUCCESS: 3}


class RefusesAfter(FifoScheduler):
    """Refuses every request after a number of them."""

    def __init__(self, accepted: int) -> None:
        super().__init__()
        self.left = accepted

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.left -= 1
        if self.left < 0:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, "no")]
        return super().infer(now, request)


def test_a_check_that_the_scheduler_refuses_answers_no_client() -> None:
    cluster = cluster_of(RefusesAfter(5))
    burst(cluster, 2)
    model = status(cluster)
    while model.counts.checks.get("skipped") != 2:
        model = status(cluster)  # any event lets the check begin again
    assert (model.in_time, model.refused, model.counts.pending) == (5, 0, 0)
    cluster.check_all_answered()


def test_a_check_whose_worker_is_lost_is_executed_when_the_worker_returns() -> None:
    cluster = cluster_of(FifoScheduler())
    ask(cluster, 2, 3, 4, 5)
    while not checks(cluster):
        cluster.run_until(cluster.now + ms(1))
    worker = cluster.lose("w0")
    cluster.run_until(cluster.now + ms(10))
    cluster.connect(worker)
    cluster.run_until(cluster.now + seconds(1))
    ask(cluster, 6)
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster).counts.checks == {"agreed": 2}
    cluster.check_rest()


def test_a_drain_does_not_wait_for_checks() -> None:
    cluster = cluster_of(FifoScheduler())
    ask(cluster, 2, 3, 4, 5)
    while not checks(cluster):
        cluster.run_until(cluster.now + ms(1))
    cluster.feed(Drain(seconds(10)))
    assert [command for _, command in cluster.said if isinstance(command, Drained)] == [Drained(0)]
    cluster.run_until(cluster.now + seconds(1))
    assert len(checks(cluster)) == 1


def test_checks_do_not_count_in_statistics_of_requests() -> None:
    cluster = cluster_of(ClockworkScheduler(), VerifyingConfig(1.0))
    for turn in range(4):
        burst(cluster, 2 + 4 * turn)
    assert len(checks(cluster)) > 4
    model = status(cluster)
    assert model.counts.answers == {"SUCCESS": 17}
    assert (model.in_time, model.counts.kept_promises, model.counts.rows, model.counts.pending) == (17, 17, 17, 0)
    assert statuses(cluster) == {Status.SUCCESS: 17}


# --- a difference ----------------------------------------------------------------------------------------------------


@every_batching_scheduler
def test_a_model_whose_outputs_differ_is_no_longer_batched(scheduler: Callable[[], Scheduler]) -> None:
    cluster = cluster_of(scheduler())
    cluster.differs = lambda command: WRONG
    burst(cluster, 2)
    before = len(batches(cluster))
    for turn in range(3):
        burst(cluster, 6 + 4 * turn)
    assert len(batches(cluster)) == before
    assert statuses(cluster) == {Status.SUCCESS: 17}
    assert cluster.reports("ERROR") == [f"model a is no longer batched: {REASON}"]
    model = status(cluster)
    assert model.unbatched == REASON
    assert model.counts.checks == {"differed": 1, "skipped": 1}


@every_batching_scheduler
def test_a_request_that_the_model_refuses_alone_counts_as_a_difference(
    scheduler: Callable[[], Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of(scheduler())

    def refused(action: Action) -> ErrorResult | None:
        if action not in [send.action for send in checks_sent(cluster)]:
            return None
        return ErrorResult(action.id, "Infer", Status.INVALID_INPUT, "5 is not 3")

    monkeypatch.setattr(cluster.workers["w0"], "_injected", refused)
    burst(cluster, 2)
    model = status(cluster)
    assert model.unbatched == REASON.replace(WRONG, "the model refuses the request alone: 5 is not 3")
    assert model.counts.checks == {"differed": 1, "skipped": 1}
    assert statuses(cluster) == {Status.SUCCESS: 5}


@every_batching_scheduler
def test_a_request_of_several_rows_is_served_as_before(scheduler: Callable[[], Scheduler]) -> None:
    cluster = cluster_of(scheduler())
    cluster.differs = lambda command: WRONG
    burst(cluster, 2)
    ask(cluster, 20, 21, rows=2)
    cluster.run_until(cluster.now + seconds(1))
    assert statuses(cluster) == {Status.SUCCESS: 7}
    assert [send.payloads for send in infers(cluster)][-2:] == [("in-20",), ("in-21",)]
    ask(cluster, 22, rows=3)
    refused = cluster.answer(22)
    assert isinstance(refused, InferResponse)
    assert refused.message == "request has 3 rows; model a takes 1 to 2 rows in one request"


@every_batching_scheduler
def test_a_batch_under_way_when_batching_stops_is_not_delivered(scheduler: Callable[[], Scheduler]) -> None:
    cluster = cluster_of(scheduler())
    compared: list[CompareOutputs] = []
    cluster.differs = compared.append
    burst(cluster, 2)
    (command,) = compared
    before = len(batches(cluster))
    ask(cluster, 6, 7, 8, 9)
    while len(batches(cluster)) == before:
        cluster.run_until(cluster.now + ms(1))
    cluster.feed(OutputsCompared(command.check_id, WRONG))
    in_batch = batches(cluster)[before]
    cluster.run_until(cluster.now + seconds(1))
    assert len(batches(cluster)) == before + 1
    for payload in in_batch:
        number = int(str(payload).removeprefix("in-"))
        answer = cluster.answer(number)
        assert isinstance(answer, InferResponse)
        again = [send.payloads for send in infers(cluster) if payload in send.payloads][1:]
        if scheduler is ClockworkScheduler:  # it retries failed requests
            assert (answer.status, again) == (Status.SUCCESS, [(payload,)])
        else:
            assert (answer.status, again) == (Status.ERROR, [])
            assert answer.message == (
                "the request was in a batch when the model was found to give other outputs in batches; retry it"
            )
    cluster.check_all_answered()


@every_batching_scheduler
@pytest.mark.parametrize("planned_before", [False, True])
def test_requests_of_any_number_of_rows_are_executed_apart(
    scheduler: Callable[[], Scheduler], planned_before: bool
) -> None:
    larger = ProfilingConfig(max_batch_size=4, warmups=1, min_samples=1, max_samples=1)
    cluster = serving(scheduler(), FILES, config=config(None, larger))
    if planned_before:
        burst(cluster, 100)
    before = len(infers(cluster))
    cluster.state.models["a"].stop_batching("it is known to differ")
    rows = (1, 3, 1, 1, 2, 1, 4, 3, 1, 1)
    for number, count in enumerate(rows):
        ask(cluster, number, rows=count)
    cluster.run_until(cluster.now + seconds(1))
    assert len(infers(cluster)) == before + len(rows)
    assert set(statuses(cluster)) == {Status.SUCCESS}


def test_the_plan_accounts_for_requests_that_are_executed_apart() -> None:
    larger = ProfilingConfig(max_batch_size=4, warmups=1, min_samples=1, max_samples=1)
    cluster = serving(ClockworkScheduler(), FILES, config=config(None, larger))
    cluster.state.models["a"].stop_batching("it is known to differ")
    ask(cluster, 1)  # loads the weights
    cluster.run_until(cluster.now + seconds(1))
    ask(cluster, 2, 3, 4, 5, 6, 7, slo=ms(22))  # 3 ms each; a batch of four would take 6 ms
    cluster.run_until(cluster.now + seconds(1))
    assert statuses(cluster) == {Status.SUCCESS: 7}


def test_promises_are_kept_when_the_model_is_not_batched() -> None:
    cluster = cluster_of(ClockworkScheduler())
    cluster.differs = lambda command: WRONG
    burst(cluster, 2)
    for turn in range(20):
        ask(cluster, *range(10 + 6 * turn, 16 + 6 * turn), slo=ms(15))
        cluster.run_until(cluster.now + ms(10))
    cluster.run_until(cluster.now + seconds(1))
    model = status(cluster)
    assert model.broken_promises == 0
    assert model.late == 0
    assert model.refused > 20
    assert model.counts.kept_promises > 40


def test_requests_that_a_scheduler_batches_nevertheless_are_executed_apart() -> None:
    scheduler = Waits()
    cluster = cluster_of(scheduler)
    cluster.differs = lambda command: WRONG
    a_pair(cluster, scheduler, 2)
    scheduler.open = True
    ask(cluster, 4)
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster).unbatched
    scheduler.open = False
    ask(cluster, 6, 7)
    scheduler.send(cluster.now)
    (queued,) = cluster.state.actions
    assert isinstance(queued.action, Infer)
    assert (len(queued.action.inputs), queued.action.apart) == (2, True)


def test_copies_of_the_content_are_not_batched_and_other_models_are() -> None:
    files = {"a.onnx": File(), "b.onnx": File(digest="other")}
    models = (LoadSpec("a.onnx", no_of_copies=2), LoadSpec("b.onnx"))
    cluster = Cluster(FifoScheduler(), replace(config(VerifyingConfig(0.0)), models=models))
    cluster.connect(FakeWorker("w0", files))
    cluster.run_until(seconds(5))
    cluster.differs = lambda command: WRONG
    for number in range(1, 5):
        cluster.ask(infer_request(number, "a-1", slo=seconds(1)), payload=f"in-{number}")
    cluster.run_until(cluster.now + seconds(1))
    assert {name: bool(model.unbatched) for name, model in cluster.state.models.items()} == {
        "a-1": True,
        "a-2": True,
        "b": False,
    }
    assert cluster.reports("ERROR") == [f"model a-1 and 1 copies is no longer batched: {REASON}"]


def test_a_difference_is_stored_with_the_profile() -> None:
    cluster = cluster_of(FifoScheduler())
    cluster.differs = lambda command: WRONG
    burst(cluster, 2)
    saved = cluster.saved()[-1]
    assert saved.profile.unbatched == REASON
    assert saved.profile == cluster.state.models["a"].profiles["gpu"]

    again = Cluster(FifoScheduler(), config(VerifyingConfig(0.0)), {saved.key: saved.profile})
    again.connect(FakeWorker("w0", FILES))
    again.run_until(seconds(5))
    burst(again, 2)
    assert batches(again) == []
    assert status(again).unbatched == REASON

    larger = ProfilingConfig(max_batch_size=4, warmups=1, min_samples=1, max_samples=1)
    measured = Cluster(FifoScheduler(), config(None, larger), {saved.key: saved.profile})
    measured.connect(FakeWorker("w0", FILES))
    measured.run_until(seconds(5))
    assert [saved.profile.unbatched for saved in measured.saved()] == [REASON]
    burst(measured, 2)
    assert batches(measured) == []


def test_outputs_that_cannot_be_compared_do_not_count_as_a_difference() -> None:
    cluster = cluster_of(FifoScheduler())
    compared: list[CompareOutputs] = []
    cluster.differs = compared.append
    burst(cluster, 2)
    cluster.feed(OutputsCompared(compared[-1].check_id, error="there is no such type"))
    assert cluster.reports("WARNING")[-1] == "a batch of a could not be checked: there is no such type"
    assert status(cluster).counts.checks == {"skipped": 1}
    assert not status(cluster).unbatched


def test_a_comparison_of_no_check_under_way_is_reported() -> None:
    cluster = cluster_of(FifoScheduler())
    cluster.feed(OutputsCompared(7, WRONG))
    assert not status(cluster).unbatched
    (report,) = cluster.reports("WARNING")
    assert report.startswith("the host compared outputs of no check under way: ")
