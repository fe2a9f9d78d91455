"""The explanations of requests agree with the records that the simulator writes for the same requests."""

from typing import Any

import msgspec
import pytest

from clockwork.controller.events import ClientRequest, Respond
from clockwork.messages.requests import ExplainRequest, ExplainResponse
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import parse_scenario

SCENARIO = """
duration_s = 2
warmup_s = 0
slo_ms = 60
[devices]
workers = 1
per_worker = 2
pages = 30
[[models]]
name = "resnet50"
copies = 8
profile = "resnet50-v100"
[[workload]]
kind = "poisson"
rate = 1500
[noise]
kind = "normal"
share = 0.1
"""


@pytest.mark.parametrize("scheduler", ["clockwork", "edf", "fifo"])
def test_explanations_agree_with_the_records_of_the_simulator(scheduler: str) -> None:
    records: list[dict[str, Any]] = []
    scenario = msgspec.structs.replace(parse_scenario(SCENARIO), scheduler=scheduler)
    simulation = Simulation(scenario, 3, record=records.append).run()
    requests = {record["id"]: record for record in records if record["record"] == "request"}
    controller, now = simulation.cluster.controller, simulation.loop.now
    explained = 0
    outcomes = set()
    for number, record in requests.items():
        (respond,) = controller.handle(now, ClientRequest(2, ExplainRequest(1, str(number))))
        assert isinstance(respond, Respond)
        response = respond.response
        assert isinstance(response, ExplainResponse)
        if response.explanation is None:
            continue  # the request was displaced by later requests
        found = response.explanation
        explained += 1
        outcomes.add(found.outcome)
        assert found.status == record["status_name"]
        assert found.total == record["total"]
        assert found.predicted == record["predicted"]
        assert found.message == record["message"]
        if found.outcome == "in_time":
            steps = {step.name: step for step in found.steps}
            assert found.action is not None
            assert found.cold_start == record["cold_start"]
            assert found.action.rows == record["batch_size"]
            assert steps["exec"].begin == record["queue"]
            assert steps["exec"].end - steps["exec"].begin == record["exec"]
    assert explained > 300
    assert {"in_time", "late" if scheduler == "fifo" else "refused"} <= outcomes
