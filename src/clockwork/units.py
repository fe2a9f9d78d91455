"""The units of time and memory.

A time is an ``int`` of nanoseconds, and a size of memory is an ``int`` of bytes or of pages. Floats are only used for
input and output, such as the seconds in a client's call or the milliseconds in printed text.
"""

from typing import Final, TypeAlias

Nanos: TypeAlias = int
"""A duration, or a time on a monotonic clock, in nanoseconds."""

Bytes: TypeAlias = int
"""A size in bytes."""

Pages: TypeAlias = int
"""A size in pages of a device's weights cache."""

MICROSECOND: Final[Nanos] = 1_000
MILLISECOND: Final[Nanos] = 1_000_000
SECOND: Final[Nanos] = 1_000_000_000
KIB: Final[Bytes] = 1 << 10
MIB: Final[Bytes] = 1 << 20
GIB: Final[Bytes] = 1 << 30

FOREVER: Final[Nanos] = (1 << 63) - 1
"""A time that is later than any other time. An action without a deadline has this value as its ``latest``."""


def us(value: float) -> Nanos:
    """Convert microseconds to nanoseconds."""
    return round(value * MICROSECOND)


def ms(value: float) -> Nanos:
    """Convert milliseconds to nanoseconds."""
    return round(value * MILLISECOND)


def seconds(value: float) -> Nanos:
    """Convert seconds to nanoseconds."""
    return round(value * SECOND)


def as_ms(value: Nanos) -> float:
    """Convert nanoseconds to milliseconds, for output to people."""
    return value / MILLISECOND


def as_seconds(value: Nanos) -> float:
    """Convert nanoseconds to seconds, for output to people."""
    return value / SECOND


def show_duration(value: Nanos) -> str:
    """Return a duration as text with a suitable unit, such as ``1.23 ms`` or ``4.5 s``."""
    if abs(value) >= SECOND:
        return f"{value / SECOND:.3g} s"
    if abs(value) >= MILLISECOND:
        return f"{value / MILLISECOND:.3g} ms"
    return f"{value / MICROSECOND:.3g} us"


def show_bytes(value: Bytes) -> str:
    """Return a size as text with a suitable unit, such as ``97.4 MiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(value) >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value} B"
