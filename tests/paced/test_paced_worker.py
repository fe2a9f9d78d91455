"""A worker on paced devices keeps to the times of its profile, however late it is called."""

import copy
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import Infer, InferInput, LoadModelFromDisk, LoadWeights
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.results import ErrorResult, LoadWeightsResult
from clockwork.messages.tensors import spec
from clockwork.paced.durations import DurationModel, NoiseModel
from clockwork.paced.from_status import models_of
from clockwork.paced.models import PROFILES, PacedModel, scaled
from clockwork.paced.worker import PacedWorker
from clockwork.units import FOREVER, Nanos, ms
from clockwork.worker.core import WorkerCore
from clockwork.worker.events import ActionReceived, ResultCommand, SendOutputs, SendResult

MODEL = PacedModel("m", "d", PROFILES["resnet50-v100"])
LOAD, B1, B2, B4 = ms(8.31), ms(2.73), ms(4.05), ms(5.88)


def infer(action_id: int, rows: int = 1, gpu: int = 0, earliest: Nanos = 0, latest: Nanos = FOREVER) -> ActionReceived:
    share = InferInput(action_id, rows, (spec("data", "FP32", (rows, 3, 224, 224)),), generated=True)
    return ActionReceived(Infer(action_id, gpu, "m", (share,), earliest, latest), (None,))


def a_worker(gpus: int = 1, *, warm: bool = True) -> PacedWorker:
    durations = [DurationModel(NoiseModel(), Random(gpu)) for gpu in range(gpus)]
    worker = PacedWorker(WorkerCore(16 << 20, [("fake", 100)] * gpus), {"m": MODEL}, durations)
    worker.handle(0, ActionReceived(LoadModelFromDisk(1, "m", "m")))
    worker.wake(0)
    for gpu in range(gpus) if warm else ():
        worker.handle(0, ActionReceived(LoadWeights(10 + gpu, gpu, "m")))
    worker.wake(LOAD)
    return worker


def outputs(answers: list[ResultCommand]) -> list[tuple[int, Nanos, Nanos]]:
    """Return id, begin and end of each Infer."""
    return [(sent.action.id, sent.exec.begin, sent.exec.end) for sent in answers if isinstance(sent, SendOutputs)]


def test_tasks_take_the_times_of_the_profile() -> None:
    worker = a_worker(warm=False)
    worker.handle(ms(20), ActionReceived(LoadWeights(2, 0, "m")))
    assert worker.next_wakeup() == ms(20) + LOAD
    (loaded,) = worker.wake(ms(20) + LOAD)
    assert isinstance(loaded, SendResult)
    assert isinstance(loaded.result, LoadWeightsResult)
    assert loaded.result.timing.duration == LOAD
    assert worker.handle(ms(40), infer(3, rows=2, earliest=ms(50))) == []
    assert worker.next_wakeup() == ms(50)
    worker.wake(ms(50))
    assert outputs(worker.wake(ms(50) + B2)) == [(3, ms(50), ms(50) + B2)]
    assert worker.next_wakeup() is None
    worker.core.check_invariants()


def test_a_late_call_does_not_change_the_times_of_tasks() -> None:
    worker = a_worker()
    worker.handle(ms(20), infer(3))
    worker.handle(ms(20), infer(4, rows=4))
    worker.handle(ms(20), infer(5, earliest=ms(40)))
    late = outputs(worker.wake(ms(1000)))
    first, second = ms(20) + B1, ms(20) + B1 + B4
    assert late == [(3, ms(20), first), (4, first, second), (5, ms(40), ms(40) + B1)]
    assert worker.busy == [B1 + B4 + B1]


def test_tasks_that_were_due_before_an_action_are_done_before_it() -> None:
    worker = a_worker()
    worker.handle(ms(20), infer(3))
    answers = worker.handle(ms(100), infer(4))
    assert outputs(answers) == [(3, ms(20), ms(20) + B1)]
    assert outputs(worker.wake(ms(200))) == [(4, ms(100), ms(100) + B1)]


def test_an_action_that_expires_behind_a_running_task_fails_at_once() -> None:
    worker = a_worker()
    worker.handle(ms(20), infer(3, rows=16))
    worker.handle(ms(20), infer(4, latest=ms(21)))
    assert worker.next_wakeup() == ms(21) + 1
    (answer,) = worker.wake(ms(21) + 1)
    assert isinstance(answer, SendResult)
    assert isinstance(answer.result, ErrorResult)


def test_devices_do_not_wait_for_each_other() -> None:
    worker = a_worker(gpus=3)
    for gpu in range(3):
        worker.handle(ms(20), infer(3 + gpu, gpu=gpu))
    assert [begin for _, begin, _ in outputs(worker.wake(ms(30)))] == [ms(20)] * 3


def test_an_unknown_profile_and_an_unknown_device_are_refused() -> None:
    worker = a_worker()
    worker.handle(ms(20), ActionReceived(LoadModelFromDisk(7, "other", "o")))
    (answer,) = worker.wake(ms(20))
    assert isinstance(answer, SendResult)
    assert "model 'other' has no profile on this worker, which emulates m" in str(answer.result)
    (answer,) = worker.handle(ms(20), infer(8, gpu=5))
    assert isinstance(answer, SendResult)
    assert "gpu 5 is unknown" in str(answer.result)


def test_measured_samples_are_used_in_order() -> None:
    measurement = Measurement(tuple(range(1, 11)))
    durations = DurationModel(NoiseModel("measured"), Random(3))
    drawn = [durations.infer(ModelProfile(measurement, {1: measurement}, 1), 1) for _ in range(20)]
    assert {after - before for before, after in pairwise(drawn)} == {1, -9}
    assert drawn[:10] == drawn[10:]


def test_a_slower_device_is_as_many_times_slower_in_its_first_executions() -> None:
    profile = ModelProfile(Measurement((ms(3),)), {1: Measurement((ms(2),))}, 1, first=(ms(6), ms(4)))
    slower = scaled(profile, 10.0)
    assert (slower.load_weights.p99, slower.infer_estimate(1)) == (ms(30), ms(20))
    assert (slower.first, slower.slow_start) == ((ms(60), ms(40)), profile.slow_start)


def test_a_state_in_another_form_is_refused() -> None:
    states: list[dict[str, Any]] = [{}, {"models": 3}, {"models": [{}]}]
    for state in states:
        with pytest.raises(InvalidRequestError, match="state is not the output of clockwork status --json"):
            models_of(state)


GOOD = {
    "info": {
        "name": "m",
        "digest": "d",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        "batchable": True,
        "weights_pages": 1,
    },
    "profiles": {"gpu": {"load_weights": {"samples": [5]}, "infer": {"1": {"samples": [7, 8]}}}},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("info", "outputs", 0, "datatype"), "GARBAGE"),
        (("info", "outputs", 0, "datatype"), 7),
        (("info", "outputs", 0, "shape"), [-1, 1 << 40]),
        (("info", "outputs", 0, "shape"), [-5, 3]),
        (("info", "inputs", 0, "shape"), ["a"]),
        (("info", "inputs", 0, "shape"), "ab"),
        (("info", "inputs", 0, "name"), 5),
        (("info", "inputs"), []),
        (("info", "outputs"), []),
        (("info", "batchable"), "no"),
        (("info", "weights_pages"), True),
        (("profiles", "gpu", "infer", "1", "samples"), [True]),
        (("profiles", "gpu", "infer", "1", "samples"), []),
        (("profiles", "gpu", "infer"), {"2": {"samples": [5]}}),
    ],
)
def test_a_state_that_is_wrong_in_one_place_is_refused(path: tuple[Any, ...], value: object) -> None:
    state = {"models": [copy.deepcopy(GOOD)]}
    ((model, copies),) = models_of(state)
    assert (model.path, copies, model.profile.infer_estimate(1)) == ("m.onnx", 1, 8)
    place: Any = state["models"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InvalidRequestError, match="state is not the output of clockwork status --json"):
        models_of(state)
