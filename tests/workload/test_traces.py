"""Traces of Azure Functions: read, mapped to models, replayed; and synthetic ones."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.units import seconds
from clockwork.workload.azure import parse_trace, per_model, synthetic_trace
from clockwork.workload.request import WorkloadRequest
from clockwork.workload.spec import StreamSpec, make_workload, scaled


def trace(*functions: list[int]) -> list[str]:
    minutes = len(functions[0])
    head = "HashOwner,HashApp,HashFunction,Trigger," + ",".join(str(i + 1) for i in range(minutes))
    return [head, *(f"o,a,f{i},http,{','.join(map(str, counts))}\n" for i, counts in enumerate(functions))]


def replayed(spec: StreamSpec, lines: list[str], models: list[str], duration: float = 3600) -> list[WorkloadRequest]:
    workload = make_workload([spec], models, seconds(duration), Random(1), {"day": lines})
    requests = []
    while workload.next_send() is not None:
        requests.append(workload.take())
    return requests


def in_minute(requests: list[WorkloadRequest], minute: int) -> int:
    return sum(request.intended // seconds(60) == minute for request in requests)


def test_the_busiest_function_comes_first() -> None:
    assert [list(counts) for counts in parse_trace(trace([1, 2], [9, 0], [4, 4]))] == [[9, 0], [4, 4], [1, 2]]


def test_function_i_goes_to_model_i_times_models_by_functions() -> None:
    functions = [[5, 0], [4, 1], [3, 0], [2, 0], [1, 7]]
    assert [list(counts) for counts in per_model(functions, 2)] == [[12, 1], [3, 7]]
    assert [list(counts) for counts in per_model(functions[:2], 4)] == [[5, 0], [0, 0], [4, 1], [0, 0]]


def test_empty_lines_and_line_ends_of_other_systems_are_accepted() -> None:
    assert [list(counts) for counts in parse_trace([*trace([1, 2]), "\n", "o,a,f,timer,3,4\r\n"])] == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "begins with 'nothing'"),
        (["a,b,c"], "begins with 'a,b,c'"),
        (trace([1, 2])[:1], "has no functions"),
        ([*trace([1, 2]), "o,a,f,http,1"], "line 3 of the trace has 1 counts; expected 2"),
        ([*trace([1, 2]), "o"], "line 3 of the trace has 0 counts"),
        ([*trace([1, 2]), "o,a,f,http,1,2,3"], "line 3 of the trace has 3 counts"),
        ([*trace([1, 2]), "o,a,f,http,1,many"], "line 3 of the trace: .*'many'"),
        ([*trace([1, 2]), "o,a,f,http,1,2.5"], "line 3 of the trace: .*'2.5'"),
        ([*trace([1, 2]), "o,a,f,http,1,-2"], "none negative"),
    ],
)
def test_a_malformed_trace_is_refused_with_the_line(lines: list[str], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        parse_trace(lines)


def test_each_minute_is_replayed_at_its_rate_for_its_models() -> None:
    lines = trace([6000, 0, 3000], [0, 0, 1500])
    requests = replayed(StreamSpec("azure", trace="day"), lines, ["a", "b"])
    assert 5_600 < in_minute(requests, 0) < 6_400
    assert in_minute(requests, 1) == 0
    assert 4_200 < in_minute(requests, 2) < 4_800
    assert requests[-1].intended < seconds(180)
    last = Counter(request.model for request in requests if request.intended >= seconds(120))
    assert 1.8 < last["a"] / last["b"] < 2.2
    assert {request.model for request in requests if request.intended < seconds(60)} == {"a"}


def test_a_minute_is_a_poisson_process() -> None:
    counts = [20] * 1000
    requests = replayed(StreamSpec("azure", trace="day"), trace(counts), ["a"], duration=60_000)
    by_minute = Counter(request.intended // seconds(60) for request in requests)
    variance = sum((by_minute[minute] - 20) ** 2 for minute in range(1000)) / 1000
    assert 16 < variance < 24  # 4.5 standard deviations


def test_the_load_factor_and_scaling_multiply() -> None:
    spec = scaled(StreamSpec("azure", trace="day", load_factor=0.5), 4)
    assert 11_400 < len(replayed(spec, trace([6000]), ["a"])) < 12_600
    assert replayed(StreamSpec("azure", trace="day", load_factor=0), trace([6000]), ["a"]) == []


def test_only_the_chosen_minutes_are_replayed() -> None:
    lines = trace([600, 0, 6000, 600, 600])
    requests = replayed(StreamSpec("azure", trace="day", start_minute=2, minutes=2, start_s=30), lines, ["a"])
    assert seconds(30) <= requests[0].intended < seconds(31)
    assert 5_600 < sum(request.intended < seconds(90) for request in requests) < 6_400
    assert 450 < sum(request.intended >= seconds(90) for request in requests) < 750
    assert requests[-1].intended < seconds(150)


def test_a_compressed_trace_keeps_the_rates() -> None:
    spec = StreamSpec("azure", trace="day", minute_s=2)
    requests = replayed(spec, trace([60_000, 0, 6_000]), ["a"])
    by_minute = Counter(request.intended // seconds(2) for request in requests)
    assert 1_800 < by_minute[0] < 2_200
    assert 150 < by_minute[2] < 250
    assert by_minute.keys() == {0, 2}
    with pytest.raises(InvalidRequestError, match="minute_s is 61"):
        replayed(StreamSpec("azure", trace="day", minute_s=61), trace([1]), ["a"])


def test_a_trace_that_ends_before_the_first_minute_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="start_minute is 5; the trace has 5 minutes"):
        replayed(StreamSpec("azure", trace="day", start_minute=5), trace([1] * 5), ["a"])


def test_a_synthetic_trace_has_the_format_the_rate_and_the_same_lines_for_the_same_seed() -> None:
    lines = list(synthetic_trace(2000, 500.0, 120, Random(7)))
    assert lines == list(synthetic_trace(2000, 500.0, 120, Random(7)))
    assert lines != list(synthetic_trace(2000, 500.0, 120, Random(8)))
    functions = parse_trace(lines)
    assert (len(functions), len(functions[0])) == (2000, 120)
    whole_day = parse_trace(synthetic_trace(1000, 100.0, 1440, Random(7)))
    assert 0.7 < sum(map(sum, whole_day)) / (100 * 86_400) < 1.3  # bursts of the few busiest functions change the rate


def test_few_functions_of_a_synthetic_trace_make_most_invocations() -> None:
    daily = [sum(counts) for counts in parse_trace(synthetic_trace(2000, 500.0, 60, Random(7)))]
    assert sum(daily[:200]) > 0.6 * sum(daily)


def test_a_synthetic_trace_is_busier_by_day_than_by_night() -> None:
    functions = parse_trace(synthetic_trace(1000, 100.0, 1440, Random(7)))
    night, noon = (sum(sum(counts[a:b]) for counts in functions) for a, b in ((0, 120), (660, 780)))
    assert noon > 1.2 * night


def test_a_synthetic_trace_has_functions_that_are_timers() -> None:
    lines = list(synthetic_trace(500, 200.0, 120, Random(7)))[1:]
    timers = [[int(cell) for cell in line.split(",")[4:]] for line in lines if ",timer," in line]
    assert 100 < len(timers) < 200
    for counts in timers:
        active = [minute for minute, count in enumerate(counts) if count]
        assert any(all((b - a) % period == 0 for a, b in pairwise(active)) for period in (60, 30, 15, 10, 5, 1))
    assert sum(0 < sum(map(bool, counts)) <= 24 for counts in timers) > 50  # most timers pause between minutes


def test_a_stream_without_a_trace_replays_a_synthetic_one() -> None:
    models = [f"m{i}" for i in range(100)]
    workload = make_workload([StreamSpec("azure", rate=200, minutes=3)], models, seconds(600), Random(1))
    requests = []
    while workload.next_send() is not None:
        requests.append(workload.take())
    assert 18_000 < len(requests) < 60_000  # 36,000 expected, but a few busy functions may be bursty
    assert requests[-1].intended < seconds(180)
    assert len({request.model for request in requests}) > 40
