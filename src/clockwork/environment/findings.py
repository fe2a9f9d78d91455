"""What a judge says."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

NOT_TOLD: Final = "not told"
"""What is found where the host does not tell."""


class Level(StrEnum):
    """How much it matters, least first.

    - OK: nothing to do.
    - NOTE: does no harm by itself, or cannot be judged.
    - WARNING: some inferences will take longer than expected.
    - BAD: promises will not be kept, or a worker would not start.
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    BAD = "bad"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Level).index(self)


class Finding(Struct, frozen=True):
    """One thing that was looked at: what was found, what it costs, and how to mend it."""

    name: str
    level: Level
    found: str
    cost: str = ""
    mend: str = ""


def not_told(name: str, why: str = "") -> Finding:
    """The host does not tell, perhaps ``why``."""
    return Finding(name, Level.NOTE, NOT_TOLD, why or "cannot be judged")


def worst(findings: Iterable[Finding]) -> Level:
    """The highest level of all; OK if there are none."""
    return max((finding.level for finding in findings), key=lambda level: level.rank, default=Level.OK)


def show_share(share: float) -> str:
    """``12 %``, ``0.3 %``."""
    return f"{share * 100:.0f} %" if share >= 0.1 or not share else f"{share * 100:.2g} %"


def plural(count: int, thing: str) -> str:
    """``1 core``, ``2 cores``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
