"""Defines a finding, the result of one check of a machine (`clockwork.environment`)."""

from enum import StrEnum

from msgspec import Struct


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

    @classmethod
    def _missing_(cls, value: object) -> "Level":
        """Return NOTE for a level that only a newer version has."""
        return cls.NOTE

    @property
    def rank(self) -> int:
        """The position of this level among all levels. The lowest level has position 0."""
        return list(Level).index(self)


class Finding(Struct, frozen=True, array_like=True):
    """The result of one check: what was found, its cost for inferences, and a fix."""

    name: str
    level: Level
    found: str
    cost: str = ""
    fix: str = ""
