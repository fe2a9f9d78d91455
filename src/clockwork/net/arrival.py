"""Determines when the bytes that are being read reached this machine.

When an event loop reads bytes, the bytes may already have waited for some time. If the SLO of a request counted from
the moment of reading, the client would wait longer than its SLO. This module therefore returns the earliest time at
which the bytes may have arrived.

The event loop alternates between a *poll*, which reports every socket with unread bytes, and work. If the previous poll
did not report the bytes, they arrived after that poll. There are two cases:

- The thread slept in the current poll. The first bytes woke the thread, but it may have waited for a processor core.
  The arrival time is the time at which the thread ran again, minus this wait. Linux reports the wait in
  ``/proc/thread-self/schedstat``, as the time on the run queue.
- The thread did not sleep. The bytes may have arrived at any time since the previous poll, and the result is the time
  of that poll.

The thread's processor time does not contain the time in which the kernel serves interrupts, or in which the host of a
virtual machine takes the core away. So a thread that only worked may seem to have slept. Therefore, a thread counts as
asleep only if it has also given up its core (``ru_nvcsw`` in getrusage(2)).

In three situations, this result is not accurate enough, and the module asks the kernel how long ago the socket received
its last bytes. (``tcpi_last_data_recv`` in TCP_INFO has this time in milliseconds. The kernel's clock ticks every 4 ms
or less.)

- The process was stopped, for example by SIGSTOP, in a frozen virtual machine, or in a container that used up its
  quota. A stopped process looks like a sleeping process, so the bytes may be older than they seem.
- The loop slept in one turn without reading anything, and then worked for a long time. The bytes may be older in this
  case, too.
- The last turn was long, and the client sends one request at a time. In this case, the bytes may have arrived long
  after the last poll.
"""

import asyncio
import ctypes
import fcntl
import os
import resource
import socket
import struct
import termios
from typing import Final

from clockwork.clock import Clock, MonotonicClock, thread_time
from clockwork.units import MICROSECOND, MILLISECOND, Bytes, Nanos

SLEPT: Final[Nanos] = 20 * MICROSECOND
"""Shortest time that counts as a sleep of the thread. A thread sleeps while it neither runs nor waits for a core."""

DOUBTFUL: Final[Nanos] = 12 * MILLISECOND
"""If nothing was read for longer than this time, or if a turn took longer, the kernel is asked when bytes arrived."""

TICK: Final[Nanos] = 4 * MILLISECOND
"""Largest error of the time that the kernel reports, if its clock has 250 ticks per second."""

_LAST_RECEIVED: Final = 52
"""Offset in bytes of the field ``tcpi_last_data_recv`` in ``struct tcp_info`` (linux/tcp.h)."""

_MAX_WINDOW: Final = 64
"""Offset in bytes of the field ``tcpi_rcv_ssthresh`` in ``struct tcp_info`` (linux/tcp.h)."""

_U32: Final = struct.Struct("=I")

_getsockopt: Final = ctypes.PyDLL(None).getsockopt  # PyDLL keeps the interpreter's lock, because the call never waits


class Arrivals:
    """Measures the turns of one event loop. The object must be created and used on the thread of that loop.

    Only turns in which something is read are counted. Such a turn begins with the first call of `earliest_arrival`
    after a poll.
    """

    __slots__ = (
        "_clock", "_cpu", "_doubtful", "_length", "_loop", "_open", "_polled", "_queued", "_schedstat", "_since",
        "_slept", "_tcp_info", "_yields", "reading_took", "turn",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock | None = None) -> None:
        """Start to measure turns. In the first turn, `earliest_arrival` returns the time of the read."""
        self._clock: Clock = clock or MonotonicClock()
        self._loop = loop
        self._open = False
        self.turn = 0  #: number of turns in which something was read
        self._slept: Nanos = 0  #: time slept since the last turn in which something was read
        self._doubtful = False  #: whether to ask the kernel, because the loop slept and may then have worked
        self.reading_took: Nanos = 0  #: time that the loop spent on reading in the last turn
        self._schedstat = _open_schedstat()
        self._tcp_info = ctypes.create_string_buffer(_MAX_WINDOW + _U32.size)
        self._length = ctypes.c_uint32()  #: length of `_tcp_info` in bytes
        self._since: Nanos = self._clock.now()  #: earliest time at which the bytes read in this turn may have arrived
        self._polled: Nanos = self._since  #: time at which the poll of this turn ended
        self._cpu: Nanos = thread_time()
        self._queued: Nanos = self._run_queue()
        self._yields = thread_yields()

    def close(self) -> None:
        """Close the file descriptor of ``schedstat``."""
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def earliest_arrival(
        self,
        transport: asyncio.BaseTransport | None = None,
        now: Nanos | None = None,
        *,
        one_message: bool = False,
        paused: bool = False,
    ) -> Nanos:
        """Return the earliest time at which the bytes that are being read may have arrived.

        Every callback that reads bytes must call this method.

        Args:
            transport: the connection's transport. The kernel reports when its socket received bytes.
            now: the time of the read, if the caller knows it.
            one_message: the bytes are one message, so the first byte arrived at the same time as the last.
            paused: reading from the connection was paused, so the last poll did not report its bytes.
        """
        if now is None:
            now = self._clock.now()
        if not self._open:
            self._begin(now)
        if transport is None:
            return self._since
        if paused:
            return now - self._last_received(transport) - 2 * TICK
        if self._doubtful:
            return min(self._since, self._polled - self._last_received(transport))
        if one_message and now - self._since > DOUBTFUL:
            return max(self._since, now - self._last_received(transport) - 2 * TICK)
        return self._since

    def follows(self, turn: int) -> bool:
        """Return whether the bytes that are read now may have been left unread in ``turn``.

        The poll after ``turn`` reports such bytes at once, so the thread does not sleep before it reads them. Call this
        method after `earliest_arrival`.
        """
        return self.turn - turn <= 1 and self._slept <= SLEPT

    def max_window(self, transport: asyncio.BaseTransport) -> Bytes:
        """Return the largest receive window that the kernel offers the peer at present, or 0 if it is unknown."""
        return self._kernel_info(transport, _MAX_WINDOW)

    def _begin(self, now: Nanos) -> None:
        self._open = True
        self.turn += 1
        self._loop.call_soon(self._end)
        cpu, queued, yields = thread_time(), self._run_queue(), thread_yields()
        waited = queued - self._queued
        self._slept = slept = 0 if yields == self._yields else now - self._polled - (cpu - self._cpu) - waited
        self._since = max(self._polled, now - waited) if slept > SLEPT else self._polled
        self._doubtful = slept > SLEPT and now - self._polled > DOUBTFUL
        self._polled, self._cpu, self._queued, self._yields = now, cpu, queued, yields

    def _end(self) -> None:
        """End the turn. The loop calls this method after it has read all bytes that the poll reported."""
        self._open = False
        self.reading_took = self._clock.now() - self._polled

    def _last_received(self, transport: asyncio.BaseTransport) -> Nanos:
        """Return the shortest possible time since the connection received its last bytes, or 0 if it is unknown."""
        age = self._kernel_info(transport, _LAST_RECEIVED) * MILLISECOND
        return max(0, age - TICK)

    def _kernel_info(self, transport: asyncio.BaseTransport, offset: int) -> int:
        """Return a field of the socket's ``struct tcp_info``, or 0 if the socket is closed or is not a TCP socket."""
        connection = transport.get_extra_info("socket")
        if connection is None:
            return 0
        info, self._length.value = self._tcp_info, len(self._tcp_info)
        # The method getsockopt() of uvloop's sockets is not used, because it duplicates the descriptor, which is slow.
        length = ctypes.byref(self._length)
        if _getsockopt(connection.fileno(), socket.IPPROTO_TCP, socket.TCP_INFO, info, length):
            return 0
        return int(_U32.unpack_from(info, offset)[0])

    def _run_queue(self) -> Nanos:
        """Return the total time that this thread has waited for a core, or 0 if the kernel does not measure it."""
        if self._schedstat < 0:
            return 0
        return int(os.pread(self._schedstat, 80, 0).split()[1])


def thread_yields() -> int:
    """Return how often the calling thread has given up its core in order to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def may_have_unread(transport: asyncio.BaseTransport) -> bool:
    """Return whether bytes of a connection may have arrived that were not read.

    The result is True if the kernel does not report such bytes.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or transport.get_extra_info("sslcontext") is not None:  # TLS may hold decrypted bytes
        return True
    try:
        unread = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(_U32.size))
    except (OSError, ValueError):  # the socket is closed
        return True
    return bool(_U32.unpack(unread)[0])


def _open_schedstat() -> int:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
