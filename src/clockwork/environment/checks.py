"""All checks of a machine, in the order in which their findings are shown.

This module does no I/O. Each check returns exactly one finding, even if facts are unknown. If the cost in a finding
contains a number, the number comes from a measurement. The fix in a finding is an action that an operator can take.
"""

from collections.abc import Callable
from typing import Final

from clockwork.environment import gpu_checks, processor_checks, resource_checks, timing_checks
from clockwork.environment.facts import Environment
from clockwork.messages.findings import Finding
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
"""Checks for every kind of worker. The checks also matter for GPUs, because a CPU thread controls each GPU."""

GPU_CHECKS: Final[tuple[Callable[[Environment, NvidiaGpus], Finding], ...]] = (
    gpu_checks.driver,
    gpu_checks.gpus,
    gpu_checks.compute_mode,
    gpu_checks.persistence,
    gpu_checks.clocks,
)
"""Additional checks for workers whose devices are GPUs."""


def check(environment: Environment) -> tuple[Finding, ...]:
    """Return one finding for each check.

    The order of the findings is: measurements, processors, memory, limits, GPUs.
    """
    found = environment.gpus
    about_gpus = [] if found is None else [gpu_check(environment, found) for gpu_check in GPU_CHECKS]
    return (*(one_check(environment) for one_check in CHECKS), *about_gpus)
