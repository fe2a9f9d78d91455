"""A timer for event loops with microsecond precision, by Linux's timerfd.

An event loop's own timers count milliseconds (uvloop) or rely on the length of one wait (asyncio). Plans need tenths of
a millisecond. Measured 2,000 times on a virtual machine with Linux 6.18, due in 0.1 to 3 ms: `Alarm` is late by 0.03 ms
at the median and 0.08 ms at p99, ``loop.call_later`` of uvloop by 0.6 and 1.1 ms.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

from clockwork.units import SECOND, Nanos

_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
# PyDLL keeps the interpreter's lock, because these calls take less time than releasing and acquiring the lock.
_LIBC: Final = ctypes.PyDLL(None, use_errno=True)


class _Times(ctypes.Structure):
    """``struct itimerspec``: the interval, then the time until the first expiry; seconds and nanoseconds."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


class Alarm:
    """A timer that calls a function once when it is due."""

    __slots__ = ("_address", "_callback", "_fd", "_loop", "_times")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """``callback`` is called on the loop."""
        self._fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._loop = loop
        self._callback = callback
        self._times = _Times()
        self._address = ctypes.byref(self._times)
        loop.add_reader(self._fd, self._due)

    def set(self, delay: Nanos) -> None:
        """Call the function after ``delay``, or at once if that is not positive. This replaces a time set earlier."""
        self._times.first_s, self._times.first_ns = divmod(max(1, delay), SECOND)
        _LIBC.timerfd_settime(self._fd, 0, self._address, None)

    def close(self) -> None:
        """Release the timer; it never calls again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _due(self) -> None:
        # Setting a timer clears its pending expiry, so nothing has to be read.
        self._times.first_s = self._times.first_ns = 0
        _LIBC.timerfd_settime(self._fd, 0, self._address, None)
        self._callback()
