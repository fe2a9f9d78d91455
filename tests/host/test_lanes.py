"""Threads that drive a core: real ones, on the real clock, that wait for each other and never for luck."""

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


class Bench:
    """Lanes over a fake runtime, and their results as they come."""

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
        """The next one."""
        while not self._sent:
            assert self._ready.wait(PATIENCE)
            self._ready.clear()
            self._sent += self.lanes.take_results()
        return self._sent.pop(0).result

    def asks(self, action: Action) -> Result:
        self.tell(action)
        return self.result()

    def warm(self, *models: str, gpu: int = 0) -> "Bench":
        for model in models:
            self.asks(LoadModelFromDisk(0, model, model))
            assert isinstance(self.asks(LoadWeights(0, gpu, model)), LoadWeightsResult)
        return self


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield from running(bench)


def running(bench: Bench) -> Iterator[Bench]:
    bench.lanes.start()
    yield bench
    for gate in bench.runtime.gates.values():
        gate.open()
    bench.lanes.stop()
    bench.core.check_invariants()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("clockwork-")]


def infer(action_id: int, earliest: Nanos = 0, latest: Nanos = FOREVER, model: str = "m", gpu: int = 0) -> Infer:
    return Infer(action_id, gpu, model, (InferInput(7, 1, (spec("x", "UINT8", (1, 4)),)),), earliest, latest)


def executed(result: Result) -> InferResult:
    assert isinstance(result, InferResult)
    return result


def test_an_infer_goes_all_the_way(bench: Bench) -> None:
    result = executed(bench.warm("m").asks(infer(1)))
    assert (result.id, result.outputs[0].request_id) == (1, 7)
    assert result.copy_input.end <= result.exec.begin <= result.exec.end <= result.copy_output.end


def test_nothing_starts_before_its_earliest(bench: Bench) -> None:
    bench.warm("m")
    for wait in (ms(20), ms(1), us(250), us(100)):
        earliest = CLOCK.now() + wait
        result = executed(bench.asks(infer(1, earliest)))
        assert result.exec.begin >= earliest


def test_the_batch_of_an_infer_that_waits_is_assembled_meanwhile(bench: Bench) -> None:
    bench.warm("m")
    bench.tell(infer(1, earliest=CLOCK.now() + 100 * SECOND))
    bench.runtime.gates["assemble"].reached()
    assert bench.runtime.calls[-1] == ("clockwork-exec0", "assemble")


def test_a_batch_of_several_is_assembled_while_the_one_before_is_executed(bench: Bench) -> None:
    bench.warm("m")
    gate = bench.runtime.gates["execute"]
    gate.close()
    bench.tell(infer(1))
    gate.reached()
    bench.runtime.gates["assemble"].reached()
    share = InferInput(7, 1, (spec("x", "UINT8", (1, 4)),))
    bench.tell(Infer(2, 0, "m", (share, share)))
    bench.runtime.gates["assemble"].reached()
    assert bench.runtime.calls[-1] == ("clockwork-input0", "assemble")
    gate.open()
    assert [executed(bench.result()).id, executed(bench.result()).id] == [1, 2]
    assert [step for _, step in bench.runtime.calls].count("assemble") == 2


def test_a_single_request_is_assembled_so_too_where_inputs_are_uploaded(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("uploads")
    bench.warm("m")
    gate = bench.runtime.gates["execute"]
    gate.close()
    bench.tell(infer(1))
    gate.reached()
    bench.runtime.gates["assemble"].reached()
    bench.tell(infer(2))
    bench.runtime.gates["assemble"].reached()
    assert bench.runtime.calls[-1] == ("clockwork-input0", "assemble")
    gate.open()
    results = [executed(bench.result()), executed(bench.result())]
    assert [it.id for it in results] == [1, 2]
    assert results[0].device == DeviceTime(1234, 1980)


def test_an_infer_waits_for_its_batch_that_is_being_assembled(bench: Bench) -> None:
    bench.warm("m")
    gate, assemble = bench.runtime.gates["execute"], bench.runtime.gates["assemble"]
    gate.close()
    bench.tell(infer(1))
    gate.reached()
    assemble.reached()
    assemble.close()
    share = InferInput(7, 1, (spec("x", "UINT8", (1, 4)),))
    bench.tell(Infer(2, 0, "m", (share, share)))
    assemble.reached()
    gate.open()
    assert executed(bench.result()).id == 1
    assemble.open()
    assert executed(bench.result()).id == 2
    assert [step for _, step in bench.runtime.calls].count("assemble") == 2


def test_an_earlier_action_that_comes_later_is_not_held_up(bench: Bench) -> None:
    bench.warm("m")
    bench.tell(infer(1, CLOCK.now() + ms(300)))
    assert bench.asks(infer(2)).id == 2
    assert bench.result().id == 1


def test_an_action_that_is_late_behind_a_running_one_is_answered_while_that_runs(bench: Bench) -> None:
    bench.warm("m")
    gate = bench.runtime.gates["execute"]
    gate.close()
    bench.tell(infer(1))
    gate.reached()
    expiry = bench.tell(infer(2, latest=CLOCK.now() + ms(1)))
    assert expiry is not None
    while expiry is not None:
        time.sleep(max(0, expiry - CLOCK.now()) / 1e9)
        expiry = bench.lanes.expire()
    result = bench.result()
    assert isinstance(result, ErrorResult)
    assert (result.id, result.status) == (2, Status.COULD_NOT_START_IN_TIME)
    gate.open()
    assert executed(bench.result()).id == 1


def test_an_idle_lane_answers_what_is_late_by_itself(bench: Bench) -> None:
    bench.warm("m", "n")
    bench.asks(EvictWeights(1, 0, "n"))
    gate = bench.runtime.gates["load"]
    gate.close()
    bench.tell(LoadWeights(2, 0, "n"))
    result = bench.asks(infer(3, latest=CLOCK.now() + ms(2), model="n"))
    assert isinstance(result, ErrorResult)
    assert "the action waited for its weights" in result.message
    gate.open()
    assert bench.result().id == 2


def test_an_infer_starts_when_the_weights_it_waits_for_are_there(bench: Bench) -> None:
    bench.asks(LoadModelFromDisk(0, "m", "m"))
    gate = bench.runtime.gates["load"]
    gate.close()
    bench.tell(LoadWeights(1, 0, "m"))
    gate.reached()
    bench.tell(infer(2))
    gate.open()
    assert [bench.result().id, bench.result().id] == [1, 2]


def test_an_infer_sent_right_behind_its_load_waits_for_it(bench: Bench) -> None:
    for model in ("m", "n"):
        bench.asks(LoadModelFromDisk(0, model, model))
        bench.tell(LoadWeights(1, 0, model))
        bench.tell(infer(2, model=model))
        assert [bench.result().id, executed(bench.result()).id] == [1, 2]


def test_an_infer_whose_load_is_refused_is_refused_too(bench: Bench) -> None:
    gate = bench.runtime.gates["load"]
    bench.warm("m").asks(LoadModelFromDisk(0, "n", "n"))
    gate.reached()
    gate.close()
    bench.core._memories[0].cache.total = 10  # it is full
    bench.tell(EvictWeights(1, 0, "m"))
    assert bench.result().id == 1
    bench.tell(LoadWeights(2, 0, "m"))
    gate.reached()
    bench.tell(LoadWeights(3, 0, "n"))
    bench.tell(infer(4, model="n"))
    gate.open()
    statuses = [(it.id, getattr(it, "status", None)) for it in (bench.result(), bench.result(), bench.result())]
    assert statuses == [
        (2, None),
        (3, Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE),
        (4, Status.WEIGHTS_NOT_PRESENT),
    ]


def test_loading_does_not_hold_up_inferences_nor_they_each_other_across_devices(tmp_path: Path) -> None:
    for bench in running(Bench(tmp_path, gpus=2)):
        bench.warm("m").warm("m", gpu=1)
        bench.asks(LoadModelFromDisk(0, "n", "n"))
        load, execute = bench.runtime.gates["load"], bench.runtime.gates["execute"]
        load.close()
        bench.tell(LoadWeights(1, 0, "n"))
        assert executed(bench.asks(infer(2))).id == 2
        execute.close()
        bench.tell(infer(3))
        bench.tell(infer(4, gpu=1))
        execute.reached()
        execute.reached()
        execute.reached()  # the first was Infer 2
        execute.open()
        assert {bench.result().id, bench.result().id} == {3, 4}
        load.open()
        assert bench.result().id == 1


def test_clearing_waits_for_the_running_inference(bench: Bench) -> None:
    bench.warm("m")
    gate = bench.runtime.gates["execute"]
    gate.close()
    bench.tell(infer(1))
    gate.reached()
    bench.tell(ClearCache(2))
    gate.open()
    assert [bench.result().id, bench.result().id] == [1, 2]
    assert bench.runtime.calls[-1] == ("clockwork-load0", "close")


def test_each_task_runs_on_the_thread_of_its_lane(bench: Bench) -> None:
    bench.warm("m").asks(infer(1))
    assert bench.runtime.calls == [
        ("clockwork-host", "read"),
        ("clockwork-load0", "load"),
        ("clockwork-exec0", "assemble"),
        ("clockwork-exec0", "execute"),
    ]


def test_a_task_that_fails_is_answered_and_the_lane_goes_on(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("broken-execute")
    bench.warm("m", "n")
    first, second = bench.asks(infer(1)), bench.asks(infer(2, model="n"))
    assert isinstance(first, ErrorResult)
    assert first.status == Status.INVALID_INPUT
    assert executed(second).id == 2


def test_results_for_a_controller_that_is_gone_are_dropped(bench: Bench) -> None:
    bench.warm("m")
    gate = bench.runtime.gates["execute"]
    bench.tell(infer(1))
    assert bench._ready.wait(PATIENCE), "its result is there, and nobody takes it"
    gate.reached()
    gate.close()
    bench.tell(infer(2))
    bench.tell(infer(3))
    gate.reached()
    bench.lanes.controller_lost()
    assert bench.lanes.take_results() == []
    gate.open()
    assert bench.asks(infer(4)).id == 4


def test_stopping_waits_for_what_runs_and_starts_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.lanes.start()
    bench.warm("m")
    gate = bench.runtime.gates["execute"]
    gate.close()
    bench.tell(infer(1))
    bench.tell(infer(2))
    gate.reached()
    stopping = threading.Thread(target=bench.lanes.stop)
    stopping.start()
    while not bench.lanes._shared.stopping:
        time.sleep(0.001)
    gate.open()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert bench.result().id == 1
    assert bench.lanes.take_results() == []


def test_threads_are_pinned_as_planned(tmp_path: Path) -> None:
    cores = allowed_cores()
    seen: dict[str, tuple[int, ...]] = {}
    bench = Bench(tmp_path, cores=CorePlan((cores[-1:],), cores[:1], cores, ""))

    def look(name: str, words: object) -> None:
        seen[name] = allowed_cores()

    bench.runtime.step = look  # type: ignore[method-assign]
    for _ in running(bench):
        bench.warm("m").asks(infer(1))
    assert seen == {"read": cores, "load": cores[:1], "assemble": cores[-1:], "execute": cores[-1:]}


def test_a_thread_that_cannot_be_pinned_runs_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for bench in running(Bench(tmp_path, cores=CorePlan(((100_000,),), (), (), ""))):
        assert executed(bench.warm("m").asks(infer(1))).id == 1
    assert "clockwork-exec0 cannot be pinned" in caplog.text


def test_a_lane_that_breaks_says_so(bench: Bench) -> None:
    bench.warm("m")

    def breaks(task: object, prepared: object) -> NoReturn:
        raise ZeroDivisionError

    bench.lanes._shared.runner.run = breaks  # type: ignore[assignment, method-assign]
    bench.tell(infer(1))
    while not bench.crashes:
        assert bench._ready.wait(PATIENCE)
        bench._ready.clear()
    assert isinstance(bench.crashes[0], ZeroDivisionError)


@pytest.mark.parametrize("step", ["read", "load", "assemble", "execute", "split", "close"])
def test_a_device_that_is_lost_is_said_whatever_was_asked_of_it(
    step: str, bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m").write_text(f"lost-{step}")
    actions: list[Action] = [LoadModelFromDisk(0, "m", "m"), LoadWeights(0, 0, "m"), infer(1), EvictWeights(0, 0, "m")]
    last = {"read": 0, "load": 1, "close": 3}.get(step, 2)
    for at, action in enumerate(actions[: last + 1]):
        if at < last and (step != "close" or at < 2):
            bench.asks(action)
        elif at == last:
            bench.tell(action)
    while not bench.crashes:
        assert bench._ready.wait(PATIENCE)
        bench._ready.clear()
        bench._sent += bench.lanes.take_results()
    assert isinstance(bench.crashes[0], DeviceLostError)
    assert not bench._sent
    assert not [it for it in caplog.records if it.exc_info], "it is no bug, so there is no traceback"
