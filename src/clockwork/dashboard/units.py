"""Converts times to the unit of the page."""

from clockwork.units import MILLISECOND, Nanos


def ms(time: Nanos) -> float:
    """Return a time in milliseconds, rounded to a microsecond."""
    return round(time / MILLISECOND, 3)
