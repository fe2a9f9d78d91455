"""Findings about GPUs, from literal facts."""

import pytest
from msgspec.structs import replace

from clockwork.environment import gpu_checks, resource_checks
from clockwork.environment.checks import CHECKS, check
from clockwork.environment.facts import Environment, Host, Measured
from clockwork.messages.findings import Level
from clockwork.runtimes.nvidia import NO_BINDINGS, NO_DRIVER, Gpu, NvidiaGpus
from clockwork.units import GIB


def environment(found: NvidiaGpus | None, devices: int = 1) -> Environment:
    measured = Measured(duration=1)
    return Environment(devices=((),) * devices, threads_per_device=1, host=Host(), measured=measured, gpus=found)


def gpu(**more: object) -> Gpu:
    return Gpu("H100", 80 * GIB, **more)  # type: ignore[arg-type]


def test_gpus_are_checked_only_for_workers_on_gpus() -> None:
    assert len(check(environment(None))) == len(CHECKS)
    names = [finding.name for finding in check(environment(NvidiaGpus((gpu(),), "580", "13.0")))[len(CHECKS) :]]
    assert names == ["gpu driver", "gpus", "gpu compute mode", "gpu persistence mode", "gpu clocks"]


def test_little_host_memory_is_fine_for_workers_on_gpus() -> None:
    without_memory = replace(environment(NvidiaGpus((gpu(),), "580", "13.0")), host=Host(available=GIB // 100))
    assert resource_checks.memory(without_memory).level == Level.OK
    assert resource_checks.memory(replace(without_memory, gpus=None)).level == Level.BAD


@pytest.mark.parametrize(("missing", "fix"), [(NO_DRIVER, "install NVIDIA's driver"), (NO_BINDINGS, "")])
def test_without_a_driver_a_worker_does_not_start(missing: str, fix: str) -> None:
    found = NvidiaGpus(missing=missing)
    finding = gpu_checks.driver(environment(found), found)
    assert (finding.level, finding.found) == (Level.BAD, missing)
    assert finding.fix.startswith(fix)
    assert gpu_checks.gpus(environment(found), found).level == Level.BAD
    assert gpu_checks.compute_mode(environment(found), found).level == Level.NOTE


@pytest.mark.parametrize(
    ("gpus", "devices", "level", "shown"),
    [
        ((gpu(), gpu(free=GIB)), 2, Level.OK, "0: H100, 80.0 GiB; 1: H100, 80.0 GiB, 1.0 GiB free"),
        ((gpu(),), 2, Level.BAD, "0: H100, 80.0 GiB; 2 devices needed"),
        ((gpu(), Gpu("A100", GIB)), 1, Level.OK, "0: H100, 80.0 GiB; 1: A100, 1.0 GiB"),
        ((gpu(), Gpu("A100", GIB)), 2, Level.BAD, "0: H100, 80.0 GiB; 1: A100, 1.0 GiB"),
    ],
)
def test_there_must_be_as_many_gpus_of_one_kind_as_devices(
    gpus: tuple[Gpu, ...], devices: int, level: Level, shown: str
) -> None:
    found = NvidiaGpus(gpus, "580", "13.0")
    finding = gpu_checks.gpus(environment(found, devices), found)
    assert (finding.level, finding.found) == (level, shown)


@pytest.mark.parametrize(
    ("modes", "level", "shown"),
    [
        ((None,), Level.NOTE, "unknown"),
        (("default",), Level.NOTE, "default"),
        (("exclusive process", "exclusive process"), Level.OK, "exclusive process"),
        (("default", "prohibited"), Level.BAD, "0: default; 1: prohibited"),
    ],
)
def test_the_compute_mode_should_be_exclusive(modes: tuple[str | None, ...], level: Level, shown: str) -> None:
    found = NvidiaGpus(tuple(gpu(compute_mode=mode) for mode in modes), "580", "13.0")
    finding = gpu_checks.compute_mode(environment(found), found)
    assert (finding.level, finding.found) == (level, shown)


@pytest.mark.parametrize(
    ("modes", "level", "shown"),
    [
        ((None, None), Level.NOTE, "unknown"),
        ((True, None), Level.OK, "0: on; 1: unknown"),
        ((True, False), Level.WARNING, "0: on; 1: off"),
    ],
)
def test_the_driver_should_stay_loaded(modes: tuple[bool | None, ...], level: Level, shown: str) -> None:
    found = NvidiaGpus(tuple(gpu(persistence=mode) for mode in modes), "580", "13.0")
    finding = gpu_checks.persistence(environment(found), found)
    assert (finding.level, finding.found) == (level, shown)


def test_known_clocks_are_shown() -> None:
    found = NvidiaGpus((gpu(clock=345, highest_clock=1980), gpu()), "580", "13.0")
    finding = gpu_checks.clocks(environment(found), found)
    assert (finding.level, finding.found) == (Level.NOTE, "0: 345 MHz now, at most 1980; 1: unknown")
    assert "nvidia-smi -lgc" in finding.fix
    assert gpu_checks.clocks(environment(NvidiaGpus((gpu(),))), NvidiaGpus((gpu(),))).found == "unknown"
