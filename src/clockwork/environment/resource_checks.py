"""Judges of memory and limits.

Rules of the file: pure.
"""

from typing import Final

from clockwork.environment.facts import Environment
from clockwork.environment.findings import Finding, Level, not_told, plural
from clockwork.host.sizing import CACHE_BYTES_DEFAULT, default_cache_bytes
from clockwork.net.server import MAX_CONNECTIONS
from clockwork.units import MIB, Bytes, show_bytes

PAGE: Final[Bytes] = 16 * MIB
"""Of a weights cache, if nothing was said; a worker whose cache has no room for one does not start."""

FILES_FEW: Final = 1024
"""What most systems allow at least."""


def memory(environment: Environment) -> Finding:
    """Whether there is room for weights."""
    name, available = "memory", environment.host.available
    if available is None:
        return not_told(name)
    if environment.gpus is not None:
        return Finding(name, Level.OK, f"{show_bytes(available)} available for models; weights caches are on the GPUs")
    cache = default_cache_bytes(available, len(environment.devices))
    found = f"{show_bytes(available)} available: a weights cache of {show_bytes(cache)} for each device"
    mend = "stop what else needs memory, raise the container's limit, use fewer devices, or say --cache-size"
    if cache < PAGE:
        return Finding(name, Level.BAD, found, "there is no room for a page of weights: a worker does not start", mend)
    if cache < CACHE_BYTES_DEFAULT:
        cost = "models that do not fit are loaded again when they are asked for"
        return Finding(name, Level.NOTE, found, cost, mend)
    return Finding(name, Level.OK, found)


def swap(environment: Environment) -> Finding:
    """Memory that may turn out to be on disk."""
    name, it, moved = "swap", environment.host.swap, environment.measured.swapped or 0
    if it is None:
        return not_told(name)
    if not it.total:
        return Finding(name, Level.OK, "none")
    found = f"{show_bytes(it.used)} of {show_bytes(it.total)} in use"
    if it.swappiness is not None:
        found += f", swappiness {it.swappiness}"
    if moved:
        found += f"; {plural(moved, 'page')} moved while measuring"
    level = Level.BAD if moved else Level.WARNING if it.used else Level.NOTE
    cost = "weights that nobody asked for lately are moved to disk first; to load them is then as slow as the disk"
    mend = "swapoff -a, or no swap for the worker alone (systemd: MemorySwapMax=0)"
    return Finding(name, level, found, cost, mend)


def huge_pages(environment: Environment) -> Finding:
    """A kernel that tidies up memory when somebody needs some."""
    name, it = "huge pages", environment.host.huge_pages
    if it.enabled is None:
        return not_told(name)
    found = it.enabled + ("" if it.defrag is None else f", defrag {it.defrag}")
    if it.enabled != "always":
        return Finding(name, Level.OK, found)
    stalls = it.defrag == "always"
    cost = "a thread that touches new memory may have to wait while the kernel makes room for a huge page"
    return Finding(
        name,
        Level.WARNING if stalls else Level.NOTE,
        found,
        cost if stalls else "the kernel moves memory in the background, which is seen as interruptions",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and the same for defrag",
    )


def locked_memory(environment: Environment) -> Finding:
    """Clockwork locks no memory, so that nothing depends on this."""
    name, limit = "locked memory", environment.host.locked_memory
    if limit is None:
        return not_told(name)
    shown = "unlimited" if limit.soft is None else f"at most {show_bytes(limit.soft)}"
    pinned = "" if environment.gpus is None else "; NVIDIA's driver pins by itself"
    return Finding(name, Level.OK, f"{shown}; Clockwork locks none{pinned}")


def open_files(environment: Environment) -> Finding:
    """A connection is an open file."""
    name, limit = "open files", environment.host.open_files
    if limit is None:
        return not_told(name)
    if limit.soft is None or limit.soft >= MAX_CONNECTIONS:
        return Finding(name, Level.OK, "unlimited" if limit.soft is None else f"at most {limit.soft}")
    return Finding(
        name,
        Level.WARNING if limit.soft < FILES_FEW else Level.NOTE,
        f"at most {limit.soft}",
        f"each connection is one: a controller here takes fewer clients than the {MAX_CONNECTIONS} that it could",
        f"ulimit -n {2 * MAX_CONNECTIONS} (systemd: LimitNOFILE)",
    )
