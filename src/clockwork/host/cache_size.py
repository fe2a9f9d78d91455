"""The default size of a weights cache, from the memory that is available.

Rules of the file: a size that the operator sets takes precedence; these functions are for when none is set.
"""

from pathlib import Path
from typing import Final

from clockwork.units import GIB, KIB, Bytes

DEFAULT_CACHE_BYTES: Final[Bytes] = 4 * GIB
"""Largest default size of a device's weights cache."""

CACHE_SHARE: Final = 0.25
"""Share of the available memory that all default weights caches take together. Host memory also holds every model, and
a session takes more memory than its weights."""

MEMINFO: Final = Path("/proc/meminfo")
"""The kernel's report on memory."""

CGROUP: Final = Path("/sys/fs/cgroup")
"""Directory with the limits of a container: cgroup v2, seen from inside."""


def default_cache_bytes(available: Bytes, devices: int) -> Bytes:
    """Return the default size of the weights cache of each of ``devices`` devices."""
    return min(DEFAULT_CACHE_BYTES, int(available * CACHE_SHARE) // devices)


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> Bytes:
    """Return the memory that this process could still take: the host's, or the container's if that is less."""
    found = [_available(meminfo), _within_limit(cgroup)]
    return min((size for size in found if size is not None), default=4 * DEFAULT_CACHE_BYTES)


def _available(meminfo: Path) -> Bytes | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * KIB
    except (OSError, KeyError, ValueError):
        return None


def _within_limit(cgroup: Path) -> Bytes | None:
    try:
        limit = int((cgroup / "memory.max").read_text())  # "max": no limit
        return max(0, limit - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
