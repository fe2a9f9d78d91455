"""Assigns threads to cores, and claims cores so that no two workers of a host use the same core for a device.

Theory of operation. The execution times of a CPU device are steady only if no other thread uses its cores. So each
device's EXEC thread has its own cores. These cores are taken from the end of the list of cores that the process may
use. All other threads of the worker share the remaining cores. If there are too few cores, some threads have to share
cores, and the plan's note states what is missing.

With more than one thread per device, the runtime creates a pool of threads. A new thread inherits the cores and the
priority of the thread that creates it. The LOAD threads create these pools, so with more than one thread per device,
the LOAD threads are not pinned.

To claim a core, a worker binds a socket to a name in the abstract namespace of unix(7). Such a claim needs no writable
directory. All users of the host can see the claim, and the kernel ends the claim with the process. Containers with
separate networks do not see each other's claims.
"""

import errno
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from msgspec import Struct, structs

CLAIM: Final = "\0clockwork-core-{}"
"""Name of the socket that claims a core."""


class CorePlan(Struct, frozen=True):
    """The cores of each thread. ``exec`` contains the cores by device.

    A thread without cores in the plan is not pinned.

    ``taken`` contains the cores that other workers have claimed. ``is_crowded`` means that the other workers left too
    few cores.
    """

    exec: tuple[tuple[int, ...], ...]
    load: tuple[int, ...]
    others: tuple[int, ...]
    note: str  #: a summary of the plan for the operator
    taken: tuple[int, ...] = ()
    is_crowded: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether the threads of a device share a core with the network threads."""
        return any(set(own) & set(self.others) for own in self.exec)


def plan_cores(
    allowed: Collection[int], devices: int, threads_per_device: int, taken: Collection[int] = ()
) -> CorePlan:
    """Plan cores for each device, beginning at the end of ``allowed``. The other threads get the remaining cores.

    Cores in ``taken`` are used by other workers, so no thread is pinned to them.
    """
    taken = tuple(sorted(set(allowed) & set(taken)))
    plan = _plan(tuple(sorted(set(allowed) - set(taken))), devices, threads_per_device)
    if not taken:
        return plan
    crowded = devices > 0 and not plan.exec[0] and devices * threads_per_device <= len(allowed)
    fix = "; use fewer devices, or stop a worker" if crowded else ""
    note = f"{plan.note}; other workers on this host use {show_cores(taken)}{fix}"
    return structs.replace(plan, note=note, taken=taken, is_crowded=crowded)


def _plan(cores: tuple[int, ...], devices: int, threads_per_device: int) -> CorePlan:
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


@contextmanager
def claimed_cores(allowed: Collection[int], devices: int, threads_per_device: int) -> Iterator[CorePlan]:
    """Return a context with a plan. Within the context, no other worker on this host can claim the devices' cores.

    If too few cores are free, no core is claimed. If the system does not support claims, all cores count as free.
    """
    needed = devices * threads_per_device
    taken: set[int] = set()
    with ExitStack() as claims:
        claimed = 0
        if needed <= len(allowed):
            for core in sorted(allowed, reverse=True):
                if claimed == needed:
                    break
                if _claim(core, claims):
                    claimed += 1
                else:
                    taken.add(core)
        if claimed < needed:
            claims.close()
        yield plan_cores(allowed, devices, threads_per_device, taken)


def _claim(core: int, claims: ExitStack) -> bool:
    """Claim a core until ``claims`` is closed. Return False if another process has claimed the core."""
    try:
        holder = claims.enter_context(socket.socket(socket.AF_UNIX))
        holder.bind(CLAIM.format(core))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def allowed_cores() -> tuple[int, ...]:
    """Return the cores that the calling thread may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(cores: Collection[int]) -> None:
    """Pin the calling thread, and threads that it creates later, to these cores. If there are no cores, do nothing."""
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
    """Return cores as text, such as ``0-3,6``."""
    spans: list[list[int]] = []
    for core in sorted(cores):
        if spans and core == spans[-1][1] + 1:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
