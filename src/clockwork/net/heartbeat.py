"""Checks that the peer of a connection is alive, and estimates the offset of the peer's clock.

A peer is alive if it sends any byte, so a busy connection needs no Pings. If this side's event loop stops for a while,
that time does not count as silence of the peer. Each check counts as one interval, even if the check is late. Before a
connection is ended, all bytes that have arrived are read. Silence is reported long before the connection is ended
because of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork.clock import Clock
from clockwork.messages.link import Ping, Pong
from clockwork.units import Nanos, as_seconds, show_duration
from clockwork.wire.clock_offset import ClockOffset

FIRST_SAMPLES: Final = 8
"""Number of Pings that are sent one directly after the other when a connection opens.

These Pings make the estimate of the clock offset accurate before the first action is sent.
"""

LAST_READS: Final = 2
"""Number of turns of the event loop between the time-out and the end of the connection.

An event loop runs its timers before it reads, and may run a callback in the same turn in which the callback was
scheduled. So only the second turn guarantees that all sockets were read.
"""


class Heartbeat:
    """Sends Pings to the peer of one connection, and measures how long the peer is silent."""

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
        """Create a heartbeat; `start` starts it.

        Args:
            interval: ``heartbeat_interval`` of `LinkConfig`.
            timeout: ``heartbeat_timeout`` of `LinkConfig`.
            measure_clock: whether to estimate the offset of the peer's clock.
            clock: the clock of this machine.
            send: sends a Ping.
            on_silence: called with the reason when the connection must end.
            silent_after: ``silent_after`` of `LinkConfig`.
            on_silent: called when `silent` changes.
        """
        self.clock_offset = ClockOffset()
        self.heard = False
        """Whether bytes were received since the last check. The connection sets this attribute."""
        self.suspended = False
        """Whether this side has paused reading, so that silence means nothing. The connection sets this attribute."""
        self.silent = False
        """Whether nothing was received for ``silent_after``. The attribute is updated every ``interval``."""
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
        """Begin to check the peer. The connection calls this method when it is open."""
        now = self._clock.now()
        self._heard_at = now
        self._schedule(now)
        if self._measure_clock:
            self._send(Ping(now))

    def stop(self) -> None:
        """Stop the checks of the peer. The connection calls this method when it is no longer open."""
        for handle in (self._timer, self._verdict):
            if handle is not None:
                handle.cancel()
        self._timer = self._verdict = None

    def pong(self, pong: Pong, received_at: Nanos) -> None:
        """Handle a Pong, which is the peer's answer to a Ping."""
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
            self._heard_at += max(0, now - self._due)  # a late check means that this side was stopped for a while
            if now - self._heard_at >= self._timeout:
                self._judge(LAST_READS)
                return
        else:
            self._heard_at = now
        self._go_on(now, silent)

    def _judge(self, reads: int) -> None:
        """End the connection, unless bytes arrive in the next ``reads`` turns of the event loop."""
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
