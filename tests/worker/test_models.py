"""The HOST and LOAD lanes: models in host memory, weights on devices, ClearCache and GetWorkerState."""

import pytest

from clockwork.messages.actions import ClearCache, GetWorkerState, LoadModelFromDisk, UnloadModel
from clockwork.messages.results import LoadModelFromDiskResult
from clockwork.messages.status import Status
from clockwork.units import MIB, ms
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import StartTask, TaskFinished
from clockwork.worker.models import MAX_COPIES
from worker.driven import EXEC, HOST, LOAD, Worker, evict, infer, load, outcome_of, read, show


def from_disk(action_id: int, name: str = "m", path: str = "m.onnx", copies: int = 1) -> LoadModelFromDisk:
    return LoadModelFromDisk(action_id, path, name, copies)


def names(w: Worker) -> list[str]:
    return [info.name for info in w.core.info().models]


# --- LoadModelFromDisk -----------------------------------------------------------------------------------------------


def test_copies_are_independent_models() -> None:
    w = Worker()
    assert w.receives(0, from_disk(1, copies=3)) == ["start host LoadModelFromDisk#1"]
    assert w.ends(5, HOST, read(2)) == ["LoadModelFromDisk#1 ok"]
    result = w.results[-1]
    assert isinstance(result, LoadModelFromDiskResult)
    assert [(m.name, m.load, m.copies, m.path, m.weights_pages) for m in result.models] == [
        ("m-1", "m", 3, "m.onnx", 2),
        ("m-2", "m", 3, "m.onnx", 2),
        ("m-3", "m", 3, "m.onnx", 2),
    ]
    assert w.receives(5, load(2, "m-1")) == ["start load0 LoadWeights#2"]
    (task,) = w.last
    assert isinstance(task, StartTask)
    assert task.handles == ("host d",)


@pytest.mark.parametrize("copies", [0, -1, MAX_COPIES + 1])
def test_the_number_of_copies_is_limited(copies: int) -> None:
    w = Worker()
    assert w.receives(0, from_disk(1, copies=copies)) == ["LoadModelFromDisk#1 INVALID_ACTION"]
    assert w.message() == f"no_of_copies is {copies}; it must be 1 to 10000"


def test_a_model_needs_a_name() -> None:
    assert Worker().receives(0, from_disk(1, name="")) == ["LoadModelFromDisk#1 INVALID_MODEL_NAME"]


def test_a_repeated_load_succeeds_and_changes_nothing() -> None:
    w = Worker().warm("m")
    w.receives(0, from_disk(1))
    assert w.ends(1, HOST) == ["LoadModelFromDisk#1 ok"]
    assert names(w) == ["m"]
    assert w.loaded_on() == ("m",)


def test_a_name_has_one_content() -> None:
    w = Worker().holding("m")
    w.receives(0, from_disk(1))
    assert w.ends(1, HOST, read(digest="other")) == ["LoadModelFromDisk#1 INVALID_MODEL_NAME"]
    assert w.message() == "name 'm' is in use: m.onnx has changed since it was loaded"
    assert w.receives(2, from_disk(2, path="n.onnx")) == ["LoadModelFromDisk#2 INVALID_MODEL_NAME"]


def test_the_name_of_a_copy_is_in_use_too() -> None:
    w = Worker()
    w.receives(0, from_disk(1, copies=2))
    w.ends(1, HOST)
    assert w.receives(2, from_disk(2, name="m-2")) == ["LoadModelFromDisk#2 INVALID_MODEL_NAME"]


def test_a_repeated_load_loads_missing_copies_again() -> None:
    w = Worker()
    w.receives(0, from_disk(1, copies=3))
    w.ends(1, HOST)
    w.receives(1, UnloadModel(2, ("m-2",)))
    w.ends(1, HOST)
    w.receives(2, from_disk(3, copies=3))
    assert w.ends(3, HOST) == ["LoadModelFromDisk#3 ok"]
    assert names(w) == ["m-1", "m-3", "m-2"]


def test_a_model_that_no_device_can_hold_is_too_big() -> None:
    w = Worker(pages=4)
    w.receives(0, from_disk(1), from_disk(2))
    assert w.ends(1, HOST, read(5)) == ["LoadModelFromDisk#1 MODEL_TOO_BIG", "start host LoadModelFromDisk#2"]
    assert w.message() == (
        "weights of m.onnx (80.0 MiB) need 5 pages of 16.0 MiB; the largest weights cache of this worker has 4"
    )
    assert w.ends(2, HOST, read(4)) == ["LoadModelFromDisk#2 ok"]


def test_a_model_that_the_largest_device_can_hold_is_loaded() -> None:
    core = WorkerCore(MIB, [("a", 1), ("b", 9)])
    w = Worker()
    w.core = core
    w.receives(0, from_disk(1))
    assert w.ends(1, HOST, read(0)) == ["LoadModelFromDisk#1 ok"]


def test_the_result_for_an_unreadable_model_has_the_reason() -> None:
    w = Worker()
    w.receives(0, from_disk(1))
    assert w.fails(1, HOST, Status.INVALID_MODEL_PATH) == ["LoadModelFromDisk#1 INVALID_MODEL_PATH"]
    assert names(w) == []


# --- LoadWeights, EvictWeights ---------------------------------------------------------------------------------------


def test_loads_and_evictions_run_in_order() -> None:
    w = Worker(pages=1).holding("a", "b")
    assert w.receives(0, load(1, "a"), evict(2, "a"), load(3, "b")) == ["start load0 LoadWeights#1"]
    assert w.ends(1, LOAD) == ["LoadWeights#1 ok", "start load0 EvictWeights#2"]
    assert w.loaded_on() == ()
    assert w.ends(2, LOAD) == ["EvictWeights#2 ok", "start load0 LoadWeights#3"]
    assert w.ends(3, LOAD) == ["LoadWeights#3 ok"]
    assert w.loaded_on() == ("b",)


def test_loads_of_weights_have_windows_too() -> None:
    w = Worker().holding("m", "n")
    w.receives(0, load(1), load(2, "n", latest=3))
    assert w.wakes(4) == ["LoadWeights#2 COULD_NOT_START_IN_TIME"]


def test_invalid_loads_of_weights_are_refused() -> None:
    w = Worker(pages=4).holding("a", pages=3).holding("b", pages=2).warm("a")
    assert w.receives(0, load(1, "a"), load(2, "b"), load(3, "c"), load(4, "b", gpu=1)) == [
        "LoadWeights#1 WEIGHTS_ALREADY_LOADED",
        "LoadWeights#2 LOAD_WEIGHTS_INSUFFICIENT_CACHE",
        "LoadWeights#3 UNKNOWN_MODEL",
        "LoadWeights#4 INVALID_GPU",
    ]


def test_invalid_evictions_are_refused() -> None:
    w = Worker().holding("m")
    assert w.receives(0, evict(1), evict(2, "n"), evict(3, gpu=7)) == [
        "EvictWeights#1 WEIGHTS_NOT_PRESENT",
        "EvictWeights#2 UNKNOWN_MODEL",
        "EvictWeights#3 INVALID_GPU",
    ]


def test_weights_count_as_evicted_even_if_closing_them_failed() -> None:
    w = Worker(pages=1).warm("m")
    w.receives(0, evict(1), load(2))
    assert w.fails(1, LOAD) == ["EvictWeights#1 RUNTIME_ERROR", "start load0 LoadWeights#2"]


def test_an_infer_that_arrives_during_the_eviction_of_its_weights_fails() -> None:
    w = Worker().warm("m")
    w.receives(0, evict(1))
    assert w.receives(0, infer(2)) == ["Infer#2 WEIGHTS_NOT_PRESENT"]


# --- UnloadModel -----------------------------------------------------------------------------------------------------


def test_unloading_closes_the_weights_on_all_devices_and_frees_the_name_at_once() -> None:
    w = Worker(gpus=2).warm("m").warm("m", gpu=1)
    assert w.receives(0, UnloadModel(1, ("m", "m")), infer(2), load(3)) == [
        "start host UnloadModel#1",
        "Infer#2 UNKNOWN_MODEL",
        "LoadWeights#3 UNKNOWN_MODEL",
    ]
    assert w.running[None, HOST].handles == ("m on gpu 0", "m on gpu 1")
    assert w.ends(1, HOST) == ["UnloadModel#1 ok"]
    assert names(w) == []
    w.holding("m", pages=4)
    assert w.receives(2, load(4)) == ["start load0 LoadWeights#4"]


def test_unloading_a_model_in_use_or_unknown_changes_nothing() -> None:
    w = Worker().warm("a", "b").holding("c")
    w.receives(0, infer(1, "a"), load(2, "c"))
    assert w.receives(0, UnloadModel(3, ("b", "a")), UnloadModel(4, ("c",)), UnloadModel(5, ("b", "x"))) == [
        "UnloadModel#3 WEIGHTS_IN_USE",
        "UnloadModel#4 WEIGHTS_IN_USE",
        "UnloadModel#5 UNKNOWN_MODEL",
    ]
    assert names(w) == ["a", "b", "c"]
    assert w.loaded_on() == ("b", "a")


# --- ClearCache ------------------------------------------------------------------------------------------------------


def test_clearing_evicts_everything_from_every_device_and_then_answers() -> None:
    w = Worker(gpus=2).warm("a", "b").warm("a", gpu=1)
    assert w.receives(0, ClearCache(1)) == ["start load0 ClearCache#1", "start load1 ClearCache#1"]
    assert w.running[0, LOAD].handles == ("a on gpu 0", "b on gpu 0")
    assert w.ends(1, LOAD, gpu=1) == []
    assert w.ends(2, LOAD) == ["ClearCache#1 ok"]
    assert (w.loaded_on(0), w.loaded_on(1)) == ((), ())


def test_clearing_waits_for_weights_in_use_and_keeps_other_infers_from_starting() -> None:
    w = Worker().warm("a", "b")
    assert w.receives(0, infer(1, "a"), infer(2, "b"), ClearCache(3)) == ["start exec0 Infer#1"]
    assert w.ends(5, EXEC) == ["Infer#1 ok", "start load0 ClearCache#3", "Infer#2 WEIGHTS_NOT_PRESENT"]
    assert w.ends(6, LOAD) == ["ClearCache#3 ok"]
    assert w.loaded_on() == ()


def test_a_faster_exec_thread_does_not_overtake_clearing() -> None:
    w = Worker().warm("a", "b")
    w.receives(0, infer(1, "a"), infer(2, "b"), ClearCache(3))
    w.core.apply(TaskFinished(0, EXEC, 0, ms(5), outcome_of(w.running[0, EXEC])))
    assert [show(command) for command in w.core.poll(ms(5), 0, EXEC)] == ["Infer#2 WEIGHTS_NOT_PRESENT"]
    assert [show(command) for command in w.core.poll(ms(5), 0, LOAD)] == ["start load0 ClearCache#3"]


def test_clearing_runs_in_order_with_loads() -> None:
    w = Worker().holding("a", "b")
    w.receives(0, load(1, "a"), ClearCache(2), load(3, "b"))
    assert w.ends(1, LOAD) == ["LoadWeights#1 ok", "start load0 ClearCache#2"]
    assert w.ends(2, LOAD) == ["ClearCache#2 ok", "start load0 LoadWeights#3"]
    w.ends(3, LOAD)
    assert w.receives(3, infer(4, "b")) == ["start exec0 Infer#4"]


def test_clearing_waits_for_an_unload_that_is_under_way() -> None:
    w = Worker().warm("m")
    assert w.receives(0, UnloadModel(1, ("m",)), ClearCache(2)) == ["start host UnloadModel#1"]
    assert w.ends(1, HOST) == ["UnloadModel#1 ok", "start load0 ClearCache#2"]
    assert w.ends(2, LOAD) == ["ClearCache#2 ok"]


def test_clearing_that_fails_on_one_device_has_one_error_result() -> None:
    w = Worker(gpus=2).warm("m")
    w.receives(0, ClearCache(1))
    assert w.fails(1, LOAD) == []
    assert w.ends(2, LOAD, gpu=1) == ["ClearCache#1 RUNTIME_ERROR"]
    assert w.loaded_on() == ()


# --- GetWorkerState, and controllers that go away --------------------------------------------------------------------


def test_the_state_is_reported_at_once() -> None:
    w = Worker(pages=4, gpus=2).holding("m", pages=2).warm("m")
    w.receives(0, infer(1))
    assert w.receives(0, GetWorkerState(2)) == ["GetWorkerState#2 ok"]
    info = w.state().worker
    assert info.page_size == 16 * MIB
    assert [(gpu.id, gpu.kind, gpu.total_pages, gpu.models) for gpu in info.gpus] == [
        (0, "fake", 4, ("m",)),
        (1, "fake", 4, ()),
    ]
    assert [(m.name, m.digest, m.runtime, m.weights_pages) for m in info.models] == [("m", "d", "fake 1", 2)]


def test_a_lost_controller_gets_no_results_and_the_next_finds_loaded_weights() -> None:
    w = Worker().warm("m").holding("n")
    w.receives(0, infer(1), infer(2), infer(3, earliest=5, latest=6), load(4, "n"))
    assert w.abandoned(1) == []
    assert w.core.next_wakeup() is None
    assert w.receives(2, GetWorkerState(1)) == [], "two tasks still run and change the state"
    assert w.ends(3, EXEC) == []
    assert w.ends(4, LOAD) == ["GetWorkerState#1 ok"]
    assert w.state().worker.gpus[0].models == ("m", "n")
    assert w.receives(5, infer(2, "n")) == ["start exec0 Infer#2"]
    assert w.ends(6, EXEC) == ["Infer#2 ok"]


def test_a_state_query_of_a_lost_controller_is_forgotten() -> None:
    w = Worker().warm("m")
    w.receives(0, infer(1))
    w.abandoned(1)
    w.receives(2, GetWorkerState(1))
    w.abandoned(3)
    assert w.ends(4, EXEC) == []


def test_a_clearing_that_had_not_started_when_the_controller_was_lost_is_forgotten() -> None:
    w = Worker(gpus=2).warm("m").warm("m", gpu=1)
    w.receives(0, infer(1), ClearCache(2), ClearCache(3))
    w.abandoned(1)
    assert w.ends(2, EXEC) == []
    assert w.ends(2, LOAD, gpu=1) == []
    assert (w.loaded_on(0), w.loaded_on(1)) == (("m",), ())
    assert w.receives(3, infer(4), ClearCache(5)) == ["start exec0 Infer#4", "start load1 ClearCache#5"]


def test_a_worker_needs_devices_and_a_page_size() -> None:
    with pytest.raises(ValueError, match="0 devices"):
        WorkerCore(1, [])
    with pytest.raises(ValueError, match="pages of 0 bytes"):
        WorkerCore(0, [("a", 1)])
