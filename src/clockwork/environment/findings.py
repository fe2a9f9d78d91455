"""The type of a finding, which is the result of one check of a machine."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

UNKNOWN: Final = "unknown"
"""Text of a finding if the machine hides the fact."""


class Level(StrEnum):
    """The severity of a finding, from the lowest to the highest.

    - OK: the operator need not do anything.
    - NOTE: the finding is harmless by itself, or the fact is unknown.
    - WARNING: some inferences will take longer than estimated.
    - BAD: admitted requests will miss their deadlines, or a worker cannot start.
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    BAD = "bad"

    @property
    def rank(self) -> int:
        """The position of this level among all levels. The lowest level has position 0."""
        return list(Level).index(self)


class Finding(Struct, frozen=True):
    """The result of one check: what was found, its cost for inferences, and a fix."""

    name: str
    level: Level
    found: str
    cost: str = ""
    fix: str = ""


def unknown(name: str, reason: str = "") -> Finding:
    """Return the finding of a check whose fact the machine hides."""
    return Finding(name, Level.NOTE, UNKNOWN, reason or "cannot be checked")


def worst(findings: Iterable[Finding]) -> Level:
    """Return the highest level of the findings, or OK if there are no findings."""
    return max((finding.level for finding in findings), key=lambda level: level.rank, default=Level.OK)


def show_share(share: float) -> str:
    """Return a share from 0 to 1 as text, such as ``12 %`` or ``0.3 %``."""
    return f"{share * 100:.0f} %" if share >= 0.1 or not share else f"{share * 100:.2g} %"


def plural(count: int, noun: str) -> str:
    """Return a count and a noun as text, such as ``1 core`` or ``2 cores``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
