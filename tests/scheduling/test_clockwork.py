"""The Clockwork scheduler as tables: what is said at literal times."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from builders import KIND, a_state, model_info, pending
from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer, SendAction
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
from clockwork.units import Nanos, ms, us

TIMES = {1: ms(4), 2: ms(6), 4: ms(10), 8: ms(18)}
LOAD = ms(8)
CONFIG = ClockworkConfig(network_delay=us(100), preload=False)
LEAD = CONFIG.schedule_ahead + us(100)


class Bench:
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
    ) -> None:
        infos = [model_info(name, batchable=batchable) for name in models]
        self.state = a_state(infos, gpus=gpus, pages=pages, warm=warm, workers=workers)
        infer = {size: Measurement((time,)) for size, time in (times if batchable else {1: times[1]}).items()}
        for model in self.state.models.values():
            model.profiles[KIND] = ModelProfile(Measurement((LOAD,)), infer, 8)
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
        """Wake whenever it was asked for."""
        said = []
        while (moment := self.scheduler.next_wakeup()) is not None and moment <= now:
            said += self.show(self.scheduler.wake(moment))
        return said

    def ends(
        self, now: Nanos, action_id: int, *, took: Nanos, worker: str = "w0", error: Status | None = None
    ) -> list[str]:
        """The action ends at ``now``, and its result is there at once."""
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
        """The actions that were made, in order, then the answers."""
        for answer in answers:
            self.requests[answer.request_id].over = True
        return [_show(command) for command in [*(queued.command() for queued in self.state.actions.take()), *answers]]

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


def test_an_idle_device_starts_at_once_and_the_promise_is_the_measured_time() -> None:
    bench = Bench()
    assert bench.ask(0, 1) == ["#1 infer a [1] on w0/0"]
    assert bench.promised(1) == pytest.approx(0.1 + 4 + 0.1)
    action = bench.gpu().outstanding[1]
    assert isinstance(action, Infer)
    assert (action.earliest, action.expected_duration) == (0, ms(4))
    assert action.latest == ms(100) - ms(4) - us(100), "it may start as long as the answer is in time"


def test_requests_that_come_while_the_device_is_busy_become_one_batch_sent_just_ahead() -> None:
    bench = Bench()
    bench.ask(0, 1)
    assert [bench.ask(us(200 + i), 2 + i) for i in range(3)] == [[], [], []]
    assert bench.run_until(us(700)) == [], "judged, and planned"
    assert bench.promised(2) == pytest.approx(4.1 + 6 + 0.1), "two rows use the device better than three in four"
    assert bench.promised(4) == pytest.approx(4.1 + 10 + 0.1), "and the third joins them"
    assert bench.scheduler.next_wakeup() == us(4100) - LEAD, "it is sent when the device is nearly free, not before"
    assert bench.run_until(us(4100) - LEAD) == ["#2 infer a [2, 3, 4] on w0/0"]


def test_a_verdict_takes_no_longer_than_the_verdict_delay() -> None:
    bench = Bench()
    bench.ask(0, 1)
    bench.ask(ms(1), 2, "b", slo=ms(5))
    assert bench.scheduler.next_wakeup() == ms(1) + CONFIG.verdict_delay
    assert bench.wake(ms(1) + CONFIG.verdict_delay) == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]


def test_a_refusal_says_when_it_would_have_been_done_and_when_to_come_back() -> None:
    bench = Bench()
    bench.ask(0, 1)
    request = pending(2, bench.model("b"), arrival=us(100), slo=ms(7))
    bench.scheduler.infer(us(100), request)
    (answer,) = bench.scheduler.wake(us(600))
    assert isinstance(answer, Answer)
    assert answer.predicted == pytest.approx(us(4100 + 4000 + 100) - us(100), abs=us(1))
    assert answer.retry_after is not None
    back = us(600) + answer.retry_after
    assert us(3100) < back < us(4100), "from then on the busy device leaves a batch of two enough of its 7 ms"
    bench.requests[3] = pending(3, bench.model("b"), arrival=back, slo=ms(7))
    bench.scheduler.infer(back, bench.requests[3])
    bench.run_until(back + CONFIG.verdict_delay)
    assert bench.requests[3].promised is not None, "and whoever comes back then is admitted"


def test_clients_of_one_model_are_told_to_come_back_together_and_those_of_another_after_them() -> None:
    bench = Bench()
    for i in range(8):
        bench.ask(0, i, "a", slo=ms(30))
    bench.run_until(us(600))
    answers: dict[str, list[Nanos]] = {"a": [], "b": []}
    for i in range(20, 24):
        for number, model in ((i, "a"), (i + 20, "b")):
            request = bench.requests[number] = pending(number, bench.model(model), arrival=us(700), slo=ms(12))
            bench.scheduler.infer(us(700), request)
    for command in bench.scheduler.wake(us(700) + CONFIG.verdict_delay):
        if isinstance(command, Answer):
            assert command.retry_after is not None
            answers[bench.requests[command.request_id].model.name].append(command.retry_after)
    assert len(answers["a"]) == len(answers["b"]) == 4
    assert len(set(answers["a"])) == len(set(answers["b"])) == 1
    assert answers["a"][0] != answers["b"][0]


def test_an_slo_that_no_device_can_meet_is_refused_with_a_long_wait() -> None:
    bench = Bench()
    request = pending(1, bench.model("a"), slo=ms(3))
    assert bench.scheduler.infer(0, request) == []
    (answer,) = bench.scheduler.wake(us(500))
    assert isinstance(answer, Answer)
    assert "no device is fast enough" in answer.message
    assert answer.retry_after == 1_000_000_000


def test_a_promise_given_is_not_broken_by_later_requests() -> None:
    bench = Bench()
    bench.ask(0, 1)
    bench.ask(us(100), 2, "a", slo=ms(12))
    bench.run_until(us(700))
    promise = bench.requests[2].promised
    assert promise is not None
    for i in range(10):
        bench.ask(us(800), 10 + i, "b", slo=ms(13))
    bench.run_until(us(1400))
    sent = bench.ends(us(4100), 1, took=ms(4))
    assert not sent or "[2]" in sent[0]
    infers = [a for a in bench.gpu().outstanding.values() if isinstance(a, Infer)]
    assert [share.request_id for share in infers[0].inputs] == [2]


def test_an_earlier_deadline_goes_first_if_no_promise_suffers() -> None:
    bench = Bench()
    bench.ask(0, 1, rows=8)
    bench.ask(us(100), 2, "a", slo=ms(200))
    bench.run_until(us(650))
    bench.ask(us(700), 3, "b", slo=ms(40))
    bench.run_until(us(1250))
    sent = bench.ends(us(18_100), 1, took=ms(18)) + bench.run_until(ms(25))
    assert [line.split(" on ")[0].split(" ", 1)[1] for line in sent] == ["infer b [3]", "infer a [2]"]


def test_a_cold_model_is_loaded_and_its_batch_planned_behind_the_load() -> None:
    bench = Bench(warm=())
    assert bench.ask(0, 1) == []
    assert bench.run_until(us(500)) == ["#1 load a on w0/0"]
    assert bench.promised(1) == pytest.approx(0.5 + 0.1 + 8 + 4 + 0.1)
    assert bench.run_until(us(600) + LOAD - LEAD) == ["#2 infer a [1] on w0/0"], "the worker lets it wait for the load"


def test_a_warm_models_batch_uses_the_time_until_a_cold_ones_weights_are_there() -> None:
    bench = Bench(warm=("b",))
    bench.ask(0, 1, "a")
    bench.run_until(us(500))
    bench.ask(us(600), 2, "b")
    assert bench.run_until(us(1100)) == ["#2 infer b [2] on w0/0"]


def test_the_least_needed_leaves_and_never_what_is_planned_for() -> None:
    bench = Bench(models=("a", "b", "c"), pages=2, warm=("a", "b"))
    bench.ask(0, 1, "a")
    bench.ask(us(100), 2, "a")
    bench.ask(us(200), 3, "c")
    said = bench.run_until(us(700))
    assert said == ["#2 evict b on w0/0", "#3 load c on w0/0"]
    bench.ask(us(800), 4, "b", slo=ms(30))
    assert "refuse 4 (CONTROLLER_COULD_NOT_START_IN_TIME)" in bench.run_until(us(1300)), "a and c are needed"


def test_a_model_too_cold_for_its_slo_is_refused_and_loaded_for_those_who_come_later() -> None:
    bench = Bench(warm=())
    bench.ask(0, 1, slo=ms(10))
    assert bench.run_until(us(500)) == ["#1 load a on w0/0", "refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert bench.ends(us(600) + LOAD, 1, took=LOAD) == []
    assert bench.ask(ms(9), 2, slo=ms(10)) == ["#2 infer a [2] on w0/0"]


def test_models_do_not_displace_each_other_in_rotation_for_requests_that_cannot_be_served() -> None:
    bench = Bench(pages=1, warm=("a",))
    for i in range(5):
        bench.ask(ms(i), 100 + i, "a", slo=ms(40))
    bench.run_until(ms(5))
    bench.ask(ms(200), 1, "b", slo=ms(10))
    said = bench.run_until(ms(201))
    assert said == ["refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"], "a is asked for more, and lately"


def test_free_memory_is_filled_before_anything_is_asked() -> None:
    bench = Bench(models=("a", "b", "c"), pages=2, warm=(), config=ClockworkConfig(network_delay=us(100)))
    assert bench.show(bench.started) == ["#1 load a on w0/0"]
    assert bench.ends(ms(8), 1, took=LOAD) == ["#2 load b on w0/0"]
    assert bench.ends(ms(16), 2, took=LOAD) == [], "no eviction for what nobody asked for"


def test_a_model_that_is_not_batchable_goes_one_request_at_a_time() -> None:
    bench = Bench(batchable=False)
    bench.ask(0, 1)
    bench.ask(us(100), 2)
    bench.ask(us(100), 3)
    bench.run_until(us(700))
    assert bench.ends(us(4100), 1, took=ms(4)) == ["#2 infer a [2] on w0/0"]


def test_a_cancelled_request_leaves_the_plan() -> None:
    bench = Bench()
    bench.ask(0, 1)
    bench.ask(us(100), 2)
    bench.ask(us(100), 3, "b")
    bench.run_until(us(700))
    bench.requests[2].over = True
    assert bench.show(bench.scheduler.cancel(us(800), bench.requests[2])) == []
    assert bench.ends(us(4100), 1, took=ms(4)) == ["#2 infer b [3] on w0/0"]


def test_what_a_lost_worker_had_is_planned_anew_where_there_is_time() -> None:
    bench = Bench(workers=2, config=ClockworkConfig(network_delay=us(100), preload=False, choices=1))
    first = bench.ask(0, 1)
    worker = "w0" if "w0" in first[0] else "w1"
    other = "w1" if worker == "w0" else "w0"
    bench.ask(0, 2, slo=ms(300))
    lost = bench.state.workers.pop(worker)
    lost.leave()
    said = bench.show(bench.scheduler.worker_lost(ms(1), lost)) + bench.run_until(ms(2))
    assert any(f"on {other}/0" in line and "1" in line for line in said), said


def test_an_infer_that_fails_is_tried_once_more_and_then_answered() -> None:
    bench = Bench()
    bench.ask(0, 1)
    again = bench.ends(ms(2), 1, took=ms(1), error=Status.RUNTIME_ERROR)
    assert again == ["#2 infer a [1] on w0/0"]
    assert bench.ends(ms(4), 2, took=ms(1), error=Status.RUNTIME_ERROR) == ["refuse 1 (ERROR)"]


def test_an_infer_that_is_not_begun_in_time_has_not_failed() -> None:
    bench = Bench()
    said = bench.ask(0, 1, slo=ms(5000))
    for attempt in range(1, 8):
        assert said == [f"#{attempt} infer a [1] on w0/0"]
        said = bench.ends(ms(2 * attempt), attempt, took=ms(1), error=Status.COULD_NOT_START_IN_TIME)
    assert said == ["#8 infer a [1] on w0/0"]
    said = bench.ends(ms(20), 8, took=ms(1), error=Status.COULD_NOT_START_IN_TIME)
    assert said == ["refuse 1 (CONTROLLER_COULD_NOT_START_IN_TIME)"]


def test_a_failed_load_gives_its_requests_another_chance() -> None:
    bench = Bench(warm=())
    bench.ask(0, 1)
    bench.run_until(us(500))
    assert bench.ends(ms(3), 1, took=ms(2), error=Status.RUNTIME_ERROR) == ["#2 load a on w0/0"]


def test_a_promise_in_danger_names_what_broke_it() -> None:
    bench = Bench()
    bench.ask(0, 1)
    bench.ask(us(100), 2, slo=ms(12))
    bench.run_until(us(700))
    said = bench.ends(ms(11), 1, took=us(10_900))
    assert said == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert "Infer 1 of a took 10.900 ms on w0/gpu0, estimated were 4.000" in bench.requests[2].excuse


def test_who_waits_for_an_overdue_infer_can_be_told_so() -> None:
    bench = Bench()
    bench.ask(0, 1, slo=ms(50))
    assert "Infer 1 of a is overdue on w0/gpu0 by 45.9" in bench.scheduler.explain(ms(50), bench.requests[1])


def test_estimates_follow_measurements_up_at_once_and_down_after_a_window() -> None:
    bench = Bench()
    now, expected = 0, []
    for i in range(100):
        bench.ask(now, i)
        action = bench.gpu().outstanding[i + 1]
        assert isinstance(action, Infer)
        expected.append(action.expected_duration)
        took = ms(5) if i == 0 else ms(2)
        now += ms(20)
        bench.ends(now, i + 1, took=took)
    assert expected[:2] == [ms(4), ms(5)]
    assert expected[-1] == ms(2)
    assert expected[2:] == sorted(expected[2:], reverse=True)


def test_devices_with_the_weights_share_the_load() -> None:
    bench = Bench(gpus=2, warm=())
    bench.ask(0, 1)
    bench.run_until(us(500))
    (load,) = bench.gpu().outstanding or bench.gpu(gpu=1).outstanding
    bench.ends(us(8600), load, took=LOAD)
    for i in range(40):
        bench.ask(us(8700), 10 + i, slo=ms(50))
    said = bench.run_until(us(9300))
    assert any("load a" in line for line in said), "what one device cannot do, another is prepared for"


def test_a_batch_between_two_sizes_is_split_where_that_takes_less_time() -> None:
    """Five rows take as long as eight, 18 ms; four and one take 14."""
    bench = Bench()
    bench.ask(0, 1, rows=8)
    for i in range(5):
        bench.ask(us(100), 10 + i)
    bench.run_until(us(700))
    sent = bench.ends(us(18_100), 1, took=ms(18)) + bench.run_until(ms(28))
    assert sent == ["#2 infer a [10, 11, 12, 13] on w0/0", "#3 infer a [14] on w0/0"]
    assert all(request.excuse == "" for request in bench.requests.values())


NOTHING_GAINED = {1: ms(2), 2: ms(4), 4: ms(9), 8: ms(20)}


def test_rows_are_not_put_into_one_batch_where_that_takes_longer_per_row() -> None:
    bench = Bench(times=NOTHING_GAINED)
    bench.ask(0, 1)
    for i in range(4):
        bench.ask(us(100), 10 + i)
    said = bench.run_until(us(1700))
    said += bench.ends(us(2100), 1, took=ms(2)) + bench.run_until(us(5700))
    assert said == ["#2 infer a [10, 11] on w0/0", "#3 infer a [12, 13] on w0/0"]


def test_a_request_that_is_a_batch_itself_is_one_whatever_that_takes() -> None:
    bench = Bench(times=NOTHING_GAINED)
    assert bench.ask(0, 1, rows=5) == ["#1 infer a [1] on w0/0"]
    assert bench.requests[1].promised == ms(20) + 2 * CONFIG.network_delay
    bench.ask(us(100), 2, rows=3)
    bench.ask(us(100), 3, rows=1)
    said = bench.run_until(us(700)) + bench.ends(us(20_100), 1, took=ms(20)) + bench.run_until(ms(31))
    assert said == ["#2 infer a [2, 3] on w0/0"], "three rows take as long as four: there is room for one more"


def test_one_infer_that_took_seconds_does_not_put_its_model_out_of_service() -> None:
    bench = Bench(batchable=False)
    bench.ask(0, 1, slo=ms(20_000))
    bench.ends(ms(2000), 1, took=ms(1999))
    assert bench.ask(ms(2001), 2) == ["#2 infer a [2] on w0/0"], "an outlier counts no more than three times the median"
    assert bench.promised(2) == pytest.approx(2001 + 12, abs=25)
    bench.ends(ms(2005), 2, took=ms(4))


def test_an_estimate_that_keeps_everybody_out_is_forgotten() -> None:
    bench = Bench(batchable=False)
    now = 0
    for i in range(12):  # a device that was slow for a while
        bench.ask(now, i, slo=ms(1000))
        now += ms(400)
        bench.ends(now, i + 1, took=ms(399))
    bench.ask(now, 100, slo=ms(20))
    assert bench.run_until(now + ms(1)) == ["refuse 100 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    assert bench.ask(now + ms(11_000), 101, slo=ms(20)) == ["#13 infer a [101] on w0/0"], "it is tried again"


def test_nothing_is_promised_behind_an_infer_that_does_not_end() -> None:
    bench = Bench()
    bench.ask(0, 1, slo=ms(10_000))
    bench.ask(ms(500), 2, slo=ms(100))
    assert bench.run_until(ms(501)) == ["refuse 2 (CONTROLLER_COULD_NOT_START_IN_TIME)"]
    bench.ask(ms(501), 3, slo=ms(2000))
    assert bench.run_until(ms(502)) == []
    assert bench.requests[3].promised is not None, "unless there is time for as long again"
