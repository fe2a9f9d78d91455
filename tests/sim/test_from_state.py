"""Scenarios from the status of a live server: the recent demand and the SLOs in force."""

from typing import Any

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.sim.from_state import scenario_of
from clockwork.units import ms


def state(**fields: Any) -> dict[str, Any]:
    times = {"p50": ms(3), "p99": ms(3), "samples": [ms(3)]}
    port = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    info = {
        "name": "m[1]",
        "digest": "d",
        "weights_pages": 1,
        "inputs": [port],
        "outputs": [port],
        "batchable": True,
    }
    model = {"info": info, "profiles": {"cpu": {"load_weights": times, "infer": {"1": times}}}, "in_time": 600}
    device = {"gpu": {"total_pages": 8}}
    return {"models": [model | fields], "workers": [{"gpus": [device]}], "serving_ns": 60 * 10**9}


def test_the_recent_rates_and_slos_of_each_model_are_simulated() -> None:
    demand = [{"slo": ms(200), "rate": 90.0}, {"slo": ms(50), "rate": 10.0}]
    scenario = scenario_of(state(demand=demand, default_slo=ms(500)))
    streams = [(stream.name, stream.models, stream.rate, stream.slo_ms) for stream in scenario.workload]
    assert streams == [("m[1]", ("m[1]",), 10.0, 50.0), ("m[1]", ("m[1]",), 90.0, 200.0)]
    assert scenario.slo_ms == 200


def test_requests_whose_slo_was_not_read_count_under_the_most_frequent_one() -> None:
    demand = [{"slo": 0, "rate": 5.0}, {"slo": ms(50), "rate": 1.0}, {"slo": ms(80), "rate": 2.0}]
    rates = {stream.slo_ms: stream.rate for stream in scenario_of(state(demand=demand)).workload}
    assert rates == {50.0: 1.0, 80.0: 7.0}


def test_without_recent_demand_the_mean_rate_and_the_default_slo_are_simulated() -> None:
    (stream,) = scenario_of(state(default_slo=ms(500))).workload
    assert (stream.rate, stream.slo_ms) == (10.0, 500.0)


@pytest.mark.parametrize("entry", [{"slo": -1, "rate": 1}, {"slo": 1, "rate": float("nan")}, {"slo": 1}, 3])
def test_a_damaged_demand_is_refused(entry: object) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        scenario_of(state(demand=[entry]))
