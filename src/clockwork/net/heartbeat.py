"""Checks that the peer is alive, and estimates its clock.

Rules of the file: any received byte counts as a sign of life, so a busy connection needs no Ping. The time for which
this side's event loop stood still does not count against the peer: a tick counts for one interval, however late it is,
and bytes that arrived while the loop stood still are read before the peer is given up. Silence is reported long before
it ends the connection.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork.clock import Clock
from clockwork.messages.link import Ping, Pong
from clockwork.units import Nanos, as_seconds, show_duration
from clockwork.wire.clock_offset import ClockOffset

FIRST_SAMPLES: Final = 8
"""Number of Pings sent in succession when a connection opens, so that the clock offset is good for the first action."""

LAST_READS: Final = 2
"""Turns of the event loop between the time-out and the end of the connection. A loop runs its timers before it reads,
and a callback may run in the turn in which it is scheduled. So only the second turn certainly follows a read."""


class Heartbeat:
    """Pings the peer of one connection, and measures its silence."""

    __slots__ = (
        "_clock", "_due", "_heard_at", "_interval", "_loop", "_measure_clock", "_on_silence", "_on_silent", "_send",
        "_silent_after", "_timeout", "_timer", "_verdict", "clock_offset", "heard", "silent", "suspended",
    )  # fmt: skip

    def __init__(
        self,
        *,
        interval: Nanos,
        timeout: Nanos,
        measure_clock: bool,
        clock: Clock,
        send: Callable[[Ping], None],
        on_silence: Callable[[str], None],
        silent_after: Nanos = 0,
        on_silent: Callable[[bool], None] = lambda silent: None,
    ) -> None:
        """``interval`` to ``silent_after`` are as in `LinkConfig`; ``send`` sends a Ping.

        ``on_silent`` is called when `silent` changes. ``on_silence`` receives the reason when the connection must end.
        """
        self.clock_offset = ClockOffset()
        self.heard = False
        """Whether the connection has received something since the last tick; the connection sets it."""
        self.suspended = False
        """Whether this side has paused reading, so that silence means nothing; the connection sets it."""
        self.silent = False
        """Whether nothing was received for ``silent_after``; checked every ``interval``."""
        self._interval = interval
        self._timeout = timeout
        self._measure_clock = measure_clock
        self._clock = clock
        self._send = send
        self._on_silence = on_silence
        self._silent_after = silent_after
        self._on_silent = on_silent
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._verdict: asyncio.Handle | None = None
        self._heard_at: Nanos = 0
        self._due: Nanos = 0

    def start(self) -> None:
        """Start when the connection is open."""
        now = self._clock.now()
        self._heard_at = now
        self._schedule(now)
        if self._measure_clock:
            self._send(Ping(now))

    def stop(self) -> None:
        """Stop when the connection is no longer open."""
        for handle in (self._timer, self._verdict):
            if handle is not None:
                handle.cancel()
        self._timer = self._verdict = None

    def pong(self, pong: Pong, received_at: Nanos) -> None:
        """Handle the answer to a Ping."""
        self.clock_offset.add(ping_sent=pong.ping_sent, received=pong.received, pong_sent=pong.sent, now=received_at)
        if self._measure_clock and self.clock_offset.samples < FIRST_SAMPLES:
            self._send(Ping(self._clock.now()))

    def _schedule(self, now: Nanos) -> None:
        self._due = now + self._interval
        self._timer = self._loop.call_later(as_seconds(self._interval), self._tick)

    def _tick(self) -> None:
        now = self._clock.now()
        silent = not (self.heard or self.suspended)
        self.heard = False
        if silent:
            self._heard_at += max(0, now - self._due)  # this tick is late: this side stood still
            if now - self._heard_at >= self._timeout:
                self._judge(LAST_READS)
                return
        else:
            self._heard_at = now
        self._go_on(now, silent)

    def _judge(self, reads: int) -> None:
        """Give the peer up, unless one of the next reads brings something."""
        self._verdict = None
        if self.heard or self.suspended:
            now = self._clock.now()
            self._heard_at = now
            self._go_on(now, silent=False)
        elif reads:
            self._verdict = self._loop.call_soon(self._judge, reads - 1)
        else:
            self._on_silence(
                f"nothing was received for {show_duration(self._timeout)}: the peer hangs, or the network is down"
            )

    def _go_on(self, now: Nanos, silent: bool) -> None:
        self._schedule(now)
        if silent or self._measure_clock:
            self._send(Ping(now))
        self._note(silent and 0 < self._silent_after <= now - self._heard_at)

    def _note(self, silent: bool) -> None:
        if silent is not self.silent:
            self.silent = silent
            self._on_silent(silent)
