"""From facts to findings.

Rules of the file: pure. Each judge looks at one thing and gives one finding, whatever is known. A cost is a measured
figure, or follows from one, or is said without a figure; a mend is something that an operator can do.
"""

from collections.abc import Callable
from typing import Final

from clockwork.environment import gpu_checks, processor_checks, resource_checks, timing_checks
from clockwork.environment.facts import Environment
from clockwork.environment.findings import Finding
from clockwork.runtimes.nvidia import Found

JUDGES: Final[tuple[Callable[[Environment], Finding], ...]] = (
    timing_checks.interruptions,
    timing_checks.others,
    timing_checks.stolen,
    timing_checks.timers,
    timing_checks.clock,
    processor_checks.cores,
    processor_checks.isolation,
    processor_checks.hyper_threads,
    processor_checks.nodes,
    processor_checks.quota,
    processor_checks.governor,
    processor_checks.boost,
    resource_checks.memory,
    resource_checks.swap,
    resource_checks.huge_pages,
    resource_checks.locked_memory,
    resource_checks.open_files,
)

JUDGES_OF_GPUS: Final[tuple[Callable[[Environment, Found], Finding], ...]] = (
    gpu_checks.driver,
    gpu_checks.gpus,
    gpu_checks.compute_mode,
    gpu_checks.persistence,
    gpu_checks.clocks,
)
"""For workers on GPUs; the others hold for them as well, because a thread waits for each GPU."""


def judge(environment: Environment) -> tuple[Finding, ...]:
    """One finding for each thing, always in this order: what was measured, processors, memory, limits, GPUs."""
    found = environment.gpus
    of_gpus = [] if found is None else [judging(environment, found) for judging in JUDGES_OF_GPUS]
    return (*(judging(environment) for judging in JUDGES), *of_gpus)
