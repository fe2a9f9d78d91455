"""Checks of the measured facts: interruptions, other processes, stolen CPU time, timers and the clock.

This module does no I/O. Thresholds that are not derived from other code are arbitrary choices, and are named constants.
"""

from typing import Final

from clockwork.environment.facts import GAP, Environment, Interruptions, Lateness, Share
from clockwork.environment.findings import UNKNOWN, plural, show_share, unknown
from clockwork.host.lanes import WATCH
from clockwork.messages.findings import Finding, Level
from clockwork.units import MICROSECOND, MILLISECOND, Nanos, show_duration

LOST_WARNING: Final = 0.01
"""If at least this share of the time is lost, the result is a warning. An estimate is a 99th percentile, so one
inference in 100 may be slow.
"""

LOST_BAD: Final = 0.10
"""If at least this share of the time is lost, the level is BAD. The device then has at most nine tenths of its speed.
"""

LOST_NOTE: Final = 0.001
"""If at least this share of the time is lost, the result is a note."""

LONGEST_WARNING: Final[Nanos] = 5 * MILLISECOND
"""If an interruption is at least this long, the result is a warning. A short inference takes about this long."""

OTHERS_NOTE: Final = 0.03
"""If other processes use at least this share of a core's time, the result is a note.

The kernel counts in ticks of 10 ms, so smaller shares are uncertain.
"""

OTHERS_WARNING: Final = 0.10
"""If other processes use at least this share of a core's time, the result is a warning."""

EXAMPLE: Final[Nanos] = 10 * MILLISECOND
"""Length of the example inference in the texts about costs."""

SLOW_READING: Final[Nanos] = MICROSECOND
"""A reading of the clock that takes longer than this counts as slow. In Python, a reading without a system call takes
about 0.1 us.
"""

COARSE_CLOCKS: Final = frozenset({"jiffies", "refined-jiffies"})
"""Clock sources with a resolution of only 1 to 10 ms."""

SLOW_CLOCKS: Final = frozenset({"acpi_pm", "hpet", "pit", "xen"})
"""Clock sources that need a system call for each reading.

The first three also read from a slow device (Linux, ``drivers/clocksource``).
"""

QUIET_FIX: Final = (
    "stop or move other programs, or keep them off the devices' cores (see isolation); "
    "in a virtual machine, reserve cores of the host"
)

TIMERS_FIX: Final = (
    "see interruptions and other processes; if there are none, disable deep sleep of the cores: cpupower idle-set -D 10"
)

TSC_FIX: Final = (
    "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, "
    "unless the kernel's log reports that tsc is unstable"
)


def interruptions(environment: Environment) -> Finding:
    """Check how often and for how long a thread was interrupted, whatever the cause.

    Of all checks, this check is the most reliable.
    """
    name, seen = "interruptions", environment.measured.interruptions
    watched, looks = sum(core.watched for core in seen), sum(core.looks for core in seen)
    if not watched or not looks:
        return unknown(name)
    count, lost = sum(core.count for core in seen), sum(core.lost for core in seen) / watched
    if not count:
        return Finding(name, Level.OK, f"none longer than {show_duration(GAP)} in {show_duration(watched)}")
    worst = max(seen, key=lambda core: core.longest)
    longest = worst.longest
    level = Level.OK
    if lost >= LOST_BAD:
        level = Level.BAD
    elif lost >= LOST_WARNING or longest >= LONGEST_WARNING:
        level = Level.WARNING
    elif lost >= LOST_NOTE or longest >= MILLISECOND:
        level = Level.NOTE
    where = "" if worst.core is None else f" on core {worst.core}"
    found = (
        f"{count} longer than {show_duration(GAP)} in {show_duration(watched)}, "
        f"the longest {show_duration(longest)}{where}; {show_share(lost)} of the time is lost"
    )
    return Finding(name, level, found, _frequency(seen, longest), "" if level is Level.OK else QUIET_FIX)


def _frequency(seen: tuple[Interruptions, ...], longest: Nanos) -> str:
    """Return a sentence about the number of interruptions during an inference that takes `EXAMPLE`."""
    count = sum(core.count for core in seen) * EXAMPLE / max(1, sum(core.watched - core.lost for core in seen))
    often = (
        f"an inference of {show_duration(EXAMPLE)} is interrupted {count:.1f} times on average"
        if count >= 1
        else f"about one in {1 / count:.0f} inferences of {show_duration(EXAMPLE)} is interrupted"
    )
    return f"{often}; the longest added {show_duration(longest)}"


def other_processes(environment: Environment) -> Finding:
    """Check how much time other processes use on the devices' cores."""
    name = "other processes"
    shares = _of_devices(environment, environment.measured.others)
    if not shares:
        return unknown(name)
    worst = max(shares, key=lambda core: core.share)
    allowed = [core.share for core in environment.measured.others if core.core in environment.host.allowed]
    found = f"take {show_share(worst.share)} of core {worst.core}"
    if len(allowed) > 1:
        found += f", {show_share(sum(allowed) / len(allowed))} of all allowed cores"
    if worst.share < OTHERS_NOTE:
        return Finding(name, Level.OK, found)
    level = Level.WARNING if worst.share >= OTHERS_WARNING else Level.NOTE
    cost = f"an inference shares its core with processes that use {show_share(worst.share)} of it, and waits for them"
    return Finding(name, level, found, cost, QUIET_FIX)


def steal(environment: Environment) -> Finding:
    """Check how much CPU time the host of a virtual machine gives to other machines."""
    name = "steal"
    shares = _of_devices(environment, environment.measured.stolen)
    if not shares:
        return unknown(name)
    worst = max(shares, key=lambda core: core.share)
    if not worst.share:
        return Finding(name, Level.OK, f"none in {show_duration(environment.measured.duration)}")
    level = Level.NOTE
    if worst.share >= LOST_WARNING:
        level = Level.BAD if worst.share >= LOST_BAD else Level.WARNING
    return Finding(
        name,
        level,
        f"{show_share(worst.share)} of core {worst.core}",
        f"the host of this virtual machine gives {show_share(worst.share)} of the core to others, at any time",
        "pin or dedicate the cores of the virtual machine, or use a larger or an unshared one",
    )


def timers(environment: Environment) -> Finding:
    """Check how late timed waits end. An EXEC thread wakes up early by `WATCH`, so it tolerates this lateness."""
    name, late = "timers", environment.measured.timers
    if not late:
        return unknown(name)
    by = ", ".join(f"{wait.kind} {_percentiles(wait)}" for wait in late)
    slack = environment.host.timer_slack
    found = f"late by p50/p99/max: {by}" + ("" if slack is None else f"; slack {show_duration(slack)}")
    p50, p99, longest = (max(getattr(wait, field) for wait in late) for field in ("p50", "p99", "longest"))
    level, cost = Level.OK, ""
    early = show_duration(WATCH)
    if p50 > WATCH:
        level, cost = Level.BAD, f"a worker wakes {early} before an action is due, and is usually still late"
    elif p99 > WATCH:
        level = Level.WARNING
        cost = f"a worker wakes {early} before an action is due; one start in a hundred is late by "
        cost += f"{show_duration(p99 - WATCH)} or more"
    elif longest > WATCH:
        level = Level.NOTE
        waits = plural(sum(wait.count for wait in late), "wait")
        cost = f"the latest of {waits} would have delayed a start by {show_duration(longest - WATCH)}"
    return Finding(name, level, found, cost, TIMERS_FIX if cost else "")


def _percentiles(wait: Lateness) -> str:
    return "/".join(show_duration(value) for value in (wait.p50, wait.p99, wait.longest))


def clock_source(environment: Environment) -> Finding:
    """Check the resolution and the speed of the clock. Every wait and every measurement reads the clock."""
    name, source = "clock source", environment.host.clock_source
    reading = min((_reading(core) for core in environment.measured.interruptions if core.looks), default=None)
    if source is None and reading is None:
        return unknown(name)
    found = (source or UNKNOWN) + (
        "" if reading is None else f"; a reading of the clock takes {show_duration(reading)}"
    )
    if source in COARSE_CLOCKS:
        level, cost = Level.BAD, "the clock advances in steps of milliseconds: shorter times cannot be measured or kept"
    elif source in SLOW_CLOCKS or (reading is not None and reading >= SLOW_READING):
        level, cost = (
            Level.WARNING,
            "reading the clock is slow, so a thread that waits by reading the clock is late",
        )
    else:
        return Finding(name, Level.OK, found)
    if "tsc" in environment.host.clock_sources and source != "tsc":
        fix = TSC_FIX
    else:
        fix = "find in the kernel's log why tsc is not used; a virtual machine needs tsc or kvm-clock from its host"
    return Finding(name, level, found, cost, fix)


def _reading(core: Interruptions) -> Nanos:
    return (core.watched - core.lost) // core.looks


def _of_devices(environment: Environment, shares: tuple[Share, ...]) -> list[Share]:
    """Return the shares of the devices' cores, or all shares if these cores are unknown."""
    cores = environment.device_cores
    return [share for share in shares if not cores or share.core in cores]
