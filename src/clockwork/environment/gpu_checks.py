"""Judges of GPUs: is there a driver, are there as many as devices are wanted, do they keep their pace?

Rules of the file: pure. What only `nvidia-smi` can change is said with its command; nobody here runs it.
"""

from collections.abc import Iterable

from clockwork.environment.facts import Environment
from clockwork.environment.findings import NOT_TOLD, Finding, Level, not_told, plural
from clockwork.runtimes.nvidia import NO_BINDINGS, Found, Gpu
from clockwork.units import show_bytes

NO_WORKER = "a worker with --device cuda does not start"
DRIVER_MEND = (
    "install NVIDIA's driver, 580 or newer for CUDA 13 (nvidia-smi shows it); in a container: the NVIDIA Container "
    "Toolkit, and docker run --gpus all"
)


def driver(environment: Environment, found: Found) -> Finding:
    """Without a driver there is nothing else to see."""
    name = "gpu driver"
    if found.cuda is None:
        mend = "" if found.missing == NO_BINDINGS else DRIVER_MEND
        return Finding(name, Level.BAD, found.missing, NO_WORKER, mend)
    return Finding(name, Level.OK, f"{found.driver or 'version unknown'}, CUDA {found.cuda}")


def gpus(environment: Environment, found: Found) -> Finding:
    """As many of one kind as the worker has devices."""
    name, wanted = "gpus", len(environment.devices)
    if not found.gpus:
        return Finding(name, Level.BAD, found.missing, NO_WORKER, "see gpu driver, and CUDA_VISIBLE_DEVICES")
    shown = "; ".join(f"{number}: {_show(gpu)}" for number, gpu in enumerate(found.gpus))
    if len(found.gpus) < wanted:
        mend = f"ask for {plural(len(found.gpus), 'device')}, or let CUDA_VISIBLE_DEVICES name more"
        return Finding(name, Level.BAD, f"{shown}; {plural(wanted, 'device')} wanted", NO_WORKER, mend)
    if len({gpu.name for gpu in found.gpus[:wanted]}) > 1:
        mend = "a worker for each kind, with CUDA_VISIBLE_DEVICES"
        return Finding(name, Level.BAD, shown, f"the devices of a worker are of one kind: {NO_WORKER}", mend)
    return Finding(name, Level.OK, shown)


def compute_mode(environment: Environment, found: Found) -> Finding:
    """Who may use the devices."""
    name, modes = "gpu compute mode", [gpu.compute_mode for gpu in found.gpus]
    shown = _each(modes)
    if not shown:
        return not_told(name)
    if "prohibited" in modes:
        return Finding(name, Level.BAD, shown, NO_WORKER, "nvidia-smi -c DEFAULT, or -c EXCLUSIVE_PROCESS")
    if all(mode in ("exclusive process", None) for mode in modes):
        return Finding(name, Level.OK, shown)
    cost = "another process may use the device: what it executes, inferences wait for"
    return Finding(name, Level.NOTE, shown, cost, "nvidia-smi -c EXCLUSIVE_PROCESS")


def persistence(environment: Environment, found: Found) -> Finding:
    """Whether the driver stays when nobody uses the device."""
    name, modes = "gpu persistence mode", [gpu.persistence for gpu in found.gpus]
    shown = _each(None if mode is None else "on" if mode else "off" for mode in modes)
    if not shown:
        return not_told(name)
    if False not in modes:
        return Finding(name, Level.OK, shown)
    cost = (
        "the driver lets go of the device when nobody uses it: the next start waits for it, and fixed clocks are lost"
    )
    return Finding(name, Level.WARNING, shown, cost, "nvidia-smi -pm 1, or the service nvidia-persistenced")


def clocks(environment: Environment, found: Found) -> Finding:
    """A clock that follows load and temperature. Whether it is fixed, the driver does not tell."""
    name = "gpu clocks"
    shown = _each(
        None if gpu.highest_clock is None else f"{gpu.clock or '?'} MHz now, at most {gpu.highest_clock}"
        for gpu in found.gpus
    )
    if not shown:
        return not_told(name)
    cost = "unless it is fixed, the clock follows load, power and temperature, and times follow the clock"
    mend = "nvidia-smi -lgc MHZ, with one that it keeps when all of it is busy (nvidia-smi -q -d CLOCK); -rgc undoes it"
    return Finding(name, Level.NOTE, shown, cost, mend)


def _show(gpu: Gpu) -> str:
    free = "" if gpu.free is None else f", {show_bytes(gpu.free)} free"
    return f"{gpu.name}, {show_bytes(gpu.memory)}{free}"


def _each(values: Iterable[str | None]) -> str:
    """``on``, ``0: on; 1: off``; empty if nothing is known of any."""
    known = [value or NOT_TOLD for value in values]
    if all(value == NOT_TOLD for value in known):
        return ""
    if len(set(known)) == 1:
        return known[0]
    return "; ".join(f"{number}: {value}" for number, value in enumerate(known))
