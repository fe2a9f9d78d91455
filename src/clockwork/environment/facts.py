"""Facts about a machine. If the machine hides a fact, its value is None or an empty tuple."""

from typing import Final

from msgspec import Struct

from clockwork.runtimes.nvidia import NvidiaGpus
from clockwork.units import MICROSECOND, Bytes, Nanos

GAP: Final[Nanos] = 50 * MICROSECOND
"""Shortest time between two readings of the clock that counts as an interruption.

A reading takes 0.1 us, and a timer interrupt takes a few microseconds.
"""


class CoreFrequency(Struct, frozen=True):
    """Frequency settings of one core, in kHz. The governor chooses a frequency from ``lowest`` to ``highest``."""

    core: int
    governor: str
    driver: str | None = None
    lowest: int | None = None
    highest: int | None = None
    hardware_highest: int | None = None


class Quota(Struct, frozen=True):
    """The lowest limit on CPU time that a control group of this process sets.

    - ``cores``: the allowed CPU time divided by the wall time; None: no limit
    - ``period``: time after which the process gets new CPU time
    - ``periods``: number of periods in which the group had work, since it was created
    - ``throttled``: number of these periods in which the group was stopped, because its CPU time was used up
    - ``waited``: total time for which the group was stopped
    """

    cores: float | None = None
    period: Nanos | None = None
    periods: int = 0
    throttled: int = 0
    waited: Nanos = 0


class Swap(Struct, frozen=True):
    """The size of the machine's swap space, and the part in use. ``own`` is the part that this process uses."""

    total: Bytes
    used: Bytes
    own: Bytes | None = None
    swappiness: int | None = None


class HugePages(Struct, frozen=True):
    """The kernel's settings for transparent huge pages.

    ``defrag`` is the kernel's setting for how memory is moved to make room for huge pages.
    """

    enabled: str | None = None
    defrag: str | None = None


class Limit(Struct, frozen=True):
    """A resource limit of the process. None means that there is no limit."""

    soft: int | None
    hard: int | None


class Host(Struct, frozen=True, kw_only=True):
    """Facts that were read from files of the kernel.

    - ``boost``: whether frequencies above the nominal frequency are allowed
    - ``siblings``: for each allowed core, all hyper-threads of its physical core, including the core itself
    - ``nodes``: the cores of each NUMA node
    - ``available``: number of bytes that this process can still allocate
    """

    allowed: tuple[int, ...] = ()
    online: tuple[int, ...] = ()
    isolated: tuple[int, ...] | None = None
    frequencies: tuple[CoreFrequency, ...] = ()
    boost: bool | None = None
    siblings: dict[int, tuple[int, ...]] = {}
    nodes: dict[int, tuple[int, ...]] = {}
    quota: Quota | None = None
    swap: Swap | None = None
    huge_pages: HugePages = HugePages()
    open_files: Limit | None = None
    locked_memory: Limit | None = None
    timer_slack: Nanos | None = None
    clock_source: str | None = None
    clock_sources: tuple[str, ...] = ()
    available: Bytes | None = None


class CoreTicks(Struct, frozen=True):
    """The time that a core spent in each state since the machine started, in ticks of the kernel."""

    busy: int
    idle: int
    stolen: int

    @property
    def total(self) -> int:
        """The sum of all ticks."""
        return self.busy + self.idle + self.stolen


class Counters(Struct, frozen=True):
    """Counters of the kernel.

    The counters are the ticks of each core, the periods in which the process was stopped by its quota, and the pages
    that were moved to or from swap.
    """

    ticks: dict[int, CoreTicks] = {}
    throttled: int | None = None
    swapped: int | None = None


class Share(Struct, frozen=True):
    """A share of one core's time, from 0 to 1."""

    core: int
    share: float


class Lateness(Struct, frozen=True):
    """The lateness of one kind of timed wait."""

    kind: str
    count: int
    p50: Nanos
    p99: Nanos
    longest: Nanos


class Interruptions(Struct, frozen=True):
    """Interruptions of a thread that read the clock in a loop.

    - ``core``: the core on which the thread ran; None if the thread could not be confined to one core
    - ``watched``: time for which the thread ran
    - ``looks``: number of readings of the clock
    - ``count``: number of interruptions, which are gaps longer than `GAP` between two readings
    - ``longest``: length of the longest interruption
    - ``lost``: total length of all interruptions
    """

    core: int | None
    watched: Nanos
    looks: int
    count: int = 0
    longest: Nanos = 0
    lost: Nanos = 0


class Measured(Struct, frozen=True, kw_only=True):
    """The results of the measurements.

    - ``others``: share of each allowed core's time that other processes used while this process slept
    - ``stolen``: share of each core's time that the host of a virtual machine gave to other machines during
      ``duration``
    - ``throttled``, ``swapped``: increase of these counters during ``duration``
    """

    duration: Nanos
    others: tuple[Share, ...] = ()
    stolen: tuple[Share, ...] = ()
    throttled: int | None = None
    swapped: int | None = None
    timers: tuple[Lateness, ...] = ()
    interruptions: tuple[Interruptions, ...] = ()


class Environment(Struct, frozen=True, kw_only=True):
    """All facts that the checks use.

    ``devices`` contains, for each device of the worker, the cores to which its EXEC threads would be pinned. If the
    worker would not pin its threads, a device has no cores. ``gpus`` is None if the worker has CPU devices.
    """

    devices: tuple[tuple[int, ...], ...]
    threads_per_device: int
    host: Host
    measured: Measured
    gpus: NvidiaGpus | None = None

    @property
    def device_cores(self) -> tuple[int, ...]:
        """The cores of all devices, or all allowed cores if the worker would not pin its threads."""
        return tuple(core for cores in self.devices for core in cores) or self.host.allowed
