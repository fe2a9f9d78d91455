"""Functions that make, compare and describe findings."""

from collections.abc import Iterable
from typing import Final

from clockwork.messages.findings import Finding, Level

UNKNOWN: Final = "unknown"
"""Text of a finding if the machine hides the fact."""


def unknown(name: str, reason: str = "") -> Finding:
    """Return the finding of a check whose fact the machine hides."""
    return Finding(name, Level.NOTE, UNKNOWN, reason or "cannot be checked")


def worst(findings: Iterable[Finding]) -> Level:
    """Return the highest level of the findings, or OK if there are no findings."""
    return max((finding.level for finding in findings), key=lambda level: level.rank, default=Level.OK)


def disturbing(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings about known facts whose level is above OK, with the worst first."""
    found = [each for each in findings if each.level is not Level.OK and each.found != UNKNOWN]
    return tuple(sorted(found, key=lambda finding: -finding.level.rank))


def show_share(share: float) -> str:
    """Return a share from 0 to 1 as text, such as ``12 %`` or ``0.3 %``."""
    return f"{share * 100:.0f} %" if share >= 0.1 or not share else f"{share * 100:.2g} %"


def plural(count: int, noun: str) -> str:
    """Return a count and a noun as text, such as ``1 core`` or ``2 cores``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
