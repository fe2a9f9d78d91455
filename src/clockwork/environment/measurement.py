"""Measures how late timers are, how often a thread is interrupted, and how much CPU time other processes use.

The measurement has two halves. In the first half, this process repeatedly sleeps for a millisecond. The sleeps show how
late timers are. The sleeps also show the load of other processes, because this process itself hardly runs. In the
second half, this process reads the clock in a loop on each core that a device would use, one core after the other. A
different process, an interrupt, the kernel, or the host of a virtual machine may interrupt the loop. An inference would
be delayed by the same interruptions.
"""

import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Condition
from typing import Final, TypeAlias

from clockwork.clock import Clock, MonotonicClock
from clockwork.environment.facts import (
    GAP,
    CoreTicks,
    Counters,
    Environment,
    Interruptions,
    Lateness,
    Measured,
    Share,
)
from clockwork.environment.kernel_files import read_counters, read_host
from clockwork.host.affinity import allowed_cores, confined, plan_cores
from clockwork.messages.profile import Measurement
from clockwork.units import MILLISECOND, Nanos, as_seconds, seconds

NAP: Final[Nanos] = MILLISECOND
"""Length of each wait in the measurement of timers."""

MAX_NAPS: Final = 1000
"""Largest number of waits of each kind. More waits would hardly make the result more precise."""

Wait: TypeAlias = Callable[[float], object]
"""A function that waits for a number of seconds."""


def examine(
    devices: int, threads_per_device: int, duration_s: float, root: Path = Path("/"), clock: Clock | None = None
) -> Environment:
    """Read the facts about this machine, and measure for about ``duration_s`` seconds.

    ``devices`` and ``threads_per_device`` describe the worker for which the machine is checked.
    """
    clock = clock or MonotonicClock()
    host = read_host(root)
    plan = plan_cores(host.allowed or allowed_cores(), devices, threads_per_device)
    measured = measure(plan.exec, seconds(duration_s), root, clock)
    return Environment(devices=plan.exec, threads_per_device=threads_per_device, host=host, measured=measured)


def examine_at_start(
    devices: int, threads_per_device: int, taken: Sequence[int] = (), root: Path = Path("/")
) -> Environment:
    """Read the facts about this machine without a measurement, which takes a few milliseconds.

    ``taken`` are the cores of other workers. The shares of stolen time are those since the machine started.
    """
    host = read_host(root)
    plan = plan_cores(host.allowed or allowed_cores(), devices, threads_per_device, taken)
    now = read_counters(root)
    since_start = stolen(Counters(dict.fromkeys(now.ticks, CoreTicks(0, 0, 0))), now)
    measured = Measured(duration=0, stolen=since_start)
    return Environment(devices=plan.exec, threads_per_device=threads_per_device, host=host, measured=measured)


def measure(devices: Sequence[Sequence[int]], duration: Nanos, root: Path, clock: Clock) -> Measured:
    """Sleep for half of ``duration``, and then read the clock in a loop on each of the devices' cores.

    If the devices have no cores, the loop runs on any core.
    """
    cores = [core for cores in devices for core in cores]
    start, before, own = clock.now(), read_counters(root), _own_seconds()
    with _kept_on(cores[:1]):
        timers = tuple(_lateness(kind, wait, duration // 2 // len(WAITS), clock) for kind, wait in WAITS)
    rested, own = read_counters(root), _own_seconds() - own
    interruptions = tuple(_watch_each(cores, duration // 2, clock))
    after = read_counters(root)
    return Measured(
        duration=clock.now() - start,
        others=others(before, rested, {core: own * _ticks_per_second() for core in cores[:1]}),
        stolen=stolen(before, after),
        throttled=_grown(before.throttled, after.throttled),
        swapped=_grown(before.swapped, after.swapped),
        timers=timers,
        interruptions=interruptions,
    )


def others(before: Counters, after: Counters, own: dict[int, float]) -> tuple[Share, ...]:
    """Return the share of each core's time that other processes used.

    ``own`` contains the ticks that this process used, by core. Cores whose counters did not change are left out.
    """
    return tuple(
        Share(core, min(1.0, max(0.0, (now.busy - then.busy - own.get(core, 0)) / (now.total - then.total))))
        for core, now in after.ticks.items()
        if (then := before.ticks.get(core)) is not None and now.total > then.total
    )


def stolen(before: Counters, after: Counters) -> tuple[Share, ...]:
    """Return the share of each core's time that the host of a virtual machine gave to other machines.

    Cores whose counters did not change are left out.
    """
    return tuple(
        Share(core, min(1.0, max(0.0, (now.stolen - then.stolen) / (now.total - then.total))))
        for core, now in after.ticks.items()
        if (then := before.ticks.get(core)) is not None and now.total > then.total
    )


def watch(core: int | None, duration: Nanos, clock: Clock) -> Interruptions:
    """Read the clock in a loop for ``duration``, and return the interruptions of the loop."""
    now = clock.now
    gaps: list[Nanos] = []
    looks = 0
    start = last = now()
    while last - start < duration:
        moment = now()
        if moment - last > GAP:
            gaps.append(moment - last)
        last = moment
        looks += 1
    return Interruptions(core, last - start, looks, len(gaps), max(gaps, default=0), sum(gaps))


def _watch_each(cores: Sequence[int], duration: Nanos, clock: Clock) -> Iterator[Interruptions]:
    if not cores:
        yield watch(None, duration, clock)
    for core in cores:
        with _kept_on((core,)) as kept:
            yield watch(core if kept else None, duration // len(cores), clock)


def _lateness(kind: str, wait: Wait, duration: Nanos, clock: Clock) -> Lateness:
    late: list[Nanos] = []
    start = end = clock.now()
    while not late or (end - start < duration and len(late) < MAX_NAPS):
        begin = clock.now()
        wait(as_seconds(NAP))
        end = clock.now()
        late.append(max(0, end - begin - NAP))
    measured = Measurement(tuple(late))
    return Lateness(kind, len(late), measured.median, measured.p99, max(late))


def _condition(timeout_s: float) -> None:
    condition = Condition()
    with condition:
        condition.wait(timeout_s)


WAITS: Final[tuple[tuple[str, Wait], ...]] = (
    ("sleep", time.sleep),
    ("select", partial(select.select, (), (), ())),
    ("condition", _condition),
)
"""The kinds of waits that are measured. A worker's lanes wait on a condition."""


@contextmanager
def _kept_on(cores: Sequence[int]) -> Iterator[bool]:
    """Confine the calling thread to these cores until the context ends. If this fails, the context's value is False."""
    with ExitStack() as stack:
        kept = bool(cores)
        try:
            stack.enter_context(confined(cores))
        except OSError:
            kept = False
        yield kept


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _ticks_per_second() -> float:
    return float(os.sysconf("SC_CLK_TCK"))
