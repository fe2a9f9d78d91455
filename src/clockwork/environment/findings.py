"""The result of one check: a finding."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

UNKNOWN: Final = "unknown"
"""Text of a finding about a fact that the machine hides."""


class Level(StrEnum):
    """Severity of a finding, lowest first.

    - OK: nothing to do.
    - NOTE: harmless by itself, or unknown.
    - WARNING: some inferences will take longer than estimated.
    - BAD: promises will be broken, or a worker would not start.
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    BAD = "bad"

    @property
    def rank(self) -> int:
        """Position among the levels; 0 is the lowest."""
        return list(Level).index(self)


class Finding(Struct, frozen=True):
    """The result of one check: what was found, its cost for inferences, and how to fix it."""

    name: str
    level: Level
    found: str
    cost: str = ""
    fix: str = ""


def unknown(name: str, reason: str = "") -> Finding:
    """Return the finding for a fact that the machine hides."""
    return Finding(name, Level.NOTE, UNKNOWN, reason or "cannot be checked")


def worst(findings: Iterable[Finding]) -> Level:
    """Return the highest level; OK if there are no findings."""
    return max((finding.level for finding in findings), key=lambda level: level.rank, default=Level.OK)


def show_share(share: float) -> str:
    """Format a share of 0 to 1 as ``12 %`` or ``0.3 %``."""
    return f"{share * 100:.0f} %" if share >= 0.1 or not share else f"{share * 100:.2g} %"


def plural(count: int, noun: str) -> str:
    """Return ``1 core`` or ``2 cores``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
