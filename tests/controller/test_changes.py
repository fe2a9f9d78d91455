"""Models are loaded, replaced and unloaded while the server serves."""

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import ControlMode, LoadSpec
from clockwork.controller.events import Drain
from clockwork.controller.stage import Stage
from clockwork.messages.actions import EvictWeights, Infer, LoadModelFromDisk, LoadWeights, UnloadModel
from clockwork.messages.requests import (
    EvictRequest,
    InferResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelVersion,
    PromoteRequest,
    PromoteResponse,
    StatusResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.results import TrialRun
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.registry import BUILT_IN, make_scheduler
from clockwork.state import ModelState
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

FILES = {
    "a/1": File(version="1"),
    "a/2": File(version="2", infer=ms(4)),
    "a/3": File(version="3", infer=ms(5)),
    "b/1": File(version="1", infer=ms(6)),
    "c/1": File(version="1"),
    "broken/1": File(version="1", largest_batch=0),
}


def a_cluster(scheduler: Scheduler | None = None, *models: str, workers: int = 1, pages: int = 4) -> Cluster:
    """A cluster that serves ``models`` and allows changes."""
    named = tuple(LoadSpec(path) for path in models)
    config = quick_config(workers=workers, models=named, control=ControlMode.EXPLICIT)
    cluster = Cluster(scheduler or make_scheduler("clockwork"), config)
    for i in range(workers):
        cluster.connect(FakeWorker(f"w{i}", FILES, pages=pages))
    cluster.run_until(seconds(2))
    assert cluster.stage is Stage.SERVING
    return cluster


def load(cluster: Cluster, number: int, name: str, *numbers: str, keep: bool = False, wait: bool = True) -> None:
    versions = tuple(ModelVersion(version, f"{name}/{version}") for version in numbers)
    cluster.ask(LoadModelRequest(number, name, name, versions=versions, keep=keep, wait=wait))


def status(cluster: Cluster, number: int) -> int:
    answer = cluster.answer(number)
    assert answer is not None, number
    assert not isinstance(answer, StatusResponse)
    return answer.status


def infer(cluster: Cluster, number: int, name: str = "a", version: str = "") -> str:
    """Execute a request; return the path of the model that executed it, or the status of its refusal."""
    cluster.ask(replace(infer_request(number, name), version=version))
    cluster.run_until(cluster.now + ms(500))
    answer = cluster.answer(number)
    assert isinstance(answer, InferResponse)
    if answer.status != Status.SUCCESS:
        return Status(answer.status).name
    model = cluster.actions(Infer)[-1].action.model
    return cluster.workers["w0"].models[model].path


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_model_that_is_loaded_while_serving_is_measured_and_served(name: str) -> None:
    cluster = a_cluster(make_scheduler(name), "a/1")
    load(cluster, 1, "b", "1")
    assert cluster.answer(1) is None
    cluster.run_until(cluster.now + seconds(2))
    assert status(cluster, 1) == Status.SUCCESS
    cluster.ask(infer_request(2, "b"))
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 2) == Status.SUCCESS
    cluster.check_rest()


def test_a_server_without_models_serves_and_takes_loads() -> None:
    cluster = a_cluster()
    assert cluster.controller.is_ready()
    assert infer(cluster, 1) == "UNKNOWN_MODEL"
    load(cluster, 2, "a", "1")
    cluster.run_until(cluster.now + seconds(2))
    assert status(cluster, 2) == Status.SUCCESS
    assert infer(cluster, 3) == "a/1"


def test_a_model_that_is_not_ready_is_measured_before_the_larger_batches_of_others() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "b", "1")
    load(cluster, 2, "c", "1")
    while cluster.answer(2) is None:
        cluster.run_until(cluster.now + ms(1))
    assert [status(cluster, number) for number in (1, 2)] == [Status.SUCCESS] * 2
    assert [command.key.digest for command in cluster.saved()] == ["sha-a/1"]
    cluster.run_until(cluster.now + seconds(2))
    assert [command.key.digest for command in cluster.saved()] == ["sha-a/1", "sha-b/1", "sha-c/1"]


def test_requests_are_planned_with_the_times_measured_while_serving() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "b", "1")
    cluster.run_until(cluster.now + seconds(2))
    (saved,) = [command for command in cluster.saved() if command.key.digest == "sha-b/1"]
    assert saved.profile.infer[1].p99 == ms(6)
    assert saved.profile.batch_sizes == (1, 2)
    cluster.ask(infer_request(2, "b", slo=ms(5)))
    cluster.ask(infer_request(3, "b", slo=ms(30)))
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 2) == Status.CONTROLLER_COULD_NOT_START_IN_TIME
    assert status(cluster, 3) == Status.SUCCESS


def test_a_known_profile_makes_a_model_ready_without_a_measurement() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "b", "1")
    cluster.run_until(cluster.now + seconds(2))
    cluster.ask(UnloadModelRequest(2, "b"))
    cluster.run_until(cluster.now + seconds(1))
    infers = len(cluster.actions(Infer))
    load(cluster, 3, "b", "1")
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 3) == Status.SUCCESS
    assert len(cluster.actions(Infer)) == infers


def test_a_load_replaces_the_versions_of_its_name_in_one_event() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "2")
    number = 10
    while cluster.answer(1) is None:
        cluster.ask(infer_request(number))
        cluster.run_until(cluster.now + ms(7))
        number += 1
    assert number > 12
    cluster.run_until(cluster.now + ms(200))
    statuses = [status(cluster, asked) for asked in range(10, number)]
    assert statuses.count(Status.SUCCESS) >= len(statuses) - 1  # nothing is known of the first execution
    assert infer(cluster, 2) == "a/2"
    assert infer(cluster, 3, version="2") == "a/2"
    assert infer(cluster, 4, version="1") == "UNKNOWN_MODEL"
    cluster.run_until(cluster.now + seconds(1))
    assert [model.path for model in cluster.workers["w0"].models.values()] == ["a/2"]
    cluster.check_rest()


def test_requests_admitted_before_a_swap_finish_on_the_old_version() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "2")
    cluster.run_until(cluster.now + seconds(2))
    load(cluster, 2, "a", "1")  # its profile is known, so that the swap follows the load
    cluster.run_until(cluster.now + ms(4))
    for number in range(10, 30):
        cluster.ask(infer_request(number))
    cluster.run_until(cluster.now + ms(2))
    assert status(cluster, 2) == Status.SUCCESS
    cluster.run_until(cluster.now + seconds(1))
    assert {status(cluster, number) for number in range(10, 30)} == {Status.SUCCESS}
    assert not cluster.workers["w0"].contradictions
    assert infer(cluster, 3) == "a/1"


def test_a_load_that_fails_leaves_the_old_version_serving_and_says_why() -> None:
    cluster = a_cluster(None, "a/1")
    cluster.ask(LoadModelRequest(1, "missing", "a"))
    cluster.run_until(cluster.now + seconds(1))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.INVALID_REQUEST
    assert "there is no missing" in answer.message
    assert infer(cluster, 2) == "a/1"


def test_a_model_that_cannot_be_measured_is_unloaded_again() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "broken", "1")
    cluster.run_until(cluster.now + seconds(5))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.ERROR
    assert "could not be measured" in answer.message
    assert sorted(cluster.workers["w0"].models) == ["a"]
    assert infer(cluster, 2, "broken") == "UNKNOWN_MODEL"
    cluster.check_rest()


def test_several_versions_serve_side_by_side_and_the_highest_is_the_default() -> None:
    cluster = a_cluster()
    load(cluster, 1, "a", "1", "3")
    cluster.run_until(cluster.now + seconds(2))
    assert infer(cluster, 2) == "a/3"
    assert infer(cluster, 3, version="1") == "a/1"
    load(cluster, 4, "a", "2", keep=True)
    cluster.run_until(cluster.now + seconds(2))
    assert [infer(cluster, 5 + i, version=version) for i, version in enumerate("123")] == ["a/1", "a/2", "a/3"]


def test_a_version_is_promoted_and_labels_name_versions() -> None:
    cluster = a_cluster()
    load(cluster, 1, "a", "1", "2")
    cluster.run_until(cluster.now + seconds(2))
    cluster.ask(PromoteRequest(2, "a", "1"))
    assert infer(cluster, 3) == "a/1"
    cluster.ask(PromoteRequest(4, "a", "2", "canary"))
    assert infer(cluster, 5, version="canary") == "a/2"
    cluster.ask(PromoteRequest(6, "a", "7"))
    answer = cluster.answer(6)
    assert isinstance(answer, PromoteResponse)
    assert answer.message == "model 'a' has no version '7'; served versions: 1, 2"
    cluster.ask(UnloadModelRequest(7, "a", "1"))
    cluster.run_until(cluster.now + seconds(1))
    assert infer(cluster, 8) == "a/2"


def test_an_unload_finishes_admitted_requests_and_frees_the_device_and_the_host() -> None:
    cluster = a_cluster(None, "a/1", "b/1")
    for number in range(10):
        cluster.ask(infer_request(number))
    cluster.ask(UnloadModelRequest(20, "a"))
    cluster.ask(infer_request(21))
    assert status(cluster, 21) == Status.UNKNOWN_MODEL
    assert cluster.answer(20) is None
    cluster.run_until(cluster.now + seconds(1))
    assert {status(cluster, number) for number in range(10)} == {Status.SUCCESS}
    answer = cluster.answer(20)
    assert isinstance(answer, UnloadModelResponse)
    assert (answer.status, answer.versions) == (Status.SUCCESS, ("1",))
    assert sorted(cluster.workers["w0"].models) == ["b"]
    assert list(cluster.workers["w0"].gpus[0].weights) == ["b"]
    kinds = [type(send.action) for send in cluster.sent()]
    assert kinds.index(UnloadModel) > max(i for i, kind in enumerate(kinds) if kind is EvictWeights)
    cluster.check_rest()


def test_an_unloaded_model_leaves_no_state() -> None:
    cluster = a_cluster(None, "a/1")
    for number in range(5):
        load(cluster, 10 + number, "b", "1")
        cluster.run_until(cluster.now + seconds(2))
        cluster.ask(infer_request(20 + number, "b"))
        cluster.run_until(cluster.now + seconds(1))
        cluster.ask(UnloadModelRequest(30 + number, "b"))
        cluster.run_until(cluster.now + seconds(1))
        assert status(cluster, 20 + number) == Status.SUCCESS
    assert list(cluster.state.models) == ["a"]
    assert list(cluster.state.holders) == ["a"]
    serving = cluster.controller._serving
    assert list(serving.tally._counts) in ([], ["a"])


def test_loads_of_one_name_are_carried_out_in_order() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "2")
    load(cluster, 2, "a", "3")
    cluster.ask(UnloadModelRequest(3, "a"))
    load(cluster, 4, "a", "1")
    cluster.run_until(cluster.now + seconds(5))
    assert [status(cluster, number) for number in (1, 2, 3, 4)] == [Status.SUCCESS] * 4
    assert infer(cluster, 5) == "a/1"
    assert [model.path for model in cluster.workers["w0"].models.values()] == ["a/1"]


def test_a_load_of_the_same_content_changes_nothing() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "1")
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 1) == Status.SUCCESS
    assert list(cluster.workers["w0"].models) == ["a"]
    assert infer(cluster, 2) == "a/1"


def test_a_load_without_wait_is_answered_at_once() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "b", "1", wait=False)
    assert status(cluster, 1) == Status.SUCCESS
    assert infer(cluster, 2, "b") in ("UNKNOWN_MODEL", "b/1")
    cluster.run_until(cluster.now + seconds(2))
    assert infer(cluster, 3, "b") == "b/1"


def test_measurements_break_no_promise_of_a_busy_device() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "b", "1")
    number = 10
    while cluster.answer(1) is None or number < 300:
        cluster.ask(infer_request(number, slo=ms(30)))
        cluster.run_until(cluster.now + ms(6))
        number += 1
    cluster.run_until(cluster.now + seconds(1))
    answers = [cluster.answer(i) for i in range(10, number)]
    broken = [a for a in answers if isinstance(a, InferResponse) and a.admitted and a.status != Status.SUCCESS]
    refused = [a for a in answers if isinstance(a, InferResponse) and a.status != Status.SUCCESS]
    assert not broken
    assert len(refused) <= 3
    assert status(cluster, 1) == Status.SUCCESS


def test_a_load_goes_on_without_a_worker_that_is_lost() -> None:
    cluster = a_cluster(None, "a/1", workers=2)
    load(cluster, 1, "b", "1")
    cluster.lose("w1")
    cluster.run_until(cluster.now + seconds(2))
    assert status(cluster, 1) == Status.SUCCESS
    assert infer(cluster, 2, "b") == "b/1"


def test_a_load_fails_if_its_last_worker_is_lost() -> None:
    cluster = a_cluster(None, "a/1", workers=2)
    load(cluster, 1, "b", "1")
    cluster.lose("w0")
    cluster.lose("w1")
    cluster.run_until(cluster.now + seconds(2))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert "lost while it loaded" in answer.message


def test_a_worker_that_joins_gets_the_models_of_the_moment() -> None:
    cluster = a_cluster(None, "a/1", "b/1")
    cluster.ask(UnloadModelRequest(1, "b"))
    load(cluster, 2, "a", "2")
    cluster.run_until(cluster.now + seconds(2))
    stale = FakeWorker("w9", FILES, pages=4).hold("b/1", "b").hold("a/1", "a")
    cluster.connect(stale)
    cluster.run_until(cluster.now + seconds(2))
    assert sorted(model.path for model in stale.models.values()) == ["a/2"]
    cluster.check_rest()


def test_a_worker_of_a_new_kind_does_not_measure_models_that_are_unloaded_meanwhile() -> None:
    cluster = a_cluster(make_scheduler("clockwork"), "a/1", "b/1", "c/1")
    files = {f"{name}/1": File(version="1", infer=seconds(1)) for name in "abc"}
    cluster.connect(FakeWorker("w9", files, kind="new"))
    cluster.run_until(cluster.now + ms(500))
    (first,) = {send.action.model for send in cluster.actions(Infer, "w9")}
    others = sorted({"a", "b", "c"} - {first})
    for number, name in enumerate(others, 50):
        cluster.ask(UnloadModelRequest(number, name))
    cluster.run_until(cluster.now + seconds(120))
    assert [status(cluster, number) for number in (50, 51)] == [Status.SUCCESS] * 2
    assert {send.action.model for send in cluster.actions(Infer, "w9")} == {first}
    assert cluster.workers["w9"].models.keys() == {first}
    assert not cluster.controller.joining


def test_a_worker_that_joins_after_one_copy_was_replaced_gets_the_other_copies() -> None:
    config = quick_config(models=(LoadSpec("b/1", "m", 3),), control=ControlMode.EXPLICIT)
    cluster = Cluster(make_scheduler("clockwork"), config)
    cluster.connect(FakeWorker("w0", FILES, pages=4))
    cluster.run_until(seconds(2))
    for number, path in ((1, "a/2"), (2, "a/3")):  # the second load must not take the name of the first copy
        cluster.ask(LoadModelRequest(number, path, "m-1", versions=(ModelVersion(str(number), path),)))
        cluster.run_until(cluster.now + seconds(2))
        assert status(cluster, number) == Status.SUCCESS
    joined = FakeWorker("w9", FILES, pages=4)
    cluster.connect(joined)
    cluster.run_until(cluster.now + seconds(2))
    assert sorted(model.path for model in joined.models.values()) == ["a/3", "b/1", "b/1"]
    assert "w9" in cluster.state.workers
    cluster.check_rest()


def test_an_eviction_of_a_replaced_model_evicts_the_version_that_serves() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "2")
    cluster.run_until(cluster.now + seconds(2))
    assert infer(cluster, 2) == "a/2"
    cluster.ask(EvictRequest(3, "a"))
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 3) == Status.SUCCESS
    assert len(cluster.actions(LoadWeights)) >= 2
    assert infer(cluster, 4) == "a/2"


def test_without_control_loads_and_unloads_are_refused_while_serving() -> None:
    cluster = Cluster(make_scheduler("clockwork"), quick_config(models=(LoadSpec("a/1"),)))
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(2))
    load(cluster, 1, "b", "1")
    cluster.ask(UnloadModelRequest(2, "a"))
    cluster.ask(PromoteRequest(3, "a", "1"))
    assert [status(cluster, number) for number in (1, 2, 3)] == [Status.INVALID_REQUEST] * 3
    assert len(cluster.actions(LoadModelFromDisk)) == 1


def test_a_drain_answers_the_clients_that_wait_for_a_change() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "b", "1")
    load(cluster, 2, "b", "1")
    cluster.feed(Drain(seconds(1)))
    assert [status(cluster, number) for number in (1, 2)] == [Status.SHUTTING_DOWN] * 2


def test_the_execution_at_the_load_bounds_the_first_measurement() -> None:
    cluster = a_cluster(None, "a/1")
    model = cluster.state.models["a"]
    measuring = cluster.controller._serving.own.measuring
    other = ModelState(replace(model.info, name="t", digest="t", trial=TrialRun(ms(5), 2)))
    measuring.add(other, ["gpu"])
    assert other.profiles["gpu"].infer[1].p99 == ms(15)
    assert other.profiles["gpu"].load_weights.p99 == 2 * model.profiles["gpu"].load_weights.p99
