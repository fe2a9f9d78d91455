"""Configures this process: thread priorities, the interpreter, the allocator, and the limit of open files.

Theory of operation. A network thread works for microseconds at a time, and a loading thread works for seconds. If both
share a core, a message may have to wait until a loading thread's time slice ends, and is then milliseconds late. So
loading threads are *nice*: they get less time than other threads. Threads that must react promptly request short time
slices (sched_setattr(2)). Since Linux 6.12, a thread with a short time slice interrupts a thread with a longer one when
it wakes up. Older kernels ignore the request. Niceness and short time slices need no privilege.

If a device shares its core with the network threads, each interruption of an inference empties the processor's caches,
and the device executes nothing else meanwhile. So in this case, the network threads do not interrupt an inference of a
few milliseconds (SCHED_BATCH), and the EXEC thread requests long time slices. With eight networks and requests of
602,112 bytes on one core, 4 to 13 % more requests were in time (`benchmarks/bench_overload.py --sizes large`).

Realtime priorities and SCHED_IDLE are not used. With such priorities, a loading thread that has the interpreter's lock
might never get a core on which to release the lock. All inferences of the process would then wait for this thread.
"""

import ctypes
import gc
import logging
import os
import platform
import resource
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from clockwork.malloc import return_large_blocks
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

NICENESS: Final = 10
"""Nice value of low-priority threads. Such threads get a tenth of the time of an ordinary thread."""

TIME_SLICE: Final[Nanos] = 100 * MICROSECOND
"""Time slice of threads that must react promptly. The value is the shortest time slice that the kernel accepts."""

LONG_TIME_SLICE: Final[Nanos] = 10 * MILLISECOND
"""Time slice of an EXEC thread that shares its core with the network threads. Those wait at most about this long."""

SWITCH_INTERVAL: Final = 0.0005
"""Seconds for which a Python thread may keep the interpreter's lock while another thread waits. Python's default is 5
ms.
"""

GC_THRESHOLD: Final = 10_000
"""Number of new objects after which the garbage collector runs.

Python's default is 700. Ten requests create that many objects.
"""

RESERVED_FILES: Final = 256
"""Number of file descriptors that are reserved for models, libraries, listening sockets and the event loop."""

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
# fields of struct sched_attr: size, policy, flags, nice, .., runtime, ..
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQII")
_LIBC: Final = ctypes.CDLL(None)

log = logging.getLogger("clockwork.controller")


def lower_priority() -> None:
    """Lower the priority of the calling thread, so that threads of ordinary priority run first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def begin_background_thread() -> None:
    """Lower the priority of the calling thread if possible. Pools of threads use this function as ``initializer``."""
    with suppress(OSError):  # raised if the process already has a lower priority
        lower_priority()


def shorten_time_slice() -> None:
    """Request short time slices for the calling thread. If the kernel offers no short time slices, do nothing."""
    _set_scheduling(os.SCHED_OTHER, TIME_SLICE)


def keep_core() -> None:
    """Request long time slices for the calling thread, an EXEC thread that shares its core with network threads."""
    _set_scheduling(os.SCHED_OTHER, LONG_TIME_SLICE)


def yield_to_devices() -> None:
    """Keep the calling thread from interrupting other threads when it wakes up. It waits until their time slice ends.

    Threads and processes that the calling thread creates later inherit this setting.
    """
    _set_scheduling(os.SCHED_BATCH, 0)


def _set_scheduling(policy: int, time_slice: Nanos) -> None:
    """Set the policy and the time slice of the calling thread. A time slice of 0 is the kernel's default."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, time_slice, 0, 0, 0, 0)
        _LIBC.syscall(number, 0, attributes, 0)


@contextmanager
def steady_timing(*, yields: bool = False) -> Iterator[None]:
    """Configure the process for steady times, and make the calling thread react promptly.

    If ``yields`` is true, the calling thread shares its core with a device, and does not interrupt the device.

    Most of these settings are undone at the end of the context. Python threads release the interpreter's lock sooner.
    The garbage collector ignores all objects that exist now. The allocator keeps freed blocks that are as large as the
    inputs of a request. A new block from the system would cost a page fault for every 4 KiB, which is 0.1 ms for an
    image.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *thresholds[1:])
    return_large_blocks()
    if yields:
        yield_to_devices()
    else:
        shorten_time_slice()
    try:
        yield
    finally:
        if yields:
            _set_scheduling(os.SCHED_OTHER, 0)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        sys.setswitchinterval(interval)


def allow_connections(wanted: int) -> None:
    """Raise the soft limit of open files to the hard limit.

    Warn if the limit is still too low for ``wanted`` connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted + RESERVED_FILES:
        log.warning(
            "this process may open %d files, fewer than the %d connections that a port accepts: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE= in systemd)",
            hard,
            wanted,
        )
