"""Facts about a host. None, or an empty tuple, means that the host hides the fact."""

from typing import Final

from msgspec import Struct

from clockwork.runtimes.nvidia import NvidiaGpus
from clockwork.units import MICROSECOND, Bytes, Nanos

GAP: Final[Nanos] = 50 * MICROSECOND
"""A longer time between two readings of the clock is an interruption.

A reading takes 0.1 us, a timer interrupt a few microseconds.
"""


class CoreFrequency(Struct, frozen=True):
    """Frequency settings of one core, in kHz; ``lowest`` and ``highest`` limit what the governor may choose."""

    core: int
    governor: str
    driver: str | None = None
    lowest: int | None = None
    highest: int | None = None
    hardware_highest: int | None = None


class Quota(Struct, frozen=True):
    """CPU time that the control groups of this process allow: the tightest limit of all groups.

    ``cores`` is the allowed CPU time per unit of wall time (None: no limit). The allowance is renewed every ``period``.
    Since the group was created, the process was throttled in ``throttled`` of ``periods`` periods with work, for
    ``waited`` in total.
    """

    cores: float | None = None
    period: Nanos | None = None
    periods: int = 0
    throttled: int = 0
    waited: Nanos = 0


class Swap(Struct, frozen=True):
    """Swap of the host: its size and the part in use; ``own`` is the part in use by this process."""

    total: Bytes
    used: Bytes
    own: Bytes | None = None
    swappiness: int | None = None


class HugePages(Struct, frozen=True):
    """The kernel's settings for transparent huge pages, and for defragmenting memory to form them."""

    enabled: str | None = None
    defrag: str | None = None


class Limit(Struct, frozen=True):
    """A limit of the process; None is unlimited."""

    soft: int | None
    hard: int | None


class Host(Struct, frozen=True, kw_only=True):
    """Facts from files of the kernel.

    ``boost``: frequencies above the nominal one are allowed. ``siblings``: for each allowed core, the hyper-threads of
    its physical core, itself included. ``nodes``: the cores of each NUMA node. ``available``: memory that this process
    could still allocate.
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
    """Use of a core's time since the host started, in ticks of the kernel's accounting."""

    busy: int
    idle: int
    stolen: int

    @property
    def total(self) -> int:
        """Sum of all ticks."""
        return self.busy + self.idle + self.stolen


class Counters(Struct, frozen=True):
    """Counters: ticks of each core, periods in which the process was throttled, pages moved to or from swap."""

    ticks: dict[int, CoreTicks] = {}
    throttled: int | None = None
    swapped: int | None = None


class Share(Struct, frozen=True):
    """A share of one core's time, from 0 to 1."""

    core: int
    share: float


class Lateness(Struct, frozen=True):
    """Lateness of the end of one kind of timed wait."""

    kind: str
    count: int
    p50: Nanos
    p99: Nanos
    longest: Nanos


class Interruptions(Struct, frozen=True):
    """Interruptions of a thread that only read the clock on ``core``: ``looks`` times during ``watched``.

    ``count`` gaps were longer than `GAP`; the longest was ``longest``, and all took ``lost``. ``core`` is None if the
    thread could not be confined to one core.
    """

    core: int | None
    watched: Nanos
    looks: int
    count: int = 0
    longest: Nanos = 0
    lost: Nanos = 0


class Measured(Struct, frozen=True, kw_only=True):
    """Measurements.

    ``others``: share of each allowed core's time that other processes took while this process slept. ``stolen``: share
    that the host of a virtual machine gave to others during all of ``duration``. ``throttled`` and ``swapped`` are the
    increases of `Counters` during ``duration``.
    """

    duration: Nanos
    others: tuple[Share, ...] = ()
    stolen: tuple[Share, ...] = ()
    throttled: int | None = None
    swapped: int | None = None
    timers: tuple[Lateness, ...] = ()
    interruptions: tuple[Interruptions, ...] = ()


class Environment(Struct, frozen=True, kw_only=True):
    """All facts for the checks.

    ``devices``: for each device of the worker, the cores that its EXEC threads would be pinned to; no cores if a worker
    would not pin its threads. ``gpus`` is None if the worker has CPU devices.
    """

    devices: tuple[tuple[int, ...], ...]
    threads_per_device: int
    host: Host
    measured: Measured
    gpus: NvidiaGpus | None = None

    @property
    def device_cores(self) -> tuple[int, ...]:
        """Cores of all devices; all allowed cores if the devices have no cores of their own."""
        return tuple(core for cores in self.devices for core in cores) or self.host.allowed
