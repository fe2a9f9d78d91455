"""Checks of GPUs: of the driver, of the number and kind of GPUs, and of settings that change their speed.

This module does no I/O. If a setting can be changed with `nvidia-smi`, the fix is this command. Clockwork never runs
the command itself.
"""

from collections.abc import Iterable

from clockwork.environment.facts import Environment
from clockwork.environment.findings import UNKNOWN, plural, unknown
from clockwork.messages.findings import Finding, Level
from clockwork.runtimes.nvidia import NO_BINDINGS, Gpu, NvidiaGpus
from clockwork.units import show_bytes

NO_WORKER = "a worker with --device cuda does not start"
DRIVER_FIX = (
    "install NVIDIA's driver, 580 or newer for CUDA 13 (nvidia-smi shows the version); in a container, install the "
    "NVIDIA Container Toolkit and use docker run --gpus all"
)


def driver(environment: Environment, found: NvidiaGpus) -> Finding:
    """Check that NVIDIA's driver is installed and new enough."""
    name = "gpu driver"
    if found.cuda is None:
        fix = "" if found.missing == NO_BINDINGS else DRIVER_FIX
        return Finding(name, Level.BAD, found.missing, NO_WORKER, fix)
    return Finding(name, Level.OK, f"{found.driver or 'version unknown'}, CUDA {found.cuda}")


def gpus(environment: Environment, found: NvidiaGpus) -> Finding:
    """Check that there are enough GPUs of one kind for all devices of the worker."""
    name, needed = "gpus", len(environment.devices)
    if not found.gpus:
        return Finding(name, Level.BAD, found.missing, NO_WORKER, "see gpu driver, and CUDA_VISIBLE_DEVICES")
    shown = "; ".join(f"{number}: {_show(gpu)}" for number, gpu in enumerate(found.gpus))
    if len(found.gpus) < needed:
        fix = f"use {plural(len(found.gpus), 'device')}, or list more GPUs in CUDA_VISIBLE_DEVICES"
        return Finding(name, Level.BAD, f"{shown}; {plural(needed, 'device')} needed", NO_WORKER, fix)
    if len({gpu.name for gpu in found.gpus[:needed]}) > 1:
        fix = "run one worker for each kind, with CUDA_VISIBLE_DEVICES"
        return Finding(name, Level.BAD, shown, f"the devices of a worker must be of one kind: {NO_WORKER}", fix)
    return Finding(name, Level.OK, shown)


def compute_mode(environment: Environment, found: NvidiaGpus) -> Finding:
    """Check which processes may use the GPUs."""
    name, modes = "gpu compute mode", [gpu.compute_mode for gpu in found.gpus]
    shown = _each(modes)
    if not shown:
        return unknown(name)
    if "prohibited" in modes:
        return Finding(name, Level.BAD, shown, NO_WORKER, "nvidia-smi -c DEFAULT, or -c EXCLUSIVE_PROCESS")
    if all(mode in ("exclusive process", None) for mode in modes):
        return Finding(name, Level.OK, shown)
    cost = "another process may use the GPU, and inferences then wait for this process"
    return Finding(name, Level.NOTE, shown, cost, "nvidia-smi -c EXCLUSIVE_PROCESS")


def persistence(environment: Environment, found: NvidiaGpus) -> Finding:
    """Check that the driver stays loaded while no process uses the GPU."""
    name, modes = "gpu persistence mode", [gpu.persistence for gpu in found.gpus]
    shown = _each(None if mode is None else "on" if mode else "off" for mode in modes)
    if not shown:
        return unknown(name)
    if False not in modes:
        return Finding(name, Level.OK, shown)
    cost = "the driver releases an unused GPU: the next start waits for the driver, and fixed clocks are lost"
    return Finding(name, Level.WARNING, shown, cost, "nvidia-smi -pm 1, or the service nvidia-persistenced")


def clocks(environment: Environment, found: NvidiaGpus) -> Finding:
    """Report the clock frequencies, which depend on load and temperature.

    The driver does not report whether an operator has fixed the frequencies.
    """
    name = "gpu clocks"
    shown = _each(
        None if gpu.highest_clock is None else f"{gpu.clock or '?'} MHz now, at most {gpu.highest_clock}"
        for gpu in found.gpus
    )
    if not shown:
        return unknown(name)
    cost = "unless the clock is fixed, it depends on load, power and temperature, and so do execution times"
    fix = "nvidia-smi -lgc MHZ, with a clock that the GPU sustains under full load (nvidia-smi -q -d CLOCK); -rgc "
    fix += "undoes it"
    return Finding(name, Level.NOTE, shown, cost, fix)


def _show(gpu: Gpu) -> str:
    free = "" if gpu.free is None else f", {show_bytes(gpu.free)} free"
    return f"{gpu.name}, {show_bytes(gpu.memory)}{free}"


def _each(values: Iterable[str | None]) -> str:
    """Return the values of all GPUs as text.

    If all values are equal, the text is, for example, ``on``. If the values differ, the text is, for example, ``0: on;
    1: off``. If no value is known, the text is empty.
    """
    shown = [value or UNKNOWN for value in values]
    if all(value == UNKNOWN for value in shown):
        return ""
    if len(set(shown)) == 1:
        return shown[0]
    return "; ".join(f"{number}: {value}" for number, value in enumerate(shown))
