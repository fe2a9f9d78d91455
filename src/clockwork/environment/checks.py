"""All checks, in the order in which their findings are shown.

Rules of the file: no I/O. Each check returns one finding, whatever facts are known. A cost is a measured number,
follows from a measured number, or contains no number. A fix is an action that an operator can take.
"""

from collections.abc import Callable
from typing import Final

from clockwork.environment import gpu_checks, processor_checks, resource_checks, timing_checks
from clockwork.environment.facts import Environment
from clockwork.environment.findings import Finding
from clockwork.runtimes.nvidia import NvidiaGpus

CHECKS: Final[tuple[Callable[[Environment], Finding], ...]] = (
    timing_checks.interruptions,
    timing_checks.other_processes,
    timing_checks.steal,
    timing_checks.timers,
    timing_checks.clock_source,
    processor_checks.cores,
    processor_checks.isolation,
    processor_checks.hyper_threads,
    processor_checks.numa,
    processor_checks.cpu_quota,
    processor_checks.cpu_governor,
    processor_checks.cpu_boost,
    resource_checks.memory,
    resource_checks.swap,
    resource_checks.huge_pages,
    resource_checks.locked_memory,
    resource_checks.open_files,
)
"""Checks for every kind of worker. They matter for GPUs too, because a CPU thread waits for each GPU."""

GPU_CHECKS: Final[tuple[Callable[[Environment, NvidiaGpus], Finding], ...]] = (
    gpu_checks.driver,
    gpu_checks.gpus,
    gpu_checks.compute_mode,
    gpu_checks.persistence,
    gpu_checks.clocks,
)
"""Additional checks for workers on GPUs."""


def check(environment: Environment) -> tuple[Finding, ...]:
    """Return one finding per check, in a fixed order: measurements, processors, memory, limits, GPUs."""
    found = environment.gpus
    about_gpus = [] if found is None else [gpu_check(environment, found) for gpu_check in GPU_CHECKS]
    return (*(one_check(environment) for one_check in CHECKS), *about_gpus)
