"""Assigns threads to cores.

Theory of operation. A device on the CPU is only as predictable as its times are steady, so each device's EXEC thread
has its own cores, taken from the end of the cores that the process may use. All other threads of the worker share the
rest. If there are too few cores, the plan does as much of this as possible, and its note states what is missing.

With more than one thread per device, the runtime's pool creates more threads. A new thread inherits cores and
priority from the thread that creates it. The LOAD threads create the pools, so in that case they are not confined.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from msgspec import Struct


class CorePlan(Struct, frozen=True):
    """The cores of each thread; ``exec`` is by device. A thread without cores is not pinned."""

    exec: tuple[tuple[int, ...], ...]
    load: tuple[int, ...]
    others: tuple[int, ...]
    note: str  #: a summary for the operator


def plan_cores(allowed: Collection[int], devices: int, threads_per_device: int) -> CorePlan:
    """Plan cores for each device, from the end of ``allowed``; the other threads get the rest."""
    cores = tuple(sorted(allowed))
    needed = devices * threads_per_device
    if needed > len(cores):
        note = (
            f"{devices} device(s) of {threads_per_device} thread(s) need {needed} cores and there are {len(cores)}: "
            "no thread is pinned, and times will vary"
        )
        return CorePlan(((),) * devices, (), (), note)
    rest, own = cores[: len(cores) - needed], cores[len(cores) - needed :]
    pinned = tuple(own[i : i + threads_per_device] for i in range(0, needed, threads_per_device))
    places = ", ".join(f"gpu {gpu} on {show_cores(own_cores)}" for gpu, own_cores in enumerate(pinned))
    if not rest:
        note = f"cores: {places}; none is left for the network and for loading, which will disturb inferences"
        return CorePlan(pinned, cores, cores, note)
    note = f"cores: {places}, all else on {show_cores(rest)}"
    return CorePlan(pinned, rest if threads_per_device == 1 else cores, rest, note)


def allowed_cores() -> tuple[int, ...]:
    """Return the cores that the calling thread may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(cores: Collection[int]) -> None:
    """Confine the calling thread, and threads that it creates later, to these cores; do nothing if there are none."""
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def confined(cores: Collection[int]) -> Iterator[None]:
    """Return a context in which the calling thread is pinned to these cores."""
    before = allowed_cores()
    pin(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def show_cores(cores: Collection[int]) -> str:
    """Return cores as text, for example ``0-3,6``."""
    spans: list[list[int]] = []
    for core in sorted(cores):
        if spans and core == spans[-1][1] + 1:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
