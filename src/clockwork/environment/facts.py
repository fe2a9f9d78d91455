"""What is known about a host. None, or nothing in a tuple, is: the host does not tell."""

from typing import Final

from msgspec import Struct

from clockwork.runtimes.nvidia import Found
from clockwork.units import MICROSECOND, Bytes, Nanos

GAP: Final[Nanos] = 50 * MICROSECOND
"""A thread that did not see the clock for longer was interrupted. A look takes 0.1 us, a timer interrupt a few."""


class CoreFrequency(Struct, frozen=True):
    """How one core's clock frequency is chosen; frequencies in kHz."""

    core: int
    governor: str
    driver: str | None = None
    lowest: int | None = None  #: that may be chosen
    highest: int | None = None  #: that may be chosen
    hardware_highest: int | None = None


class Quota(Struct, frozen=True):
    """CPU time that the process's control groups allow it: the tightest one counts.

    ``cores``: CPU time per time, None: no limit. ``period``: after so long it is renewed. Of ``periods`` with work to
    do, in ``throttled`` the work had to wait, all in all for ``waited``; since the group was made.
    """

    cores: float | None = None
    period: Nanos | None = None
    periods: int = 0
    throttled: int = 0
    waited: Nanos = 0


class Swap(Struct, frozen=True):
    """Memory on disk: of the host, and in use; ``own`` is what this process has there."""

    total: Bytes
    used: Bytes
    own: Bytes | None = None
    swappiness: int | None = None


class HugePages(Struct, frozen=True):
    """When the kernel makes huge pages by itself, and when it tidies memory up for them: the chosen words."""

    enabled: str | None = None
    defrag: str | None = None


class Limit(Struct, frozen=True):
    """A limit of the process; None: unlimited."""

    soft: int | None
    hard: int | None


class Host(Struct, frozen=True, kw_only=True):
    """What files say.

    ``boost``: frequencies above the nominal one are allowed. ``siblings``: for each allowed core that tells, those that
    are hyper-threads of the same one, itself included. ``nodes``: the cores of each NUMA node. ``available``: memory
    that this process could still take.
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
    """What became of a core's time since the host was started, in ticks of the kernel's account."""

    busy: int
    idle: int
    stolen: int

    @property
    def total(self) -> int:
        """All ticks."""
        return self.busy + self.idle + self.stolen


class Counters(Struct, frozen=True):
    """What counts up: ticks of each core, periods in which the process was throttled, pages moved to or from swap."""

    ticks: dict[int, CoreTicks] = {}
    throttled: int | None = None
    swapped: int | None = None


class Share(Struct, frozen=True):
    """A part of one core's time, 0 to 1."""

    core: int
    share: float


class Lateness(Struct, frozen=True):
    """How much later than asked for a kind of timed wait ended."""

    kind: str
    count: int
    p50: Nanos
    p99: Nanos
    longest: Nanos


class Interruptions(Struct, frozen=True):
    """What a thread saw that did nothing on ``core`` but look at the clock, ``looks`` times in ``watched``.

    ``count`` times it was away for longer than `GAP`, at most for ``longest``, all in all for ``lost``.
    ``core`` is None if the thread could not be kept on one.
    """

    core: int | None
    watched: Nanos
    looks: int
    count: int = 0
    longest: Nanos = 0
    lost: Nanos = 0


class Measured(Struct, frozen=True, kw_only=True):
    """What was measured.

    ``others``: the part of the allowed cores' time that other processes took while this one slept. ``stolen``: what the
    host of a virtual machine gave to others, over all of ``duration``. ``throttled`` and ``swapped`` as in `Counters`,
    over all of ``duration``.
    """

    duration: Nanos
    others: tuple[Share, ...] = ()
    stolen: tuple[Share, ...] = ()
    throttled: int | None = None
    swapped: int | None = None
    timers: tuple[Lateness, ...] = ()
    interruptions: tuple[Interruptions, ...] = ()


class Environment(Struct, frozen=True, kw_only=True):
    """All that is judged. ``devices``: for each device of the worker, the cores that its EXEC threads would have.

    Where a worker would pin nothing, the devices have no cores. ``gpus``: what there is of them; None: not asked.
    """

    devices: tuple[tuple[int, ...], ...]
    threads_per_device: int
    host: Host
    measured: Measured
    gpus: Found | None = None

    @property
    def device_cores(self) -> tuple[int, ...]:
        """The cores of all devices; all that are allowed if the devices have none of their own."""
        return tuple(core for cores in self.devices for core in cores) or self.host.allowed
