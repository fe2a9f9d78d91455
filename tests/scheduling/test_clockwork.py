"""The Clockwork scheduler: its actions and answers at literal times."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from builders import KIND, a_state, model_info, pending
from clockwork.controller.responses import retry_time
from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import NO_RETRY, Answer, SendAction
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.results import (
    ErrorResult,
    EvictWeightsResult,
    InferOutput,
    InferResult,
    LoadWeightsResult,
    Timing,
)
from clockwork.messages.status import Status
from clockwork.scheduling.clockwork import ClockworkConfig, ClockworkScheduler
from clockwork.state import GPUState, ModelState, PendingRequest
from clockwork.units import Nanos, ms, seconds, us

TIMES = {1: ms(4), 2: ms(6), 4: ms(10), 8: ms(18)}
LOAD = ms(8)
CONFIG = ClockworkConfig(network_delay=us(100), preload=False)
LEAD = CONFIG.schedule_ahead + us(100)


class ClockworkHarness:
    """A started scheduler, its devices, and requests by number."""

    def __init__(
        self,
        models: Sequence[str] = ("a", "b"),
        *,
        gpus: int = 1,
        pages: int = 4,
        warm: tuple[str, ...] = ("a", "b"),
        config: ClockworkConfig = CONFIG,
        batchable: bool = True,
        workers: int = 1,
        times: Mapping[int, Nanos] = TIMES,
        first: tuple[Nanos, ...] = (),
    ) -> None:
        infos = [model_info(name, batchable=batchable) for name in models]
        self.state = a_state(infos, gpus=gpus, pages=pages, warm=warm, workers=workers)
        infer = {size: Measurement((time,)) for size, time in (times if batchable else {1: times[1]}).items()}
        for model in self.state.models.values():
            model.profiles[KIND] = ModelProfile(Measurement((LOAD,)), infer, 8, first=first)
        self.scheduler = ClockworkScheduler(config)
        self.started = self.scheduler.start(0, self.state)
        self.requests: dict[int, PendingRequest] = {}

    def model(self, name: str) -> ModelState:
        return self.state.models[name]

    def gpu(self, worker: str = "w0", gpu: int = 0) -> GPUState:
        return self.state.workers[worker].gpu(gpu)

    def ask(self, now: Nanos, id: int, model: str = "a", *, slo: Nanos = ms(100), rows: int = 1) -> list[str]:
        request = pending(id, self.model(model), rows=rows, arrival=now, slo=slo)
        self.requests[id] = request
        return self.show(self.scheduler.infer(now, request))

    def wake(self, now: Nanos) -> list[str]:
        moment = self.scheduler.next_wakeup()
        assert moment is not None
        assert moment <= now
        return self.show(self.scheduler.wake(now))

    def run_until(self, now: Nanos) -> list[str]:
        """Wake the scheduler whenever it is due; return its actions and answers."""
        lines = []
        while (moment := self.scheduler.next_wakeup()) is not None and moment <= now:
            lines += self.show(self.scheduler.wake(moment))
        return lines

    def ends(
        self, now: Nanos, action_id: int, *, took: Nanos, worker: str = "w0", error: Status | None = None
    ) -> list[str]:
        """End the action at ``now``, when its result arrives as well."""
        worker_state = self.state.workers[worker]
        gpu = worker_state.routes[action_id]
        action = gpu.outstanding[action_id]
        timing = Timing(now - took, now, took)
        result: Any
        if error is not None:
            result = ErrorResult(action_id, type(action).__name__, error, "no")
        elif isinstance(action, Infer):
            outputs = tuple(InferOutput(share.request_id, ()) for share in action.inputs)
            result = InferResult(action_id, outputs, timing, timing, timing)
            for share in action.inputs:
                self.requests[share.request_id].over = True
        elif isinstance(action, LoadWeights):
            result = LoadWeightsResult(action_id, timing)
        else:
            result = EvictWeightsResult(action_id, timing)
        assert gpu.settle(action, result)
        return self.show(self.scheduler.result(now, gpu, action, result))

    def show(self, answers: list[Answer]) -> list[str]:
        """Return the actions that were made, in order, then the answers."""
        for answer in answers:
            self.requests[answer.request_id].over = True
        sent = [queued.command() for queued in self.state.actions.take()]
        return [*map(_show, sent), *map(_show, answers)]

    def promised(self, id: int) -> float | None:
        moment = self.requests[id].promised
        return None if moment is None else moment / 1e6


def _show(command: SendAction | Answer) -> str:
    if isinstance(command, Answer):
        assert command.status == Status.CONTROLLER_COULD_NOT_START_IN_TIME or command.retry_after is None
        return f"refuse {command.request_id} ({command.status.name})"
    action = command.action
    where = f"{command.worker_id}/{action.gpu}" if isinstance(action, Infer | LoadWeights | EvictWeights) else ""
    if isinstance(action, Infer):
        return f"#{action.id} infer {action.model} {[share.request_id for share in action.inputs]} on {where}"
    verb = "load" if isinstance(action, LoadWeights) else "evict"
    assert isinstance(action, LoadWeights | EvictWeights)
    return f"#{action.id} {verb} {action.model} on {where}"


def test_an_idle_device_starts_at_once_and_promises_the_measured_time() -> None:
    harness = ClockworkHarness()
    assert harness.ask(0, 1) == ["#1 infer a [1] on w0/0"]
    assert harness.promised(1) == pytest.approx(0.1 + 4 + 0.1)
    action = harness.gpu().outstanding[1]
    assert isinstance(action, Infer)
    assert (action.earliest, action.expected_duration) == (0, ms(4))
    assert action.latest == ms(100) - ms(4) - us(100), "it may start while the answer can still be in time"


def test_requests_for_a_busy_device_become_one_batch_that_is_sent_just_before_its_start() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    assert [harness.ask(us(200 + i), 2 + i) for i in range(3)] == [[], [], []]
    assert harness.run_until(us(700)) == [], "they are planned and not sent yet"
    assert harness.promised(2) == pytest.approx(4.1 + 6 + 0.1), "two rows per batch are better than three in four"
    assert harness.promised(4) == pytest.approx(4.1 + 10 + 0.1), "the third row joins them"
    assert harness.scheduler.next_wakeup() == us(4100) - LEAD, "the batch is sent shortly before the device is free"
    assert harness.run_until(us(4100) - LEAD) == ["#2 infer a [2, 3, 4] on w0/0"]


def test_a_verdict_takes_no_longer_than_the_verdict_delay() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    harness.ask(ms(1), 2, "b", slo=ms(5))
    assert harness.scheduler.next_wakeup() == ms(1) + CONFIG.verdict_delay
    assert harness.wake(ms(1) + CONFIG.verdict_delay) == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]


def test_a_refusal_has_the_predicted_completion_and_a_retry_time() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    request = pending(2, harness.model("b"), arrival=us(100), slo=ms(7))
    harness.scheduler.infer(us(100), request)
    (answer,) = harness.scheduler.wake(us(600))
    assert isinstance(answer, Answer)
    assert answer.predicted == pytest.approx(us(4100 + 4000 + 100) - us(100), abs=us(1))
    assert answer.retry_after is not None
    back = us(600) + answer.retry_after
    assert us(3100) < back < us(4100), "from then on, a batch of two has enough of its 7 ms left"
    harness.requests[3] = pending(3, harness.model("b"), arrival=back, slo=ms(7))
    harness.scheduler.infer(back, harness.requests[3])
    harness.run_until(back + CONFIG.verdict_delay)
    assert harness.requests[3].promised is not None, "a request that comes back then is admitted"


def test_refused_requests_of_one_model_get_one_retry_time_and_other_models_a_later_one() -> None:
    harness = ClockworkHarness()
    for i in range(8):
        harness.ask(0, i, "a", slo=ms(30))
    harness.run_until(us(600))
    answers: dict[str, list[Nanos]] = {"a": [], "b": []}
    for i in range(20, 24):
        for number, model in ((i, "a"), (i + 20, "b")):
            request = harness.requests[number] = pending(number, harness.model(model), arrival=us(700), slo=ms(12))
            harness.scheduler.infer(us(700), request)
    for command in harness.scheduler.wake(us(700) + CONFIG.verdict_delay):
        if isinstance(command, Answer):
            assert command.retry_after is not None
            answers[harness.requests[command.request_id].model.name].append(command.retry_after)
    assert len(answers["a"]) == len(answers["b"]) == 4
    assert len(set(answers["a"])) == len(set(answers["b"])) == 1
    assert answers["a"][0] != answers["b"][0]


def test_an_slo_that_no_device_can_meet_gets_no_retry_time() -> None:
    harness = ClockworkHarness()
    request = pending(1, harness.model("a"), slo=ms(3))
    assert harness.scheduler.infer(0, request) == []
    (answer,) = harness.scheduler.wake(us(500))
    assert isinstance(answer, Answer)
    assert "no device can meet this SLO: the fastest needs 4.42 ms" in answer.message
    assert answer.retry_after == NO_RETRY
    assert retry_time(answer.status, answer.retry_after) is None


def test_later_requests_do_not_break_a_promise() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    harness.ask(us(100), 2, "a", slo=ms(12))
    harness.run_until(us(700))
    promise = harness.requests[2].promised
    assert promise is not None
    for i in range(10):
        harness.ask(us(800), 10 + i, "b", slo=ms(13))
    harness.run_until(us(1400))
    sent = harness.ends(us(4100), 1, took=ms(4))
    assert not sent or "[2]" in sent[0]
    infers = [a for a in harness.gpu().outstanding.values() if isinstance(a, Infer)]
    assert [share.request_id for share in infers[0].inputs] == [2]


def test_an_earlier_deadline_goes_first_if_that_breaks_no_promise() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1, rows=8)
    harness.ask(us(100), 2, "a", slo=ms(200))
    harness.run_until(us(650))
    harness.ask(us(700), 3, "b", slo=ms(40))
    harness.run_until(us(1250))
    sent = harness.ends(us(18_100), 1, took=ms(18)) + harness.run_until(ms(25))
    assert [line.split(" on ")[0].split(" ", 1)[1] for line in sent] == ["infer b [3]", "infer a [2]"]


def test_a_cold_model_is_loaded_and_its_batch_planned_behind_the_load() -> None:
    harness = ClockworkHarness(warm=())
    assert harness.ask(0, 1) == []
    assert harness.run_until(us(500)) == ["#1 load a on w0/0"]
    assert harness.promised(1) == pytest.approx(0.5 + 0.1 + 8 + 4 + 0.1)
    assert harness.run_until(us(600) + LOAD - LEAD) == ["#2 infer a [1] on w0/0"], "the worker waits for the load"


def test_a_warm_model_s_batch_uses_the_time_until_a_cold_model_is_loaded() -> None:
    harness = ClockworkHarness(warm=("b",))
    harness.ask(0, 1, "a")
    harness.run_until(us(500))
    harness.ask(us(600), 2, "b")
    assert harness.run_until(us(1100)) == ["#2 infer b [2] on w0/0"]


def test_the_model_with_the_least_demand_is_evicted_but_never_a_planned_one() -> None:
    harness = ClockworkHarness(models=("a", "b", "c"), pages=2, warm=("a", "b"))
    harness.ask(0, 1, "a")
    harness.ask(us(100), 2, "a")
    harness.ask(us(200), 3, "c")
    lines = harness.run_until(us(700))
    assert lines == ["#2 evict b on w0/0", "#3 load c on w0/0"]
    harness.ask(us(800), 4, "b", slo=ms(30))
    assert "refuse 4 (CONTROLLER_COULD_NOT_START_IN_TIME)" in harness.run_until(us(1300)), "a and c are planned for"


def test_a_request_that_cannot_wait_for_a_load_is_refused_and_the_model_is_loaded_for_later() -> None:
    harness = ClockworkHarness(warm=())
    harness.ask(0, 1, slo=ms(10))
    assert harness.run_until(us(500)) == ["#1 load a on w0/0", "refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert harness.ends(us(600) + LOAD, 1, took=LOAD) == []
    assert harness.ask(ms(9), 2, slo=ms(10)) == ["#2 infer a [2] on w0/0"]


def test_models_do_not_evict_each_other_in_turn_for_requests_that_cannot_be_served() -> None:
    harness = ClockworkHarness(pages=1, warm=("a",))
    for i in range(5):
        harness.ask(ms(i), 100 + i, "a", slo=ms(40))
    harness.run_until(ms(5))
    harness.ask(ms(200), 1, "b", slo=ms(10))
    lines = harness.run_until(ms(201))
    assert lines == ["refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"], "a has more demand, and was requested lately"


def test_free_memory_is_filled_before_the_first_request() -> None:
    harness = ClockworkHarness(models=("a", "b", "c"), pages=2, warm=(), config=ClockworkConfig(network_delay=us(100)))
    assert harness.show(harness.started) == ["#1 load a on w0/0"]
    assert harness.ends(ms(8), 1, took=LOAD) == ["#2 load b on w0/0"]
    assert harness.ends(ms(16), 2, took=LOAD) == [], "nothing is evicted for a preload"


def test_requests_for_an_unbatchable_model_are_sent_one_at_a_time() -> None:
    harness = ClockworkHarness(batchable=False)
    harness.ask(0, 1)
    harness.ask(us(100), 2)
    harness.ask(us(100), 3)
    harness.run_until(us(700))
    assert harness.ends(us(4100), 1, took=ms(4)) == ["#2 infer a [2] on w0/0"]


def test_a_cancelled_request_is_removed_from_the_plan() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    harness.ask(us(100), 2)
    harness.ask(us(100), 3, "b")
    harness.run_until(us(700))
    harness.requests[2].over = True
    assert harness.show(harness.scheduler.cancel(us(800), harness.requests[2])) == []
    assert harness.ends(us(4100), 1, took=ms(4)) == ["#2 infer b [3] on w0/0"]


def test_requests_of_a_lost_worker_are_planned_elsewhere_if_there_is_time() -> None:
    harness = ClockworkHarness(workers=2, config=ClockworkConfig(network_delay=us(100), preload=False, choices=1))
    first = harness.ask(0, 1)
    worker = "w0" if "w0" in first[0] else "w1"
    other = "w1" if worker == "w0" else "w0"
    harness.ask(0, 2, slo=ms(300))
    lost = harness.state.workers.pop(worker)
    lost.leave()
    lines = harness.show(harness.scheduler.worker_lost(ms(1), lost)) + harness.run_until(ms(2))
    assert any(f"on {other}/0" in line and "1" in line for line in lines), lines


def test_an_infer_that_fails_is_tried_once_more_and_then_answered() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    again = harness.ends(ms(2), 1, took=ms(1), error=Status.RUNTIME_ERROR)
    assert again == ["#2 infer a [1] on w0/0"]
    assert harness.ends(ms(4), 2, took=ms(1), error=Status.RUNTIME_ERROR) == ["refuse 1 (ERROR)"]


def test_an_infer_that_does_not_start_in_time_does_not_count_as_failed() -> None:
    harness = ClockworkHarness()
    lines = harness.ask(0, 1, slo=ms(5000))
    for attempt in range(1, 8):
        assert lines == [f"#{attempt} infer a [1] on w0/0"]
        lines = harness.ends(ms(2 * attempt), attempt, took=ms(1), error=Status.COULD_NOT_START_IN_TIME)
    assert lines == ["#8 infer a [1] on w0/0"]
    lines = harness.ends(ms(20), 8, took=ms(1), error=Status.COULD_NOT_START_IN_TIME)
    assert lines == ["refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"]


def test_the_refusals_of_leaving_workers_do_not_count_as_failures() -> None:
    harness = ClockworkHarness(workers=4)
    lines, left = harness.ask(0, 1), set[str]()
    for attempt in (1, 2, 3):
        worker = lines[0].split(" on ")[1].removesuffix("/0")
        left.add(worker)
        lines = harness.ends(ms(attempt), attempt, took=ms(1), worker=worker, error=Status.SHUTTING_DOWN)
        assert len(lines) == 1
        assert lines[0].startswith(f"#{attempt + 1} infer a [1] on ")
    assert len(left) == 3


def test_the_planned_requests_of_a_leaving_worker_are_planned_elsewhere_at_once() -> None:
    harness = ClockworkHarness(workers=2, config=ClockworkConfig(network_delay=us(100), preload=False, choices=1))
    leaving = harness.ask(0, 1, slo=seconds(1))[0].split(" on ")[1].removesuffix("/0")
    for number in range(2, 40):
        harness.ask(0, number, "ab"[number % 2], slo=seconds(1))
    harness.run_until(us(600))
    plans = {plan.gpu.worker_id: plan for plan in harness.scheduler._plans.values()}
    assert all(len(plan.batches) for plan in plans.values())
    harness.ends(ms(1), 1, took=us(500), worker=leaving, error=Status.SHUTTING_DOWN)
    assert [name for name, plan in plans.items() if len(plan.batches)] == [({"w0", "w1"} - {leaving}).pop()]
    assert not any(request.over for request in harness.requests.values())


def test_requests_behind_a_failed_load_are_planned_again() -> None:
    harness = ClockworkHarness(warm=())
    harness.ask(0, 1)
    harness.run_until(us(500))
    assert harness.ends(ms(3), 1, took=ms(2), error=Status.RUNTIME_ERROR) == ["#2 load a on w0/0"]


def test_the_answer_to_a_broken_promise_has_its_reason() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1)
    harness.ask(us(100), 2, slo=ms(12))
    harness.run_until(us(700))
    lines = harness.ends(ms(11), 1, took=us(10_900))
    assert lines == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert "Infer 1 of a took 10.900 ms on w0/gpu0 (estimate: 4.000 ms)" in harness.requests[2].reason


def test_a_request_behind_an_overdue_infer_gets_that_as_its_reason() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1, slo=ms(50))
    assert "Infer 1 of a is overdue on w0/gpu0 by 45.9" in harness.scheduler.explain(ms(50), harness.requests[1])


def test_estimates_rise_at_once_and_fall_after_a_window_of_measurements() -> None:
    harness = ClockworkHarness()
    now, expected = 0, []
    for i in range(100):
        harness.ask(now, i)
        action = harness.gpu().outstanding[i + 1]
        assert isinstance(action, Infer)
        expected.append(action.expected_duration)
        took = ms(5) if i == 0 else ms(2)
        now += ms(20)
        harness.ends(now, i + 1, took=took)
    assert expected[:2] == [ms(4), ms(5)]
    assert expected[-1] == ms(2)
    assert expected[2:] == sorted(expected[2:], reverse=True)


def test_a_model_is_loaded_on_a_second_device_if_one_is_not_enough() -> None:
    harness = ClockworkHarness(gpus=2, warm=())
    harness.ask(0, 1)
    harness.run_until(us(500))
    (load,) = harness.gpu().outstanding or harness.gpu(gpu=1).outstanding
    harness.ends(us(8600), load, took=LOAD)
    for i in range(40):
        harness.ask(us(8700), 10 + i, slo=ms(50))
    lines = harness.run_until(us(9300))
    assert any("load a" in line for line in lines), "the second device loads the model as well"


def warm_on_the_first_device(**settings: Any) -> ClockworkHarness:
    """Return a harness with two devices. Model a is on the first one. A load takes longer than an SLO of 10 ms."""
    harness = ClockworkHarness(gpus=2, warm=(), **settings)
    harness.ask(0, 1)
    harness.run_until(us(500))
    (load,) = harness.gpu().outstanding
    harness.ends(us(8600), load, took=LOAD)
    (infer,) = harness.gpu().outstanding
    harness.ends(us(13_000), infer, took=ms(4))
    return harness


def test_a_model_whose_load_takes_longer_than_its_slo_is_loaded_on_a_second_device_if_one_is_not_enough() -> None:
    harness = warm_on_the_first_device(batchable=False)
    now = ms(20)
    lines = [line for number in range(2, 8) for line in harness.ask(now, number, slo=ms(10))]
    assert lines == ["#3 infer a [2] on w0/0"]
    lines = harness.run_until(now + ms(1))
    refused = [f"refuse {number} (CONTROLLER_COULD_NOT_START_IN_TIME)" for number in range(4, 8)]
    sent = ["#4 load a on w0/1", "#5 infer a [3] on w0/0"]
    assert sorted(lines) == sorted([*sent, *refused]), "one more request fits on the first device"
    lines = [line for number in range(10, 14) for line in harness.ask(now + ms(2), number, slo=ms(10))]
    assert not [line for line in lines + harness.run_until(now + ms(3)) if "load" in line], "one load is under way"
    harness.ends(now + ms(9), 4, took=LOAD)
    lines = harness.ask(now + ms(9), 20, slo=ms(10)) + harness.run_until(now + ms(12))
    assert [line for line in lines if "infer a" in line and "on w0/1" in line]


def test_a_model_is_not_loaded_on_a_further_device_that_would_not_serve_the_request() -> None:
    busy = warm_on_the_first_device(batchable=False, pages=1)
    busy.ask(ms(20), 50, "b", slo=ms(100))
    assert "#3 load b on w0/1" in busy.run_until(ms(21))
    for number in range(2, 8):
        busy.ask(ms(22), number, slo=ms(10))
    assert not [line for line in busy.run_until(ms(23)) if "load a" in line], "the memory is in use"
    slow = warm_on_the_first_device(batchable=False)
    for number in range(2, 8):
        slow.ask(ms(20), number, slo=ms(4))
    assert not [line for line in slow.run_until(ms(21)) if "load" in line], "no device can meet this SLO"


def test_a_further_device_evicts_a_model_with_recent_requests_only_for_more_refused_requests() -> None:
    harness = warm_on_the_first_device(batchable=False, pages=1)
    for number in range(50, 55):
        harness.ask(ms(20), number, "b")
    assert "#3 load b on w0/1" in harness.run_until(ms(21))
    harness.ends(ms(29), 3, took=LOAD)
    for moment in range(30, 80):
        harness.run_until(ms(moment))
        for action in [number for number in harness.gpu(gpu=1).outstanding if number > 3]:
            harness.ends(ms(moment), action, took=ms(4))
    for number in range(2, 7):
        harness.ask(ms(100), number, slo=ms(10))
    assert not [line for line in harness.run_until(ms(101)) if "load a" in line], "b has more demand than a is refused"
    for number in range(10, 20):
        harness.ask(ms(102), number, slo=ms(10))
    lines = harness.run_until(ms(103))
    assert [line.split(maxsplit=1)[1] for line in lines if "infer" not in line and "refuse" not in line] == [
        "evict b on w0/1",
        "load a on w0/1",
    ]


def test_a_batch_between_two_sizes_is_split_if_that_takes_less_time() -> None:
    """Five rows take as long as eight, 18 ms; four rows and one row take 14 ms together."""
    harness = ClockworkHarness()
    harness.ask(0, 1, rows=8)
    for i in range(5):
        harness.ask(us(100), 10 + i)
    harness.run_until(us(700))
    sent = harness.ends(us(18_100), 1, took=ms(18)) + harness.run_until(ms(28))
    assert sent == ["#2 infer a [10, 11, 12, 13] on w0/0", "#3 infer a [14] on w0/0"]
    assert all(request.reason == "" for request in harness.requests.values())


NOTHING_GAINED = {1: ms(2), 2: ms(4), 4: ms(9), 8: ms(20)}


def test_a_batch_does_not_grow_if_that_takes_more_time_per_row() -> None:
    harness = ClockworkHarness(times=NOTHING_GAINED)
    harness.ask(0, 1)
    for i in range(4):
        harness.ask(us(100), 10 + i)
    lines = harness.run_until(us(1700))
    lines += harness.ends(us(2100), 1, took=ms(2)) + harness.run_until(us(5700))
    assert lines == ["#2 infer a [10, 11] on w0/0", "#3 infer a [12, 13] on w0/0"]


def test_a_request_with_many_rows_is_sent_as_one_batch_even_if_that_is_slower() -> None:
    harness = ClockworkHarness(times=NOTHING_GAINED)
    assert harness.ask(0, 1, rows=5) == ["#1 infer a [1] on w0/0"]
    assert harness.requests[1].promised == ms(20) + 2 * CONFIG.network_delay
    harness.ask(us(100), 2, rows=3)
    harness.ask(us(100), 3, rows=1)
    lines = harness.run_until(us(700)) + harness.ends(us(20_100), 1, took=ms(20)) + harness.run_until(ms(31))
    assert lines == ["#2 infer a [2, 3] on w0/0"], "three rows take as long as four: there is room for one more"


def test_one_infer_that_took_seconds_does_not_stop_the_service_of_its_model() -> None:
    harness = ClockworkHarness(batchable=False)
    harness.ask(0, 1, slo=ms(20_000))
    harness.ends(ms(2000), 1, took=ms(1999))
    assert harness.ask(ms(2001), 2) == ["#2 infer a [2] on w0/0"], "an outlier counts at most three times the median"
    assert harness.promised(2) == pytest.approx(2001 + 12, abs=25)
    harness.ends(ms(2005), 2, took=ms(4))


def test_an_estimate_that_refuses_all_requests_is_forgotten() -> None:
    harness = ClockworkHarness(batchable=False)
    now = 0
    for i in range(12):  # a device that was slow for a while
        harness.ask(now, i, slo=ms(1000))
        now += ms(400)
        harness.ends(now, i + 1, took=ms(399))
    harness.ask(now, 100, slo=ms(20))
    assert harness.run_until(now + ms(1)) == ["refuse 100 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert harness.ask(now + ms(11_000), 101, slo=ms(20)) == ["#13 infer a [101] on w0/0"], "it is tried again"


def test_nothing_is_promised_behind_an_infer_that_does_not_end() -> None:
    harness = ClockworkHarness()
    harness.ask(0, 1, slo=ms(10_000))
    harness.ask(ms(500), 2, slo=ms(100))
    assert harness.run_until(ms(501)) == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    harness.ask(ms(501), 3, slo=ms(2000))
    assert harness.run_until(ms(502)) == []
    assert harness.requests[3].promised is not None, "its deadline allows the Infer to be overdue as long again"


def test_a_device_that_has_not_executed_a_model_is_planned_with_the_times_of_slow_first_executions() -> None:
    harness = ClockworkHarness(first=(ms(12), ms(10)))
    harness.ask(0, 1)
    assert harness.promised(1) == pytest.approx(0.1 + 12 + 0.1), "another device took 12 ms at first, and 4 ms later"
    harness.ends(ms(12), 1, took=ms(12))
    harness.ask(ms(100), 2)
    assert harness.promised(2) == pytest.approx(100 + 12, abs=0.3)
    harness.ends(ms(112), 2, took=ms(12))
    harness.ask(ms(200), 3)
    assert harness.promised(3) == pytest.approx(200 + 4, abs=0.3), "later executions take the usual time"


def test_slow_first_executions_that_refuse_all_requests_are_ignored_after_a_while() -> None:
    harness = ClockworkHarness(first=(ms(50),))
    harness.ask(0, 1, slo=ms(20))
    assert harness.run_until(ms(1)) == ["refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    harness.ask(ms(11_000), 2, slo=ms(20))
    assert harness.run_until(ms(11_001)) == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert harness.ask(ms(11_100), 3, slo=ms(20)) == ["#1 infer a [3] on w0/0"]
