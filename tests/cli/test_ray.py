"""The parts of a fleet on Ray that need no Ray: its commands, its resources, versions and errors."""

import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from clockwork.cli import run
from clockwork.cli.address_report import AddressReport
from clockwork.errors import InvalidRequestError
from clockwork.net.address import Address
from clockwork.ray import log_file
from clockwork.ray.log_file import LogFile
from clockwork.ray.spec import FleetSpec, worker_number
from clockwork.ray.versions import version_fault

GPUS = FleetSpec(device="cuda", devices=2, worker_options=("--runtime=onnx",), worker_labels={"zone": "a"})


def test_the_commands_of_a_fleet_contain_its_settings() -> None:
    spec = FleetSpec(models=("a.onnx",), model_root="/models", devices=3, threads_per_device=2, state_dir="/state")
    assert spec.controller_arguments("10.0.0.1") == [
        "--listen=10.0.0.1:12346",
        "--http=10.0.0.1:8000",
        "--worker-listen=10.0.0.1:12345",
        "--state-dir=/state",
        "a.onnx",
    ]
    common = ["--name=clockwork:worker-1", "--health=127.0.0.1:0", "--claim-cores"]
    devices = ["--device=cpu", "--devices=3", "--model-root=/models", "--threads-per-device=2"]
    assert spec.worker_arguments(spec.worker(1)) == [*common, *devices]
    emulated = FleetSpec(
        device="emulated", devices=8, profiles=("resnet50-v100",), worker_options=("--page-size=1MiB",)
    )
    profile = ["--emulate=8", "--profile=resnet50-v100", "--page-size=1MiB"]
    assert emulated.worker_arguments("w")[3:] == profile


def test_addresses_of_ipv6_are_in_brackets_and_ports_without_a_number_are_closed() -> None:
    spec = FleetSpec(ports={"clients": 1, "workers": 2, "grpc": 3})
    expected = ["--listen=[::1]:1", "--grpc=[::1]:3", "--worker-listen=[::1]:2", "--http=none"]
    assert spec.controller_arguments("::1") == expected


def test_a_worker_reserves_whole_gpus_or_one_cpu_for_each_thread() -> None:
    assert GPUS.worker_resources() == {
        "num_cpus": 1,
        "num_gpus": 2,
        "label_selector": {"zone": "a"},
        "scheduling_strategy": "SPREAD",
    }
    cores = FleetSpec(devices=3, threads_per_device=2, pack=True)
    assert cores.worker_resources() == {"num_cpus": 6, "label_selector": {}}
    assert FleetSpec(devices=3, worker_cpus=0.5).worker_resources()["num_cpus"] == 0.5
    labelled = FleetSpec(controller_labels={"role": "control"}, controller_cpus=2)
    assert labelled.controller_resources() == {"num_cpus": 2, "label_selector": {"role": "control"}}


@pytest.mark.parametrize(
    ("spec", "workers", "message"),
    [
        (FleetSpec(name="a:b"), 1, "invalid fleet name 'a:b'; use up to 64 letters"),
        (FleetSpec(), 0, "0 workers are not possible; use 1 to 10000"),
        (FleetSpec(device="tpu"), 1, "invalid kind of device 'tpu'; expected one of: cpu, cuda, emulated"),
        (FleetSpec(device="emulated"), 1, "emulated devices need a profile"),
        (FleetSpec(device="cuda"), 1, "GPUs need a runtime; add --worker-option=--runtime=onnx or "),
    ],
)
def test_a_wrong_specification_is_reported(spec: FleetSpec, workers: int, message: str) -> None:
    GPUS.check(1)
    with pytest.raises(InvalidRequestError, match=message):
        spec.check(workers)


def test_only_actors_of_the_same_fleet_are_its_workers() -> None:
    assert worker_number("a", "a:worker-12") == 12
    assert [worker_number("a", name) for name in ("b:worker-1", "a:controller", "xa:worker-1", "a:worker-x")] == [
        None
    ] * 4


def test_a_version_fault_names_the_node_and_the_differing_versions() -> None:
    here = {"clockwork": "1", "ray": "2", "python": "3.11"}
    assert version_fault(here, here, "n") == ""
    assert version_fault(here, {**here, "ray": "9"}, "10.0.0.2") == (
        "node 10.0.0.2 has ray 2, but the fleet was started with ray 9; install the same versions on all nodes"
    )


def test_a_log_is_limited_and_shows_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "MAX_LOG_BYTES", 10)
    log = LogFile(tmp_path / "log")
    assert log.last_line() == ""
    os.write(log.descriptor, b"one\ntwo\n\n")
    log.limit()
    assert log.last_line() == "two"
    os.write(log.descriptor, b"three\n")
    log.limit()
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n\nthree\n"
    os.write(log.descriptor, b"four\n")
    assert log.path.read_text() == "four\n"
    os.close(log.descriptor)


def test_addresses_are_reported_as_lines_of_json() -> None:
    reader, writer = os.pipe()
    report = AddressReport(writer)
    report.listening({"clients": Address("::1", 1), "http": None})
    report.serving()
    os.close(writer)
    with os.fdopen(reader) as lines:
        first, second = map(json.loads, lines)
    assert first == {"serving": False, "addresses": {"clients": "[::1]:1"}}
    assert second == {**first, "serving": True}


def test_a_report_without_a_reader_is_dropped() -> None:
    reader, writer = os.pipe()
    report = AddressReport(writer)
    os.close(reader)
    report.serving()
    os.close(writer)
    AddressReport(None).serving()


@pytest.mark.parametrize("command", ["start", "status", "scale 2", "drain 10.0.0.1", "stop"])
def test_without_ray_each_command_names_the_package_to_install(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["ray", *command.split()]) == 1
    assert capsys.readouterr().err == "clockwork: Ray is not installed; run: pip install 'ray>=2.49'\n"


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_no_cluster_listens_is_reported_at_once(
    prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        raise AssertionError("Ray would try for minutes")

    exceptions = SimpleNamespace(RayError=RuntimeError)
    ray = SimpleNamespace(is_initialized=lambda: False, init=init, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        assert run(["ray", "status", f"--ray-address={prefix}{address}"]) == 1
    text = f"cannot connect to the Ray cluster at '{prefix}{address}': Connection refused; is Ray running there?"
    assert capsys.readouterr().err == f"clockwork: {text}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("start --workers 0", "Invalid value for '--workers'"),
        ("start --profile resnet50-v100", "--profile needs --emulate"),
        ("start --worker-label zone", "invalid label 'zone'; use KEY=VALUE"),
        ("start --port 65536", "Invalid value for '--port'"),
        ("start --wait soon", "invalid duration 'soon'"),
        ("scale", "Missing argument 'WORKERS'"),
        ("drain", "Missing argument 'NODE'"),
    ],
)
def test_wrong_usage_is_reported_before_ray_is_needed(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ray", *line.split()]) == 2
    assert message in capsys.readouterr().err
