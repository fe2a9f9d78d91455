"""The cost of an event must not grow with the number of pending requests.

The cost is the number of executed Python instructions, which does not depend on the load of the machine.
"""

import sys
from collections.abc import Callable
from math import log2
from types import FrameType
from typing import Any

import pytest

from builders import infer_request
from clockwork.controller.buffer import StartupBuffer
from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import ClientRequest
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.clockwork.plan import MAX_SENT
from clockwork.scheduling.registry import make_scheduler
from clockwork.testing.backlog import HOUR, Backlog
from clockwork.units import ms, seconds, us

PENDING = (100, 1_000, 10_000)
AT_ONCE = (100, 1_000, 4_000)  # in one event, because counting takes ten times as long
EVENTS = 20
SCHEDULERS = ("clockwork", "edf", "fifo", "simple")


def instructions(event: Callable[[], object]) -> int:
    """Return the number of Python instructions that an event takes."""
    count = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += what == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        event()
    finally:
        sys.settrace(before)
    return count


def backlog_of(scheduler: str, pending: int) -> Backlog:
    backlog = Backlog(make_scheduler(scheduler))
    backlog.request(pending, apart=us(1))
    assert len(backlog.pending) == pending
    return backlog


def grows_slowly(counts: list[float]) -> bool:
    """Return whether the counts grow at most with log n, plus a quarter."""
    return counts[-1] <= 1.25 * counts[0] * log2(PENDING[-1]) / log2(PENDING[0])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "event",
    [
        pytest.param(lambda backlog: backlog.request(1, HOUR), id="arrives"),
        pytest.param(lambda backlog: backlog.request(1, ms(30)), id="is urgent"),
        pytest.param(Backlog.cancel, id="is cancelled"),
        pytest.param(Backlog.result, id="is done"),
    ],
)
def test_the_cost_of_an_event_does_not_grow_with_the_requests_pending(
    scheduler: str, event: Callable[[Backlog], object]
) -> None:
    counts: list[float] = []
    for pending in PENDING:
        backlog = backlog_of(scheduler, pending)
        event(backlog)
        counts.append(sum(instructions(lambda: event(backlog)) for _ in range(EVENTS)) / EVENTS)  # noqa: B023
    assert grows_slowly(counts), counts


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    ("slo", "apart"),
    [
        pytest.param(HOUR, us(1), id="admitted"),
        pytest.param(us(500), 0, id="refused, equal deadlines"),
        pytest.param(us(500), 1, id="refused, different deadlines"),
        pytest.param(ms(20), 10, id="mostly refused"),
    ],
)
def test_the_cost_per_request_does_not_grow_with_the_burst(scheduler: str, slo: int, apart: int) -> None:
    counts: list[float] = []
    for pending in AT_ONCE:
        backlog = Backlog(make_scheduler(scheduler))
        counts.append(instructions(lambda: backlog.request(pending, slo, apart)) / pending)  # noqa: B023
    assert grows_slowly(counts), counts


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "event",
    [
        pytest.param(Backlog.lose_worker, id="a worker is lost"),
        pytest.param(lambda backlog: backlog.wait(2 * HOUR), id="all deadlines pass"),
    ],
)
def test_an_event_about_all_requests_costs_no_more_for_each(scheduler: str, event: Callable[[Backlog], object]) -> None:
    counts: list[float] = []
    for pending in AT_ONCE:
        backlog = backlog_of(scheduler, pending)
        counts.append(instructions(lambda: event(backlog)) / pending)  # noqa: B023
    assert grows_slowly(counts), counts


def test_the_cost_of_a_cancel_during_start_up_does_not_grow_with_the_buffer() -> None:
    counts: list[float] = []
    for pending in PENDING:
        buffer = StartupBuffer(ControllerConfig(max_pending=PENDING[-1], max_client_pending=PENDING[-1]))
        for number in range(pending):
            buffer.add(0, ClientRequest(1, infer_request(number)))
        counts.append(sum(instructions(lambda i=i: buffer.cancel(1, i)) for i in range(1, EVENTS)) / EVENTS)  # type: ignore[misc]  # noqa: B023
        assert len(buffer) == pending - EVENTS + 1
    assert grows_slowly(counts), counts


def test_a_silent_device_is_sent_a_limited_number_of_actions() -> None:
    scheduler = ClockworkScheduler()
    backlog = Backlog(scheduler, models=1, workers=1)
    backlog.request(20 * MAX_SENT)
    backlog.wait(seconds(60))
    (plan,) = scheduler._weights.plans
    assert len(plan.device.sent) == MAX_SENT
    assert backlog.result()
    assert len(plan.device.sent) == MAX_SENT - 1
    backlog.wait(seconds(60))
    assert len(plan.device.sent) == MAX_SENT, "a finished action is followed by another"
