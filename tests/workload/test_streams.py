"""Streams of requests: times, models and SLOs."""

from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import pytest

from clockwork.errors import InvalidRequestError
from clockwork.units import SECOND, ms, seconds
from clockwork.workload.request import WorkloadRequest
from clockwork.workload.spec import LadderSpec, StreamSpec, make_workload, scaled, with_slo_scaled

MODELS = [f"m{i}" for i in range(10)]


def played(
    spec: StreamSpec, duration: float = 20.0, seed: int = 1, models: list[str] | None = None
) -> list[WorkloadRequest]:
    """All requests of an open loop."""
    workload = make_workload([spec], models or MODELS, seconds(duration), Random(seed))
    made = []
    while (due := workload.next_send()) is not None:
        made.append(workload.take())
        assert made[-1].intended == due
    return made


@pytest.mark.parametrize(
    "spec",
    [
        StreamSpec("poisson", rate=500),
        StreamSpec("fixed", rate=500),
        StreamSpec("gamma", rate=500, cv=3),
        StreamSpec("on-off", rate=1000, on_s=0.5, off_s=0.5),
        StreamSpec("ramp", rate=100, rate_end=900),
        StreamSpec("activate", rate=500, step_s=1),
    ],
    ids=lambda spec: spec.kind,
)
def test_open_loops_have_their_rate_their_order_and_their_end(spec: StreamSpec) -> None:
    made = played(spec)
    assert 0.75 * 10_000 < len(made) < 1.3 * 10_000
    assert all(a.intended <= b.intended for a, b in pairwise(made))
    assert made[0].intended >= 0
    assert made[-1].intended < 20 * SECOND
    assert played(spec) == made, "one seed, one workload"
    assert played(spec, seed=2) != made or spec.kind == "fixed"


def test_poisson_gaps_vary_as_much_as_their_mean_and_gamma_gaps_by_cv() -> None:
    for spec, cv in ((StreamSpec("poisson", rate=500), 1.0), (StreamSpec("gamma", rate=500, cv=3), 3.0)):
        gaps = [b.intended - a.intended for a, b in pairwise(played(spec, 60))]
        mean = sum(gaps) / len(gaps)
        deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
        assert deviation / mean == pytest.approx(cv, rel=0.15)


def test_fixed_is_exact_in_the_long_run() -> None:
    made = played(StreamSpec("fixed", rate=3))
    assert [request.intended for request in made][:3] == [333_333_333, 666_666_667, 1_000_000_000]
    assert len(made) == 59


def test_an_on_off_stream_sends_nothing_while_it_is_off() -> None:
    made = played(StreamSpec("on-off", rate=300, on_s=1, off_s=3))
    assert made
    assert all(request.intended % (4 * SECOND) < 1 * SECOND for request in made)


def test_a_ramp_rises_and_steps_multiply() -> None:
    rising = played(StreamSpec("ramp", rate=10, rate_end=990))
    assert sum(request.intended < 10 * SECOND for request in rising) < len(rising) / 3
    steps = Counter(r.intended // (5 * SECOND) for r in played(StreamSpec("ramp", rate=100, rate_factor=2, step_s=5)))
    assert [steps[i] / steps[0] for i in range(4)] == pytest.approx([1, 2, 4, 8], rel=0.2)


def test_mixes_are_uniform_or_zipf_distributed() -> None:
    uniform = Counter(request.model for request in played(StreamSpec("poisson", rate=1000)))
    assert set(uniform) == set(MODELS)
    assert max(uniform.values()) < 1.2 * min(uniform.values())
    zipf = Counter(request.model for request in played(StreamSpec("poisson", rate=1000, mix="zipf", zipf_s=1.0)))
    assert zipf["m0"] / zipf["m1"] == pytest.approx(2.0, rel=0.15)
    assert zipf["m0"] / zipf["m9"] == pytest.approx(10.0, rel=0.3)


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [(("m1",), {"m1"}), (("first:2",), {"m0", "m1"}), (("slice:3:5", "m9"), {"m3", "m4", "m9"}), ((), set(MODELS))],
)
def test_models_are_chosen_by_pattern(patterns: tuple[str, ...], wanted: set[str]) -> None:
    assert {request.model for request in played(StreamSpec("poisson", rate=200, models=patterns))} == wanted


def test_a_stream_sends_between_start_and_stop() -> None:
    made = played(StreamSpec("poisson", rate=100, start_s=3, stop_s=5))
    assert made[0].intended >= 3 * SECOND
    assert made[-1].intended < 5 * SECOND
    assert 130 < len(made) < 280


def test_an_slo_ladder_steps_up_and_ends_the_stream() -> None:
    ladder = LadderSpec(step_s=2, factor=2, start_ms=10, max_ms=40)
    made = played(StreamSpec("fixed", rate=10, slo_ladder=ladder))
    assert [slo for slo, _ in sorted(Counter(request.slo for request in made).items())] == [ms(10), ms(20), ms(40)]
    assert made[-1].intended < 6 * SECOND
    relative = LadderSpec(step_s=2, factor=1.5, start_factor=1, max_factor=2)
    factors = {request.slo_factor for request in played(StreamSpec("fixed", rate=10, slo_ladder=relative))}
    assert factors == {1.0, 1.5}


def test_an_active_set_grows() -> None:
    made = played(StreamSpec("activate", rate=1000, active=2, step_s=2), 10)
    first, last = ({r.model for r in made if r.intended // (2 * SECOND) == step} for step in (0, 4))
    assert first == {"m0", "m1"}
    assert last == {f"m{i}" for i in range(6)}


def test_a_closed_loop_waits_for_responses() -> None:
    spec = StreamSpec("closed", concurrency=2, models=("first:2",), think_ms=5)
    workload = make_workload([spec], MODELS, seconds(10), Random(1))
    first = [workload.take() for _ in range(4)]
    assert [(request.client, request.model) for request in first] == [(0, "m0"), (1, "m0"), (2, "m1"), (3, "m1")]
    assert workload.next_send() is None, "all clients wait"
    workload.answered(ms(30), first[2], None)
    assert workload.next_send() == ms(35), "it thinks"
    workload.answered(ms(31), first[0], ms(1))
    assert workload.next_send() == ms(35), "and is never told to think less"
    workload.answered(ms(31), first[1], ms(100))
    assert [workload.take().client, workload.take().client, workload.take().client] == [2, 0, 1]
    assert workload.next_send() is None


def test_a_refused_client_sends_again_after_its_retry_time() -> None:
    workload = make_workload([StreamSpec("closed", models=("m0",))], MODELS, seconds(10), Random(1))
    request = workload.take()
    workload.answered(ms(10), request, ms(70))
    assert workload.next_send() == ms(80)


def test_streams_are_merged_in_order() -> None:
    specs = [StreamSpec("poisson", rate=300), StreamSpec("fixed", rate=100), StreamSpec("closed", models=("m0",))]
    workload = make_workload(specs, MODELS, seconds(5), Random(1))
    at, seen = 0, Counter[int]()
    while (due := workload.next_send()) is not None:
        request = workload.take()
        assert due == request.intended >= at
        at = due
        seen[request.stream] += 1
        workload.answered(at + ms(1), request, None)
    assert seen[1] == 499
    assert seen[2] > 3000


def test_scaling_multiplies_rates_clients_and_slos() -> None:
    assert len(played(scaled(StreamSpec("fixed", rate=10), 3))) == 599
    assert scaled(StreamSpec("closed", concurrency=4), 1.5).concurrency == 6
    assert with_slo_scaled(StreamSpec("fixed", rate=1, slo_ms=50), 0.5).slo_ms == 25
    ladder = with_slo_scaled(StreamSpec("fixed", rate=1, slo_ladder=LadderSpec(1, 2, 10, 40)), 2).slo_ladder
    assert ladder is not None
    assert (ladder.start_ms, ladder.max_ms) == (20, 80)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"kind": "poisson"}, "rate is 0 per second"),
        ({"kind": "gamma", "rate": 1, "cv": 0}, "cv is 0"),
        ({"kind": "closed", "concurrency": 0}, "concurrency is 0"),
        ({"kind": "closed", "concurrency": 1_000_000}, "clients; the limit is"),
        ({"kind": "poisson", "rate": 1, "models": ["nobody*"]}, "pattern 'nobody\\*' matches none of the 10"),
        ({"kind": "poisson", "rate": 1, "models": ["first:x"]}, "examples: first:12"),
        ({"kind": "poisson", "rate": 1, "slo_ms": -1}, "slo_ms is -1"),
        ({"kind": "poisson", "rate": 1, "slo_ladder": {"step_s": 0}}, "slo_ladder needs"),
        ({"kind": "azure", "trace": "there"}, "unknown trace 'there'"),
        ({"kind": "azure", "rate": 1, "minutes": 0}, "minutes must be"),
    ],
)
def test_an_invalid_stream_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        make_workload([msgspec.convert(given, StreamSpec, strict=False)], MODELS, seconds(1), Random(1))
