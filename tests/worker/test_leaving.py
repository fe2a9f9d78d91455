"""A worker that is about to end: running tasks go on, and all other actions are refused once."""

from clockwork.messages.actions import Action, ClearCache, GetWorkerState, LoadModelFromDisk
from worker.driven import EXEC, HOST, LOAD, Worker, evict, infer, load

REFUSED = "SHUTTING_DOWN"


def test_a_running_task_is_finished_and_waiting_actions_are_refused() -> None:
    worker = Worker().warm("m").holding("n")
    worker.receives(1, infer(1), infer(2, earliest=50), load(3, "n"), evict(4, "n"))
    worker.receives(1, LoadModelFromDisk(5, "x.onnx", "x"), LoadModelFromDisk(6, "y.onnx", "y"))
    assert worker.core.owes_results
    lines = worker.leaves(2)
    assert lines == [f"LoadModelFromDisk#6 {REFUSED}", f"EvictWeights#4 {REFUSED}", f"Infer#2 {REFUSED}"]
    assert worker.message() == "the worker is shutting down"
    assert worker.ends(3, EXEC) == ["Infer#1 ok"]
    assert worker.ends(3, LOAD) == ["LoadWeights#3 ok"]
    assert worker.core.owes_results
    worker.fails(4, HOST)
    assert not worker.core.owes_results


def test_new_actions_are_refused() -> None:
    worker = Worker().warm("m")
    assert worker.leaves(1) == []
    actions: list[Action] = [infer(1), load(2, "n"), evict(3), LoadModelFromDisk(4, "x.onnx", "x")]
    actions += [ClearCache(5), GetWorkerState(6)]
    assert worker.receives(2, *actions) == [f"{type(action).__name__}#{action.id} {REFUSED}" for action in actions]


def test_a_clear_cache_that_waits_on_several_devices_is_refused_once() -> None:
    worker = Worker(gpus=2).warm("m")
    worker.receives(1, infer(1), ClearCache(2))
    assert worker.leaves(2) == [f"ClearCache#2 {REFUSED}"]
    assert worker.ends(3, EXEC) == ["Infer#1 ok"]


def test_a_lost_controller_waits_for_no_results() -> None:
    worker = Worker().warm("m")
    worker.receives(1, infer(1))
    worker.abandoned(2)
    assert not worker.core.owes_results
    assert worker.leaves(2) == []
