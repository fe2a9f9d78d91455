"""Executed tasks: outcomes, timings and statuses."""

from pathlib import Path
from typing import Any

import pytest

from clockwork.errors import DeviceLostError
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
from clockwork.messages.results import ErrorResult, InferOutput, InferResult, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.worker.events import (
    Executed,
    LaneKind,
    ModelRead,
    Outcome,
    Released,
    SendOutputs,
    StartTask,
    TaskFailed,
    WeightsLoaded,
)
from host.fake_runtime import FakeLoaded, FakeModel, FakeRuntime

INPUTS = tuple(InferInput(i, 1, (spec("x", "UINT8", (1, 4)),)) for i in range(2))

UNFORESEEN = "the worker failed unexpectedly; its log has the exception"


class Ticking:
    """A clock that advances by one with every call."""

    def __init__(self) -> None:
        self.looks = 0

    def now(self) -> int:
        self.looks += 1
        return self.looks


@pytest.fixture
def runner(tmp_path: Path) -> TaskRunner:
    (tmp_path / "m").write_text("batches")
    (tmp_path / "broken").write_text("broken-read")
    return TaskRunner(FakeRuntime(), tmp_path, Ticking())


def loaded(*words: str) -> FakeLoaded:
    return FakeLoaded(FakeModel(FakeRuntime(), words), 0)


def task(action: Action, *handles: object, payloads: tuple[object, ...] = ()) -> StartTask:
    return StartTask(0, LaneKind.EXEC, action, payloads, handles)


def an_infer(model: FakeLoaded) -> StartTask:
    return task(Infer(1, 0, "m", INPUTS), model, payloads=(b"abcd", None))


def answer(action: Infer, outcome: Outcome) -> SendOutputs:
    assert isinstance(outcome, Executed)
    return SendOutputs(action, outcome.outputs, outcome.copy_input, outcome.exec)


def failure(runner: TaskRunner, of: StartTask) -> tuple[Status, str]:
    outcome = runner.run(of).outcome
    assert isinstance(outcome, TaskFailed)
    return outcome.status, outcome.message


def test_reading_a_model_describes_it(runner: TaskRunner) -> None:
    finished = runner.run(StartTask(None, LaneKind.HOST, LoadModelFromDisk(1, "m", "m")))
    assert (finished.gpu, finished.lane, finished.begin, finished.end) == (None, LaneKind.HOST, 1, 2)
    read = finished.outcome
    assert isinstance(read, ModelRead)
    assert isinstance(read.handle, FakeModel)
    assert (read.digest, read.runtime, read.batchable, read.weights_bytes) == ("batches", "fake 1", True, 10)


def test_wrong_paths_and_wrong_models_have_different_statuses(runner: TaskRunner) -> None:
    assert failure(runner, task(LoadModelFromDisk(1, "../m", "m")))[0] is Status.INVALID_MODEL_PATH
    assert failure(runner, task(LoadModelFromDisk(1, "broken", "m"))) == (Status.INVALID_MODEL, "it breaks at read")


def test_loading_weights_returns_a_handle(runner: TaskRunner) -> None:
    outcome = runner.run(task(LoadWeights(1, 3, "m"), FakeModel(FakeRuntime(), ["batches"]))).outcome
    assert isinstance(outcome, WeightsLoaded)
    assert isinstance(outcome.handle, FakeLoaded)
    assert outcome.handle.device == 3
    broken = FakeModel(FakeRuntime(), ["broken-load"])
    assert failure(runner, task(LoadWeights(1, 0, "m"), broken)) == (Status.RUNTIME_ERROR, "it breaks at load")


def test_an_infer_is_assembled_executed_split_and_timed(runner: TaskRunner) -> None:
    started = an_infer(loaded("batches"))
    assert isinstance(started.action, Infer)
    finished = runner.finish(answer(started.action, runner.run(started).outcome))
    result = finished.result
    assert isinstance(result, InferResult)
    assert [(output.request_id, output.tensors[0].shape) for output in result.outputs] == [(0, (4,)), (1, (4,))]
    assert finished.buffers == [b"dc", b"ba", bytes(2), bytes(2)]
    timings = (result.copy_input, result.exec, result.copy_output)
    assert timings == (Timing(2, 3, 1), Timing(4, 5, 1), Timing(7, 8, 1))


def test_outputs_that_cannot_be_split_are_an_error(runner: TaskRunner) -> None:
    started = an_infer(loaded("broken-split"))
    assert isinstance(started.action, Infer)
    finished = runner.finish(answer(started.action, runner.run(started).outcome))
    assert finished == ResultToSend(ErrorResult(1, "Infer", Status.RUNTIME_ERROR, UNFORESEEN))


def test_a_prepared_batch_is_not_assembled_again(runner: TaskRunner) -> None:
    model = loaded("batches")
    prepared = runner.prepare(an_infer(model))
    assert not prepared.is_of(an_infer(model)), "equal, but not the same action"
    outcome = runner.run(prepared.task, prepared).outcome
    assert isinstance(outcome, Executed)
    assert outcome.copy_input == Timing(1, 2, 1)
    assert [step for _, step in model.model.runtime.calls] == ["assemble", "execute"]


def test_a_batch_prepared_for_evicted_weights_is_assembled_again(runner: TaskRunner) -> None:
    first, second = loaded("batches"), loaded("batches")
    prepared = runner.prepare(an_infer(first))
    runner.run(task(prepared.task.action, second, payloads=prepared.task.payloads), prepared)
    assert [step for _, step in second.model.runtime.calls] == ["assemble", "execute"]


def test_a_batch_that_cannot_be_prepared_fails_when_it_runs(runner: TaskRunner) -> None:
    prepared = runner.prepare(an_infer(loaded("broken-assemble")))
    outcome = runner.run(prepared.task, prepared).outcome
    assert outcome == TaskFailed(Status.RUNTIME_ERROR, UNFORESEEN)


def test_an_input_that_the_model_rejects_is_an_invalid_input(runner: TaskRunner) -> None:
    alone = task(Infer(1, 0, "m", INPUTS[:1]), loaded("broken-execute"), payloads=(b"abcd",))
    assert failure(runner, alone) == (Status.INVALID_INPUT, "it breaks at execute")


def test_an_input_that_the_model_rejects_does_not_fail_the_rest_of_the_batch(runner: TaskRunner) -> None:
    started = task(Infer(1, 0, "m", INPUTS), loaded("batches"), payloads=(b"evil", b"good"))
    assert isinstance(started.action, Infer)
    finished = runner.finish(answer(started.action, runner.run(started).outcome))
    assert isinstance(finished.result, InferResult)
    evil, good = finished.result.outputs
    assert (evil.request_id, evil.tensors, evil.refusal) == (0, (), "that is evil")
    assert (good.request_id, good.tensors[0].shape, good.refusal) == (1, (4,), "")
    assert finished.buffers == [b"do", b"og"]


def test_a_request_that_the_runtime_cannot_execute_fails_alone(runner: TaskRunner) -> None:
    inputs = tuple(InferInput(i, 1, (spec("x", "UINT8", (1, 4)),)) for i in range(4))
    started = task(Infer(1, 0, "m", inputs), loaded("batches"), payloads=(b"huge", b"good", b"odd?", b"evil"))
    assert isinstance(started.action, Infer)
    finished = runner.finish(answer(started.action, runner.run(started).outcome))
    assert isinstance(finished.result, InferResult)
    huge, good, odd, evil = finished.result.outputs
    assert huge == InferOutput(0, (), "there is no memory for the inference", failed=True)
    assert odd == InferOutput(2, (), UNFORESEEN, failed=True)
    assert evil == InferOutput(3, (), "that is evil", failed=False)
    assert (good.request_id, good.tensors[0].shape, good.refusal, good.failed) == (1, (4,), "", False)
    assert finished.buffers == [b"do", b"og"]


def test_a_batch_without_any_executable_request_fails_as_a_whole(runner: TaskRunner) -> None:
    model = loaded("batches")
    started = task(Infer(1, 0, "m", INPUTS), model, payloads=(b"huge", b"huge"))
    assert failure(runner, started) == (Status.RUNTIME_ERROR, "there is no memory for the inference")
    assert [step for _, step in model.model.runtime.calls].count("execute") == 3


def test_a_batch_is_not_retried_on_a_lost_device(runner: TaskRunner) -> None:
    model = loaded("batches", "lost-execute")
    with pytest.raises(DeviceLostError):
        runner.run(task(Infer(1, 0, "m", INPUTS), model, payloads=(b"good", b"good")))
    assert [step for _, step in model.model.runtime.calls].count("execute") == 1


def test_all_weights_are_closed_even_if_one_fails(runner: TaskRunner) -> None:
    model = loaded()
    assert runner.run(task(EvictWeights(1, 0, "m"), model)).outcome == Released()
    broken = loaded("broken-close")
    assert failure(runner, task(ClearCache(1), broken, model)) == (
        Status.RUNTIME_ERROR,
        "1 weights could not be closed; the worker's log has the exceptions",
    )
    assert [step for _, step in model.model.runtime.calls] == ["close", "close"]


def test_requests_marked_as_separate_are_executed_separately(runner: TaskRunner) -> None:
    model = loaded("batches", "uploads")
    of = task(Infer(1, 0, "m", INPUTS, apart=True), model, payloads=(b"abcd", b"efgh"))
    assert not runner.worth_preparing(of)
    finished = runner.finish(answer(of.action, runner.run(of).outcome))  # type: ignore[arg-type]
    assert b"".join(map(bytes, finished.buffers)) == b"dcbahgfe"
    assert [step for _, step in model.model.runtime.calls].count("execute") == 2


class OneAtATime(FakeLoaded):
    """A model with one output buffer, which must be copied before the next execution."""

    taken = True

    def execute(self, batch: list[bytes]) -> list[bytes]:
        assert self.taken
        self.taken = False
        self.place = [bytearray(output) for output in super().execute(batch)]
        return self.place  # type: ignore[return-value]

    def split(self, inputs: Any, outputs: Any) -> Any:
        self.taken = True
        return super().split(inputs, outputs)


def test_outputs_of_separate_requests_are_copied_one_by_one(runner: TaskRunner) -> None:
    model = OneAtATime(FakeModel(FakeRuntime(), ("batches",)), 0)
    of = task(Infer(1, 0, "m", INPUTS, apart=True), model, payloads=(b"abcd", b"efgh"))
    finished = runner.finish(answer(of.action, runner.run(of).outcome))  # type: ignore[arg-type]
    model.place[0][:] = b"xxxx"
    assert b"".join(map(bytes, finished.buffers)) == b"dcbahgfe"
