"""Computes the default size of a weights cache from the available memory.

These functions are used only if the operator has not set the size.
"""

from pathlib import Path
from typing import Final

from clockwork.units import GIB, KIB, Bytes

DEFAULT_CACHE_BYTES: Final[Bytes] = 4 * GIB
"""Largest default size of a device's weights cache."""

CACHE_SHARE: Final = 0.25
"""Share of the available memory that all weights caches take together by default.

The rest of the memory is needed because host memory also contains every model, and because a session of ONNX Runtime
takes more memory than its weights.
"""

MEMINFO: Final = Path("/proc/meminfo")
"""File with the kernel's report on memory."""

CGROUP: Final = Path("/sys/fs/cgroup")
"""Directory with the limits of a container (cgroup v2). The path is the path inside the container."""


def default_cache_bytes(available: Bytes, devices: int) -> Bytes:
    """Return the default size of the weights cache of each of ``devices`` devices."""
    return min(DEFAULT_CACHE_BYTES, int(available * CACHE_SHARE) // devices)


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> Bytes:
    """Return the amount of memory that this process can still allocate.

    A container may limit this memory to less than the host has.
    """
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
        limit = int((cgroup / "memory.max").read_text())  # the file contains "max" if there is no limit
        return max(0, limit - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
