"""How much memory there is for weights.

Rules of the file: what the operator says is taken; this is for when nothing was said.
"""

from pathlib import Path
from typing import Final

from clockwork.units import GIB, KIB, Bytes

DEFAULT_CACHE_BYTES: Final[Bytes] = 4 * GIB
"""The weights cache of a device if there is memory for more."""

CACHE_SHARE: Final = 0.25
"""The part of the available memory that all weights caches together take if nothing was said; host memory holds every
model as well, and a session takes more than its weights."""

MEMINFO: Final = Path("/proc/meminfo")
"""Linux's account of the memory."""

CGROUP: Final = Path("/sys/fs/cgroup")
"""Where a container finds its limits: cgroup v2 as seen from inside."""


def default_cache_bytes(available: Bytes, devices: int) -> Bytes:
    """The weights cache of one of ``devices`` devices."""
    return min(DEFAULT_CACHE_BYTES, int(available * CACHE_SHARE) // devices)


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> Bytes:
    """Memory that this process could still take: what the machine has, or what its container allows if that is less."""
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
