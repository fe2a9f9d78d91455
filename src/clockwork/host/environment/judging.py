"""From facts to findings.

Rules of the file: pure. Each judge looks at one thing and gives one finding, whatever is known. A cost is a measured
figure, or follows from one, or is said without a figure; a mend is something that an operator can do.
"""

from collections.abc import Callable
from typing import Final

from clockwork.host.environment import graphics, moments, processors, resources
from clockwork.host.environment.facts import Environment
from clockwork.host.environment.finding import Finding
from clockwork.runtimes.nvidia import Found

JUDGES: Final[tuple[Callable[[Environment], Finding], ...]] = (
    moments.interruptions,
    moments.others,
    moments.stolen,
    moments.timers,
    moments.clock,
    processors.cores,
    processors.isolation,
    processors.hyper_threads,
    processors.nodes,
    processors.quota,
    processors.governor,
    processors.boost,
    resources.memory,
    resources.swap,
    resources.huge_pages,
    resources.locked_memory,
    resources.open_files,
)

JUDGES_OF_GPUS: Final[tuple[Callable[[Environment, Found], Finding], ...]] = (
    graphics.driver,
    graphics.gpus,
    graphics.compute_mode,
    graphics.persistence,
    graphics.clocks,
)
"""For workers on GPUs; the others hold for them as well, because a thread waits for each GPU."""


def judge(environment: Environment) -> tuple[Finding, ...]:
    """One finding for each thing, always in this order: what was measured, processors, memory, limits, GPUs."""
    found = environment.gpus
    of_gpus = [] if found is None else [judging(environment, found) for judging in JUDGES_OF_GPUS]
    return (*(judging(environment) for judging in JUDGES), *of_gpus)
