"""Each kind of refusal has its own reason."""

from collections.abc import Callable

import pytest

from builders import a_state, model_info, pending
from clockwork.messages.commands import Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.edf import EdfScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import ms, us
from scheduling.test_clockwork import ClockworkHarness


class Recorder(ClockworkHarness):
    """A harness that keeps the reasons of refusals by request."""

    def show(self, answers: list[Answer]) -> list[str]:
        if not hasattr(self, "reasons"):
            self.reasons: dict[int, RefusalReason | None] = {}
        self.reasons.update({answer.request_id: answer.reason for answer in answers})
        return super().show(answers)


def too_slow(harness: Recorder) -> None:
    harness.ask(0, 9, slo=ms(3))


def busy(harness: Recorder) -> None:
    for number in range(1, 4):
        harness.ask(0, number, "b", slo=ms(5))
    harness.ask(us(100), 9, slo=ms(6))


def cold(harness: Recorder) -> None:
    harness.ask(0, 9, "c", slo=ms(10))


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (too_slow, RefusalReason.DEVICE_TOO_SLOW),
        (busy, RefusalReason.DEVICE_BUSY),
        (cold, RefusalReason.WEIGHTS_NOT_LOADED),
    ],
)
def test_the_clockwork_scheduler_gives_the_reason(situation: Callable[[Recorder], None], reason: RefusalReason) -> None:
    harness = Recorder(models=("a", "b", "c"), pages=4, warm=("a", "b"))
    situation(harness)
    harness.run_until(ms(2))
    assert harness.reasons[9] is reason


def test_a_request_that_was_admitted_and_whose_worker_was_lost_has_a_broken_promise() -> None:
    harness = Recorder()
    harness.ask(0, 9, slo=ms(20))
    worker = harness.state.workers["w0"]
    del harness.state.workers["w0"]
    harness.show(harness.scheduler.worker_lost(ms(1), worker))
    assert harness.reasons[9] is RefusalReason.PROMISE_BROKEN


@pytest.mark.parametrize("scheduler", [SimpleScheduler, FifoScheduler, EdfScheduler])
def test_the_refusal_of_a_model_too_large_for_all_devices_has_the_reason_no_device(scheduler: type[Scheduler]) -> None:
    state = a_state([model_info("big", pages=9)], pages=4)
    policy = scheduler()
    policy.start(0, state)
    (answer,) = policy.infer(0, pending(1, state.models["big"]))
    assert answer.reason is RefusalReason.NO_DEVICE


@pytest.mark.parametrize(
    ("slo", "reason"), [(us(100), RefusalReason.DEVICE_TOO_SLOW), (ms(60_000), RefusalReason.DEVICE_BUSY)]
)
def test_edf_tells_a_slow_device_from_a_busy_one(slo: int, reason: RefusalReason) -> None:
    state = a_state([model_info("a")], warm=("a",))
    policy = EdfScheduler()
    policy.start(0, state)
    answers = policy.infer(0, pending(1, state.models["a"], slo=ms(100_000)))
    answers += policy.infer(0, pending(2, state.models["a"], slo=slo))
    moment = policy.next_wakeup()
    answers += policy.wake(moment) if moment is not None else []
    (answer,) = answers
    assert (answer.request_id, answer.reason) == (2, reason)
