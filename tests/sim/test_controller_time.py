"""A controller whose work takes time: the order of waiting events, and the goodput under overload."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.events import ClientLost, ClientRequest, Event, WorkerConnected, WorkerLost, WorkerResult
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import CancelRequest, StatusRequest
from clockwork.messages.results import ErrorResult
from clockwork.sim import inbox, swarm
from clockwork.sim.inbox import ByKind, InboxFullError
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import ControllerSpec, Scenario, parse_scenario
from effort import scaled

TEXT = """
duration_s = 1
warmup_s = 0
slo_ms = 100
[controller]
cost_per_request_ms = 1
[devices]
workers = 1
[[models]]
name = "m"
load_ms = 1
infer_ms = { "1" = 0.5 }
weights_bytes = 1000000
[network]
client_delay_ms = 0
[[workload]]
kind = "fixed"
rate = 100
"""


def scenario(**changes: Any) -> Scenario:
    return replace(parse_scenario(TEXT), **changes)


def latencies(given: Scenario) -> list[int]:
    records: list[dict[str, Any]] = []
    simulation = Simulation(given, 1, check_every=10, record=records.append).run()
    assert not simulation.watcher.violations
    requests = [record for record in records if record["record"] == "request"]
    assert {record["status"] for record in requests} == {0}
    return [record["total"] for record in requests]


def result(number: int) -> Event:
    return WorkerResult("w0", ErrorResult(number, "Infer", 1, "no"))


def test_events_of_workers_come_first_then_cancels_then_requests() -> None:
    waiting = ByKind()
    events: list[Event] = [
        ClientRequest(1, infer_request(1)),
        ClientRequest(1, StatusRequest(2)),
        ClientRequest(1, CancelRequest(1)),
        result(1),
        ClientLost(2),
        WorkerLost("w1"),
        WorkerConnected("w1"),
        ClientRequest(1, infer_request(3)),
    ]
    for event in events:
        waiting.put(event)
    assert len(waiting) == len(events)
    taken = [waiting.take() for _ in events]
    assert taken == [events[place] for place in (3, 5, 6, 2, 4, 0, 1, 7)]
    assert (waiting.take(), len(waiting)) == (None, 0)


def test_an_inbox_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 2)
    waiting = ByKind()
    waiting.put(result(1))
    waiting.put(result(2))
    with pytest.raises(InboxFullError, match="limit of events that wait reached \\(2\\)"):
        waiting.put(result(3))


def test_a_result_waits_until_the_controller_is_free() -> None:
    assert set(latencies(scenario(controller=ControllerSpec()))) == {
        700_000
    }  # 0.1 ms to the worker, 0.5 ms of execution, 0.1 ms back
    assert set(latencies(scenario(controller=ControllerSpec(0.5)))) == {700_000}
    assert set(latencies(scenario())) == {1_000_000}


def test_a_request_to_a_busy_controller_waits_and_its_slo_counts_from_its_arrival() -> None:
    streams = parse_scenario(TEXT).workload
    both = latencies(scenario(workload=(*streams, *streams)))  # two simultaneous requests every 10 ms
    assert set(both[0::2]) == {1_000_000}
    assert set(both[1::2]) == {2_000_000}


@pytest.mark.parametrize(
    ("costs", "spent"),
    [
        (ControllerSpec(cost_per_request_ms=1), lambda requests: requests),
        (ControllerSpec(cost_per_action_ms=1), lambda requests: requests),
        (ControllerSpec(cost_per_result_ms=1), lambda requests: requests),
        (ControllerSpec(cost_per_refusal_ms=1), lambda requests: 0),
    ],
)
def test_each_event_takes_the_time_that_the_scenario_sets(costs: ControllerSpec, spent: Callable[[int], int]) -> None:
    simulation = Simulation(scenario(controller=costs), 1)
    simulation.start()
    before = simulation.cluster.controller_busy
    simulation.play()
    simulation.finish()
    requests = simulation.outcomes.total.sent
    assert requests == 99
    assert simulation.cluster.controller_busy - before == spent(requests) * 1_000_000


def test_late_requests_are_answered_at_a_low_cost() -> None:
    given = scenario(controller=ControllerSpec(20.0, 0.01, 0.0, 0.0))  # the controller can handle half of the load
    simulation = Simulation(given, 1, check_every=10).run()
    assert not simulation.watcher.violations
    total = simulation.outcomes.total
    assert total.sent == 99
    assert 0 < total.in_time < 60


@pytest.mark.parametrize("value", ["-1", "1e9", "nan"])
def test_costs_out_of_range_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="cost"):
        parse_scenario(TEXT.replace("cost_per_request_ms = 1", f"cost_per_request_ms = {value}"))


def test_a_fifth_of_the_swarm_has_a_controller_that_takes_time() -> None:
    costly = sum(swarm.draw(seed).controller != ControllerSpec() for seed in range(500))
    assert 60 < costly < 140


@pytest.mark.parametrize("seed", range(1, 1 + scaled(3)))
def test_goodput_does_not_collapse_when_the_controller_is_overloaded(seed: int) -> None:
    assert not swarm.run_overload(seed)
