"""Judges of what was measured: interruptions, other processes, steal, timers, the clock.

Rules of the file: pure; a limit that is no fact of Clockwork's is a choice, and has a name.
"""

from typing import Final

from clockwork.environment.facts import GAP, Environment, Interruptions, Lateness, Share
from clockwork.environment.findings import Finding, Level, not_told, plural, show_share
from clockwork.host.lanes import WATCH
from clockwork.units import MICROSECOND, MILLISECOND, Nanos, show_duration

LOST_WARNING: Final = 0.01
"""Part of the time lost: one hundredth is what an estimate of p99 leaves out."""

LOST_BAD: Final = 0.10
"""Part of the time lost to interruptions, or stolen: one device does what nine tenths of one would."""

LOST_NOTE: Final = 0.001
"""Part of the time lost that is worth to be known."""

LONGEST_WARNING: Final[Nanos] = 5 * MILLISECOND
"""An interruption that is as long as a short inference."""

OTHERS_NOTE: Final = 0.03
"""Part of a core that others take; below that the kernel's account, in ticks of 10 ms, says little."""

OTHERS_WARNING: Final = 0.10
"""Part of a core that others take."""

EXAMPLE: Final[Nanos] = 10 * MILLISECOND
"""The inference that examples are about."""

LOOK_SLOW: Final[Nanos] = MICROSECOND
"""A look at the clock that is no system call takes about a tenth of that, the interpreter included."""

LOOSE_CLOCKS: Final = frozenset({"jiffies", "refined-jiffies"})
"""They move in steps of 1 to 10 ms."""

SLOW_CLOCKS: Final = frozenset({"acpi_pm", "hpet", "pit", "xen"})
"""To read them is a system call, and for the first three a slow device's answer (Linux, ``drivers/clocksource``)."""

QUIET_MEND: Final = (
    "stop or move what else runs here, or keep it off the devices' cores (see isolation); "
    "in a virtual machine, have cores of the host to yourself"
)

TIMERS_MEND: Final = (
    "see interruptions and other processes; if there are none, forbid the cores' deep sleep: cpupower idle-set -D 10"
)

TSC_MEND: Final = (
    "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, "
    "unless the kernel's log says that tsc is unstable"
)


def interruptions(environment: Environment) -> Finding:
    """What keeps a thread from computing, of whatever kind: the figure to trust most."""
    name, seen = "interruptions", environment.measured.interruptions
    watched, looks = sum(it.watched for it in seen), sum(it.looks for it in seen)
    if not watched or not looks:
        return not_told(name)
    count, lost = sum(it.count for it in seen), sum(it.lost for it in seen) / watched
    if not count:
        return Finding(name, Level.OK, f"none of more than {show_duration(GAP)} in {show_duration(watched)}")
    worst = max(seen, key=lambda it: it.longest)
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
        f"{count} of more than {show_duration(GAP)} in {show_duration(watched)}, "
        f"the longest {show_duration(longest)}{where}; {show_share(lost)} of the time is lost"
    )
    return Finding(name, level, found, _meeting(seen, longest), "" if level is Level.OK else QUIET_MEND)


def _meeting(seen: tuple[Interruptions, ...], longest: Nanos) -> str:
    """How often an inference meets an interruption: how many there are in the time that it computes."""
    met = sum(it.count for it in seen) * EXAMPLE / max(1, sum(it.watched - it.lost for it in seen))
    often = (
        f"an inference that computes for {show_duration(EXAMPLE)} meets {met:.1f} of them on average"
        if met >= 1
        else f"of inferences that compute for {show_duration(EXAMPLE)} about one in {1 / met:.0f} meets one"
    )
    return f"{often}; the longest added {show_duration(longest)}"


def others(environment: Environment) -> Finding:
    """Other processes on the cores that the devices would have."""
    name = "other processes"
    shares = _of_devices(environment, environment.measured.others)
    if not shares:
        return not_told(name)
    worst = max(shares, key=lambda it: it.share)
    allowed = [it.share for it in environment.measured.others if it.core in environment.host.allowed]
    found = f"take {show_share(worst.share)} of core {worst.core}"
    if len(allowed) > 1:
        found += f", {show_share(sum(allowed) / len(allowed))} of all allowed cores"
    if worst.share < OTHERS_NOTE:
        return Finding(name, Level.OK, found)
    level = Level.WARNING if worst.share >= OTHERS_WARNING else Level.NOTE
    cost = f"an inference shares its core with what wants {show_share(worst.share)} of it, and waits for its turn"
    return Finding(name, level, found, cost, QUIET_MEND)


def stolen(environment: Environment) -> Finding:
    """What the host of a virtual machine gives to its others."""
    name = "steal"
    shares = _of_devices(environment, environment.measured.stolen)
    if not shares:
        return not_told(name)
    worst = max(shares, key=lambda it: it.share)
    if not worst.share:
        return Finding(name, Level.OK, f"none in {show_duration(environment.measured.duration)}")
    level = Level.NOTE
    if worst.share >= LOST_WARNING:
        level = Level.BAD if worst.share >= LOST_BAD else Level.WARNING
    return Finding(
        name,
        level,
        f"{show_share(worst.share)} of core {worst.core}",
        f"the machine's host gives {show_share(worst.share)} of the core to others, when it likes",
        "have the virtual machine's cores pinned or dedicated, or take a larger or an unshared one",
    )


def timers(environment: Environment) -> Finding:
    """Whether a thread that sleeps to a moment is there by then; an EXEC thread wakes `WATCH` early."""
    name, late = "timers", environment.measured.timers
    if not late:
        return not_told(name)
    by = ", ".join(f"{it.kind} {_three(it)}" for it in late)
    slack = environment.host.timer_slack
    found = f"late by p50/p99/max: {by}" + ("" if slack is None else f"; slack {show_duration(slack)}")
    p50, p99, longest = (max(getattr(it, field) for it in late) for field in ("p50", "p99", "longest"))
    level, cost = Level.OK, ""
    early = show_duration(WATCH)
    if p50 > WATCH:
        level, cost = Level.BAD, f"a worker wakes {early} before an action is due, and is usually late all the same"
    elif p99 > WATCH:
        level = Level.WARNING
        cost = f"a worker wakes {early} before an action is due; one start in a hundred is late by "
        cost += f"{show_duration(p99 - WATCH)} or more"
    elif longest > WATCH:
        level = Level.NOTE
        waits = plural(sum(it.count for it in late), "wait")
        cost = f"of {waits} the latest would have made a start late by {show_duration(longest - WATCH)}"
    return Finding(name, level, found, cost, TIMERS_MEND if cost else "")


def _three(it: Lateness) -> str:
    return "/".join(show_duration(value) for value in (it.p50, it.p99, it.longest))


def clock(environment: Environment) -> Finding:
    """What it takes to know the time: every wait and every measurement does it."""
    name, source = "clock source", environment.host.clock_source
    look = min((_look(it) for it in environment.measured.interruptions if it.looks), default=None)
    if source is None and look is None:
        return not_told(name)
    found = (source or "not told") + ("" if look is None else f"; a look at the clock takes {show_duration(look)}")
    if source in LOOSE_CLOCKS:
        level, cost = Level.BAD, "the clock moves in steps of milliseconds: nothing shorter can be measured or kept"
    elif source in SLOW_CLOCKS or (look is not None and look >= LOOK_SLOW):
        level, cost = (
            Level.WARNING,
            "looking at the clock is slow: a thread that watches it for a moment sees it late",
        )
    else:
        return Finding(name, Level.OK, found)
    if "tsc" in environment.host.clock_sources and source != "tsc":
        mend = TSC_MEND
    else:
        mend = "see in the kernel's log why tsc is not used; in a virtual machine, have its host offer tsc or kvm-clock"
    return Finding(name, level, found, cost, mend)


def _look(it: Interruptions) -> Nanos:
    return (it.watched - it.lost) // it.looks


def _of_devices(environment: Environment, shares: tuple[Share, ...]) -> list[Share]:
    """Those of the devices' cores; all if it is not known which these are."""
    cores = environment.device_cores
    return [it for it in shares if not cores or it.core in cores]
