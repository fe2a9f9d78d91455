"""Checks of memory and of the resource limits of the process.

This module does no I/O.
"""

from typing import Final

from clockwork.environment.facts import Environment
from clockwork.environment.findings import plural, unknown
from clockwork.host.cache_size import DEFAULT_CACHE_BYTES, default_cache_bytes
from clockwork.messages.findings import Finding, Level
from clockwork.net.server import MAX_CONNECTIONS
from clockwork.units import MIB, Bytes, show_bytes

PAGE: Final[Bytes] = 16 * MIB
"""Default size of a page of a weights cache. A worker whose cache is smaller than a page does not start."""

MIN_OPEN_FILES: Final = 1024
"""The lowest limit on open files that is usual on Linux."""


def memory(environment: Environment) -> Finding:
    """Check whether the available memory is enough for the weights caches."""
    name, available = "memory", environment.host.available
    if available is None:
        return unknown(name)
    if environment.gpus is not None:
        return Finding(name, Level.OK, f"{show_bytes(available)} available for models; weights caches are on the GPUs")
    cache = default_cache_bytes(available, len(environment.devices))
    found = f"{show_bytes(available)} available: a weights cache of {show_bytes(cache)} for each device"
    fix = "stop other programs, raise the container's limit, use fewer devices, or set --cache-size"
    if cache < PAGE:
        cost = "the weights cache is smaller than a page: a worker does not start"
        return Finding(name, Level.BAD, found, cost, fix)
    if cache < DEFAULT_CACHE_BYTES:
        cost = "models that do not fit into the cache are loaded again at their next request"
        return Finding(name, Level.NOTE, found, cost, fix)
    return Finding(name, Level.OK, found)


def swap(environment: Environment) -> Finding:
    """Check whether the kernel can move memory of the worker to disk."""
    name, fact, moved = "swap", environment.host.swap, environment.measured.swapped or 0
    if fact is None:
        return unknown(name)
    if not fact.total:
        return Finding(name, Level.OK, "none")
    found = f"{show_bytes(fact.used)} of {show_bytes(fact.total)} in use"
    if fact.swappiness is not None:
        found += f", swappiness {fact.swappiness}"
    if moved:
        found += f"; {plural(moved, 'page')} moved while measuring"
    level = Level.BAD if moved else Level.WARNING if fact.used else Level.NOTE
    cost = "weights that are rarely used are moved to disk first; loading them is then as slow as the disk"
    fix = "swapoff -a, or no swap for the worker alone (systemd: MemorySwapMax=0)"
    return Finding(name, level, found, cost, fix)


def huge_pages(environment: Environment) -> Finding:
    """Check whether a thread may have to wait while the kernel forms huge pages."""
    name, fact = "huge pages", environment.host.huge_pages
    if fact.enabled is None:
        return unknown(name)
    found = fact.enabled + ("" if fact.defrag is None else f", defrag {fact.defrag}")
    if fact.enabled != "always":
        return Finding(name, Level.OK, found)
    stalls = fact.defrag == "always"
    cost = "a thread that touches new memory may wait while the kernel forms a huge page"
    return Finding(
        name,
        Level.WARNING if stalls else Level.NOTE,
        found,
        cost if stalls else "the kernel moves memory in the background, which shows as interruptions",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and the same for defrag",
    )


def locked_memory(environment: Environment) -> Finding:
    """Report the limit on locked memory. Clockwork locks no memory."""
    name, limit = "locked memory", environment.host.locked_memory
    if limit is None:
        return unknown(name)
    shown = "unlimited" if limit.soft is None else f"at most {show_bytes(limit.soft)}"
    pinned = "" if environment.gpus is None else "; memory that NVIDIA's driver pins does not count"
    return Finding(name, Level.OK, f"{shown}; Clockwork locks none{pinned}")


def open_files(environment: Environment) -> Finding:
    """Check the limit on open files. Each connection is an open file."""
    name, limit = "open files", environment.host.open_files
    if limit is None:
        return unknown(name)
    if limit.soft is None or limit.soft >= MAX_CONNECTIONS:
        return Finding(name, Level.OK, "unlimited" if limit.soft is None else f"at most {limit.soft}")
    return Finding(
        name,
        Level.WARNING if limit.soft < MIN_OPEN_FILES else Level.NOTE,
        f"at most {limit.soft}",
        f"each connection is an open file: a controller here accepts fewer than its limit of {MAX_CONNECTIONS} clients",
        f"ulimit -n {2 * MAX_CONNECTIONS} (systemd: LimitNOFILE)",
    )
