"""A fleet on Ray follows the wanted number of devices. These tests need no Ray."""

import json
import os
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from clockwork.cli import run
from clockwork.cli.address_report import MAX_REASON, AddressReport
from clockwork.errors import InvalidRequestError
from clockwork.messages.scaling import KindScaling
from clockwork.ray import FleetStatus, PartStatus
from clockwork.ray import start as start_fleet
from clockwork.ray.fleet import Fleet
from clockwork.ray.sizer import Sizer, request_nodes
from clockwork.ray.sizing import Limits, Sizing, Workers, change, target
from clockwork.ray.spec import FleetSpec

LIMITS = Limits(2, 6)


def decide(devices: int | None, present: int, ending: int = 0, *, per_worker: int = 1, may_end: bool = True) -> int:
    return change(devices, per_worker, Workers(present, ending), LIMITS, may_end=may_end)


@pytest.mark.parametrize(("devices", "per_worker", "workers"), [(1, 1, 2), (4, 1, 4), (9, 2, 5), (8, 2, 4), (99, 1, 6)])
def test_the_workers_have_the_wanted_devices_within_the_limits(devices: int, per_worker: int, workers: int) -> None:
    assert target(devices, per_worker, LIMITS) == workers


def test_missing_workers_start_and_surplus_workers_end() -> None:
    assert [decide(4, present) for present in (2, 4, 6)] == [2, 0, -2]
    assert decide(7, 2, per_worker=2) == 2


def test_workers_that_finish_their_work_count_for_the_upper_limit() -> None:
    assert decide(6, 4, ending=1) == 1
    assert decide(6, 4, ending=3) == 0


def test_further_workers_end_only_after_the_others_have_ended() -> None:
    assert decide(2, 5, ending=1) == 0


@pytest.mark.parametrize("devices", [None, 0])
def test_without_a_known_number_of_devices_only_the_limits_decide(devices: int | None) -> None:
    assert [decide(devices, present) for present in (1, 2, 4, 6, 7)] == [1, 0, 0, 0, -1]


def test_no_worker_ends_while_workers_of_a_restarted_controller_connect() -> None:
    assert decide(2, 5, may_end=False) == 0
    assert decide(6, 5, may_end=False) == 1


@pytest.mark.parametrize("present", range(9))
@pytest.mark.parametrize("devices", range(9))
def test_repeated_decisions_reach_the_wanted_number_and_stay_there(present: int, devices: int) -> None:
    workers = present + decide(devices, present)
    assert LIMITS.least <= workers <= LIMITS.most
    assert decide(devices, workers) == 0


@pytest.mark.parametrize(
    ("limits", "workers", "message"),
    [
        ((0, 2), 0, "the limits 0:2 of autoscaling are not possible; use 1 <= MIN <= MAX <= 10000"),
        ((3, 2), 3, "the limits 3:2 of autoscaling are not possible"),
        ((2, 4), 5, "5 workers are outside the limits 2:4 of autoscaling"),
    ],
)
def test_wrong_limits_are_reported(limits: tuple[int, int], workers: int, message: str) -> None:
    FleetSpec(autoscale=(2, 4)).check(2)
    with pytest.raises(InvalidRequestError, match=message):
        FleetSpec(autoscale=limits).check(workers)


def test_limits_in_another_form_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ray", "start", "--autoscale", "4"]) == 2
    assert "invalid limits '4' of --autoscale; use MIN:MAX, for example 2:16" in capsys.readouterr().err


def test_a_fleet_that_follows_its_load_starts_with_the_smallest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[str] = []
    monkeypatch.setattr("clockwork.ray.fleet.connected", lambda address: None)
    monkeypatch.setattr("clockwork.ray.fleet.own_versions", dict)
    monkeypatch.setattr(Fleet, "parts", lambda self: [])
    monkeypatch.setattr(Fleet, "create", lambda self, kind, name, resources, arguments: created.append(name))
    start_fleet(autoscale=(2, 4), timeout=None)
    assert created == ["clockwork:controller", "clockwork:worker-1", "clockwork:worker-2"]


def test_nodes_are_requested_for_the_controller_and_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    def with_labels(bundles: Any, bundle_label_selectors: Any = None) -> None:
        requests.append((bundles, bundle_label_selectors))

    def without_labels(bundles: Any) -> None:
        requests.append(bundles)

    sdk = ModuleType("ray.autoscaler.sdk")
    for name in ("ray", "ray.autoscaler"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "ray.autoscaler.sdk", sdk)
    spec = FleetSpec(device="cuda", devices=2, worker_labels={"zone": "a"})
    nodes = [{"CPU": 1}, {"CPU": 1, "GPU": 2}, {"CPU": 1, "GPU": 2}]
    sdk.request_resources = with_labels  # type: ignore[attr-defined]
    request_nodes(spec, 2)
    request_nodes(FleetSpec(controller_cpus=0, devices=3), 1)
    request_nodes(spec, None)
    sdk.request_resources = without_labels  # type: ignore[attr-defined]
    request_nodes(spec, 2)
    assert requests == [(nodes, [{}, {"zone": "a"}, {"zone": "a"}]), ([{"CPU": 3}], None), ([], None), nodes]


class Recorder:
    """A fleet without Ray. Ending workers wait until ``may_end`` is set."""

    def __init__(self) -> None:
        self.names = ["w1", "w2"]
        self.may_end = threading.Event()

    def workers(self) -> list[str]:
        return list(self.names)

    def add_workers(self, count: int) -> None:
        self.names += [f"w{len(self.names) + number}" for number in range(1, count + 1)]

    def surplus(self, count: int, workers: Sequence[str]) -> list[str]:
        return list(reversed(workers))[:count]

    def end_parts(self, names: Sequence[str], spec: FleetSpec) -> None:
        self.may_end.wait()
        self.names = [name for name in self.names if name not in names]


def test_a_fleet_ends_workers_in_the_background_and_requests_nodes_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requested: list[int | None] = []
    monkeypatch.setattr("clockwork.ray.sizer.request_nodes", lambda spec, workers: requested.append(workers))
    fleet = Recorder()
    sizer = Sizer(lambda: fleet, FleetSpec(), LIMITS)
    for devices in (None, 4, 4):
        sizer.follow(devices, may_end=True)
    assert fleet.names == ["w1", "w2", "w3", "w4"]
    sizer.follow(3, may_end=True)
    sizer.follow(2, may_end=True)  # another worker still ends
    sizer.follow(6, may_end=True)
    assert fleet.names == ["w1", "w2", "w3", "w4", "w5", "w6"]
    assert requested == [2, 4, 3, 5]
    fleet.may_end.set()


def test_a_controller_reports_the_wanted_devices_of_all_kinds() -> None:
    reader, writer = os.pipe()
    report = AddressReport(writer)
    report.scaling([KindScaling("a", 1, 2, "few"), KindScaling("b", 4, 5, "many" * MAX_REASON)])
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert json.loads(lines.read()) == {
            "serving": True,
            "addresses": {},
            "wanted": 7,
            "why": ("many" * MAX_REASON)[:MAX_REASON],
        }


def test_a_full_pipe_does_not_stop_the_controller() -> None:
    reader, writer = os.pipe()
    report = AddressReport(writer)
    for _ in range(2000):
        report.scaling([KindScaling("a", 1, 2, "why " * 25)])
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert {json.loads(line)["wanted"] for line in lines} == {2}


@pytest.mark.parametrize(
    ("sizing", "line"),
    [
        (Sizing(least=1, most=4), "autoscale: 1 to 4 workers; the controller has not reported a number of devices"),
        (
            Sizing(least=1, most=4, devices=6, workers=3, why="the load is high"),
            "autoscale: 1 to 4 workers; 6 devices wanted, so 3 workers: the load is high",
        ),
        (
            Sizing(least=1, most=4, devices=1, workers=1, why="the load is low"),
            "autoscale: 1 to 4 workers; 1 device wanted, so 1 worker: the load is low",
        ),
    ],
)
def test_the_status_shows_the_wanted_size(
    sizing: Sizing, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = PartStatus(name="clockwork:controller", state="ready", sizing=sizing)
    status = FleetStatus(name="clockwork", controller=controller)
    fleet = Fleet(None, "clockwork")
    monkeypatch.setattr(fleet, "status", lambda: status)
    monkeypatch.setattr("clockwork.ray.attach", lambda name, address: fleet)
    assert run(["ray", "status"]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    assert run(["ray", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["controller"]["sizing"]["devices"] == sizing.devices
