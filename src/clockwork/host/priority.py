"""Which thread goes first where several want one core.

Theory of operation. The network's threads work for microseconds at a time, the ones that load for seconds; where they
share a core, a message that waits for a loader's time slice is milliseconds late. Loaders are therefore *nice*, and
those who must be prompt ask the kernel for short slices: since Linux 6.12 whoever has a shorter slice interrupts
whoever has a longer one as soon as it wakes (sched_setattr(2); EEVDF). Neither needs a privilege, and where the kernel
does not know better, nothing is lost.

Realtime priorities and SCHED_IDLE are not used: a loader that holds the interpreter's lock, and never gets a core to
give it back on, would stop every inference.
"""

import ctypes
import os
import platform
import struct
import threading
from typing import Final

from clockwork.units import MICROSECOND, Nanos

NICENESS: Final = 10
"""Of threads that give way: a tenth of the time of an ordinary one."""

SLICE: Final[Nanos] = 100 * MICROSECOND
"""Of threads that are prompt; the shortest that the kernel accepts."""

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQII")  # struct sched_attr: size, policy, flags, nice, .., runtime, ..
_LIBC: Final = ctypes.CDLL(None)


def give_way() -> None:
    """Let threads of ordinary priority go before the calling thread."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def be_prompt() -> None:
    """Ask for short time slices for the calling thread. Does nothing where the kernel has none to give."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, 0, 0, nice, 0, SLICE, 0, 0, 0, 0)
        _LIBC.syscall(number, 0, attributes, 0)
