"""Determines when the bytes that are being read reached this host.

An event loop learns of bytes when it reads them. They may have waited since its previous poll of the sockets. If
deadlines counted from the read, clients would wait longer than promised. So the arrival time of the bytes is taken to
be the earliest possible one.

Theory of operation. The loop alternates between a *poll*, which reports every socket that has bytes, and work. If the
previous poll did not report the bytes, they arrived after that poll. If the thread slept in the poll, the first bytes
woke it. So their arrival time is the time when the thread ran again, minus the time that it had waited for a core
(``/proc/thread-self/schedstat``: time on the run queue). If it did not sleep, they may have arrived at any time since
the previous poll.

In three cases that is not enough, and the kernel is asked how long ago the socket received its last bytes
(``tcpi_last_data_recv`` of TCP_INFO, in milliseconds of a clock that ticks every 4 ms or less):

- A process that was stopped (SIGSTOP, a frozen virtual machine, a container out of quota) looks like one that slept, so
  the bytes may be older.
- The same holds if the loop slept in one turn and worked long in the next, and nothing was read in between.
- After a long turn, the bytes of a client that sends one request at a time may be much younger than the last poll.
"""

import asyncio
import ctypes
import os
import socket
import struct
from typing import Final

from clockwork.clock import Clock, MonotonicClock, thread_time
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

SLEPT: Final[Nanos] = 20 * MICROSECOND
"""If a thread neither ran nor waited for a core for longer than this time, it slept in the poll."""

DOUBTFUL: Final[Nanos] = 12 * MILLISECOND
"""The kernel is asked if the loop slept and nothing was read for longer than this, or if a turn took longer."""

TICK: Final[Nanos] = 4 * MILLISECOND
"""Error of the kernel's answer, in either direction, at 250 ticks a second."""

_LAST_RECEIVED: Final = 52
"""Offset of ``tcpi_last_data_recv`` in ``struct tcp_info`` (linux/tcp.h)."""

_U32: Final = struct.Struct("=I")

_getsockopt: Final = ctypes.PyDLL(None).getsockopt  # PyDLL: the call does not wait, so it keeps the interpreter's lock


class Arrivals:
    """Follows the turns of one event loop; create and use it on the thread of that loop.

    A turn counts if something is read in it; it begins with the first call of `earliest_arrival` after a poll.
    """

    __slots__ = (
        "_clock", "_cpu", "_doubtful", "_length", "_loop", "_open", "_polled", "_queued", "_schedstat", "_since",
        "_slept", "_tcp_info", "reading_took", "turn",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock | None = None) -> None:
        """Start before the first turn; in that turn, the arrival time of bytes is the time when they are read."""
        self._clock: Clock = clock or MonotonicClock()
        self._loop = loop
        self._open = False
        self.turn = 0  #: number of turns in which something was read
        self._slept: Nanos = 0  #: time slept since the last turn in which something was read
        self._doubtful = False  #: the loop slept and may have worked since, so the kernel is asked
        self.reading_took: Nanos = 0  #: time that the last turn spent on reading
        self._schedstat = _open_schedstat()
        self._tcp_info = ctypes.create_string_buffer(_LAST_RECEIVED + _U32.size)
        self._length = ctypes.c_uint32()  #: of `_tcp_info`
        self._since: Nanos = self._clock.now()  #: the earliest possible arrival of bytes that are read in this turn
        self._polled: Nanos = self._since  #: when the poll of this turn ended
        self._cpu: Nanos = thread_time()
        self._queued: Nanos = self._run_queue()

    def close(self) -> None:
        """Close the file descriptor."""
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
        """Return the earliest moment at which bytes that are read now may have arrived, on the clock of the host.

        Every read callback calls this. ``transport`` is the connection's; in case of doubt the kernel is asked about
        it. ``now`` is the time of the read, if the caller knows it. ``one_message``: the bytes were sent at once, so
        the first are as old as the last. ``paused``: the connection was not read for a while, so the last poll did not
        report its bytes.
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
        """Return whether bytes that were left unread in ``turn`` may be read now; call it after `earliest_arrival`.

        The loop's next poll reports such bytes at once, so the thread does not sleep before they are read.
        """
        return self.turn - turn <= 1 and self._slept <= SLEPT

    def _begin(self, now: Nanos) -> None:
        self._open = True
        self.turn += 1
        self._loop.call_soon(self._end)
        cpu, queued = thread_time(), self._run_queue()
        waited = queued - self._queued
        self._slept = slept = now - self._polled - (cpu - self._cpu) - waited
        self._since = max(self._polled, now - waited) if slept > SLEPT else self._polled
        self._doubtful = slept > SLEPT and now - self._polled > DOUBTFUL
        self._polled, self._cpu, self._queued = now, cpu, queued

    def _end(self) -> None:
        """End the turn: everything that the poll reported was read."""
        self._open = False
        self.reading_took = self._clock.now() - self._polled

    def _last_received(self, transport: asyncio.BaseTransport) -> Nanos:
        """Return a time that has passed at least since the connection received its last bytes; 0 if unknown."""
        connection = transport.get_extra_info("socket")
        if connection is None:
            return 0
        info, self._length.value = self._tcp_info, len(self._tcp_info)
        # getsockopt() of uvloop's sockets duplicates the descriptor, which takes longer than everything else here.
        length = ctypes.byref(self._length)
        if _getsockopt(connection.fileno(), socket.IPPROTO_TCP, socket.TCP_INFO, info, length):
            return 0  # not TCP, or closed
        age: Nanos = _U32.unpack_from(info, _LAST_RECEIVED)[0] * MILLISECOND
        return max(0, age - TICK)

    def _run_queue(self) -> Nanos:
        """Return the total time that this thread has waited for a core; 0 if the kernel does not count it."""
        if self._schedstat < 0:
            return 0
        return int(os.pread(self._schedstat, 80, 0).split()[1])


def _open_schedstat() -> int:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
