"""Reads facts about a machine from files of the Linux kernel.

All paths are relative to ``root``, which is ``/`` except in tests. If a file is missing, unreadable or malformed, its
facts are unknown. No function of this module raises an exception.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clockwork.environment.facts import (
    CoreFrequency,
    CoreTicks,
    Counters,
    Host,
    HugePages,
    Limit,
    Quota,
    Swap,
)
from clockwork.host.cache_size import available_bytes
from clockwork.units import KIB, MICROSECOND

MAX_FILE_BYTES: Final = 1 << 20
"""Largest number of bytes that are read from a file. With many cores, ``/proc/stat`` is the largest of the files."""

MAX_CORE: Final = 1 << 16
"""The number of a core must be below this limit. A list with a larger number is malformed. Linux allows 8192 cores."""

MAX_DIGITS: Final = 18
"""Largest number of digits of a number. Any number with 18 digits fits into 63 bits."""

MAX_WORD: Final = 40
"""Largest number of characters in a name. The rest of a longer name is dropped."""

CPU: Final = Path("sys/devices/system/cpu")
NODES: Final = Path("sys/devices/system/node")
CLOCK_SOURCE: Final = Path("sys/devices/system/clocksource/clocksource0")
HUGE_PAGES: Final = Path("sys/kernel/mm/transparent_hugepage")
CGROUPS: Final = Path("sys/fs/cgroup")


def read_host(root: Path) -> Host:
    """Read all facts about the machine and the limits of this process."""
    status = _fields(root / "proc/self/status")
    allowed = cores(status.get("Cpus_allowed_list", "")) or ()
    limits = dict(_limits(root / "proc/self/limits"))
    return Host(
        allowed=allowed,
        online=cores(_text(root / CPU / "online") or "") or (),
        isolated=cores(_text(root / CPU / "isolated")),
        frequencies=tuple(_frequencies(root / CPU, allowed)),
        boost=_boost(root / CPU),
        siblings=dict(_siblings(root / CPU, allowed)),
        nodes=dict(_nodes(root / NODES)),
        quota=read_quota(root),
        swap=_swap(root, status),
        huge_pages=HugePages(_chosen(root / HUGE_PAGES / "enabled"), _chosen(root / HUGE_PAGES / "defrag")),
        open_files=limits.get("Max open files"),
        locked_memory=limits.get("Max locked memory"),
        timer_slack=_number(root / "proc/self/timerslack_ns"),
        clock_source=_word(root / CLOCK_SOURCE / "current_clocksource"),
        clock_sources=_words(root / CLOCK_SOURCE / "available_clocksource"),
        available=_available(root),
    )


def read_counters(root: Path) -> Counters:
    """Read the current values of the kernel's counters."""
    quota = read_quota(root)
    moved = dict(line.partition(" ")[::2] for line in _lines(root / "proc/vmstat"))
    pages = [_integer(moved.get(key, "")) for key in ("pswpin", "pswpout")]
    known = [count for count in pages if count is not None]
    throttled = None if quota is None else quota.throttled
    return Counters(dict(_ticks(root / "proc/stat")), throttled, sum(known) if known else None)


def cores(text: str | None) -> tuple[int, ...] | None:
    """Parse a list of cores such as ``0-2,5``.

    Return None if the text is malformed. An empty text means an empty list.
    """
    if text is None:
        return None
    found: dict[int, None] = {}
    for span in filter(None, text.strip().split(",")):
        first, _, last = span.partition("-")
        low, high = _integer(first), _integer(last or first)
        if low is None or high is None or not 0 <= low <= high < MAX_CORE:
            return None
        found.update(dict.fromkeys(range(low, high + 1)))
    return tuple(sorted(found))


# ------------------------------------------------------------------------------------------------------ cores


def _frequencies(cpu: Path, allowed: tuple[int, ...]) -> Iterator[CoreFrequency]:
    for core in allowed:
        where = cpu / f"cpu{core}/cpufreq"
        governor = _word(where / "scaling_governor")
        if governor is not None:
            limits = [_number(where / file) for file in ("scaling_min_freq", "scaling_max_freq", "cpuinfo_max_freq")]
            yield CoreFrequency(core, governor, _word(where / "scaling_driver"), *limits)


def _boost(cpu: Path) -> bool | None:
    """Return whether boost is on, or None.

    Intel's driver has a file with the opposite meaning: 1 means that boost is off.
    """
    off, on = _number(cpu / "intel_pstate/no_turbo"), _number(cpu / "cpufreq/boost")
    if off is not None:
        return off == 0
    return None if on is None else on != 0


def _siblings(cpu: Path, allowed: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    for core in allowed:
        found = cores(_text(cpu / f"cpu{core}/topology/thread_siblings_list"))
        if found:
            yield core, found


def _nodes(where: Path) -> Iterator[tuple[int, tuple[int, ...]]]:
    for node in cores(_text(where / "online")) or ():
        found = cores(_text(where / f"node{node}/cpulist"))
        if found:
            yield node, found


def _ticks(stat: Path) -> Iterator[tuple[int, CoreTicks]]:
    """Parse lines ``cpu3 user nice system idle iowait irq softirq steal ...``.

    The fields after ``steal`` (guest time) are not added, because ``user`` includes them.
    """
    for line in _lines(stat):
        name, *words = line.split() or [""]
        core = _integer(name.removeprefix("cpu")) if name.startswith("cpu") else None
        numbers = [_integer(word) for word in words[:8]]
        known = [number for number in numbers if number is not None]
        if core is not None and len(known) == len(numbers) >= 4:
            user, nice, system, idle, iowait, irq, softirq, steal = (*known, 0, 0, 0, 0)[:8]
            yield core, CoreTicks(user + nice + system + irq + softirq, idle + iowait, steal)


# ------------------------------------------------------------------------------------------------------ quota


def read_quota(root: Path) -> Quota | None:
    """Return the lowest limit of the process's control groups and their ancestors, or None if there are no groups."""
    found = [quota for where in _groups(root) if (quota := _quota(where)) is not None]
    if not found:
        return None
    limited = [quota for quota in found if quota.cores is not None]
    return min(limited or found, key=lambda quota: (quota.cores or 0, -quota.throttled))


def _groups(root: Path) -> Iterator[Path]:
    """Yield the directories of this process's control groups.

    The directories are groups of cgroup version 2 (``0::/path``), or groups of the controller ``cpu`` of version 1.
    If the path does not exist, as inside some containers, the mounted directory itself is the container's group.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [root / CGROUPS, root / CGROUPS / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / CGROUPS / "cpu", root / CGROUPS / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts:
            parts = []
        for mount in mounts:
            yield from (mount.joinpath(*parts[:length]) for length in range(len(parts), -1, -1))


def _quota(group: Path) -> Quota | None:
    stat = _text(group / "cpu.stat")
    if stat is None:
        return None
    counts = {key: _integer(value) or 0 for key, _, value in (line.partition(" ") for line in stat.splitlines())}
    waited = counts.get("throttled_time", counts.get("throttled_usec", 0) * MICROSECOND)
    quota, _, period = (_text(group / "cpu.max") or "").strip().partition(" ")
    limit, every = _integer(quota), _integer(period)
    if limit is None:
        limit, every = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    share, length = None, None
    if limit is not None and every is not None and limit > 0 and every > 0:
        share, length = limit / every, every * MICROSECOND
    return Quota(share, length, counts.get("nr_periods", 0), counts.get("nr_throttled", 0), waited)


# ----------------------------------------------------------------------------------------------------- memory


def _swap(root: Path, status: dict[str, str]) -> Swap | None:
    memory = _fields(root / "proc/meminfo")
    total, free = _kib(memory.get("SwapTotal")), _kib(memory.get("SwapFree"))
    if total is None or free is None:
        return None
    swappiness = _number(root / "proc/sys/vm/swappiness")
    return Swap(total, max(0, total - free), _kib(status.get("VmSwap")), swappiness)


def _available(root: Path) -> int | None:
    memory = root / "proc/meminfo"
    known = _kib(_fields(memory).get("MemAvailable"))
    return None if known is None else available_bytes(memory, root / CGROUPS)


def _limits(where: Path) -> Iterator[tuple[str, Limit]]:
    """Parse lines such as ``Max open files   1024   4096   files``."""
    for line in _lines(where):
        name, values = line[:26].strip(), line[26:].split()
        if len(values) >= 2 and all(value == "unlimited" or _integer(value) is not None for value in values[:2]):
            yield name, Limit(_integer(values[0]), _integer(values[1]))


# ------------------------------------------------------------------------------------------------------ files


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    return (_text(path) or "").splitlines()


def _fields(path: Path) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in _lines(path))}


def _word(path: Path) -> str | None:
    """Read a name from a file, and remove its unprintable characters."""
    kept = "".join(filter(str.isprintable, _text(path) or "")).strip()
    return kept[:MAX_WORD] or None


def _words(path: Path) -> tuple[str, ...]:
    return tuple(word[:MAX_WORD] for word in (_text(path) or "").split() if word.isprintable())


def _chosen(path: Path) -> str | None:
    """Return the selected word of a setting, for example ``madvise`` for the content ``always [madvise] never``."""
    _, _, rest = (_text(path) or "").partition("[")
    word, closed, _ = rest.partition("]")
    return word if closed and word.isprintable() and 0 < len(word) <= MAX_WORD else None


def _number(path: Path) -> int | None:
    return _integer((_text(path) or "").strip())


def _kib(text: str | None) -> int | None:
    number = _integer((text or "").removesuffix("kB").strip())
    return None if number is None else number * KIB


def _integer(text: str) -> int | None:
    """Parse a number. Return None if the number is malformed or does not fit into 63 bits."""
    try:
        return int(text) if len(text) <= MAX_DIGITS else None
    except ValueError:
        return None
