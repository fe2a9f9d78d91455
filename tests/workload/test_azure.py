"""Traces of Azure Functions: the real format and synthetic traces."""

from collections import Counter
from random import Random

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.units import SECOND, seconds
from clockwork.workload.azure import parse_trace, per_model, synthetic_trace
from clockwork.workload.spec import StreamSpec, make_workload

HEAD = "HashOwner,HashApp,HashFunction,Trigger,1,2,3"
TRACE = [HEAD, "o,a,f0,http,1,0,0", "o,a,f1,timer,600,600,600", "o,a,f2,queue,0,1200,0", "o,a,f3,http,10,0,0"]


def test_functions_are_sorted_by_their_invocations_and_spread_over_the_models_in_order() -> None:
    functions = parse_trace(TRACE)
    assert functions == [[600, 600, 600], [0, 1200, 0], [10, 0, 0], [1, 0, 0]]
    assert per_model(functions, 2) == [[600, 1800, 600], [11, 0, 0]]
    assert per_model(functions, 8)[::2] == functions, "function i goes to model i * models // functions"


def test_each_minute_is_replayed_at_its_rate() -> None:
    spec = StreamSpec("azure", trace="day", load_factor=2)
    workload = make_workload([spec], ["busy", "quiet"], seconds(600), Random(1), {"day": TRACE})
    counts: Counter[tuple[int, str]] = Counter()
    while workload.next_send() is not None:
        request = workload.take()
        counts[request.intended // (60 * SECOND), request.model] += 1
    assert counts[0, "busy"] == pytest.approx(1200, rel=0.1)
    assert counts[1, "busy"] == pytest.approx(3600, rel=0.1)
    assert counts[2, "busy"] == pytest.approx(1200, rel=0.1)
    assert 8 < counts[0, "quiet"] < 40
    assert max(minute for minute, _ in counts) == 2, "it ends with its last minute"


def test_a_replay_can_begin_in_the_middle() -> None:
    spec = StreamSpec("azure", trace="day", start_minute=1)
    workload = make_workload([spec], ["m"], seconds(60), Random(1), {"day": TRACE})
    count = 0
    while workload.next_send() is not None:
        workload.take()
        count += 1
    assert count == pytest.approx(1800, rel=0.1)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "begins with 'nothing'"),
        (["a,b,c"], "begins with 'a,b,c'"),
        ([HEAD], "no functions"),
        ([HEAD, "o,a,f,http,1,x,3"], "line 2 of the trace: invalid literal"),
        ([HEAD, "o,a,f,http,1,2"], "line 2 of the trace has 2 counts; expected 3"),
        ([HEAD, "o,a,f,http,1,-2,3"], "none negative"),
    ],
)
def test_a_malformed_trace_is_refused_with_its_line(lines: list[str], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        parse_trace(lines)


def test_a_synthetic_trace_has_the_format_the_rate_and_heavy_tails() -> None:
    lines = list(synthetic_trace(400, 50.0, 240, Random(3)))
    functions = parse_trace(lines)
    assert len(functions) == 400
    assert len(functions[0]) == 240
    totals = [sum(counts) for counts in functions]
    assert sum(totals) / (240 * 60) == pytest.approx(50, rel=0.5)
    assert sum(totals[:40]) > 0.5 * sum(totals), "a tenth of the functions makes most invocations"
    assert {line.split(",")[3] for line in lines[1:]} == {"http", "queue", "timer"}
    assert list(synthetic_trace(400, 50.0, 240, Random(3))) == lines
