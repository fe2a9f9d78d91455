"""A live server with emulated devices, which take their times from a profile."""

import json
from pathlib import Path

import numpy as np
import pytest

from cli.processes import clockwork
from clockwork.cli import run
from clockwork.client import Client

OPTIONS = ("--listen=127.0.0.1:0", "--http=none", "--no-profile-cache", "--profile-seconds=0.02", "--max-batch=2")


def test_a_fleet_of_emulated_devices_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with clockwork("serve", *OPTIONS, "--emulate=8", "--profile=resnet50-v100", "--copies=3") as process:
        address = process.address()
        with Client(address) as client:
            status = client.status()
            assert [len(worker.gpus) for worker in status.workers] == [8]
            assert {gpu.gpu.kind for gpu in status.workers[0].gpus} == {"emulated"}
            names = [model.name for model in client.ls()]
            assert names == [f"resnet50-v100-{i}" for i in (1, 2, 3)]
            for name in names:
                result = client.model(name).infer({"data": np.ones((1, 3, 224, 224), np.float32)}, slo=20)
                assert result["prob"].shape == (1, 1000)
                assert not result["prob"].any()
                assert 2_730_000 <= result.timing.exec <= 2_800_000
        assert run(["status", "--json", "--address", address]) == 0
        state = tmp_path / "state.json"
        state.write_text(capsys.readouterr().out)
    check_emulation_of_measured_times(state)


def check_emulation_of_measured_times(state: Path) -> None:
    command = ("serve", *OPTIONS, "--emulate=1", f"--profile={state}", "mine=resnet50-v100-2:2")
    with clockwork(*command) as process, Client(process.address()) as client:
        assert [model.name for model in client.ls()] == ["mine-1", "mine-2"]
        (profile,) = client.status().models[0].profiles.values()
        assert 2_730_000 <= profile.infer_estimate(1) <= 2_800_000


def test_a_load_test_of_an_emulated_fleet(tmp_path: Path) -> None:
    scenario, out = tmp_path / "scenario.toml", tmp_path / "out.json"
    scenario.write_text(
        'duration_s = 1\nwarmup_s = 0\nslo_ms = 2000\n[[models]]\nname = "resnet50-v100"\nprofile = "resnet50-v100"\n'
        '[[workload]]\nkind = "fixed"\nrate = 100\n'
    )
    with clockwork("serve", *OPTIONS, "--emulate=4", "--profile=resnet50-v100") as process:
        assert run(["load-test", process.address(), str(scenario), "--generated", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["sent"] == row["in_time"] >= 99


def test_emulated_workers_of_different_speeds_are_measured_apart() -> None:
    listen = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=none", "--no-profile-cache")
    with clockwork("controller", *listen, "--workers=2", "--profile-seconds=0.02", "--max-batch=2") as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        common = ("worker", "--emulate=1", "--profile=resnet50-v100", f"--controller={found[2]}")
        slow = ("--name=old", "--emulate-factor=3")
        with clockwork(*common, "--name=new"), clockwork(*common, *slow), Client(found[1]) as client:
            client.load("resnet50-v100", "resnet50-v100")
            controller.address()  # waits until the model is measured and served
            profiles = client.status().models[0].profiles
            times = {kind: profile.infer_estimate(1) / 2_730_000 for kind, profile in profiles.items()}
            assert times == pytest.approx({"emulated": 1.0, "emulated x3": 3.0}, rel=0.02)


def test_a_factor_needs_emulated_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "--emulate-factor=2"]) == 2
    assert "--emulate-factor needs --emulate" in capsys.readouterr().err
