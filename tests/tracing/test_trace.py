"""The parts of the time of a traced request."""

import pytest

from clockwork.messages.requests import InferRequest, RequestTiming
from clockwork.messages.results import Timing
from clockwork.messages.status import Status
from clockwork.tracing.trace import Phase, Trace, load_phase, phases
from clockwork.units import ms
from tracing.traces import ended, executed

LATE = ended(Status.TIMEOUT, RequestTiming(ms(16)))
REFUSED = ended(Status.CONTROLLER_COULD_NOT_START_IN_TIME, RequestTiming(ms(5)))
REFUSED.reason = "device_busy"


def named(trace: Trace) -> list[tuple[str, float, float]]:
    return [(phase.name, phase.begin / ms(1), phase.end / ms(1)) for phase in phases(trace)]


def test_an_executed_request_has_four_parts() -> None:
    parts = [("admission", 0, 1), ("queue", 1, 10), ("exec", 10, 14), ("output", 14, 20)]
    assert named(executed()) == parts


def test_the_admission_ends_with_the_decision_of_the_scheduler() -> None:
    trace = executed()
    trace.decided = ms(3)
    assert named(trace)[:2] == [("admission", 0, 3), ("queue", 3, 10)]
    trace.decided = ms(12)
    assert named(trace)[:2] == [("admission", 0, 10), ("queue", 10, 10)], "a decision after the begin is cut"


def test_other_requests_have_the_parts_that_they_reached() -> None:
    assert named(LATE) == [("admission", 0, 1), ("queue", 1, 16), ("output", 16, 20)]
    assert named(REFUSED) == [("admission", 0, 5), ("output", 5, 20)]
    assert named(ended()) == [("admission", 0, 20)]


def test_a_cancelled_request_has_an_outcome_and_the_parts_until_its_cancellation() -> None:
    trace = ended()
    trace.cancelled(InferRequest(7, "m", (), request_id="r"), ms(16))
    assert named(trace) == [("admission", 0, 1), ("queue", 1, 16), ("output", 16, 20)]
    assert trace.response is not None
    assert (trace.response.status, trace.response.request_id) == (Status.CANCELLED, "r")


@pytest.mark.parametrize("trace", [executed(), LATE, REFUSED, ended()])
def test_the_parts_follow_each_other_and_fill_the_whole_time(trace: Trace) -> None:
    parts = phases(trace)
    assert [parts[0].begin, *(part.end for part in parts)] == [*(part.begin for part in parts), trace.end]
    assert trace.spans == 1 + len(parts)


def test_times_outside_the_call_are_cut() -> None:
    trace = executed()
    trace.end = ms(12)
    assert named(trace)[2:] == [("exec", 10, 12), ("output", 12, 12)]


def test_a_load_is_a_part_of_the_queue() -> None:
    trace = executed()
    trace.loaded = Timing(0, ms(9), ms(9))
    _, queue, executing, _ = phases(trace)
    assert load_phase(trace, queue) == Phase("load", ms(1), ms(9))
    assert load_phase(trace, executing) is None
    assert trace.spans == 6
    trace.loaded = Timing(-5, -1, 4)
    assert load_phase(trace, queue) is None, "the load was before the request"
