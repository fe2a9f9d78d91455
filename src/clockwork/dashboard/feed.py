"""Makes the snapshots that the dashboard draws.

One task makes all snapshots, in steps between the other work of the event loop. All viewers get the same bytes. Without
a viewer nothing is made. The pause after a snapshot grows with the time that the snapshot took, so snapshots take at
most `MAX_SHARE` of the loop's time.

A message is one event of a stream of server-sent events. The first message of a viewer contains every section. A later
message contains the sections that are new since the previous message. A viewer that reads too slowly misses messages,
and then gets a message with every section.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec

from clockwork.clock import Clock, MonotonicClock, monotonic_epoch
from clockwork.controller.description import Description
from clockwork.dashboard.history import History
from clockwork.dashboard.log_lines import LogLines
from clockwork.dashboard.snapshot import ModelRows, devices_section, server_section
from clockwork.dashboard.timeline import ReadTimeline, TimelineSection
from clockwork.dashboard.units import ms
from clockwork.errors import ClockworkError
from clockwork.messages.timeline import Timeline
from clockwork.stepping import BACKGROUND_REST, Stepper
from clockwork.steps import Steps
from clockwork.units import MILLISECOND, SECOND, Nanos

MAX_VIEWERS: Final = 20
"""Largest number of viewers at a time."""

MIN_INTERVAL: Final[Nanos] = 200 * MILLISECOND
"""Shortest time between the beginnings of two snapshots."""

MAX_INTERVAL: Final[Nanos] = 2 * SECOND
"""Longest time between the beginnings of two snapshots, unless a snapshot itself takes longer."""

MAX_SHARE: Final = 0.01
"""Largest share of the event loop's time that snapshots take, if `MAX_INTERVAL` permits it."""

SLOW_SECTIONS: Final[Nanos] = 1 * SECOND
"""Time between two descriptions of the devices and the server."""

MODELS_AT_A_TIME: Final = 25
"""Number of models that a snapshot describes. The snapshots describe the models in turns."""

MAX_MODELS: Final = 2000
"""Largest number of models that the page shows."""

FULL: Final = "viewer limit reached ({limit}); close another page of the dashboard and retry"
"""Error message for a viewer beyond the limit."""

log = logging.getLogger("clockwork.dashboard")

_encode: Final = msgspec.json.Encoder().encode


class ViewersFullError(ClockworkError):
    """Too many pages show the dashboard at the same time."""


class Feed:
    """The stream of snapshots of one server. Use this object on one running event loop."""

    def __init__(
        self,
        describe: Callable[[], Description],
        read_timeline: ReadTimeline,
        stepper: Stepper,
        lines: LogLines,
        *,
        max_viewers: int = MAX_VIEWERS,
        clock: Clock | None = None,
    ) -> None:
        """Create a feed without viewers.

        Args:
            describe: returns the controller's current state.
            read_timeline: reads what the devices did and will do.
            stepper: runs the steps.
            lines: the last lines of the log.
            max_viewers: largest number of viewers.
            clock: a clock for tests.
        """
        self._describe, self._read_timeline, self._stepper, self._lines = describe, read_timeline, stepper, lines
        self._max_viewers = max_viewers
        self._clock: Clock = MonotonicClock() if clock is None else clock
        self._viewers = 0
        self._making: asyncio.Task[None] | None = None
        self._snapshots: _Snapshots | None = None
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def viewers(self) -> int:
        """The number of viewers."""
        return self._viewers

    def close(self) -> None:
        """End the streams of all viewers."""
        self._closed = True
        self._stop()

    @contextmanager
    def viewing(self) -> Iterator["Viewer"]:
        """Add a viewer while the context lasts.

        Raises:
            ViewersFullError: there are too many viewers.
        """
        if self._viewers >= self._max_viewers:
            raise ViewersFullError(FULL.format(limit=self._max_viewers))
        self._viewers += 1
        try:
            yield Viewer(self)
        finally:
            self._viewers -= 1
            if not self._viewers:
                self._stop()

    def running(self) -> "_Snapshots | None":
        """Return the snapshots, and begin to make them if nothing makes them. None: the feed is closed."""
        if self._snapshots is None and not self._closed:
            self._snapshots = _Snapshots(self._lines, self._read_timeline)
            self._making = asyncio.ensure_future(self._make(self._snapshots))
        return self._snapshots

    def makes(self, snapshots: "_Snapshots") -> bool:
        """Return whether the feed still makes these snapshots."""
        return self._snapshots is snapshots

    async def changed(self) -> None:
        """Wait until a snapshot is complete, or until the snapshots end."""
        await self._changed.wait()

    def _stop(self) -> None:
        if self._making is not None:
            self._making.cancel()
        self._making = self._snapshots = None
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _make(self, snapshots: "_Snapshots") -> None:
        try:
            while True:
                began = self._clock.now()
                timed = _Timed(self._clock)
                timeline = await snapshots.timeline.read()
                steps = snapshots.steps(self._describe(), timeline)
                await self._stepper.run(timed.run(steps), rest=BACKGROUND_REST)
                self._wake()
                spent = timed.spent + snapshots.timeline.spent
                await asyncio.sleep(pause(spent, self._clock.now() - began) / SECOND)
        except Exception:
            log.exception("the streams of the dashboard end, because a snapshot failed")
            self._making = None
            self._stop()


def pause(spent: Nanos, elapsed: Nanos) -> Nanos:
    """Return the time from the end of a snapshot to the beginning of the next one.

    ``spent`` is the time for which the snapshot used the event loop. ``elapsed`` is the time since it began.
    """
    return max(0, min(MAX_INTERVAL, max(MIN_INTERVAL, round(spent / MAX_SHARE))) - elapsed)


class Viewer:
    """One viewer of a feed."""

    def __init__(self, feed: Feed) -> None:
        """Start with a viewer that has seen nothing."""
        self._feed = feed
        self._snapshots = feed.running()
        self._seen = 0  #: number of the last snapshot for which the viewer got a message
        self._missed = True  #: whether the viewer lacks an earlier message

    async def next(self) -> bytes | None:
        """Wait for a snapshot that the viewer has not seen, and return its message. None: the stream has ended."""
        snapshots = self._snapshots
        while snapshots is not None and self._feed.makes(snapshots):
            if snapshots.number > self._seen:
                missed = self._missed or snapshots.number > self._seen + 1
                self._seen, self._missed = snapshots.number, False
                return snapshots.everything() if missed else snapshots.new
            await self._feed.changed()
        return None

    def miss(self) -> None:
        """Record that the last message was not sent. So the next message contains every section."""
        self._missed = True


class _Timed:
    """Measures the time of steps. ``spent`` is the sum."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.spent: Nanos = 0

    def run(self, steps: Steps[None]) -> Steps[None]:
        with suppress(StopIteration):
            while True:
                began = self._clock.now()
                try:
                    next(steps)
                finally:
                    self.spent += self._clock.now() - began
                yield


class _Snapshots:
    """The snapshots since the first viewer came.

    ``number`` is the number of the last snapshot, or 0 if there is none. ``new`` is the message of the last snapshot
    for viewers that have the previous one.
    """

    def __init__(self, lines: LogLines, read_timeline: ReadTimeline) -> None:
        self.timeline = TimelineSection(read_timeline)
        self.number = 0
        self.new = b""
        self._lines = lines
        self._last_line = 0
        self._history = History()
        self._models = ModelRows(MODELS_AT_A_TIME, MAX_MODELS)
        self._kept: dict[str, Any] = {}  #: the last version of each section that does not grow
        self._described: Nanos = 0  #: time of the last description of the slow sections
        self._whole: tuple[int, bytes] = 0, b""  #: the last message with all sections, and the number of its snapshot

    def steps(self, server: Description, timeline: Timeline | None) -> Steps[None]:
        """Make the next snapshot from a description of the server, and from a timeline unless nothing is recorded."""
        fresh: dict[str, Any] = {"now": ms(server.now), "outstanding": server.outstanding, "timeline": None}
        yield
        if timeline is not None:
            fresh["timeline"] = yield from self.timeline.described(timeline)
            yield
        if not self._described or server.now - self._described >= SLOW_SECTIONS:
            self._described = server.now
            fresh["server"] = server_section(server)
            fresh["epoch"] = ms(monotonic_epoch())
            yield
            fresh["devices"] = yield from devices_section(server)
            yield
        points = yield from self._history.update(server)
        rows, ended = yield from self._models.next(server)
        lines = self._lines.after(self._last_line)
        self._last_line = lines[-1].number if lines else self._last_line
        self._kept |= fresh
        changed = fresh | {"models": rows, "turn_ended": ended, "other_models": self._models.others}
        if points:
            changed["history"] = points
        if lines:
            changed["log"] = lines
        yield
        self.new = event(changed)
        self.number += 1

    def everything(self) -> bytes:
        """Return a message with all sections."""
        if self._whole[0] != self.number:
            sections = self._kept | {
                "whole": True,
                "models": self._models.all(),
                "other_models": self._models.others,
                "history": self._history.points,
                "log": self._lines.after(0),
            }
            self._whole = self.number, event(sections)
        return self._whole[1]


def event(content: Any) -> bytes:
    """Return a server-sent event whose data is JSON."""
    return b"data: " + _encode(content) + b"\n\n"
