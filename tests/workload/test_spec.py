"""Workloads in scenario files: decoding, checks and scaling."""

import tomllib
from random import Random
from typing import Any

import msgspec
import pytest

from clockwork.errors import InvalidRequestError
from clockwork.units import SECOND
from clockwork.workload.spec import LadderSpec, StreamSpec, make_workload, scaled, with_slo_scaled


def decoded(text: str) -> StreamSpec:
    return msgspec.convert(tomllib.loads(text), StreamSpec, strict=False)


def make(spec: StreamSpec) -> None:
    make_workload([spec], ["a", "b"], SECOND, Random(1))


def test_a_stream_is_read_from_toml() -> None:
    spec = decoded(
        """
        kind = "on-off"
        rate = 900
        on_s = 2
        models = ["resnet*", "first:12"]
        slo_ladder = {start_ms = 2.9, factor = 1.5, step_s = 30, max_ms = 290}
        """
    )
    assert (spec.kind, spec.rate, spec.on_s, spec.off_s) == ("on-off", 900.0, 2.0, 1.0)
    assert spec.models == ("resnet*", "first:12")
    assert spec.slo_ladder == LadderSpec(30.0, 1.5, start_ms=2.9, max_ms=290.0)


@pytest.mark.parametrize(
    "text",
    ['kind = "poison"', 'kind = "poisson"\nrates = 3', 'kind = "poisson"\nrate = "many"', "rate = 3"],
)
def test_an_unknown_kind_field_or_type_is_an_error(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoded(text)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rate": 0}, "rate is 0"),
        ({"rate": -1}, "rate is -1"),
        ({"rate": 1e9}, "at most 10000000"),
        ({"kind": "ramp", "rate_end": 1e9}, "rate_end is"),
        ({"kind": "ramp", "rate_end": -1.0}, "rate_end, rate_factor or load_factor is negative"),
        ({"kind": "gamma", "cv": 0.0}, "cv is 0"),
        ({"kind": "gamma", "cv": 1e-200}, "cv is 1e-200"),
        ({"kind": "on-off", "on_s": 0.0}, "on_s"),
        ({"kind": "on-off", "on_s": 1e-12}, "on_s"),
        ({"mix": "zipf", "zipf_s": -1.0}, "zipf_s is -1"),
        ({"kind": "closed", "concurrency": 0}, "concurrency is 0"),
        ({"kind": "closed", "concurrency": 10**7}, "clients; the limit is"),
        ({"kind": "closed", "scale": -1.0}, "scale is -1"),
        ({"slo_ms": 0.0}, "slo_ms is 0"),
        ({"slo_factor": -2.0}, "slo_factor is -2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"kind": "activate", "active": 0}, "active is 0"),
        ({"start_s": -1.0}, "start_s"),
        ({"start_s": 2.0, "stop_s": 2.0}, "stop_s is 2.0; it must be after start_s"),
        ({"models": ("c*",)}, "pattern 'c*' matches none of the 2 models: a, b"),
        ({"models": ("first:many",)}, "examples: first:12, slice:12:48"),
        ({"kind": "azure", "minutes": 0}, "minutes must be"),
        ({"kind": "azure", "trace": "day1"}, "unknown trace 'day1'"),
        ({"slo_ladder": LadderSpec(1.0, 1.0, start_ms=1, max_ms=2)}, "slo_ladder needs"),
        ({"slo_ladder": LadderSpec(1.0, start_ms=3, max_ms=2)}, "slo_ladder needs"),
        ({"slo_ladder": LadderSpec(1.0, start_ms=1, max_ms=2, start_factor=1)}, "slo_ladder needs"),
        ({"slo_ladder": LadderSpec(1e-12, start_ms=1, max_ms=2)}, "slo_ladder needs"),
    ],
)
def test_an_invalid_stream_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    spec = StreamSpec(**{"kind": "poisson", "rate": 10.0, **fields})
    with pytest.raises(InvalidRequestError) as refused:
        make(spec)
    assert reason in str(refused.value)
    assert str(refused.value).startswith(f"[[workload]] 1 ({spec.kind}): ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "field", [name for name, of in StreamSpec.__annotations__.items() if of in (float, float | None)]
)
def test_a_number_that_is_not_finite_is_refused_by_its_name(field: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"{field} is (nan|inf); it must be a finite number"):
        make(msgspec.convert({"kind": "poisson", "rate": 10.0, field: value}, StreamSpec))


def test_a_ladder_with_a_number_that_is_not_finite_is_refused_by_its_name() -> None:
    ladder = LadderSpec(1.0, start_ms=1, max_ms=float("inf"))
    with pytest.raises(InvalidRequestError, match=r"slo_ladder\.max_ms is inf"):
        make(StreamSpec("poisson", rate=10, slo_ladder=ladder))


def test_scaling_multiplies_the_rate_of_an_open_loop() -> None:
    spec = StreamSpec("ramp", rate=100, rate_end=200, scale=2)
    assert scaled(spec, 1.5) == StreamSpec("ramp", rate=100, rate_end=200, scale=3)


def test_scaling_a_ramp_multiplies_both_its_ends() -> None:
    counts = []
    for factor in (1, 3):
        spec = scaled(StreamSpec("ramp", rate=500, rate_end=1500), factor)
        workload, count = make_workload([spec], ["a"], 10 * SECOND, Random(1)), 0
        while workload.next_send() is not None:
            workload.take()
            count += 1
        counts.append(count)
    assert 9_500 < counts[0] < 10_500
    assert 29_000 < counts[1] < 31_000


@pytest.mark.parametrize(("factor", "clients"), [(2, 6), (1.5, 5), (0.1, 1), (1, 3)])
def test_scaling_a_closed_loop_rounds_its_clients_up(factor: float, clients: int) -> None:
    assert scaled(StreamSpec("closed", concurrency=3), factor).concurrency == clients


def test_scaling_slos_multiplies_each_kind_of_slo() -> None:
    assert with_slo_scaled(StreamSpec("fixed", slo_ms=10), 2).slo_ms == 20
    assert with_slo_scaled(StreamSpec("fixed", slo_factor=3), 0.5).slo_factor == 1.5
    assert with_slo_scaled(StreamSpec("fixed"), 2) == StreamSpec("fixed")
    spec = StreamSpec("fixed", slo_ladder=LadderSpec(30.0, start_ms=1, max_ms=8))
    assert with_slo_scaled(spec, 2).slo_ladder == LadderSpec(30.0, start_ms=2, max_ms=16)
