"""The timeline agrees with the records that the simulator writes for the same actions."""

from typing import Any

import msgspec
import pytest

from clockwork.controller.events import ClientRequest, Respond
from clockwork.messages.timeline import MAX_SPAN, TimelineAction, TimelineRequest, TimelineResponse
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import parse_scenario
from sim.test_explaining import SCENARIO


@pytest.mark.parametrize("scheduler", ["clockwork", "edf", "fifo"])
def test_the_timeline_agrees_with_the_records_of_the_simulator(scheduler: str) -> None:
    records: list[dict[str, Any]] = []
    scenario = msgspec.structs.replace(parse_scenario(SCENARIO), scheduler=scheduler)
    simulation = Simulation(scenario, 3, record=records.append).run()
    expected = {record["id"]: record for record in records if record["record"] == "action"}
    found: list[TimelineAction] = []
    after = 0
    while True:
        request = TimelineRequest(1, after, MAX_SPAN, limit=200)
        (respond,) = simulation.cluster.controller.handle(simulation.loop.now, ClientRequest(2, request))
        assert isinstance(respond, Respond)
        assert isinstance(respond.response, TimelineResponse)
        timeline = respond.response.timeline
        assert timeline is not None
        assert timeline.upcoming == ()
        found += timeline.ended
        after = timeline.last
        if after == timeline.latest:
            break
    assert len(found) > 500
    late = 0
    for action in found:
        record = expected[action.id]
        assert action.device == f"{record['worker']}/gpu{record['gpu']}"
        assert (action.sent, action.arrived) == (record["sent"], record["ended"])
        assert (action.begin, action.end) == (record.get("begin"), record.get("end"))
        assert (action.earliest, action.latest) == (record["earliest"] or None, record["latest"])
        assert action.planned_begin == record.get("predicted_start")
        assert (action.rows, action.count) == (record.get("batch_size", 0), len(record.get("requests", ())))
        assert (action.status == "SUCCESS") is (record["status"] == 0)
        late += action.late
    missed = [
        each for each in records if each["record"] == "request" and each["outcome"] in ("late", "admitted_missed")
    ]
    assert missed or not late
