"""The stage LOADING: the countdown, loads on all workers or on none, and their limits. Times are literal."""

from dataclasses import replace

import pytest

from builders import infer_request, model_info
from clockwork.controller.config import ControllerConfig, LoadSpec
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.events import WorkerLost, WorkerResult
from clockwork.controller.stage import Stage
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import LoadModelFromDisk, UnloadModel
from clockwork.messages.requests import ListModelsRequest, LoadModelResponse
from clockwork.messages.results import ErrorResult, LoadModelFromDiskResult, Result, Timing, UnloadModelResult
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

FILES = {
    **{f"{name}.onnx": File() for name in "abcdefghij"},
    "slow.onnx": File(disk=seconds(30)),
}

TOOK = Timing(0, 0, 0)


def loading(
    *, workers: int = 1, config: ControllerConfig | None = None, disks: tuple[dict[str, File], ...] = ()
) -> Cluster:
    """A controller that has been in LOADING since 0 s; worker ``w<i>`` has the i-th disk, or `FILES`."""
    cluster = Cluster(EchoScheduler(), config or quick_config(workers=workers))
    for i in range(workers):
        cluster.connect(FakeWorker(f"w{i}", disks[i] if i < len(disks) else FILES))
    cluster.run_until(0)
    assert cluster.stages()[0] == (0, "loading")
    return cluster


# --- the countdown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "ends"),
    [
        pytest.param([(0, "a.onnx")], seconds(10) + ms(5), id="starts when the first load is over"),
        pytest.param([(50, "a.onnx")], seconds(60) + ms(5), id="does not run before the first load"),
        pytest.param([(0, "a.onnx"), (9, "b.onnx")], seconds(19) + ms(5), id="is restarted by a load"),
        pytest.param(
            [(0, "a.onnx"), (9, "b.onnx"), (18, "c.onnx"), (27, "d.onnx")],
            seconds(37) + ms(5),
            id="is restarted by each load",
        ),
        pytest.param([(0, "slow.onnx")], seconds(40), id="does not run while a load is pending"),
        pytest.param([(0, "slow.onnx"), (1, "a.onnx")], seconds(40) + ms(5), id="stops while any load is pending"),
        pytest.param([(0, "a.onnx"), (9, "slow.onnx")], seconds(49), id="stops for a new load"),
        pytest.param([(0, "missing.onnx"), (2, "a.onnx")], seconds(12) + ms(5), id="is restarted after a failed load"),
        pytest.param([(0, "a.onnx"), (9, "missing.onnx")], seconds(19), id="is restarted by a failed load"),
        pytest.param([(0, "a.onnx"), (9, "a.onnx")], seconds(19) + ms(5), id="is restarted by a repeated load"),
        pytest.param([(0, "a.onnx"), (9, "")], seconds(19), id="is restarted by a refused load"),
    ],
)
def test_loading_ends_at_the_end_of_the_countdown(loads: list[tuple[int, str]], ends: Nanos) -> None:
    cluster = loading()
    for number, (at, path) in enumerate(loads):
        cluster.run_until(seconds(at))
        cluster.load(path, number)
    cluster.run_until(ends - 1)
    assert cluster.stage is Stage.LOADING
    cluster.run_until(ends)
    assert cluster.stages()[1] == (ends, "profiling")


def test_the_countdown_never_starts_without_a_load() -> None:
    cluster = loading()
    cluster.ask(infer_request(1))
    cluster.ask(ListModelsRequest(2))
    cluster.run_until(seconds(10))
    assert cluster.controller.next_wakeup() is None
    cluster.run_until(seconds(3600))
    assert cluster.stage is Stage.LOADING


def test_other_requests_do_not_restart_the_countdown() -> None:
    cluster = loading()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(9))
    cluster.ask(infer_request(2))
    cluster.ask(ListModelsRequest(3))
    cluster.run_until(seconds(11))
    assert cluster.stages()[1] == (seconds(10) + ms(5), "profiling")


def test_the_operator_sets_the_length_of_the_countdown() -> None:
    cluster = loading(config=quick_config(load_timeout=seconds(2)))
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(3))
    assert cluster.stages()[1] == (seconds(2) + ms(5), "profiling")


def test_a_load_that_arrives_before_a_late_wake_is_accepted() -> None:
    cluster = loading()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(10))
    cluster.now = seconds(12)  # the controller was not woken at 10.005 s
    cluster.load("b.onnx", id=2)
    cluster.run_until(seconds(30))
    assert cluster.answer(2) == LoadModelResponse(2, Status.SUCCESS, "", ("b",))
    assert cluster.stages()[1] == (seconds(22) + ms(5), "profiling")


# --- named by the operator -------------------------------------------------------------------------------------------


def test_loading_ends_when_the_models_named_by_the_operator_are_loaded() -> None:
    named = (LoadSpec("a.onnx"), LoadSpec("b.onnx", "x", 2))
    cluster = loading(config=quick_config(models=named))
    cluster.run_until(seconds(1))
    assert cluster.stages()[1] == (ms(10), "profiling")
    assert sorted(cluster.state.models) == ["a", "x-1", "x-2"]


def test_the_controller_gives_up_if_a_named_model_cannot_be_loaded() -> None:
    cluster = loading(config=quick_config(models=(LoadSpec("missing.onnx"),)))
    cluster.run_until(seconds(1))
    assert cluster.gave_up() == ["cannot serve missing: it could not be loaded: worker w0: there is no missing.onnx"]
    assert [stage for _, stage in cluster.stages()] == ["loading"]


def test_a_countdown_that_ends_without_a_model_leaves_the_stage_loading_and_the_next_load_is_taken() -> None:
    cluster = loading()
    cluster.load("missing.onnx", id=1)
    cluster.run_until(seconds(3600))
    assert cluster.stage is Stage.LOADING
    assert not cluster.controller.is_ready()
    assert cluster.controller.next_wakeup() is None
    assert cluster.reports("WARNING") == [
        "no model is loaded; the server stays in stage loading; load a model with: clockwork load PATH"
    ]
    cluster.load("a.onnx", id=2)
    cluster.run_until(seconds(3611))
    assert cluster.answer(2) == LoadModelResponse(2, Status.SUCCESS, "", ("a",))
    assert cluster.stages()[1] == (seconds(3610) + ms(5), "profiling")


def test_the_other_models_are_served_if_a_named_model_cannot_be_loaded() -> None:
    named = (LoadSpec("missing.onnx", "m", 2), LoadSpec("a.onnx"))
    cluster = loading(config=quick_config(models=named))
    cluster.run_until(seconds(30))
    assert cluster.stage is Stage.SERVING
    assert sorted(cluster.state.models) == ["a"]
    assert not cluster.gave_up()
    why = "it could not be loaded: worker w0: there is no missing.onnx"
    assert cluster.controller.description(cluster.now).server().broken == {"m-1": why, "m-2": why}
    assert not cluster.controller.is_ready("m-1")
    assert cluster.reports("WARNING") == ["1 of 3 models are served; not served: m-1, m-2"]


def test_with_strict_one_named_model_that_cannot_be_loaded_ends_the_start() -> None:
    named = (LoadSpec("missing.onnx"), LoadSpec("a.onnx"))
    cluster = loading(config=quick_config(models=named, strict=True))
    cluster.run_until(seconds(30))
    assert cluster.gave_up() == ["cannot serve missing: it could not be loaded: worker w0: there is no missing.onnx"]
    assert [stage for _, stage in cluster.stages()] == ["loading"]


def test_named_models_whose_worker_is_lost_are_loaded_again_one_at_a_time() -> None:
    named = (LoadSpec("a.onnx"), LoadSpec("slow.onnx"), LoadSpec("b.onnx"))
    cluster = loading(config=quick_config(models=named))
    back = cluster.lose("w0")
    cluster.run_until(seconds(1))
    back.models.clear()
    cluster.connect(back)
    outstanding = [send.action.name for send in cluster.actions(LoadModelFromDisk)]
    assert outstanding == ["a", "slow", "b"]
    cluster.run_until(seconds(1) + ms(1))
    assert [send.action.name for send in cluster.actions(LoadModelFromDisk)][3:] == ["a"]
    cluster.run_until(seconds(2))
    assert [send.action.name for send in cluster.actions(LoadModelFromDisk)][3:] == ["a", "slow"]
    back = cluster.lose("w0")  # the model slow has killed its worker twice
    back.models.clear()
    cluster.connect(back)
    cluster.run_until(seconds(60))
    assert cluster.stage is Stage.SERVING
    assert sorted(cluster.state.models) == ["a", "b"]
    why = "it could not be loaded: worker w0: it was lost while it loaded the model"
    assert cluster.controller.description(cluster.now).server().broken == {"slow": why}


def test_with_named_models_there_is_no_countdown() -> None:
    cluster = loading(config=quick_config(models=(LoadSpec("slow.onnx"),)))
    cluster.load("a.onnx", id=1)
    mute = FakeWorker("w1", FILES)
    mute.silent = {"GetWorkerState"}
    cluster.run_until(seconds(29))
    cluster.connect(mute)  # delays the end of the stage
    cluster.run_until(seconds(60))
    assert cluster.stage is Stage.LOADING
    assert cluster.controller.next_wakeup() == seconds(29 + 60)  # when the mute worker is dropped


@pytest.mark.parametrize("spec", [LoadSpec(""), LoadSpec("a.onnx", "../a"), LoadSpec("a.onnx", "a", 0)])
def test_an_invalid_named_model_is_refused_at_once(spec: LoadSpec) -> None:
    with pytest.raises(InvalidRequestError):
        ControllerWithStartupPhase(EchoScheduler(), quick_config(models=(spec,)))


# --- on all workers, or on none --------------------------------------------------------------------------------------


def test_a_load_goes_to_every_worker_and_is_answered_when_all_have_answered() -> None:
    slower = {"a.onnx": File(disk=ms(90))}
    cluster = loading(workers=2, disks=(FILES, slower))
    cluster.load("a.onnx", id=1, copies=3)
    assert [send.worker_id for send in cluster.actions(LoadModelFromDisk)] == ["w0", "w1"]
    cluster.run_until(ms(90) - 1)
    assert cluster.answer(1) is None
    cluster.run_until(ms(90))
    assert cluster.answer(1) == LoadModelResponse(1, Status.SUCCESS, "", ("a-1", "a-2", "a-3"))


def test_a_load_that_fails_on_one_worker_is_undone_on_the_others_before_the_response() -> None:
    cluster = loading(workers=3, disks=(FILES, {}, FILES))
    cluster.load("a.onnx", id=1, copies=2)
    cluster.run_until(seconds(1))
    undone = [(send.worker_id, send.action.models) for send in cluster.actions(UnloadModel)]
    assert undone == [("w0", ("a-1", "a-2")), ("w2", ("a-1", "a-2"))]
    assert cluster.answer(1) == LoadModelResponse(1, Status.INVALID_REQUEST, "worker w1: there is no a.onnx")
    assert not any(worker.models for worker in cluster.workers.values())
    assert not cluster.state.models


def test_the_response_to_a_failed_load_has_the_message_of_each_worker() -> None:
    cluster = loading(workers=2)
    cluster.workers["w0"].fail["LoadModelFromDisk"] = (Status.ERROR, "out of memory")
    cluster.workers["w1"].fail["LoadModelFromDisk"] = (Status.INVALID_MODEL, "opset 99")
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    text = "worker w0: out of memory; worker w1: opset 99"
    assert cluster.answer(1) == LoadModelResponse(1, Status.ERROR, text)


def test_a_load_fails_if_workers_find_different_contents() -> None:
    cluster = loading(workers=2, disks=(FILES, {"a.onnx": File("other")}))
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.INVALID_REQUEST
    assert "worker w1: its a.onnx has other content" in answer.message
    assert not any(worker.models for worker in cluster.workers.values())


def test_a_repeated_load_succeeds_and_its_failure_unloads_nothing() -> None:
    cluster = loading()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    cluster.load("a.onnx", id=2)
    cluster.run_until(seconds(2))
    assert cluster.answer(2) == LoadModelResponse(2, Status.SUCCESS, "", ("a",))
    cluster.workers["w0"].fail["LoadModelFromDisk"] = (Status.ERROR, "no")
    cluster.load("a.onnx", id=3)
    cluster.run_until(seconds(3))
    assert cluster.answer(3) == LoadModelResponse(3, Status.ERROR, "worker w0: no")
    assert list(cluster.workers["w0"].models) == ["a"]
    assert not cluster.actions(UnloadModel)


def test_a_worker_lost_during_a_load_fails_the_load_on_all_workers() -> None:
    cluster = loading(workers=2)
    cluster.load("slow.onnx", id=1)
    cluster.run_until(seconds(7))
    cluster.lose("w1")
    cluster.run_until(seconds(31))
    assert cluster.answer(1) == LoadModelResponse(1, Status.ERROR, "worker w1: it was lost while it loaded the model")
    assert not cluster.workers["w0"].models


def test_a_worker_lost_after_it_has_loaded_does_not_fail_the_load() -> None:
    cluster = loading(workers=2, disks=(FILES, FILES | {"slow.onnx": File()}))
    cluster.load("slow.onnx", id=1)
    cluster.run_until(seconds(7))
    back = cluster.lose("w1")
    cluster.run_until(seconds(31))
    assert cluster.answer(1) == LoadModelResponse(1, Status.SUCCESS, "", ("slow",))
    back.models.clear()
    cluster.connect(back)
    cluster.run_until(seconds(32))
    assert list(back.models) == ["slow"]


def test_a_failed_load_does_not_wait_for_a_lost_worker() -> None:
    cluster = loading(workers=2, disks=(FILES, {}))
    cluster.workers["w0"].silent = {"UnloadModel"}
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(1))
    assert cluster.answer(1) is None
    cluster.lose("w0")
    assert cluster.answer(1) is not None


def test_a_worker_that_connects_during_a_load_gets_the_model_afterwards() -> None:
    cluster = loading()
    cluster.load("slow.onnx", id=1)
    cluster.run_until(seconds(7))
    cluster.connect(FakeWorker("w1", FILES))
    cluster.run_until(seconds(31))
    assert cluster.answer(1) == LoadModelResponse(1, Status.SUCCESS, "", ("slow",))
    cluster.run_until(seconds(69))
    assert cluster.stage is Stage.LOADING  # w1 loaded the model from 30 s to 60 s
    assert list(cluster.workers["w1"].models) == ["slow"]
    cluster.run_until(seconds(70))
    assert cluster.stages()[1] == (seconds(70), "profiling")


def test_models_of_a_worker_that_connects_during_loading_are_loaded_on_all_workers() -> None:
    cluster = loading()
    cluster.run_until(seconds(1))
    cluster.connect(FakeWorker("w1", FILES).hold("b.onnx"))
    cluster.run_until(seconds(2))
    assert [list(worker.models) for worker in cluster.workers.values()] == [["b"], ["b"]]


@pytest.mark.parametrize("digest", ["sha-slow.onnx", "other"])
def test_a_new_worker_that_holds_the_model_does_not_save_a_failing_load(digest: str) -> None:
    cluster = loading(workers=2, disks=(FILES, {}))
    cluster.load("slow.onnx", id=1)
    cluster.run_until(seconds(7))
    disk = {"slow.onnx": replace(FILES["slow.onnx"], digest=digest)}
    cluster.connect(FakeWorker("w2", disk).hold("slow.onnx"))
    cluster.run_until(seconds(31))
    assert cluster.answer(1) == LoadModelResponse(1, Status.INVALID_REQUEST, "worker w1: there is no slow.onnx")
    assert not any(worker.models for worker in cluster.workers.values())
    assert not cluster.state.models


def test_a_new_worker_with_other_content_than_a_load_must_load_the_model_again() -> None:
    cluster = loading()
    cluster.load("slow.onnx", id=1)
    cluster.run_until(seconds(7))
    cluster.connect(FakeWorker("w1", {"slow.onnx": File("other")}).hold("slow.onnx"))
    cluster.run_until(seconds(31))
    assert cluster.answer(1) == LoadModelResponse(1, Status.SUCCESS, "", ("slow",))
    assert not cluster.workers["w1"].models
    assert cluster.state.models["slow"].info.digest == "sha-slow.onnx"


def test_a_load_without_workers_fails() -> None:
    cluster = loading()
    cluster.lose("w0")
    cluster.load("a.onnx", id=1)
    assert cluster.answer(1) == LoadModelResponse(1, Status.ERROR, "worker -: no worker is connected")


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (UnloadModelResult(3), "it answered LoadModelFromDisk with UnloadModelResult"),
        (LoadModelFromDiskResult(3, (), TOOK), "it loaded [] instead of ['a']"),
        (LoadModelFromDiskResult(3, (model_info("b"),), TOOK), "it loaded ['b'] instead of ['a']"),
        (LoadModelFromDiskResult(3, (model_info("a", pages=0),), TOOK), "its weights take 0 pages"),
        (LoadModelFromDiskResult(3, (model_info("a", pages=-5),), TOOK), "its weights take -5 pages"),
    ],
)
def test_an_implausible_result_fails_the_load(result: Result, why: str) -> None:
    cluster = loading(workers=2)
    cluster.load("a.onnx", id=1)
    cluster.workers["w0"].reset()
    cluster.workers["w0"].hold("a.onnx")
    cluster.feed(WorkerResult("w0", result))
    cluster.run_until(seconds(1))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert (answer.status, answer.message) == (Status.ERROR, f"worker w0: {why}")
    assert not cluster.state.models


def test_a_result_counts_only_from_the_worker_of_the_action() -> None:
    cluster = loading(workers=2)
    cluster.load("a.onnx", id=1)
    cluster.feed(WorkerResult("w1", ErrorResult(3, "LoadModelFromDisk", Status.ERROR, "that was for w0")))
    cluster.run_until(seconds(1))
    assert cluster.answer(1) == LoadModelResponse(1, Status.SUCCESS, "", ("a",))


def test_the_loss_of_an_unknown_worker_is_ignored() -> None:
    cluster = loading()
    assert cluster.controller.handle(0, WorkerLost("w9")) == []


# --- limits ----------------------------------------------------------------------------------------------------------


def test_at_most_four_loads_are_outstanding_at_a_worker_and_the_others_follow_in_order() -> None:
    cluster = loading(workers=2)
    for number, name in enumerate("abcdefghij"):
        cluster.load(f"{name}.onnx", number)
    sent = [send.action.name for send in cluster.actions(LoadModelFromDisk, "w0")]
    assert sent == ["a", "b", "c", "d"]
    cluster.run_until(ms(5))
    sent = [send.action.name for send in cluster.actions(LoadModelFromDisk, "w0")]
    assert sent == ["a", "b", "c", "d", "e"]
    cluster.run_until(seconds(1))
    loaded = [response for response in cluster.responses() if isinstance(response, LoadModelResponse)]
    assert [response.models for response in loaded] == [(name,) for name in "abcdefghij"]


def test_waiting_loads_go_on_after_a_load_was_undone() -> None:
    cluster = loading(workers=2, disks=(FILES, {"j.onnx": File()}))
    for number, name in enumerate("abcdefghij"):
        cluster.load(f"{name}.onnx", number)
    cluster.run_until(seconds(1))
    cluster.check_all_answered()
    assert cluster.answer(9) == LoadModelResponse(9, Status.SUCCESS, "", ("j",))


@pytest.mark.parametrize(
    ("path", "name", "copies", "why"),
    [
        ("", "", 1, "neither a model name nor a path"),
        ("x" * 4097, "a", 1, "1 to 4096 characters"),
        ("a\0.onnx", "a", 1, "no NUL"),
        ("a.onnx", "", 0, "no_of_copies is 0; it must be 1 to 10000"),
        ("a.onnx", "", -1, "no_of_copies is -1"),
        ("a.onnx", "", 1 << 62, "it must be 1 to 10000"),
        ("a.onnx", "../a", 1, "invalid model name"),
        ("a.onnx", "a b", 1, "invalid model name"),
        ("a.onnx", "a" * 201, 1, "invalid model name"),
        (".onnx", "", 1, "invalid model name"),
        ("b.onnx", "taken", 1, "name 'taken' is in use by a model from a.onnx"),
        ("a.onnx", "taken-1", 2, None),
    ],
)
def test_an_invalid_load_is_refused(path: str, name: str, copies: int, why: str | None) -> None:
    cluster = loading()
    cluster.load("a.onnx", id=1, name="taken")
    cluster.run_until(seconds(1))
    cluster.load(path, id=2, name=name, copies=copies)
    cluster.run_until(seconds(2))
    answer = cluster.answer(2)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == (Status.SUCCESS if why is None else Status.INVALID_REQUEST)
    assert (why or "") in answer.message


def test_a_name_that_is_being_loaded_is_in_use() -> None:
    cluster = loading()
    cluster.load("slow.onnx", id=1, name="a", copies=2)
    cluster.load("b.onnx", id=2, name="a-1")
    assert cluster.answer(2) == LoadModelResponse(
        2, Status.INVALID_REQUEST, "a model is already being loaded as a-1; choose another name"
    )


def test_more_loads_than_the_limit_are_refused() -> None:
    cluster = loading(config=ControllerConfig(max_loads=2))
    for number, name in enumerate("abc"):
        cluster.load(f"{name}.onnx", number)
    assert cluster.answer(2) == LoadModelResponse(
        2, Status.SKIPPED_BY_CONTROLLER, "2 model loads are pending, which is the limit; retry later"
    )


def test_more_loads_than_the_limit_are_refused_during_querying_too() -> None:
    cluster = Cluster(EchoScheduler(), ControllerConfig(max_loads=1))
    cluster.load("a.onnx", id=1)
    cluster.load("b.onnx", id=2)
    assert cluster.responses() == [
        LoadModelResponse(2, Status.SKIPPED_BY_CONTROLLER, "1 model loads are pending, which is the limit; retry later")
    ]


def test_models_are_loaded_at_start_up_only() -> None:
    profiling = {"a.onnx": File(infer=seconds(1))}
    cluster = loading(disks=(profiling,))
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(12))
    assert cluster.stage is Stage.PROFILING
    cluster.load("a.onnx", id=2)
    cluster.run_until(seconds(60))
    assert cluster.stage is Stage.SERVING
    cluster.load("a.onnx", id=3)
    for number, stage in ((2, "profiling"), (3, "serving")):
        text = f"models are loaded at start-up only, and the server is {stage}; restart it to load more"
        assert cluster.answer(number) == LoadModelResponse(number, Status.INVALID_REQUEST, text)
