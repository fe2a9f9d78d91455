"""The stage PROFILING: what is measured, where and how often, and which profiles are stored."""

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from builders import KIND, RUNTIME, infer_request, profile
from clockwork.controller.config import LoadSpec, ProfilingConfig
from clockwork.controller.events import WorkerResult
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer, LoadModelFromDisk, LoadWeights, UnloadModel
from clockwork.messages.profile import Measurement, ModelProfile, ProfileKey
from clockwork.messages.requests import InferResponse, StatusRequest, StatusResponse
from clockwork.messages.results import EvictWeightsResult, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import ms, seconds
from cluster import QUICK, Cluster, quick_config
from fake_worker import FakeWorker, File

A_KEY = ProfileKey("sha-a.onnx", RUNTIME, KIND)


def profiling(
    files: dict[str, File],
    *,
    workers: int = 1,
    gpus: int = 1,
    config: ProfilingConfig = QUICK,
    profiles: dict[ProfileKey, ModelProfile] | None = None,
    copies: int = 1,
) -> Cluster:
    """A controller that has just entered PROFILING with all files loaded."""
    named = tuple(LoadSpec(path, "", copies) for path in files)
    cluster = Cluster(EchoScheduler(), quick_config(workers=workers, models=named, profiling=config), profiles)
    for i in range(workers):
        cluster.connect(FakeWorker(f"w{i}", files, gpus=gpus, pages=8))
    cluster.run_until(ms(5) * len(files))
    assert cluster.stages()[1] == (ms(5) * len(files), "profiling")
    return cluster


def served(cluster: Cluster) -> Cluster:
    """Run a cluster until it serves."""
    while cluster.stage is not Stage.SERVING:
        before = cluster.now
        cluster.run_until(cluster.now + seconds(1))
        assert cluster.now < seconds(1000), f"no event since {before}"
    return cluster


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "loads", "infers"),
    [
        pytest.param(QUICK, 1 + 1, {1: 1 + 1, 2: 1 + 1}, id="warm-ups are additional"),
        pytest.param(replace(QUICK, warmups=3), 1 + 1, {1: 3 + 1, 2: 3 + 1}, id="warm-ups of Infer are configured"),
        pytest.param(
            replace(QUICK, min_samples=4, max_samples=50, budget=0),
            1 + 4,
            {1: 1 + 4, 2: 1 + 4},
            id="min_samples",
        ),
        pytest.param(replace(QUICK, max_samples=6, budget=seconds(9)), 1 + 6, {1: 1 + 6, 2: 1 + 6}, id="max_samples"),
        pytest.param(
            replace(QUICK, max_samples=99, budget=ms(24)),
            1 + 3,
            {1: 1 + 8, 2: 1 + 6},
            id="within the budget",
        ),
        pytest.param(replace(QUICK, max_batch_size=5), 1 + 1, {1: 2, 2: 2, 4: 2}, id="batch sizes are powers of two"),
    ],
)
def test_each_action_is_measured_as_often_as_configured(
    config: ProfilingConfig, loads: int, infers: dict[int, int]
) -> None:
    cluster = served(profiling({"a.onnx": File(load=ms(8), infer=ms(3), row=ms(1))}, config=config))
    sizes = [send.action.batch_size for send in cluster.actions(Infer)]
    assert {size: sizes.count(size) for size in sizes} == infers
    assert len(cluster.actions(LoadWeights)) == loads


def test_the_profile_has_the_measured_times_without_warm_ups() -> None:
    cluster = profiling({"a.onnx": File()}, config=replace(QUICK, min_samples=2, max_samples=2))
    worker = cluster.workers["w0"]
    changes: list[tuple[int, str, Any]] = [
        (ms(9), "load", ms(10)),
        (ms(20), "infer", ms(4)),
    ]  # after the first
    for at, field, value in changes:
        cluster.run_until(at)
        worker.disk["a.onnx"] = dataclasses.replace(worker.disk["a.onnx"], **{field: value})
    (saved,) = served(cluster).saved()
    assert saved.key == A_KEY
    assert saved.profile.load_weights == Measurement((ms(10), ms(10)))
    assert saved.profile.infer == {1: Measurement((ms(4), ms(4))), 2: Measurement((ms(5), ms(5)))}
    assert cluster.state.models["a"].profiles == {KIND: saved.profile}


def test_load_weights_is_measured_cold_and_each_batch_size_warm() -> None:
    cluster = served(profiling({"a.onnx": File()}))
    names = [type(send.action).__name__ for send in cluster.sent()][2:]
    assert names == ["LoadWeights", "EvictWeights", "LoadWeights", *["Infer"] * 4]


def test_weights_are_evicted_from_a_full_device_for_the_next_measurement() -> None:
    files = {f"{name}.onnx": File(pages=3) for name in "abcd"}
    cluster = served(profiling(files))  # the device has 8 pages, enough for two models
    assert len(cluster.saved()) == 4
    cluster.check_rest()


def test_larger_batch_sizes_than_one_that_takes_too_long_are_not_measured() -> None:
    config = replace(QUICK, max_batch_size=16, max_exec=ms(250))
    cluster = served(profiling({"a.onnx": File(infer=ms(100), row=ms(100))}, config=config))
    profile = cluster.saved()[0].profile
    assert profile.batch_sizes == (1, 2)
    assert profile.stopped == "batch size 4 takes 400 ms; the limit for one batch is 250 ms"
    assert cluster.state.models["a"].max_batch_size == 2
    assert any(profile.stopped in report for report in cluster.reports("INFO"))


def test_a_profile_says_why_batches_are_no_larger() -> None:
    config = replace(QUICK, max_batch_size=8)
    reasons = {}
    for name, file in {
        "all sizes": File(),
        "fails": File(largest_batch=2),
        "does not batch": File(batchable=False, inputs=(TensorInfo("x", "FP32", (3, 2)),)),
    }.items():
        reasons[name] = served(profiling({"a.onnx": file}, config=config)).saved()[0].profile.stopped
    assert reasons == {
        "all sizes": "",
        "fails": "Infer with batch size 4 failed: cannot execute 4 rows",
        "does not batch": "",
    }


def test_batch_size_one_is_measured_even_if_it_takes_long() -> None:
    cluster = served(profiling({"a.onnx": File(infer=seconds(3))}))
    assert cluster.saved()[0].profile.batch_sizes == (1,)


def test_a_model_that_does_not_batch_is_measured_at_batch_size_one() -> None:
    files = {"a.onnx": File(batchable=False, inputs=(TensorInfo("x", "FP32", (3, 2)),))}
    cluster = served(profiling(files))
    assert cluster.saved()[0].profile.batch_sizes == (1,)
    assert {send.action.inputs[0].tensors[0].shape for send in cluster.actions(Infer)} == {(3, 2)}


@pytest.mark.parametrize(("refused", "shapes"), [(False, [(1, 128), (1, 128)]), (True, [(1, 128), (1, 1)])])
def test_free_dimensions_are_measured_at_128_or_at_1_if_the_model_refuses_that(
    refused: bool, shapes: list[tuple[int, int]]
) -> None:
    cluster = profiling({"a.onnx": File(inputs=(TensorInfo("x", "FP32", (-1, -1)),))})
    if refused:
        cluster.workers["w0"].fail["Infer"] = (Status.INVALID_INPUT, "too long")
    served(cluster)
    assert [send.action.inputs[0].tensors[0].shape for send in cluster.actions(Infer)][:2] == shapes
    assert cluster.saved()[0].profile.input_shapes == (shapes[1][1:],)


def test_models_with_text_inputs_are_measured_with_generated_texts() -> None:
    cluster = served(profiling({"a.onnx": File(inputs=(TensorInfo("x", "BYTES", (-1, 1)),))}))
    assert cluster.actions(Infer)[0].action.inputs[0].tensors == (TensorSpec("x", "BYTES", (1, 1), 0),)
    assert cluster.saved()[0].profile.batch_sizes == (1, 2)


# --- once per content and kind, spread over devices ------------------------------------------------------------------


def test_copies_of_one_content_are_measured_once() -> None:
    cluster = served(profiling({"a.onnx": File(), "b.onnx": File("sha-a.onnx")}, copies=3))
    assert [saved.key for saved in cluster.saved()] == [A_KEY]
    assert all(model.profiles == {KIND: cluster.saved()[0].profile} for model in cluster.state.models.values())
    assert len(cluster.state.models) == 6


def test_devices_measure_different_models_at_the_same_time() -> None:
    files = {f"{name}.onnx": File() for name in "abcd"}
    cluster = profiling(files, workers=2, gpus=2)
    first = [(send.worker_id, send.action.gpu, send.action.model) for send in cluster.actions(LoadWeights)]
    assert first == [("w0", 0, "a"), ("w0", 1, "b"), ("w1", 0, "c"), ("w1", 1, "d")]
    served(cluster)
    assert cluster.stages()[2] == (ms(20) + ms(8 + 8 + 3 + 3 + 4 + 4), "serving")


def test_each_kind_of_device_is_measured() -> None:
    named = (LoadSpec("a.onnx"),)
    cluster = Cluster(EchoScheduler(), quick_config(workers=2, models=named))
    cluster.connect(FakeWorker("w0", {"a.onnx": File()}, kind="fast"))
    cluster.connect(FakeWorker("w1", {"a.onnx": File(infer=ms(30))}, kind="slow"))
    cluster.run_until(seconds(1))
    model = cluster.state.models["a"]
    assert {kind: model.infer_estimate(1, kind) for kind in model.profiles} == {"fast": ms(3), "slow": ms(30)}
    assert model.infer_estimate(1) == ms(3)


def test_a_device_too_small_for_a_model_does_not_measure_it() -> None:
    files = {"a.onnx": File(), "big.onnx": File(pages=3)}
    cluster = Cluster(SimpleScheduler(), quick_config(models=tuple(LoadSpec(path) for path in files)))
    worker = FakeWorker("w0", files, gpus=2, pages=4)
    worker.gpus[1].pages, worker.gpus[1].kind = 1, "small"
    cluster.connect(worker)
    cluster.run_until(seconds(1))
    assert {saved.key for saved in cluster.saved()} == {
        ProfileKey("sha-a.onnx", RUNTIME, "gpu"),
        ProfileKey("sha-a.onnx", RUNTIME, "small"),
        ProfileKey("sha-big.onnx", RUNTIME, "gpu"),
    }
    for number in range(4):
        cluster.ask(infer_request(number, "big"))
    cluster.run_until(seconds(2))
    assert cluster.statuses() == [Status.SUCCESS] * 4


def test_of_two_devices_of_one_kind_the_one_with_enough_pages_measures() -> None:
    files = {"big.onnx": File(pages=3)}
    cluster = Cluster(SimpleScheduler(), quick_config(models=(LoadSpec("big.onnx"),)))
    worker = FakeWorker("w0", files, gpus=2, pages=4)
    worker.gpus[0].pages = 1
    cluster.connect(worker)
    served(cluster)
    assert {send.action.gpu for send in cluster.actions(LoadWeights)} == {1}
    assert len(cluster.saved()) == 1


# --- stored profiles ------------------------------------------------------------------------------------------------


def test_a_second_start_uses_the_profiles_of_the_first() -> None:
    first = served(profiling({"a.onnx": File()}))
    known = {saved.key: saved.profile for saved in first.saved()}
    second = profiling({"a.onnx": File()}, profiles=known)
    assert second.stages() == [(0, "loading"), (ms(5), "profiling"), (ms(5), "serving")]
    assert not second.actions(LoadWeights)
    assert not second.saved()


@pytest.mark.parametrize(
    ("key", "known", "measured"),
    [
        pytest.param(A_KEY, profile(max_batch_size=2), False, id="equal batch sizes"),
        pytest.param(A_KEY, profile(max_batch_size=16), False, id="more batch sizes"),
        pytest.param(A_KEY, profile(max_batch_size=1), True, id="fewer batch sizes"),
        pytest.param(ProfileKey("other", RUNTIME, KIND), profile(), True, id="other content"),
        pytest.param(ProfileKey("sha-a.onnx", "fake 2", KIND), profile(), True, id="another version of the runtime"),
        pytest.param(ProfileKey("sha-a.onnx", RUNTIME, "gpu x2"), profile(), True, id="another kind of device"),
    ],
)
def test_a_known_profile_is_used_for_equal_content_runtime_and_kind_of_device(
    key: ProfileKey, known: ModelProfile, measured: bool
) -> None:
    cluster = served(profiling({"a.onnx": File()}, profiles={key: known}))
    assert bool(cluster.saved()) is measured
    assert cluster.state.models["a"].profiles[KIND].batch_sizes == (1, 2)
    assert cluster.state.models["a"].max_batch_size == 2


def test_a_model_limited_by_its_times_is_not_measured_again() -> None:
    known = profile(max_batch_size=1)
    known = ModelProfile(known.load_weights, known.infer, max_batch_size=16)
    cluster = served(profiling({"a.onnx": File()}, profiles={A_KEY: known}))
    assert not cluster.saved()
    assert cluster.state.models["a"].max_batch_size == 1


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_measurement_that_fails_is_tried_again() -> None:
    cluster = profiling({"a.onnx": File()})
    cluster.workers["w0"].fail["LoadWeights"] = (Status.RUNTIME_ERROR, "hiccup")
    served(cluster)
    assert cluster.reports("WARNING") == ["measuring a failed and will be tried again: LoadWeights failed: hiccup"]
    assert len(cluster.saved()) == 1


def test_a_model_that_cannot_be_measured_is_not_served_and_the_others_are() -> None:
    files = {"a.onnx": File(), "b.onnx": File(largest_batch=0)}
    cluster = Cluster(EchoScheduler(), quick_config())
    cluster.connect(FakeWorker("w0", files))
    for number, path in enumerate(files):
        cluster.load(path, number)
    cluster.run_until(seconds(20))
    cluster.ask(infer_request(2, "b"))
    cluster.ask(infer_request(3, "a"))
    why = "it could not be measured on gpu: Infer with batch size 1 failed: cannot execute 1 rows"
    answer = cluster.answer(2)
    assert isinstance(answer, InferResponse)
    assert (answer.status, answer.message) == (Status.SKIPPED_BY_CONTROLLER, f"model 'b' is not served: {why}")
    assert answer.retry_after is None, "waiting does not help"
    assert list(cluster.state.models) == ["a"]
    assert not cluster.gave_up()
    cluster.ask(StatusRequest(4))
    status = cluster.answer(4)
    assert isinstance(status, StatusResponse)
    assert status.server.broken == {"b": why}


def test_the_controller_gives_up_if_a_named_model_cannot_be_measured() -> None:
    cluster = profiling({"a.onnx": File(largest_batch=0)})
    cluster.run_until(seconds(10))
    assert cluster.gave_up() == [
        "cannot serve a: it could not be measured on gpu: Infer with batch size 1 failed: cannot execute 1 rows"
    ]
    assert cluster.stage is Stage.PROFILING


@pytest.mark.parametrize("strict", [False, True])
def test_a_named_model_that_cannot_be_measured_ends_the_start_only_with_strict(strict: bool) -> None:
    files = {"a.onnx": File(), "b.onnx": File(largest_batch=0)}
    config = quick_config(models=tuple(LoadSpec(path) for path in files), strict=strict)
    cluster = Cluster(EchoScheduler(), config)
    cluster.connect(FakeWorker("w0", files))
    cluster.run_until(seconds(10))
    why = "it could not be measured on gpu: Infer with batch size 1 failed: cannot execute 1 rows"
    assert cluster.gave_up() == ([f"cannot serve b: {why}"] if strict else [])
    assert (cluster.stage is Stage.SERVING) is not strict
    assert strict or list(cluster.workers["w0"].models) == ["a"], "the worker must not keep a model that is not served"


def test_if_no_loaded_model_can_be_measured_the_next_load_is_taken() -> None:
    cluster = Cluster(EchoScheduler(), quick_config())
    cluster.connect(FakeWorker("w0", {"a.onnx": File(largest_batch=0), "b.onnx": File()}))
    cluster.load("a.onnx", 1)
    cluster.run_until(seconds(20))
    assert cluster.stages()[1:] == [(seconds(10) + ms(5), "profiling"), (seconds(10) + ms(62), "loading")]
    assert cluster.controller.next_wakeup() is None
    cluster.load("b.onnx", 2)
    cluster.run_until(seconds(40))
    assert cluster.stage is Stage.SERVING
    assert list(cluster.state.models) == ["b"]


def test_a_model_that_fails_at_a_larger_batch_is_served_with_smaller_ones() -> None:
    cluster = served(profiling({"a.onnx": File(largest_batch=2)}, config=replace(QUICK, max_batch_size=8)))
    assert cluster.state.models["a"].max_batch_size == 2
    assert len(cluster.reports("WARNING")) == 2  # the first two attempts failed


def test_another_worker_measures_the_model_of_a_lost_one() -> None:
    cluster = profiling({"a.onnx": File(), "b.onnx": File(load=ms(100))}, workers=2)
    cluster.run_until(ms(50))
    cluster.lose("w1")
    served(cluster)
    assert {saved.key.digest for saved in cluster.saved()} == {"sha-a.onnx", "sha-b.onnx"}


def test_profiling_waits_for_the_return_of_the_last_worker() -> None:
    cluster = profiling({"a.onnx": File()})
    cluster.run_until(ms(9))
    worker = cluster.lose("w0")
    cluster.run_until(seconds(100))
    assert cluster.stage is Stage.PROFILING
    cluster.connect(worker)
    cluster.run_until(seconds(101))
    assert cluster.stages()[2] == (seconds(100) + ms(30), "serving")


def test_a_model_that_kills_its_worker_repeatedly_is_given_up() -> None:
    cluster = profiling({"a.onnx": File(load=seconds(5))})
    for _ in range(3):
        worker = cluster.lose("w0")
        cluster.connect(worker)
        cluster.run_until(cluster.now + seconds(1))
    cluster.run_until(cluster.now + seconds(1))
    assert cluster.gave_up() == [
        "cannot serve a: it could not be measured on gpu: worker w0 was lost during the measurement"
    ]


def test_a_worker_that_connects_during_profiling_gets_the_models_and_measures_too() -> None:
    files = {f"{name}.onnx": File() for name in "abcd"}
    cluster = profiling(files)
    cluster.run_until(ms(25))
    cluster.connect(FakeWorker("w1", files, pages=8))
    cluster.run_until(ms(46))
    assert len(cluster.actions(LoadModelFromDisk, "w1")) == 4
    served(cluster)
    assert cluster.actions(LoadWeights, "w1")
    assert len(cluster.saved()) == 4
    assert list(cluster.state.workers) == ["w0", "w1"]


def test_serving_waits_for_a_worker_that_is_still_loading_models() -> None:
    cluster = profiling({"a.onnx": File()})
    cluster.run_until(ms(30))
    cluster.connect(FakeWorker("w1", {"a.onnx": File(disk=seconds(1))}))
    served(cluster)
    assert cluster.stages()[2] == (ms(30) + seconds(1), "serving")


def test_a_result_of_the_wrong_type_fails_only_the_measurement() -> None:
    cluster = profiling({"a.onnx": File()})
    (load,) = cluster.actions(LoadWeights)
    cluster.workers["w0"].reset()
    cluster.feed(WorkerResult("w0", EvictWeightsResult(load.action.id, Timing(0, 0, 0))))
    (text,) = cluster.reports("WARNING")
    assert text.endswith("LoadWeights failed: the worker answered LoadWeights with EvictWeightsResult")
    assert len(cluster.saved()) == 0


def test_an_unknown_datatype_breaks_only_its_model() -> None:
    files = {"a.onnx": File(inputs=(TensorInfo("x", "FP4", (-1, 2)),)), "b.onnx": File()}
    cluster = served(profiling(files))
    assert list(cluster.state.models) == ["b"]


def test_a_worker_that_contradicts_the_controller_is_dropped_and_another_measures() -> None:
    cluster = profiling({"a.onnx": File()}, workers=2)
    cluster.workers["w0"].fail["LoadWeights"] = (Status.WEIGHTS_ALREADY_LOADED, "have it")
    served(cluster)
    assert list(cluster.state.workers) == ["w1"]
    assert cluster.actions(LoadWeights, "w1")


# --- later workers ---------------------------------------------------------------------------------------------------


def test_a_later_worker_of_a_new_kind_is_measured_before_it_serves_while_the_others_do() -> None:
    cluster = served(profiling({"a.onnx": File()}))
    cluster.run_until(seconds(10))
    cluster.connect(FakeWorker("w1", {"a.onnx": File(infer=ms(9))}, kind="new"))
    cluster.run_until(seconds(10) + ms(20))
    assert list(cluster.state.workers) == ["w0"]
    assert cluster.actions(LoadWeights, "w1")
    cluster.ask(infer_request(1))
    cluster.run_until(seconds(11))
    assert list(cluster.state.workers) == ["w0", "w1"]
    assert cluster.state.models["a"].infer_estimate(1, "new") == ms(9)


def test_a_worker_of_a_known_kind_does_not_wait_for_one_that_is_being_measured() -> None:
    cluster = served(profiling({"a.onnx": File()}, workers=2))
    worker = cluster.lose("w1")
    cluster.connect(FakeWorker("w2", {"a.onnx": File(infer=seconds(9))}, kind="new"))
    cluster.run_until(cluster.now + seconds(1))
    cluster.connect(worker)
    cluster.run_until(cluster.now + ms(1))
    assert list(cluster.state.workers) == ["w0", "w1"]


def test_a_later_worker_does_not_serve_while_one_of_its_devices_measures() -> None:
    config = replace(QUICK, attempts=1)
    cluster = served(profiling({"a.onnx": File()}, config=config))
    worker = FakeWorker("w1", {"a.onnx": File(infer=seconds(1))}, gpus=2, kind="new")
    worker.gpus[1].kind = "newer"
    worker.fail["LoadWeights"] = (Status.RUNTIME_ERROR, "no")  # on the first device, so w1 gives up model a
    cluster.connect(worker)
    cluster.run_until(cluster.now + seconds(1))
    assert list(cluster.state.workers) == ["w0"]
    cluster.run_until(cluster.now + seconds(9))
    assert list(cluster.state.workers) == ["w0", "w1"]
    assert list(cluster.state.workers["w1"].models) == []


def test_a_model_that_a_later_worker_cannot_measure_is_unloaded_there_and_served_elsewhere() -> None:
    cluster = served(profiling({"a.onnx": File(), "b.onnx": File()}))
    cluster.connect(FakeWorker("w1", {"a.onnx": File(largest_batch=0), "b.onnx": File()}, kind="new"))
    cluster.run_until(cluster.now + seconds(1))
    assert [send.action.models for send in cluster.actions(UnloadModel, "w1")] == [("a",)]
    assert list(cluster.state.workers["w1"].models) == ["b"]
    assert sorted(cluster.state.models) == ["a", "b"]


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_has_the_number_of_models_and_an_estimate_of_the_remaining_time() -> None:
    files = {f"{name}.onnx": File() for name in "abc"}
    cluster = profiling(files)
    seen = []
    for at in (0, 29, 30, 61, 90):
        cluster.run_until(ms(15 + at))
        progress = cluster.controller.progress(cluster.now)
        seen.append((progress.done, progress.total, progress.remaining))
    assert seen == [(0, 3, None), (0, 3, None), (1, 3, ms(60)), (2, 3, ms(30.5)), (0, 0, None)]
