"""The EXEC lane: windows, order and weights of Infer actions."""

import pytest

from clockwork.messages.actions import Infer
from clockwork.messages.status import Status
from clockwork.units import ms
from clockwork.worker.events import ActionReceived, SendOutputs, SendResult, StartTask
from clockwork.worker.lane import MAX_QUEUED
from worker.driven import EXEC, HOST, LOAD, NONE, Worker, evict, infer, load


def test_an_infer_starts_in_its_window_with_its_payloads_and_weights() -> None:
    w = Worker().warm("m")
    assert w.receives(0, infer(1, earliest=5, latest=9, requests=2)) == []
    assert w.core.next_wakeup() == ms(5)
    assert w.wakes(4.9) == []
    assert w.wakes(5) == ["start exec0 Infer#1"]
    (task,) = w.last
    assert isinstance(task, StartTask)
    assert (task.payloads, task.handles) == (("in 0", "in 1"), ("m on gpu 0",))
    assert w.ends(8, EXEC) == ["Infer#1 ok"]
    (sent,) = w.last
    assert isinstance(task.action, Infer)
    assert sent == SendOutputs(task.action, "out of 1", NONE, NONE)


def test_infers_run_one_at_a_time_in_order_of_earliest() -> None:
    w = Worker().warm("m")
    assert w.receives(0, infer(1, earliest=2), infer(2, earliest=1), infer(3, earliest=1)) == []
    assert w.wakes(3) == ["start exec0 Infer#2"]
    assert w.ends(4, EXEC) == ["Infer#2 ok", "start exec0 Infer#3"]
    assert w.ends(5, EXEC) == ["Infer#3 ok", "start exec0 Infer#1"]
    assert w.ends(6, EXEC) == ["Infer#1 ok"]


def test_an_infer_may_start_at_its_latest_and_not_after() -> None:
    for start, line in ((9, "start exec0 Infer#1"), (9.000001, "Infer#1 COULD_NOT_START_IN_TIME")):
        w = Worker().warm("m")
        assert w.receives(start, infer(1, earliest=5, latest=9)) == [line]


def test_an_infer_behind_a_long_one_is_answered_after_its_latest_and_delays_no_other() -> None:
    w = Worker().warm("m")
    w.receives(0, infer(1), infer(2, latest=3), infer(3, latest=20))
    assert w.core.next_wakeup() == ms(3) + 1
    assert w.wakes(3) == []
    assert w.wakes(3.000001) == ["Infer#2 COULD_NOT_START_IN_TIME"]
    assert w.message() == "the action's latest start passed 0.001 us ago while Infer 1 ran"
    assert w.ends(15, EXEC) == ["Infer#1 ok", "start exec0 Infer#3"]


def test_an_infer_without_weights_fails_when_its_turn_comes() -> None:
    w = Worker().holding("m")
    assert w.receives(0, infer(1, earliest=1)) == []
    assert w.wakes(1) == ["Infer#1 WEIGHTS_NOT_PRESENT"]


def test_an_infer_of_an_unknown_model_or_on_an_unknown_device_fails() -> None:
    w = Worker()
    assert w.receives(0, infer(1)) == ["Infer#1 UNKNOWN_MODEL"]
    assert w.receives(0, infer(2, gpu=1), infer(3, gpu=-1)) == ["Infer#2 INVALID_GPU", "Infer#3 INVALID_GPU"]


def test_an_infer_waits_for_weights_that_are_being_loaded_and_others_pass_it() -> None:
    w = Worker().warm("a").holding("m")
    w.receives(0, load(1, "m"))
    assert w.receives(0, infer(2, "m", latest=9), infer(3, "a")) == ["start exec0 Infer#3"]
    assert w.ends(4, EXEC) == ["Infer#3 ok"]
    assert w.core.next_wakeup() == ms(9) + 1
    assert w.ends(5, LOAD) == ["LoadWeights#1 ok", "start exec0 Infer#2"]


def test_an_infer_waits_for_a_waiting_load() -> None:
    w = Worker().holding("a", "m")
    w.receives(0, load(1, "a"), load(2, "m"))
    assert w.receives(0, infer(3, "m")) == []
    assert w.ends(5, LOAD) == ["LoadWeights#1 ok", "start load0 LoadWeights#2"]
    assert w.ends(9, LOAD) == ["LoadWeights#2 ok", "start exec0 Infer#3"]


def test_an_infer_fails_if_its_load_is_too_late() -> None:
    w = Worker().holding("a", "m")
    w.receives(0, load(1, "a"), load(2, "m", latest=3), infer(3, "m"))
    assert w.wakes(4) == ["LoadWeights#2 COULD_NOT_START_IN_TIME", "Infer#3 WEIGHTS_NOT_PRESENT"]


def test_an_infer_waits_for_weights_until_its_latest() -> None:
    w = Worker().holding("m")
    w.receives(0, load(1), infer(2, latest=9))
    assert w.wakes(10) == ["Infer#2 COULD_NOT_START_IN_TIME"]
    assert "the action waited for its weights" in w.message()


def test_an_infer_fails_if_its_load_fails() -> None:
    w = Worker().holding("m")
    w.receives(0, load(1), infer(2))
    assert w.fails(5, LOAD) == ["LoadWeights#1 RUNTIME_ERROR", "Infer#2 WEIGHTS_NOT_PRESENT"]


@pytest.mark.parametrize("status", [Status.RUNTIME_ERROR, Status.INVALID_INPUT])
def test_a_failed_infer_is_answered_with_its_status_and_the_weights_stay(status: Status) -> None:
    w = Worker().warm("m")
    w.receives(0, infer(1), infer(2))
    assert w.fails(1, EXEC, status) == [f"Infer#1 {status.name}", "start exec0 Infer#2"]
    assert w.message() == "it broke"
    assert w.ends(2, EXEC) == ["Infer#2 ok"]


def test_weights_in_use_are_not_evicted_nor_loaded_again() -> None:
    w = Worker().warm("m")
    w.receives(0, infer(1))
    assert w.receives(0, evict(2), load(3)) == ["EvictWeights#2 WEIGHTS_IN_USE", "LoadWeights#3 WEIGHTS_ALREADY_LOADED"]


def test_an_infer_waits_for_a_waiting_eviction_and_the_load_after_it() -> None:
    w = Worker().warm("m").holding("a")
    w.receives(0, load(1, "a"))
    assert w.receives(0, evict(2, "m"), load(3, "m"), infer(4, "m")) == []
    assert w.ends(5, LOAD) == ["LoadWeights#1 ok", "start load0 EvictWeights#2"]
    assert w.ends(6, LOAD) == ["EvictWeights#2 ok", "start load0 LoadWeights#3"]
    assert w.ends(9, LOAD) == ["LoadWeights#3 ok", "start exec0 Infer#4"]


def test_a_model_without_batches_executes_one_request_at_a_time() -> None:
    w = Worker().holding("m", batchable=False).warm("m")
    assert w.receives(0, infer(1, requests=2)) == ["Infer#1 INVALID_BATCH_SIZE"]
    assert w.receives(0, infer(2)) == ["start exec0 Infer#2"]


def test_an_infer_without_inputs_or_payloads_is_invalid() -> None:
    w = Worker().warm("m")
    assert w.receives(0, infer(1, requests=0)) == ["Infer#1 INVALID_ACTION"]
    (result,) = w.core.apply(ActionReceived(infer(2), ()))
    assert isinstance(result, SendResult)
    assert "1 inputs and 0 payloads" in str(result)


def test_devices_do_not_wait_for_each_other() -> None:
    w = Worker(gpus=2).warm("m").warm("m", gpu=1)
    assert w.receives(0, infer(1), infer(2, gpu=1)) == ["start exec0 Infer#1", "start exec1 Infer#2"]


def test_a_full_lane_refuses_actions_and_keeps_those_it_has() -> None:
    w = Worker().warm("m")
    for i in range(MAX_QUEUED):
        assert w.core.apply(ActionReceived(infer(i, earliest=1), ("x",))) == []
    assert w.receives(0, infer(MAX_QUEUED)) == [f"Infer#{MAX_QUEUED} ERROR"]
    assert "10000 actions wait" in w.message()
    assert w.wakes(1) == ["start exec0 Infer#0"]


def test_the_next_infer_is_known_before_it_starts() -> None:
    w = Worker().holding("m", "n").warm("m")
    assert w.core.upcoming(0) is None
    w.receives(0, infer(1, "m", earliest=5), infer(2, "n", earliest=4))
    assert w.core.upcoming(0) is None, "the next Infer would be refused"
    assert w.wakes(4) == ["Infer#2 WEIGHTS_NOT_PRESENT"]
    upcoming = w.core.upcoming(0)
    assert w.wakes(5) == ["start exec0 Infer#1"]
    assert upcoming == w.last[0]


def test_a_lane_thread_drives_its_own_lane_only() -> None:
    w = Worker().warm("m").holding("n")
    assert w.core.apply(ActionReceived(infer(1), ("x",))) == []
    assert w.core.apply(ActionReceived(load(2, "n"))) == []
    assert w.core.next_wakeup_of(0, EXEC) == 0
    assert [type(c.action) for c in w.core.poll(0, 0, EXEC) if isinstance(c, StartTask)] == [Infer]
    assert w.core.next_wakeup_of(0, EXEC) is None
    assert w.core.next_wakeup_of(0, LOAD) == 0
    assert w.core.next_wakeup_of(None, HOST) is None


def test_answering_late_actions_starts_no_task() -> None:
    w = Worker().warm("m")
    w.core.apply(ActionReceived(infer(1), ("x",)))
    w.core.apply(ActionReceived(infer(2, latest=1), ("x",)))
    assert w.core.next_expiry() == ms(1) + 1
    assert [type(result) for result in w.core.expire(ms(2))] == [SendResult]
    assert w.core.next_expiry() is None
    assert w.wakes(2) == ["start exec0 Infer#1"]
