"""Checks of processors: the number of cores, other programs that use the cores, and the frequencies of the cores.

This module does no I/O.
"""

from typing import Final

from clockwork.environment.facts import CoreFrequency, Environment
from clockwork.environment.findings import plural, unknown
from clockwork.host.affinity import show_cores
from clockwork.messages.findings import Finding, Level
from clockwork.units import show_duration

STEADY_GOVERNORS: Final = frozenset({"performance", "userspace"})
"""Governors whose frequency does not depend on the load."""

HIDDEN: Final = "cannot be checked: in a virtual machine the host decides"

QUOTA_FIX: Final = (
    "assign whole cores instead of a quota (Docker: --cpuset-cpus, not --cpus; Kubernetes: the static CPU manager; "
    "systemd: AllowedCPUs, not CPUQuota)"
)


def cores(environment: Environment) -> Finding:
    """Check that there is a core for each thread that executes models, and one more core for all other threads."""
    name, host = "cores", environment.host
    if not host.allowed:
        return unknown(name)
    devices, threads = len(environment.devices), environment.threads_per_device
    needed = devices * threads
    found = f"{plural(len(host.allowed), 'core')} allowed ({show_cores(host.allowed)})"
    if len(host.online) > len(host.allowed):
        found += f" of {len(host.online)}"
    found += f"; {plural(devices, 'device')} of {plural(threads, 'thread')}"
    fix = f"allow the worker {needed + 1} cores (taskset, cpuset), or give it fewer devices or threads"
    if len(host.allowed) < needed:
        cost = "no thread is pinned: inferences interrupt each other, and take longer than measured"
        return Finding(name, Level.BAD, found, cost, fix)
    found += f" on {show_cores(environment.device_cores)}"
    if len(host.allowed) == needed:
        cost = "no core is left for the network and for loading, which interrupt inferences"
        return Finding(name, Level.WARNING, found, cost, fix)
    return Finding(name, Level.OK, found)


def isolation(environment: Environment) -> Finding:
    """Check that the kernel does not run other processes on the devices' cores."""
    name, isolated = "isolation", environment.host.isolated
    if isolated is None:
        return unknown(name)
    shared = [core for core in environment.device_cores if core not in isolated]
    if not shared:
        return Finding(name, Level.OK, f"the devices' cores {show_cores(environment.device_cores)} are isolated")
    shown = show_cores(shared)
    which = f"core {shown} is" if len(shared) == 1 else f"cores {shown} are"
    fix = f"boot with isolcpus={shown} nohz_full={shown} and start the worker with taskset, or give it its own cpuset"
    if len(shared) == len(environment.host.allowed):
        fix = "allow more cores than the devices need (see cores), so that the devices' cores can be isolated"
    return Finding(
        name,
        Level.NOTE,
        f"{which} open to all processes",
        "any process may run on these cores; the findings interruptions and other processes show the current cost",
        fix,
    )


def hyper_threads(environment: Environment) -> Finding:
    """Check that no other thread runs on the second hyper-thread of a device's core."""
    name, host = "hyper-threads", environment.host
    if not host.siblings:
        return unknown(name)
    inside: dict[int, None] = {}
    outside: dict[int, None] = {}
    for own in environment.devices:
        for core in own or host.allowed:
            for sibling in host.siblings.get(core, ()):
                if sibling != core and sibling not in own:
                    (inside if sibling in host.allowed else outside)[sibling] = None
    cost = "a thread on the sibling uses the same execution units, so inferences take longer while it runs"
    fix = (
        "allow one core of each pair only, and leave the other idle (taskset, cpuset), "
        "or disable hyper-threads: echo off > /sys/devices/system/cpu/smt/control"
    )
    if inside:
        found = f"the devices' cores share execution units with the allowed {show_cores(inside)}"
        return Finding(name, Level.WARNING, found, cost, fix)
    if any(core in host.online for core in outside):
        found = f"the devices' cores share execution units with {show_cores(outside)}, which other processes may use"
        return Finding(name, Level.NOTE, found, cost, fix)
    return Finding(name, Level.OK, "the devices' cores share execution units with no other core")


def numa(environment: Environment) -> Finding:
    """Check that the cores of a device are on one NUMA node."""
    name, host = "numa", environment.host
    if not host.nodes or not host.allowed:
        return unknown(name)
    touched = _nodes(environment, host.allowed)
    found = f"the allowed cores are on {'node' if len(touched) == 1 else 'nodes'} {show_cores(touched)}"
    if len(touched) <= 1:
        return Finding(name, Level.OK, found)
    split = any(len(_nodes(environment, own)) > 1 for own in environment.devices)
    return Finding(
        name,
        Level.WARNING if split else Level.NOTE,
        found + (", even those of a single device" if split else ""),
        "weights may be in the memory of another node, and access to another node's memory is slower",
        "run one worker for each node: numactl --cpunodebind=0 --membind=0 clockwork worker ...",
    )


def _nodes(environment: Environment, cores: tuple[int, ...]) -> list[int]:
    return [node for node, members in environment.host.nodes.items() if any(core in members for core in cores)]


def cpu_quota(environment: Environment) -> Finding:
    """Check the limit on CPU time. When this time is used up, all threads stop until the next period."""
    name, limit, now = "cpu quota", environment.host.quota, environment.measured.throttled or 0
    if limit is None:
        return unknown(name)
    if limit.cores is None or limit.period is None:
        return Finding(name, Level.OK, "none")
    needed = len(environment.devices) * environment.threads_per_device
    found = f"{limit.cores:.3g} cores, renewed every {show_duration(limit.period)}"
    if limit.throttled:
        found += f"; throttled in {limit.throttled} of {limit.periods} periods, {show_duration(limit.waited)} in all"
    if now:
        found += f"; {now} while measuring"
    cost = f"when the quota is used up, every thread stops for the rest of the {show_duration(limit.period)}"
    if limit.cores < needed or now:
        level = Level.BAD
        if limit.cores < needed:
            cost = f"executing on {plural(needed, 'thread')} uses the quota up; {cost}"
    else:
        level = Level.WARNING if limit.throttled or limit.cores < needed + 1 else Level.NOTE
    return Finding(name, level, found, cost, QUOTA_FIX)


def cpu_governor(environment: Environment) -> Finding:
    """Check that, after an idle time, a core runs as fast as under load."""
    name = "cpu governor"
    known = [core for core in environment.host.frequencies if core.core in environment.device_cores and core.governor]
    if not known:
        return unknown(name, HIDDEN)
    varying = [core for core in known if core.governor not in STEADY_GOVERNORS and not _is_fixed(core)]
    shown = sorted({_show(core) for core in known})
    found = "; ".join(shown)
    if varying:
        span = varying[0]
        cost = "after an idle time an inference starts at a lower frequency and takes longer than under load"
        if span.lowest and span.highest:
            cost += f": the lowest is {span.lowest / 1e6:.3g} of {span.highest / 1e6:.3g} GHz"
        return Finding(name, Level.WARNING, found, cost, "cpupower frequency-set -g performance")
    capped = [core for core in known if core.highest and core.hardware_highest and core.highest < core.hardware_highest]
    if capped:
        highest = capped[0].hardware_highest or 0
        cost = f"cores could run at {highest / 1e6:.3g} GHz; the limit makes them slower, but steady"
        return Finding(
            name, Level.NOTE, found, cost, f"cpupower frequency-set -u {highest}, if the limit is not intended"
        )
    return Finding(name, Level.OK, found)


def _is_fixed(core: CoreFrequency) -> bool:
    return core.lowest is not None and core.lowest == core.highest


def _show(core: CoreFrequency) -> str:
    text = f"{core.governor}" + (f" ({core.driver})" if core.driver else "")
    return f"{text}, {core.lowest / 1e6:.3g} to {core.highest / 1e6:.3g} GHz" if core.lowest and core.highest else text


def cpu_boost(environment: Environment) -> Finding:
    """Check whether the frequency of a core depends on the temperature and on the load of other cores."""
    name, on = "cpu boost", environment.host.boost
    if on is None:
        return unknown(name, HIDDEN)
    if not on:
        return Finding(name, Level.OK, "off")
    return Finding(
        name,
        Level.NOTE,
        "on",
        "frequency and execution times depend on the temperature and on the number of busy cores",
        "if steady times matter more than short ones: echo 0 > /sys/devices/system/cpu/cpufreq/boost "
        "(intel_pstate: echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo)",
    )
