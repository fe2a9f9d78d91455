"""Lanes with real threads on the real clock; gates instead of sleeps decide the order of events."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from clockwork.clock import MonotonicClock
from clockwork.errors import DeviceLostError
from clockwork.host.affinity import CorePlan, allowed_cores
from clockwork.host.lanes import Lanes
from clockwork.host.task_runner import ResultToSend, TaskRunner
from clockwork.messages.actions import (
    Action,
    ClearCache,
    EvictWeights,
    Infer,
    InferInput,
    LoadModelFromDisk,
    LoadWeights,
)
from clockwork.messages.results import DeviceTime, ErrorResult, InferResult, LoadWeightsResult, Result
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.units import FOREVER, SECOND, Nanos, ms, us
from clockwork.worker.core import WorkerCore
from host.fake_runtime import PATIENCE, FakeRuntime

CLOCK = MonotonicClock()


class LanesFixture:
    """Lanes with a fake runtime, and the queue of their results."""

    def __init__(self, root: Path, gpus: int = 1, cores: CorePlan | None = None) -> None:
        for name in ("m", "n"):
            (root / name).write_text("batches")
        self.runtime = FakeRuntime()
        self.core = WorkerCore(1, [("fake device", 100)] * gpus)
        self._ready = threading.Event()
        self.crashes: list[Exception] = []
        runner = TaskRunner(self.runtime, root, CLOCK)
        self.lanes = Lanes(self.core, runner, CLOCK, self._ready.set, self._crashed, cores)
        self._sent: list[ResultToSend] = []

    def _crashed(self, error: Exception) -> None:
        self.crashes.append(error)
        self._ready.set()

    def tell(self, action: Action) -> Nanos | None:
        payloads = tuple(b"abcd" for _ in action.inputs) if isinstance(action, Infer) else ()
        return self.lanes.act(action, payloads)

    def result(self) -> Result:
        """Return the next result."""
        while not self._sent:
            assert self._ready.wait(PATIENCE)
            self._ready.clear()
            self._sent += self.lanes.take_results()
        return self._sent.pop(0).result

    def asks(self, action: Action) -> Result:
        self.tell(action)
        return self.result()

    def warm(self, *models: str, gpu: int = 0) -> "LanesFixture":
        for model in models:
            self.asks(LoadModelFromDisk(0, model, model))
            assert isinstance(self.asks(LoadWeights(0, gpu, model)), LoadWeightsResult)
        return self


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[LanesFixture]:
    fixture = LanesFixture(tmp_path)
    yield from running(fixture)


def running(fixture: LanesFixture) -> Iterator[LanesFixture]:
    fixture.lanes.start()
    yield fixture
    for gate in fixture.runtime.gates.values():
        gate.open()
    fixture.lanes.stop()
    fixture.core.check_invariants()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("clockwork-")]


def infer(action_id: int, earliest: Nanos = 0, latest: Nanos = FOREVER, model: str = "m", gpu: int = 0) -> Infer:
    return Infer(action_id, gpu, model, (InferInput(7, 1, (spec("x", "UINT8", (1, 4)),)),), earliest, latest)


def executed(result: Result) -> InferResult:
    assert isinstance(result, InferResult)
    return result


def test_an_infer_is_executed_and_answered(fixture: LanesFixture) -> None:
    result = executed(fixture.warm("m").asks(infer(1)))
    assert (result.id, result.outputs[0].request_id) == (1, 7)
    assert result.copy_input.end <= result.exec.begin <= result.exec.end <= result.copy_output.end


def test_nothing_starts_before_its_earliest(fixture: LanesFixture) -> None:
    fixture.warm("m")
    for wait in (ms(20), ms(1), us(250), us(100)):
        earliest = CLOCK.now() + wait
        result = executed(fixture.asks(infer(1, earliest)))
        assert result.exec.begin >= earliest


def test_the_batch_of_a_waiting_infer_is_assembled_in_advance(fixture: LanesFixture) -> None:
    fixture.warm("m")
    fixture.tell(infer(1, earliest=CLOCK.now() + 100 * SECOND))
    fixture.runtime.gates["assemble"].reached()
    assert fixture.runtime.calls[-1] == ("clockwork-exec0", "assemble")


def test_a_batch_of_several_requests_is_assembled_during_the_previous_execution(fixture: LanesFixture) -> None:
    fixture.warm("m")
    gate = fixture.runtime.gates["execute"]
    gate.close()
    fixture.tell(infer(1))
    gate.reached()
    fixture.runtime.gates["assemble"].reached()
    share = InferInput(7, 1, (spec("x", "UINT8", (1, 4)),))
    fixture.tell(Infer(2, 0, "m", (share, share)))
    fixture.runtime.gates["assemble"].reached()
    assert fixture.runtime.calls[-1] == ("clockwork-input0", "assemble")
    gate.open()
    assert [executed(fixture.result()).id, executed(fixture.result()).id] == [1, 2]
    assert [step for _, step in fixture.runtime.calls].count("assemble") == 2


def test_a_single_request_is_assembled_in_advance_if_inputs_are_uploaded(fixture: LanesFixture, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("uploads")
    fixture.warm("m")
    gate = fixture.runtime.gates["execute"]
    gate.close()
    fixture.tell(infer(1))
    gate.reached()
    fixture.runtime.gates["assemble"].reached()
    fixture.tell(infer(2))
    fixture.runtime.gates["assemble"].reached()
    assert fixture.runtime.calls[-1] == ("clockwork-input0", "assemble")
    gate.open()
    results = [executed(fixture.result()), executed(fixture.result())]
    assert [result.id for result in results] == [1, 2]
    assert results[0].device == DeviceTime(1234, 1980)


def test_an_infer_waits_while_its_batch_is_being_assembled(fixture: LanesFixture) -> None:
    fixture.warm("m")
    gate, assemble = fixture.runtime.gates["execute"], fixture.runtime.gates["assemble"]
    gate.close()
    fixture.tell(infer(1))
    gate.reached()
    assemble.reached()
    assemble.close()
    share = InferInput(7, 1, (spec("x", "UINT8", (1, 4)),))
    fixture.tell(Infer(2, 0, "m", (share, share)))
    assemble.reached()
    gate.open()
    assert executed(fixture.result()).id == 1
    assemble.open()
    assert executed(fixture.result()).id == 2
    assert [step for _, step in fixture.runtime.calls].count("assemble") == 2


def test_an_action_that_arrives_later_with_an_earlier_window_is_not_delayed(fixture: LanesFixture) -> None:
    fixture.warm("m")
    fixture.tell(infer(1, CLOCK.now() + ms(300)))
    assert fixture.asks(infer(2)).id == 2
    assert fixture.result().id == 1


def test_an_action_that_becomes_late_behind_a_running_one_is_answered_at_once(fixture: LanesFixture) -> None:
    fixture.warm("m")
    gate = fixture.runtime.gates["execute"]
    gate.close()
    fixture.tell(infer(1))
    gate.reached()
    expiry = fixture.tell(infer(2, latest=CLOCK.now() + ms(1)))
    assert expiry is not None
    while expiry is not None:
        time.sleep(max(0, expiry - CLOCK.now()) / 1e9)
        expiry = fixture.lanes.expire()
    result = fixture.result()
    assert isinstance(result, ErrorResult)
    assert (result.id, result.status) == (2, Status.COULD_NOT_START_IN_TIME)
    gate.open()
    assert executed(fixture.result()).id == 1


def test_an_idle_lane_answers_late_actions(fixture: LanesFixture) -> None:
    fixture.warm("m", "n")
    fixture.asks(EvictWeights(1, 0, "n"))
    gate = fixture.runtime.gates["load"]
    gate.close()
    fixture.tell(LoadWeights(2, 0, "n"))
    result = fixture.asks(infer(3, latest=CLOCK.now() + ms(2), model="n"))
    assert isinstance(result, ErrorResult)
    assert "the action waited for its weights" in result.message
    gate.open()
    assert fixture.result().id == 2


def test_an_infer_starts_when_its_weights_are_loaded(fixture: LanesFixture) -> None:
    fixture.asks(LoadModelFromDisk(0, "m", "m"))
    gate = fixture.runtime.gates["load"]
    gate.close()
    fixture.tell(LoadWeights(1, 0, "m"))
    gate.reached()
    fixture.tell(infer(2))
    gate.open()
    assert [fixture.result().id, fixture.result().id] == [1, 2]


def test_an_infer_sent_right_behind_its_load_waits_for_it(fixture: LanesFixture) -> None:
    for model in ("m", "n"):
        fixture.asks(LoadModelFromDisk(0, model, model))
        fixture.tell(LoadWeights(1, 0, model))
        fixture.tell(infer(2, model=model))
        assert [fixture.result().id, executed(fixture.result()).id] == [1, 2]


def test_an_infer_whose_load_is_refused_is_refused_too(fixture: LanesFixture) -> None:
    gate = fixture.runtime.gates["load"]
    fixture.warm("m").asks(LoadModelFromDisk(0, "n", "n"))
    gate.reached()
    gate.close()
    fixture.core._memories[0].cache.total = 10  # the cache is full
    fixture.tell(EvictWeights(1, 0, "m"))
    assert fixture.result().id == 1
    fixture.tell(LoadWeights(2, 0, "m"))
    gate.reached()
    fixture.tell(LoadWeights(3, 0, "n"))
    fixture.tell(infer(4, model="n"))
    gate.open()
    statuses = [(result.id, getattr(result, "status", None)) for result in (fixture.result() for _ in range(3))]
    assert statuses == [
        (2, None),
        (3, Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE),
        (4, Status.WEIGHTS_NOT_PRESENT),
    ]


def test_neither_loading_nor_other_devices_delay_an_inference(tmp_path: Path) -> None:
    for fixture in running(LanesFixture(tmp_path, gpus=2)):
        fixture.warm("m").warm("m", gpu=1)
        fixture.asks(LoadModelFromDisk(0, "n", "n"))
        load, execute = fixture.runtime.gates["load"], fixture.runtime.gates["execute"]
        load.close()
        fixture.tell(LoadWeights(1, 0, "n"))
        assert executed(fixture.asks(infer(2))).id == 2
        execute.close()
        fixture.tell(infer(3))
        fixture.tell(infer(4, gpu=1))
        execute.reached()
        execute.reached()
        execute.reached()  # the first was Infer 2
        execute.open()
        assert {fixture.result().id, fixture.result().id} == {3, 4}
        load.open()
        assert fixture.result().id == 1


def test_clearing_waits_for_the_running_inference(fixture: LanesFixture) -> None:
    fixture.warm("m")
    gate = fixture.runtime.gates["execute"]
    gate.close()
    fixture.tell(infer(1))
    gate.reached()
    fixture.tell(ClearCache(2))
    gate.open()
    assert [fixture.result().id, fixture.result().id] == [1, 2]
    assert fixture.runtime.calls[-1] == ("clockwork-load0", "close")


def test_each_task_runs_on_the_thread_of_its_lane(fixture: LanesFixture) -> None:
    fixture.warm("m").asks(infer(1))
    assert fixture.runtime.calls == [
        ("clockwork-host", "read"),
        ("clockwork-load0", "load"),
        ("clockwork-exec0", "assemble"),
        ("clockwork-exec0", "execute"),
    ]


def test_a_task_that_fails_is_answered_and_the_lane_goes_on(fixture: LanesFixture, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("broken-execute")
    fixture.warm("m", "n")
    first, second = fixture.asks(infer(1)), fixture.asks(infer(2, model="n"))
    assert isinstance(first, ErrorResult)
    assert first.status == Status.INVALID_INPUT
    assert executed(second).id == 2


def test_results_for_a_controller_that_is_gone_are_dropped(fixture: LanesFixture) -> None:
    fixture.warm("m")
    gate = fixture.runtime.gates["execute"]
    fixture.tell(infer(1))
    assert fixture._ready.wait(PATIENCE), "a result is ready and was not taken"
    gate.reached()
    gate.close()
    fixture.tell(infer(2))
    fixture.tell(infer(3))
    gate.reached()
    fixture.lanes.controller_lost()
    assert fixture.lanes.take_results() == []
    gate.open()
    assert fixture.asks(infer(4)).id == 4


def test_stopping_waits_for_running_tasks_and_starts_no_more(tmp_path: Path) -> None:
    fixture = LanesFixture(tmp_path)
    fixture.lanes.start()
    fixture.warm("m")
    gate = fixture.runtime.gates["execute"]
    gate.close()
    fixture.tell(infer(1))
    fixture.tell(infer(2))
    gate.reached()
    stopping = threading.Thread(target=fixture.lanes.stop)
    stopping.start()
    while not fixture.lanes._shared.stopping:
        time.sleep(0.001)
    gate.open()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert fixture.result().id == 1
    assert fixture.lanes.take_results() == []


def test_threads_are_pinned_as_planned(tmp_path: Path) -> None:
    cores = allowed_cores()
    seen: dict[str, tuple[int, ...]] = {}
    fixture = LanesFixture(tmp_path, cores=CorePlan((cores[-1:],), cores[:1], cores, ""))

    def look(name: str, words: object) -> None:
        seen[name] = allowed_cores()

    fixture.runtime.step = look  # type: ignore[method-assign]
    for _ in running(fixture):
        fixture.warm("m").asks(infer(1))
    assert seen == {"read": cores, "load": cores[:1], "assemble": cores[-1:], "execute": cores[-1:]}


def test_a_thread_that_cannot_be_pinned_runs_anyway(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for fixture in running(LanesFixture(tmp_path, cores=CorePlan(((100_000,),), (), (), ""))):
        assert executed(fixture.warm("m").asks(infer(1))).id == 1
    assert "clockwork-exec0 cannot be pinned" in caplog.text


def test_a_lane_that_fails_is_reported(fixture: LanesFixture) -> None:
    fixture.warm("m")

    def breaks(task: object, prepared: object) -> NoReturn:
        raise ZeroDivisionError

    fixture.lanes._shared.runner.run = breaks  # type: ignore[assignment, method-assign]
    fixture.tell(infer(1))
    while not fixture.crashes:
        assert fixture._ready.wait(PATIENCE)
        fixture._ready.clear()
    assert isinstance(fixture.crashes[0], ZeroDivisionError)


@pytest.mark.parametrize("step", ["read", "load", "assemble", "execute", "split", "close"])
def test_a_lost_device_is_reported_for_every_kind_of_task(
    step: str, fixture: LanesFixture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m").write_text(f"lost-{step}")
    actions: list[Action] = [LoadModelFromDisk(0, "m", "m"), LoadWeights(0, 0, "m"), infer(1), EvictWeights(0, 0, "m")]
    last = {"read": 0, "load": 1, "close": 3}.get(step, 2)
    for at, action in enumerate(actions[: last + 1]):
        if at < last and (step != "close" or at < 2):
            fixture.asks(action)
        elif at == last:
            fixture.tell(action)
    while not fixture.crashes:
        assert fixture._ready.wait(PATIENCE)
        fixture._ready.clear()
        fixture._sent += fixture.lanes.take_results()
    assert isinstance(fixture.crashes[0], DeviceLostError)
    assert not fixture._sent
    assert not [record for record in caplog.records if record.exc_info], "not a bug, so no traceback is logged"
