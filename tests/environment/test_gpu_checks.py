"""What is said of GPUs, from what is known of them."""

import pytest
from msgspec.structs import replace

from clockwork.environment import gpu_checks, resource_checks
from clockwork.environment.checks import JUDGES, judge
from clockwork.environment.facts import Environment, Host, Measured
from clockwork.environment.findings import Level
from clockwork.runtimes.nvidia import NO_BINDINGS, NO_DRIVER, Found, Gpu
from clockwork.units import GIB


def environment(found: Found | None, devices: int = 1) -> Environment:
    measured = Measured(duration=1)
    return Environment(devices=((),) * devices, threads_per_device=1, host=Host(), measured=measured, gpus=found)


def gpu(**more: object) -> Gpu:
    return Gpu("H100", 80 * GIB, **more)  # type: ignore[arg-type]


def test_gpus_are_judged_if_they_were_asked_for() -> None:
    assert len(judge(environment(None))) == len(JUDGES)
    names = [it.name for it in judge(environment(Found((gpu(),), "580", "13.0")))[len(JUDGES) :]]
    assert names == ["gpu driver", "gpus", "gpu compute mode", "gpu persistence mode", "gpu clocks"]


def test_host_memory_is_no_weights_cache_of_a_gpu() -> None:
    its = replace(environment(Found((gpu(),), "580", "13.0")), host=Host(available=GIB // 100))
    assert resource_checks.memory(its).level == Level.OK
    assert resource_checks.memory(replace(its, gpus=None)).level == Level.BAD


@pytest.mark.parametrize(("missing", "mend"), [(NO_DRIVER, "install NVIDIA's driver"), (NO_BINDINGS, "")])
def test_without_a_driver_a_worker_does_not_start(missing: str, mend: str) -> None:
    found = Found(missing=missing)
    its = gpu_checks.driver(environment(found), found)
    assert (its.level, its.found) == (Level.BAD, missing)
    assert its.mend.startswith(mend)
    assert gpu_checks.gpus(environment(found), found).level == Level.BAD
    assert gpu_checks.compute_mode(environment(found), found).level == Level.NOTE


@pytest.mark.parametrize(
    ("gpus", "devices", "level", "shown"),
    [
        ((gpu(), gpu(free=GIB)), 2, Level.OK, "0: H100, 80.0 GiB; 1: H100, 80.0 GiB, 1.0 GiB free"),
        ((gpu(),), 2, Level.BAD, "0: H100, 80.0 GiB; 2 devices wanted"),
        ((gpu(), Gpu("A100", GIB)), 1, Level.OK, "0: H100, 80.0 GiB; 1: A100, 1.0 GiB"),
        ((gpu(), Gpu("A100", GIB)), 2, Level.BAD, "0: H100, 80.0 GiB; 1: A100, 1.0 GiB"),
    ],
)
def test_there_are_as_many_as_devices_of_one_kind(
    gpus: tuple[Gpu, ...], devices: int, level: Level, shown: str
) -> None:
    found = Found(gpus, "580", "13.0")
    its = gpu_checks.gpus(environment(found, devices), found)
    assert (its.level, its.found) == (level, shown)


@pytest.mark.parametrize(
    ("modes", "level", "shown"),
    [
        ((None,), Level.NOTE, "not told"),
        (("default",), Level.NOTE, "default"),
        (("exclusive process", "exclusive process"), Level.OK, "exclusive process"),
        (("default", "prohibited"), Level.BAD, "0: default; 1: prohibited"),
    ],
)
def test_who_may_use_the_devices(modes: tuple[str | None, ...], level: Level, shown: str) -> None:
    found = Found(tuple(gpu(compute_mode=mode) for mode in modes), "580", "13.0")
    its = gpu_checks.compute_mode(environment(found), found)
    assert (its.level, its.found) == (level, shown)


@pytest.mark.parametrize(
    ("modes", "level", "shown"),
    [
        ((None, None), Level.NOTE, "not told"),
        ((True, None), Level.OK, "0: on; 1: not told"),
        ((True, False), Level.WARNING, "0: on; 1: off"),
    ],
)
def test_a_driver_that_does_not_stay(modes: tuple[bool | None, ...], level: Level, shown: str) -> None:
    found = Found(tuple(gpu(persistence=mode) for mode in modes), "580", "13.0")
    its = gpu_checks.persistence(environment(found), found)
    assert (its.level, its.found) == (level, shown)


def test_clocks_are_shown_as_far_as_they_are_told() -> None:
    found = Found((gpu(clock=345, highest_clock=1980), gpu()), "580", "13.0")
    its = gpu_checks.clocks(environment(found), found)
    assert (its.level, its.found) == (Level.NOTE, "0: 345 MHz now, at most 1980; 1: not told")
    assert "nvidia-smi -lgc" in its.mend
    assert gpu_checks.clocks(environment(Found((gpu(),))), Found((gpu(),))).found == "not told"
