"""Open loops: number, times, models and SLOs of requests."""

from collections import Counter
from itertools import islice, pairwise
from random import Random
from statistics import fmean, pstdev
from typing import Any

import pytest

from clockwork.units import MILLISECOND, SECOND, Nanos, ms, seconds
from clockwork.workload.request import WorkloadRequest
from clockwork.workload.spec import LadderSpec, StreamSpec, make_workload
from clockwork.workload.workload import Workload

MODELS = [f"m{i}" for i in range(10)]
OPEN = [
    StreamSpec("poisson", rate=200),
    StreamSpec("fixed", rate=200),
    StreamSpec("gamma", rate=200, cv=3.0),
    StreamSpec("on-off", rate=400, on_s=0.5, off_s=0.5),
    StreamSpec("ramp", rate=100, rate_end=300),
    StreamSpec("ramp", rate=100, rate_factor=1.1, step_s=1),
    StreamSpec("activate", rate=200, active=2, step_s=1),
    StreamSpec("azure", rate=200, minutes=2),
]
every_open_loop = pytest.mark.parametrize("spec", OPEN, ids=lambda spec: spec.kind)


def workload(*specs: StreamSpec, duration: float, seed: int = 1, models: list[str] = MODELS) -> Workload:
    return make_workload(specs, models, seconds(duration), Random(seed))


def sent(*specs: StreamSpec, duration: float, **kwargs: Any) -> list[WorkloadRequest]:
    made = workload(*specs, duration=duration, **kwargs)
    requests = []
    while (due := made.next_send()) is not None:
        requests.append(made.take())
        assert requests[-1].intended == due
    assert made.done
    return requests


def gaps(requests: list[WorkloadRequest]) -> list[Nanos]:
    return [b.intended - a.intended for a, b in pairwise(requests)]


def count(requests: list[WorkloadRequest], begin: float, end: float) -> int:
    return sum(seconds(begin) <= request.intended < seconds(end) for request in requests)


@every_open_loop
def test_the_same_seed_gives_the_same_requests_and_another_gives_others(spec: StreamSpec) -> None:
    assert sent(spec, duration=5) == sent(spec, duration=5)
    assert sent(spec, duration=5) != sent(spec, duration=5, seed=2)


@every_open_loop
def test_requests_are_in_order_and_none_is_before_the_start_or_after_the_stop(spec: StreamSpec) -> None:
    made = workload(StreamSpec(**{**as_fields(spec), "start_s": 2.0, "stop_s": 6.0}), duration=20)
    times = []
    while made.next_send() is not None:
        times.append(made.take().intended)
    assert times == sorted(times)
    assert seconds(2) <= times[0] < seconds(3.5)
    assert seconds(4.5) < times[-1] < seconds(6)


def as_fields(spec: StreamSpec) -> dict[str, Any]:
    return {field: getattr(spec, field) for field in spec.__struct_fields__}


@every_open_loop
def test_no_request_is_after_the_duration_even_with_a_later_stop(spec: StreamSpec) -> None:
    requests = sent(StreamSpec(**{**as_fields(spec), "stop_s": 100.0}), duration=3)
    assert requests
    assert requests[-1].intended < seconds(3)


@every_open_loop
def test_responses_do_not_affect_an_open_loop(spec: StreamSpec) -> None:
    made, requests = workload(spec, duration=5), []
    while made.next_send() is not None:
        requests.append(made.take())
        made.answered(requests[-1].intended + MILLISECOND, requests[-1], 5 * SECOND)
    assert requests == sent(spec, duration=5)


def test_a_stream_that_starts_after_the_end_sends_nothing() -> None:
    assert sent(StreamSpec("poisson", rate=100, start_s=10), duration=5) == []


def test_poisson_has_its_rate_and_gaps_as_varied_as_their_mean() -> None:
    requests = sent(StreamSpec("poisson", rate=500), duration=100)
    assert 49_000 < len(requests) < 51_000  # 4.5 standard deviations
    assert 0.97 < pstdev(gaps(requests)) / fmean(gaps(requests)) < 1.03


def test_a_stream_has_its_rate_over_all_its_models_together_times_its_scale() -> None:
    assert 9_500 < len(sent(StreamSpec("poisson", rate=50, scale=2), duration=100)) < 10_500


def test_fixed_arrivals_do_not_drift() -> None:
    requests = sent(StreamSpec("fixed", rate=3), duration=1000)
    assert [request.intended for request in requests] == [round(n * SECOND / 3) for n in range(1, 3000)]


@pytest.mark.parametrize(("cv", "least", "most"), [(0.5, 0.47, 0.53), (2.0, 1.85, 2.15)])
def test_gamma_gaps_have_the_given_coefficient_of_variation(cv: float, least: float, most: float) -> None:
    requests = sent(StreamSpec("gamma", rate=500, cv=cv), duration=100)
    assert 47_500 < len(requests) < 52_500
    assert least < pstdev(gaps(requests)) / fmean(gaps(requests)) < most


def test_on_off_is_silent_while_off_and_at_its_rate_while_on() -> None:
    requests = sent(StreamSpec("on-off", rate=500, on_s=2, off_s=3), duration=100)
    assert all(request.intended % seconds(5) < seconds(2) for request in requests)
    assert 19_300 < len(requests) < 20_700


def test_a_ramp_is_linear() -> None:
    requests = sent(StreamSpec("ramp", rate=100, rate_end=300), duration=100)
    assert 19_300 < len(requests) < 20_700
    assert 1_050 < count(requests, 0, 10) < 1_150 + 100
    assert 2_700 < count(requests, 90, 100) < 3_100


def test_a_ramp_down_to_nothing_ends() -> None:
    requests = sent(StreamSpec("ramp", rate=200, rate_end=0), duration=10)
    assert 850 < len(requests) < 1150


def test_a_ramp_multiplies_its_rate_at_each_step() -> None:
    requests = sent(StreamSpec("ramp", rate=100, rate_factor=2, step_s=10), duration=30)
    assert 870 < count(requests, 0, 10) < 1130
    assert 1_820 < count(requests, 10, 20) < 2_180
    assert 3_750 < count(requests, 20, 30) < 4_250


@pytest.mark.parametrize("duration", [30, 3000])
def test_a_ramp_whose_rate_underflows_ends(duration: float) -> None:
    assert 150 < len(sent(StreamSpec("ramp", rate=100, rate_factor=0.5, step_s=1), duration=duration)) < 250


def test_activate_adds_a_model_each_step_and_spreads_its_rate_evenly_over_active_models() -> None:
    requests = sent(StreamSpec("activate", rate=1000, active=2, step_s=10), duration=100)
    assert len({request.model for request in requests if request.intended < seconds(10)}) == 2
    for request in requests:
        assert MODELS.index(request.model) < 2 + request.intended // seconds(10)
    late = Counter(request.model for request in requests if request.intended >= seconds(80))
    assert set(late) == set(MODELS)
    assert all(1_750 < n < 2_250 for n in late.values())


def test_a_zipf_mix_chooses_models_in_proportion_to_their_rank() -> None:
    spec = StreamSpec("poisson", rate=1000, mix="zipf", zipf_s=1.1)
    models = Counter(request.model for request in sent(spec, duration=100))
    counts = [models[model] for model in MODELS]
    assert counts[:6] == sorted(counts[:6], reverse=True)
    assert 0.9 < counts[0] / counts[1] / 2**1.1 < 1.1
    assert 0.9 < counts[0] / counts[9] / 10**1.1 < 1.1


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("first:3",), ["m0", "m1", "m2"]),
        (("slice:2:4",), ["m2", "m3"]),
        (("m[78]",), ["m7", "m8"]),
        (("m9", "first:1", "m0"), ["m9", "m0"]),
        ((), MODELS),
    ],
)
def test_a_stream_is_for_the_models_that_it_names(patterns: tuple[str, ...], expected: list[str]) -> None:
    requests = sent(StreamSpec("poisson", rate=500, models=patterns), duration=2)
    assert {request.model for request in requests} == set(expected)


def test_an_slo_ladder_rises_step_by_step_and_ends_the_stream() -> None:
    ladder = LadderSpec(start_ms=2.9, factor=2, step_s=10, max_ms=12)
    requests = sent(StreamSpec("fixed", rate=10, start_s=5, slo_ladder=ladder), duration=1000)
    for request in requests:
        assert request.slo == ms(2.9) * 2 ** ((request.intended - seconds(5)) // seconds(10))
        assert request.slo_factor is None
    assert sorted({request.slo or 0 for request in requests}) == [ms(2.9), ms(5.8), ms(11.6)]
    assert seconds(34.8) < requests[-1].intended < seconds(35)


def test_an_slo_ladder_of_factors_reaches_its_maximum() -> None:
    ladder = LadderSpec(start_factor=1, factor=2, step_s=1, max_factor=8)
    requests = sent(StreamSpec("fixed", rate=10, slo_ladder=ladder), duration=1000)
    assert sorted({request.slo_factor or 0 for request in requests}) == [1, 2, 4, 8]
    assert all(request.slo is None for request in requests)


def test_a_ladder_that_ended_long_ago_does_not_overflow() -> None:
    ladder = LadderSpec(start_ms=1, factor=1.5, step_s=0.001, max_ms=100)
    assert sent(StreamSpec("fixed", rate=0.001, slo_ladder=ladder), duration=100_000) == []


def test_requests_have_the_fields_of_their_stream() -> None:
    (request,) = sent(StreamSpec("fixed", rate=1, models=("m3",), slo_ms=7, slo_factor=2, batch_size=4), duration=1.5)
    assert request == WorkloadRequest(0, 0, "m3", SECOND, ms(7), 2, 4)


def test_streams_are_merged_by_time_and_ties_go_to_the_first() -> None:
    requests = sent(StreamSpec("fixed", rate=1), StreamSpec("fixed", rate=2), duration=2.2)
    assert [(request.intended / SECOND, request.stream) for request in requests] == [
        (0.5, 1),
        (1.0, 0),
        (1.0, 1),
        (1.5, 1),
        (2.0, 0),
        (2.0, 1),
    ]


def test_adding_a_stream_does_not_change_the_requests_of_earlier_streams() -> None:
    alone = sent(OPEN[0], duration=5)
    both = sent(OPEN[0], OPEN[2], duration=5)
    assert [request for request in both if request.stream == 0] == alone


def test_an_endless_workload_is_created_at_once() -> None:
    made = workload(StreamSpec("poisson", rate=1e6), duration=1e9)
    assert len(list(islice(iter(made.take, None), 100))) == 100
    assert not made.done
