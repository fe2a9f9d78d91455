"""Shadows: which live requests are copied, when copies are executed, how they are compared, and when a shadow ends."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import ControlMode, LoadSpec, ShadowingConfig, ShadowSpec
from clockwork.controller.events import CompareShadow, Drain, Drained, Report, SaveModels, ShadowCompared
from clockwork.controller.stage import Stage
from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.requests import (
    EvictRequest,
    InferResponse,
    LoadModelRequest,
    ModelStatus,
    ModelVersion,
    PromoteRequest,
    ShadowRequest,
    ShadowResponse,
    StatusRequest,
    StatusResponse,
    UnloadModelRequest,
)
from clockwork.messages.shadows import OutputComparison, ShadowStatus
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.edf import EdfScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.scheduling.registry import make_scheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, Sent, quick_config
from fake_worker import FakeWorker, File

FILES = {
    "a/1": File(version="1"),
    "a/2": File(version="2", infer=ms(4)),
    "a/3": File(version="3", infer=ms(5)),
    "a/4": File(version="4", inputs=(TensorInfo("z", "FP32", (-1, 3)),)),
    "a/5": File(version="5", digest="other", infer=ms(4)),
    "b/1": File(version="1"),
    "c/1": File(version="1"),
}
ALL = ShadowSpec("2", 1.0)
SCHEDULERS: tuple[Callable[[], Scheduler], ...] = (ClockworkScheduler, FifoScheduler, EdfScheduler)

every_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)


def cluster_of(
    *models: str,
    shadows: dict[str, ShadowSpec] | None = None,
    scheduler: Scheduler | None = None,
    pages: int = 4,
    workers: int = 1,
    control: ControlMode = ControlMode.EXPLICIT,
    **settings: Any,
) -> Cluster:
    """A cluster that serves ``models`` with a shadow of the model ``a``."""
    shadows = {"a": ALL} if shadows is None else shadows
    named = tuple(LoadSpec(path, path[0], version=path[2:]) for path in models or ("a/1", "a/2"))
    config = quick_config(workers=workers, models=named, control=control, shadows=shadows, verifying=None, **settings)
    cluster = Cluster(scheduler or make_scheduler("clockwork"), config)
    for i in range(workers):
        cluster.connect(FakeWorker(f"w{i}", FILES, pages=pages))
    cluster.run_until(seconds(2))
    assert cluster.stage is Stage.SERVING
    return cluster


def ask(cluster: Cluster, *numbers: int, version: str = "", slo: Nanos = seconds(1), name: str = "a") -> None:
    """Send requests with different payloads at once, and let a second pass."""
    for number in numbers:
        cluster.ask(replace(infer_request(number, name, slo=slo), version=version), payload=f"in-{number}")
    cluster.run_until(cluster.now + seconds(1))


def server(cluster: Cluster) -> StatusResponse:
    number = 100_000 + len(cluster.asked)
    cluster.ask(StatusRequest(number))
    answer = cluster.answer(number)
    assert isinstance(answer, StatusResponse)
    return answer


def shadow(cluster: Cluster) -> ShadowStatus:
    (found,) = server(cluster).server.shadows
    return found


def model(cluster: Cluster, version: str) -> ModelStatus:
    return next(each for each in server(cluster).server.models if each.info.version == version)


def change(cluster: Cluster, number: int, name: str = "a", version: str = "", share: float = 1.0) -> tuple[int, str]:
    cluster.ask(ShadowRequest(number, name, version, share))
    answer = cluster.answer(number)
    assert isinstance(answer, ShadowResponse)
    return answer.status, answer.message


def load(cluster: Cluster, number: int, path: str, *, keep: bool = True, version: str = "") -> None:
    versions = (ModelVersion(version or path[2:], path),)
    cluster.ask(LoadModelRequest(number, path, path[0], versions=versions, keep=keep))
    cluster.run_until(cluster.now + seconds(2))
    answer = cluster.answer(number)
    assert answer is not None
    assert answer.status == Status.SUCCESS  # type: ignore[union-attr]


def executed(cluster: Cluster, key: str) -> list[Sent[Infer]]:
    """The Infers of a model that were sent for clients or for copies."""
    found = [send for send in cluster.actions(Infer) if send.action.model == key]
    return [send for send in found if send.payloads and None not in send.payloads]


def copies(cluster: Cluster, key: str = "a/2") -> list[object]:
    """The payloads that a version has executed."""
    return [payload for send in executed(cluster, key) for payload in send.payloads]


def reports(cluster: Cluster, event: str) -> list[str]:
    return [c.text for _, c in cluster.said if isinstance(c, Report) and c.event == event]


def versions_of(cluster: Cluster, *numbers: int) -> list[str]:
    answers = [cluster.answer(number) for number in numbers]
    return [answer.version for answer in answers if isinstance(answer, InferResponse) and answer.status == 0]


# --- what is copied ---------------------------------------------------------------------------------------------------


@every_scheduler
def test_a_copy_of_each_live_request_is_executed_by_the_shadow_and_compared(scheduler: Callable[[], Scheduler]) -> None:
    cluster = cluster_of(scheduler=scheduler())
    ask(cluster, 1, 2, 3)
    assert versions_of(cluster, 1, 2, 3) == ["1", "1", "1"]
    assert sorted(map(str, copies(cluster))) == ["in-1", "in-2", "in-3"]
    found = shadow(cluster)
    assert (found.name, found.version, found.share, found.state, found.reason) == ("a", "2", 1.0, "running", "")
    assert (found.copied, found.compared, found.equal, found.failed, found.dropped) == (3, 3, 3, 0, 0)
    cluster.check_all_answered()
    cluster.check_rest()


def test_the_outputs_of_the_live_request_and_of_its_copy_are_compared() -> None:
    cluster = cluster_of()
    ask(cluster, 1)
    (compare,) = [command for _, command in cluster.said if isinstance(command, CompareShadow)]
    live = executed(cluster, "a")[0].action.inputs[0].request_id
    assert (compare.live_payload, compare.copy_payload) == (f"output-{live}", f"output-{compare.check_id}")
    assert compare.live == compare.copy
    assert compare.live


@pytest.mark.parametrize(("share", "expected"), [(0.25, [4, 8, 12, 16]), (0.5, list(range(2, 21, 2))), (0.05, [20])])
def test_the_share_of_the_requests_is_chosen_by_counting(share: float, expected: list[int]) -> None:
    cluster = cluster_of(shadows={"a": ShadowSpec("2", share)})
    for number in range(1, 18 if share == 0.25 else 21):
        ask(cluster, number)
    assert copies(cluster) == [f"in-{number}" for number in expected]


def test_requests_for_the_shadow_itself_or_for_other_models_are_not_copied() -> None:
    cluster = cluster_of("a/1", "a/2", "b/1")
    ask(cluster, 1, version="2")
    ask(cluster, 2, name="b")
    assert shadow(cluster).copied == 0
    ask(cluster, 3, version="1")
    assert shadow(cluster).copied == 1


def test_requests_that_get_no_outputs_are_not_copied() -> None:
    cluster = cluster_of()
    ask(cluster, 1, slo=ms(1))
    ask(cluster, 2)
    assert copies(cluster) == ["in-2"]


def test_copies_count_neither_as_requests_nor_as_demand() -> None:
    cluster = cluster_of()
    ask(cluster, 1, 2, 3)
    found = model(cluster, "2")
    assert (found.in_time, found.counts.batches, found.counts.pending, found.demand) == (0, 0, 0, ())
    scheduler = cluster.controller._scheduler
    assert isinstance(scheduler, ClockworkScheduler)
    assert scheduler._demand.last("a") is not None
    measured = scheduler._demand.last("a/2")
    ask(cluster, 4)
    assert scheduler._demand.last("a/2") == measured


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_comparisons_are_added_up_and_each_kind_of_mismatch_is_logged_once() -> None:
    cluster = cluster_of()
    found = iter(
        [
            ShadowCompared(0, (OutputComparison("y", "FP32", 1, 0, 0.5, 2, 2),)),
            ShadowCompared(0, (OutputComparison("y", "FP32", 1, 0, 0.25, 2, 1),), {"argmax": "output 'y': no"}),
            ShadowCompared(0, (OutputComparison("y", "FP32", 1, 1, 0.0, 2, 2),)),
            ShadowCompared(0, (), {"argmax": "again", "shape": "output 'y': the shape is [1] instead of [2]"}),
        ]
    )
    cluster.compares = lambda command: replace(next(found), check_id=command.check_id)
    for number in range(1, 5):
        ask(cluster, number)
    status = shadow(cluster)
    assert (status.compared, status.equal) == (4, 1)
    assert status.outputs == (OutputComparison("y", "FP32", 3, 1, 0.5, 6, 5),)
    assert status.mismatches == {"argmax": 2, "shape": 1}
    assert reports(cluster, "shadow_mismatch") == [
        "shadow version 2 of a differs from the live version for the first time; later mismatches of the kind argmax "
        "are only counted: output 'y': no",
        "shadow version 2 of a differs from the live version for the first time; later mismatches of the kind shape "
        "are only counted: output 'y': the shape is [1] instead of [2]",
    ]


def test_a_request_that_the_shadow_does_not_accept_counts_as_failed() -> None:
    cluster = cluster_of("a/1", "a/4", shadows={"a": ShadowSpec("4", 1.0)})
    ask(cluster, 1, 2)
    status = shadow(cluster)
    assert (status.copied, status.failed, status.compared) == (2, 2, 0)
    assert status.last_failure == "input 'x' is unknown; model a takes z FP32[-1,3]"
    assert len(reports(cluster, "shadow_failed")) == 1


def test_outputs_that_cannot_be_compared_count_as_failed() -> None:
    cluster = cluster_of()
    cluster.compares = lambda command: ShadowCompared(command.check_id, error="too short")
    ask(cluster, 1)
    assert shadow(cluster).last_failure == "outputs could not be compared: too short"


# --- idle time only ---------------------------------------------------------------------------------------------------


@every_scheduler
def test_no_copy_begins_while_a_request_waits_and_no_promise_is_broken(scheduler: Callable[[], Scheduler]) -> None:
    cluster = cluster_of(scheduler=scheduler())
    asked_at: dict[int, Nanos] = {}
    for number in range(1, 301):  # twice as many as the device can execute, with a pause after each 25
        cluster.ask(infer_request(number, slo=ms(30)), payload=f"in-{number}")
        asked_at[number] = cluster.now
        cluster.run_until(cluster.now + (ms(100) if number % 25 == 0 else ms(1)))
    cluster.run_until(cluster.now + seconds(1))
    status = shadow(cluster)
    assert status.compared > 10
    assert model(cluster, "1").broken_promises == 0
    answered_at = {c.response.id: at for at, c in cluster.said if hasattr(c, "response")}
    begun = [at for at, c in cluster.said if getattr(getattr(c, "action", None), "model", "") == "a/2"]
    for at in begun[-status.compared :]:
        assert not [number for number, since in asked_at.items() if since < at < answered_at[number]]
    cluster.check_all_answered()
    cluster.check_rest()


@pytest.mark.parametrize("slo", [ms(9), ms(10), ms(12), ms(14), ms(16), ms(18), ms(20), ms(25)])
def test_a_copy_that_takes_longer_than_estimated_breaks_no_promise(slo: Nanos) -> None:
    cluster = cluster_of()
    cluster.workers["w0"].disk = {**FILES, "a/2": File(version="2", infer=ms(5.7))}  # 4 ms were measured
    cluster.ask(infer_request(1, slo=seconds(1)), payload="in-1")
    while not copies(cluster):
        cluster.run_until(cluster.now + ms(1) // 10)
    for number in range(2, 14):
        cluster.ask(infer_request(number, slo=slo), payload=f"in-{number}")
    cluster.run_until(cluster.now + seconds(1))
    found = model(cluster, "1")
    assert found.broken_promises == 0
    assert slo < ms(12) or found.in_time > 1


@every_scheduler
def test_under_overload_no_copy_is_executed_and_verdicts_are_those_without_a_shadow(
    scheduler: Callable[[], Scheduler],
) -> None:
    def verdicts(shadows: dict[str, ShadowSpec]) -> tuple[Cluster, list[tuple[int, int]]]:
        cluster = cluster_of(scheduler=scheduler(), shadows=shadows)
        cluster.ask(PromoteRequest(9999, "a", "1"))
        for number in range(1, 201):
            cluster.ask(infer_request(number, slo=ms(30)), payload=f"in-{number}")
            cluster.run_until(cluster.now + ms(1))
        return cluster, [(c.id, c.status) for c in cluster.responses() if isinstance(c, InferResponse)]

    loaded, with_shadow = verdicts({"a": ALL})
    _, without = verdicts({})
    assert with_shadow == without
    assert copies(loaded) == []
    status = shadow(loaded)
    assert status.copied > 20
    assert status.copied == status.dropped + min(64, status.copied)  # 64 is the limit of the copies that wait
    assert model(loaded, "1").broken_promises == 0


class Holds(FifoScheduler):
    """Holds requests for the key ``a/2`` until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[PendingRequest] = []
        self.cancelled: list[PendingRequest] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.background:
            self.held.append(request)
            return []
        return super().infer(now, request)

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.background:
            self.cancelled.append(request)
            return []
        return super().cancel(now, request)


def test_a_copy_that_was_not_sent_is_withdrawn_for_a_request_and_begun_again() -> None:
    scheduler = Holds()
    cluster = cluster_of(scheduler=scheduler)
    ask(cluster, 1)
    (held,) = scheduler.held
    cluster.ask(infer_request(2, "a", slo=seconds(1)), payload="in-2")
    assert scheduler.cancelled == [held]
    assert held.over
    cluster.run_until(cluster.now + seconds(1))
    assert [request.payload for request in scheduler.held] == ["in-1", "in-1"]


def test_a_copy_that_is_not_executed_is_dropped_after_some_attempts() -> None:
    scheduler = Holds()
    cluster = cluster_of(scheduler=scheduler, shadowing=ShadowingConfig(attempts=2, slo=seconds(5)))
    ask(cluster, 1)
    cluster.run_until(cluster.now + seconds(60))
    assert len(scheduler.held) == 2
    assert (shadow(cluster).dropped, model(cluster, "2").late) == (1, 0)


def test_no_copy_begins_if_live_requests_have_less_time_to_spare_than_it_takes() -> None:
    cluster = cluster_of()
    ask(cluster, 1, slo=ms(10))  # 7 ms to spare; a copy takes 4 ms
    assert versions_of(cluster, 1) == ["1"]
    assert copies(cluster) == []
    assert shadow(cluster).reason == "a copy takes 4 ms, and live requests have only 7 ms to spare"
    cluster.run_until(cluster.now + seconds(21))
    ask(cluster, 2, slo=ms(20))
    assert copies(cluster) == ["in-1", "in-2"]


def test_a_copy_evicts_no_weights() -> None:
    cluster = cluster_of("a/1", "a/2", "b/1", pages=2)
    for number in range(1, 20):
        ask(cluster, number, name="ab"[number % 2])
    before = len(cluster.actions(EvictWeights)) + len(cluster.actions(LoadWeights))
    assert shadow(cluster).reason == "its weights are on no device, and not every device has free memory for them"
    for number in range(20, 40):
        ask(cluster, number, name="ab"[number % 2])
    assert len(cluster.actions(EvictWeights)) + len(cluster.actions(LoadWeights)) == before
    assert copies(cluster) == []


def test_copies_do_not_keep_the_weights_of_their_version_on_a_device() -> None:
    cluster = cluster_of("a/1", "a/2", "b/1", pages=3)
    ask(cluster, 1, name="b")
    for number in range(2, 12):
        ask(cluster, number)
    assert len(copies(cluster)) == 10
    before = len(cluster.actions(EvictWeights))
    load(cluster, 12, "c/1")
    assert [send.action.model for send in cluster.actions(EvictWeights)[before:]] == ["a/2"]


def test_a_copy_loads_weights_into_free_memory_if_the_scheduler_does_not() -> None:
    cluster = cluster_of(scheduler=FifoScheduler())
    cluster.ask(EvictRequest(1, "a", "2"))
    ask(cluster, 2)
    assert copies(cluster) == ["in-2"]


def test_copies_beyond_the_limits_are_dropped_and_counted() -> None:
    for limits in (ShadowingConfig(max_waiting=3), ShadowingConfig(max_bytes=100)):
        cluster = cluster_of(shadowing=limits)
        for number in range(1, 11):
            cluster.ask(infer_request(number, slo=seconds(1)), payload=f"in-{number}")
        cluster.run_until(cluster.now + seconds(1))
        status = shadow(cluster)
        assert status.copied == 10
        assert status.dropped + status.compared == 10
        assert 0 < status.compared <= 5
        cluster.controller.check_invariants()


def test_a_drain_does_not_wait_for_copies() -> None:
    cluster = cluster_of()
    for number in range(1, 6):
        cluster.ask(infer_request(number, slo=seconds(1)), payload=f"in-{number}")
    while not copies(cluster):
        cluster.run_until(cluster.now + ms(1))
    cluster.feed(Drain(seconds(10)))
    assert [command for _, command in cluster.said if isinstance(command, Drained)] == [Drained(0)]
    cluster.run_until(cluster.now + seconds(1))
    assert len(copies(cluster)) == 1


# --- the life of a shadow ---------------------------------------------------------------------------------------------


def test_a_shadow_waits_for_its_version_and_keeps_no_copy_meanwhile() -> None:
    cluster = cluster_of("a/1")
    ask(cluster, 1)
    status = shadow(cluster)
    assert (status.state, status.reason, status.copied) == ("waiting", "version 2 is not ready", 0)
    load(cluster, 2, "a/2")
    ask(cluster, 3)
    assert versions_of(cluster, 3) == ["1"]
    assert (shadow(cluster).state, copies(cluster)) == ("running", ["in-3"])
    assert reports(cluster, "shadow_begun") == [
        "shadow version 2 of a executes copies of live requests; its share is 1"
    ]


def test_at_the_start_the_shadow_does_not_become_the_default_version() -> None:
    for control in ControlMode:
        cluster = cluster_of("a/1", "a/2", "a/3", shadows={"a": ShadowSpec("3", 1.0)}, control=control)
        ask(cluster, 1)
        assert versions_of(cluster, 1) == ["2"]
        assert reports(cluster, "model_promoted") == [
            "the default version of a is version 2, because version 3 is a shadow"
        ]


def test_a_shadow_whose_version_is_the_only_one_waits() -> None:
    cluster = cluster_of("a/2")
    assert (shadow(cluster).state, shadow(cluster).reason) == ("waiting", "version 2 is the default version")
    ask(cluster, 1)
    assert versions_of(cluster, 1) == ["2"]


def test_unloading_the_version_ends_the_shadow() -> None:
    cluster = cluster_of()
    ask(cluster, 1, 2)
    cluster.ask(UnloadModelRequest(3, "a", "2"))
    cluster.run_until(cluster.now + seconds(1))
    status = shadow(cluster)
    assert (status.state, status.reason, status.compared) == ("ended", "version 2 was unloaded", 2)
    assert reports(cluster, "shadow_ended") == [
        "shadow version 2 of a ended, because version 2 was unloaded; 2 copies compared, 2 equal, 0 failed, 0 dropped"
    ]
    ask(cluster, 4)
    assert shadow(cluster).copied == 2
    cluster.ask(UnloadModelRequest(5, "a"))
    cluster.run_until(cluster.now + seconds(1))
    assert server(cluster).server.shadows == ()


def test_promoting_the_version_ends_the_shadow() -> None:
    cluster = cluster_of()
    cluster.ask(PromoteRequest(1, "a", "2"))
    assert (shadow(cluster).state, shadow(cluster).reason) == ("ended", "version 2 became the default version")
    ask(cluster, 2)
    assert versions_of(cluster, 2) == ["2"]
    cluster.ask(PromoteRequest(3, "a", "1"))
    ask(cluster, 4)
    assert (shadow(cluster).state, shadow(cluster).copied) == ("ended", 0)


def test_unloading_all_other_versions_ends_the_shadow() -> None:
    cluster = cluster_of()
    cluster.ask(UnloadModelRequest(1, "a", "1"))
    cluster.run_until(cluster.now + seconds(1))
    assert shadow(cluster).reason == "version 2 became the default version"


def test_unloading_while_a_copy_is_executed_waits_for_the_copy() -> None:
    cluster = cluster_of()
    cluster.ask(infer_request(1, slo=seconds(1)), payload="in-1")
    while not copies(cluster):
        cluster.run_until(cluster.now + ms(1))
    cluster.ask(UnloadModelRequest(2, "a", "2"))
    assert cluster.answer(2) is None
    cluster.run_until(cluster.now + seconds(1))
    answer = cluster.answer(2)
    assert answer is not None
    assert answer.status == Status.SUCCESS  # type: ignore[union-attr]
    cluster.check_rest()


def test_other_content_of_the_version_begins_the_comparison_again() -> None:
    cluster = cluster_of()
    ask(cluster, 1, 2)
    load(cluster, 3, "a/5", version="2")
    assert (shadow(cluster).state, shadow(cluster).copied) == ("running", 0)
    ask(cluster, 4)
    assert (shadow(cluster).copied, shadow(cluster).compared) == (1, 1)
    assert len(reports(cluster, "shadow_begun")) == 2


def test_the_loss_of_a_worker_that_executes_a_copy_ends_the_shadow() -> None:
    cluster = cluster_of(workers=2)
    cluster.ask(infer_request(1, slo=seconds(1)), payload="in-1")
    while not copies(cluster):
        cluster.run_until(cluster.now + ms(1))
    worker = executed(cluster, "a/2")[0].worker_id
    cluster.lose(worker)
    cluster.run_until(cluster.now + seconds(1))
    status = shadow(cluster)
    assert (status.state, status.failed) == ("ended", 1)
    assert status.reason == f"worker {worker} was lost while it executed a copy"
    assert len(copies(cluster)) == 1
    ask(cluster, 2)
    assert versions_of(cluster, 2) == ["1"]


# --- changes at run time ----------------------------------------------------------------------------------------------


def test_a_client_begins_replaces_and_ends_a_shadow() -> None:
    cluster = cluster_of("a/1", "a/2", "a/3", shadows={}, control=ControlMode.NONE)
    assert change(cluster, 1, version="2", share=0.5) == (Status.SUCCESS, "")
    assert (shadow(cluster).state, shadow(cluster).share) == ("running", 0.5)
    ask(cluster, 2, 3)
    assert versions_of(cluster, 2, 3) == ["3", "3"]
    assert shadow(cluster).copied == 1
    assert change(cluster, 4, version="1") == (Status.SUCCESS, "")
    assert (shadow(cluster).version, shadow(cluster).copied) == ("1", 0)
    assert change(cluster, 5) == (Status.SUCCESS, "")
    assert server(cluster).server.shadows == ()
    assert [text.split(";")[0] for text in reports(cluster, "shadow_ended")] == [
        "shadow version 2 of a ended, because another shadow replaces it",
        "shadow version 1 of a ended, because a client has ended it",
    ]


def test_a_shadow_may_be_begun_before_its_version_is_loaded() -> None:
    cluster = cluster_of("a/1", shadows={})
    assert change(cluster, 1, version="2") == (Status.SUCCESS, "")
    load(cluster, 2, "a/2")
    ask(cluster, 3)
    assert (versions_of(cluster, 3), copies(cluster)) == (["1"], ["in-3"])


def test_a_label_names_the_version_of_a_shadow() -> None:
    cluster = cluster_of(shadows={})
    cluster.ask(PromoteRequest(1, "a", "1", "old"))
    assert change(cluster, 2, version="old") == (Status.SUCCESS, "")
    assert shadow(cluster).version == "1"


@pytest.mark.parametrize(
    ("name", "version", "share", "status", "message"),
    [
        ("nobody", "2", 1.0, Status.UNKNOWN_MODEL, "model 'nobody' is unknown; served models: a"),
        ("a", "7", 1.0, Status.INVALID_REQUEST, "model 'a' has no version '7'; served versions: 1, 2"),
        ("a", "2", 1.0, Status.INVALID_REQUEST, "version 2 is the default version of model 'a'; promote another"),
        ("a", "1", 0.0, Status.INVALID_REQUEST, "share of a shadow is 0; it must be more than 0 and at most 1"),
        ("a", "1", 1.5, Status.INVALID_REQUEST, "share of a shadow is 1.5; it must be"),
        ("a", "1", float("nan"), Status.INVALID_REQUEST, "share of a shadow is nan; it must be"),
        ("a", "", 1.0, Status.INVALID_REQUEST, "model 'a' has no shadow"),
    ],
)
def test_a_wrong_shadow_is_refused(name: str, version: str, share: float, status: Status, message: str) -> None:
    cluster = cluster_of(shadows={}, control=ControlMode.NONE)
    found, text = change(cluster, 1, name, version, share)
    assert found == status
    assert text.startswith(message)
    assert server(cluster).server.shadows == ()


def test_a_shadow_is_refused_before_serving_and_while_draining() -> None:
    cluster = Cluster(make_scheduler("clockwork"), quick_config(models=(LoadSpec("a/1"),)))
    assert change(cluster, 1, version="1")[0] == Status.INITIALIZING
    cluster = cluster_of(shadows={})
    cluster.ask(infer_request(1, slo=seconds(1)))
    cluster.feed(Drain(seconds(10)))
    assert change(cluster, 2, version="1")[0] == Status.SHUTTING_DOWN


def test_shadows_are_stored_until_they_end() -> None:
    cluster = cluster_of("a/1", "a/2", shadows={}, saves_models=True)

    def stored() -> dict[str, ShadowSpec]:
        return [c.desired for _, c in cluster.said if isinstance(c, SaveModels)][-1].shadows

    cluster.ask(PromoteRequest(1, "a", "1"))
    change(cluster, 2, version="2", share=0.5)
    assert stored() == {"a": ShadowSpec("2", 0.5)}
    cluster.ask(PromoteRequest(3, "a", "2"))
    assert stored() == {}
