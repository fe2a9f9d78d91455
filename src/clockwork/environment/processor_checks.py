"""Judges of processors: which cores there are, who shares them, how fast they run.

Rules of the file: pure.
"""

from typing import Final

from clockwork.environment.facts import CoreFrequency, Environment
from clockwork.environment.findings import Finding, Level, not_told, plural
from clockwork.host.affinity import show_cores
from clockwork.units import show_duration

STEADY_GOVERNORS: Final = frozenset({"performance", "userspace"})
"""They do not follow the load."""

VIRTUAL: Final = "cannot be judged: in a virtual machine its host decides"

QUOTA_MEND: Final = (
    "give whole cores instead of a quota (Docker: --cpuset-cpus, not --cpus; Kubernetes: the static CPU manager; "
    "systemd: AllowedCPUs, not CPUQuota)"
)


def cores(environment: Environment) -> Finding:
    """One core for each thread that executes, and one for all else."""
    name, host = "cores", environment.host
    if not host.allowed:
        return not_told(name)
    devices, threads = len(environment.devices), environment.threads_per_device
    needed = devices * threads
    found = f"{plural(len(host.allowed), 'core')} allowed ({show_cores(host.allowed)})"
    if len(host.online) > len(host.allowed):
        found += f" of {len(host.online)}"
    found += f"; {plural(devices, 'device')} of {plural(threads, 'thread')}"
    mend = f"allow the worker {needed + 1} cores (taskset, cpuset), or give it fewer devices or threads"
    if len(host.allowed) < needed:
        cost = "no thread is pinned: inferences displace each other, and measured times are no promises"
        return Finding(name, Level.BAD, found, cost, mend)
    found += f" on {show_cores(environment.device_cores)}"
    if len(host.allowed) == needed:
        cost = "none is left for the network and for loading, which interrupt inferences"
        return Finding(name, Level.WARNING, found, cost, mend)
    return Finding(name, Level.OK, found)


def isolation(environment: Environment) -> Finding:
    """Cores that the kernel gives to nobody who does not ask for them."""
    name, isolated = "isolation", environment.host.isolated
    if isolated is None:
        return not_told(name)
    open_ones = [core for core in environment.device_cores if core not in isolated]
    if not open_ones:
        return Finding(name, Level.OK, f"the devices' cores {show_cores(environment.device_cores)} are isolated")
    shown = show_cores(open_ones)
    which = f"core {shown} is" if len(open_ones) == 1 else f"cores {shown} are"
    mend = f"boot with isolcpus={shown} nohz_full={shown} and start the worker with taskset, or give it its own cpuset"
    if len(open_ones) == len(environment.host.allowed):
        mend = "allow more cores than the devices need (see cores); then those of the devices can be isolated"
    return Finding(
        name,
        Level.NOTE,
        f"{which} open to all processes",
        "whatever is started on this host may run there; interruptions and other processes say what it costs now",
        mend,
    )


def hyper_threads(environment: Environment) -> Finding:
    """Two cores that are one: what one does slows the other."""
    name, host = "hyper-threads", environment.host
    if not host.siblings:
        return not_told(name)
    inside: dict[int, None] = {}
    outside: dict[int, None] = {}
    for own in environment.devices:
        for core in own or host.allowed:
            for sibling in host.siblings.get(core, ()):
                if sibling != core and sibling not in own:
                    (inside if sibling in host.allowed else outside)[sibling] = None
    cost = "what runs on a sibling uses the same execution units: inferences take longer while it does"
    mend = (
        "allow one core of each pair only, and leave the other idle (taskset, cpuset), "
        "or do without: echo off > /sys/devices/system/cpu/smt/control"
    )
    if inside:
        found = f"the devices' cores share execution units with the allowed {show_cores(inside)}"
        return Finding(name, Level.WARNING, found, cost, mend)
    if any(core in host.online for core in outside):
        found = f"the devices' cores share execution units with {show_cores(outside)}, which others may use"
        return Finding(name, Level.NOTE, found, cost, mend)
    return Finding(name, Level.OK, "the devices' cores share execution units with no other")


def nodes(environment: Environment) -> Finding:
    """Memory is near to some cores, and farther from others."""
    name, host = "numa", environment.host
    if not host.nodes or not host.allowed:
        return not_told(name)
    touched = _nodes(environment, host.allowed)
    found = f"the allowed cores are on {'node' if len(touched) == 1 else 'nodes'} {show_cores(touched)}"
    if len(touched) <= 1:
        return Finding(name, Level.OK, found)
    split = any(len(_nodes(environment, own)) > 1 for own in environment.devices)
    return Finding(
        name,
        Level.WARNING if split else Level.NOTE,
        found + (", and so are those of a single device" if split else ""),
        "weights may lie in the memory of another node than the core that uses them, which is slower to reach",
        "run one worker for each node: numactl --cpunodebind=0 --membind=0 clockwork worker ...",
    )


def _nodes(environment: Environment, cores: tuple[int, ...]) -> list[int]:
    return [node for node, its in environment.host.nodes.items() if any(core in its for core in cores)]


def quota(environment: Environment) -> Finding:
    """A limit of CPU time stops all threads until its period is over."""
    name, limit, now = "cpu quota", environment.host.quota, environment.measured.throttled or 0
    if limit is None:
        return not_told(name)
    if limit.cores is None or limit.period is None:
        return Finding(name, Level.OK, "none")
    needed = len(environment.devices) * environment.threads_per_device
    found = f"{limit.cores:.3g} cores, renewed every {show_duration(limit.period)}"
    if limit.throttled:
        found += f"; throttled in {limit.throttled} of {limit.periods} periods, {show_duration(limit.waited)} in all"
    if now:
        found += f"; {now} while measuring"
    cost = f"when it is used up every thread stands still for the rest of the {show_duration(limit.period)}"
    if limit.cores < needed or now:
        level = Level.BAD
        if limit.cores < needed:
            cost = f"executing on {plural(needed, 'thread')} uses it up; {cost}"
    else:
        level = Level.WARNING if limit.throttled or limit.cores < needed + 1 else Level.NOTE
    return Finding(name, level, found, cost, QUOTA_MEND)


def governor(environment: Environment) -> Finding:
    """Whether cores run as fast after a rest as they do under load."""
    name = "cpu governor"
    told = [it for it in environment.host.frequencies if it.core in environment.device_cores and it.governor]
    if not told:
        return not_told(name, VIRTUAL)
    restless = [it for it in told if it.governor not in STEADY_GOVERNORS and not _is_fixed(it)]
    shown = sorted({_show(it) for it in told})
    found = "; ".join(shown)
    if restless:
        span = restless[0]
        cost = "after a rest an inference begins at a lower frequency and takes longer than under load"
        if span.lowest and span.highest:
            cost += f": cores may go down to {span.lowest / 1e6:.3g} of {span.highest / 1e6:.3g} GHz"
        return Finding(name, Level.WARNING, found, cost, "cpupower frequency-set -g performance")
    capped = [it for it in told if it.highest and it.hardware_highest and it.highest < it.hardware_highest]
    if capped:
        most = capped[0].hardware_highest or 0
        cost = f"cores could go up to {most / 1e6:.3g} GHz; slower, but steady"
        return Finding(name, Level.NOTE, found, cost, f"cpupower frequency-set -u {most}, if it is not meant")
    return Finding(name, Level.OK, found)


def _is_fixed(it: CoreFrequency) -> bool:
    return it.lowest is not None and it.lowest == it.highest


def _show(it: CoreFrequency) -> str:
    text = f"{it.governor}" + (f" ({it.driver})" if it.driver else "")
    return f"{text}, {it.lowest / 1e6:.3g} to {it.highest / 1e6:.3g} GHz" if it.lowest and it.highest else text


def boost(environment: Environment) -> Finding:
    """Frequencies that depend on how warm it is, and on who else is busy."""
    name, on = "cpu boost", environment.host.boost
    if on is None:
        return not_told(name, VIRTUAL)
    if not on:
        return Finding(name, Level.OK, "off")
    return Finding(
        name,
        Level.NOTE,
        "on",
        "the frequency depends on the temperature and on how many cores are busy, and times with it",
        "if steady times matter more than short ones: echo 0 > /sys/devices/system/cpu/cpufreq/boost "
        "(intel_pstate: echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo)",
    )
