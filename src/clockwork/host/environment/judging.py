"""From facts to findings.

Rules of the file: pure. Each judge looks at one thing and gives one finding, whatever is known. A cost is a measured
figure, or follows from one, or is said without a figure; a mend is something that an operator can do.
"""

from collections.abc import Callable
from typing import Final

from clockwork.host.environment import moments, processors, resources
from clockwork.host.environment.facts import Environment
from clockwork.host.environment.finding import Finding

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


def judge(environment: Environment) -> tuple[Finding, ...]:
    """One finding for each thing, always in this order: what was measured, processors, memory, limits."""
    return tuple(judging(environment) for judging in JUDGES)
