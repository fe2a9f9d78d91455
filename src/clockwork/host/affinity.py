"""Which thread runs on which core.

Theory of operation. A device on the CPU is worth as much as its times are steady, so each device's EXEC thread has
cores of its own, taken from the end of those that the process may use; every other thread of the worker shares the
rest. Where there are too few cores for that, it is done as far as it goes, and said.

With more than one thread per device, the runtime's pool makes threads of its own. A new thread inherits the cores of
the one that makes it, and its priority, so the LOAD threads, which make the pools, are then left as they are.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from msgspec import Struct


class CorePlan(Struct, frozen=True):
    """Who runs where: ``exec`` has the cores of each device's EXEC thread. A thread without cores is not pinned."""

    exec: tuple[tuple[int, ...], ...]
    load: tuple[int, ...]
    others: tuple[int, ...]
    note: str  #: for the operator


def plan_cores(allowed: Collection[int], devices: int, threads_per_device: int) -> CorePlan:
    """Cores for each device from the end of those ``allowed``, the rest for everybody else."""
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
    places = ", ".join(f"gpu {gpu} on {show_cores(its)}" for gpu, its in enumerate(pinned))
    if not rest:
        note = f"cores: {places}; none is left for the network and for loading, which will disturb inferences"
        return CorePlan(pinned, cores, cores, note)
    note = f"cores: {places}, all else on {show_cores(rest)}"
    return CorePlan(pinned, rest if threads_per_device == 1 else cores, rest, note)


def allowed_cores() -> tuple[int, ...]:
    """The cores that the calling thread may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(cores: Collection[int]) -> None:
    """Let the calling thread, and those that it will make, run on these cores only; does nothing if there are none."""
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def confined(cores: Collection[int]) -> Iterator[None]:
    """`pin` the calling thread for a while."""
    before = allowed_cores()
    pin(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def show_cores(cores: Collection[int]) -> str:
    """``0-3,6``."""
    spans: list[list[int]] = []
    for core in sorted(cores):
        if spans and core == spans[-1][1] + 1:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
