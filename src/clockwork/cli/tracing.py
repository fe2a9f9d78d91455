"""Reads the actions for a trace from a server or from the records of a simulation, and writes the trace."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from clockwork.cli.security import Credentials
from clockwork.cli.trace_events import TraceBuilder
from clockwork.client import AsyncClient
from clockwork.errors import ConnectionLostError, InvalidRequestError
from clockwork.messages.status import status_name
from clockwork.messages.timeline import EVICT, INFER, LOAD, MAX_IDS, MAX_LIMIT, Timeline, TimelineAction
from clockwork.units import SECOND, Nanos, as_seconds
from clockwork.version import __version__

POLL_SECONDS: Final = 0.1
"""Time between two reads of a server's timeline."""

SLACK: Final[Nanos] = 10 * SECOND
"""Time after the end of the trace at which the rest of a file of records is not read any more.

Records are sorted by the time at which they ended. An action that ends later began after the trace.
"""

KINDS: Final = {"Infer": INFER, "LoadWeights": LOAD, "EvictWeights": EVICT}


class _Record(Struct, frozen=True):
    """A line of a file of records. `docs/simulator.md` describes the fields. Times are in nanoseconds."""

    record: str
    run: int
    id: int = 0
    type: str = ""
    worker: str = ""
    gpu: int = 0
    model: str = ""
    arrival: Nanos | None = None
    total: Nanos = 0
    sent: Nanos | None = None
    ended: Nanos = 0
    earliest: Nanos = 0
    latest: Nanos | None = None
    predicted_start: Nanos | None = None
    expected: Nanos = 0
    begin: Nanos | None = None
    end: Nanos | None = None
    batch_size: int = 0
    requests: tuple[int, ...] = ()
    status: int = 0
    message: str = ""


class Traced(Struct, frozen=True):
    """The content of a trace.

    - ``end``: the time at which the trace ends
    - ``missed``: number of actions that the server forgot before they were read
    - ``lost``: why the connection ended before the end of the trace; empty if it did not
    """

    builder: TraceBuilder
    end: Nanos
    source: str
    missed: int = 0
    lost: str = ""


def from_server(address: str, credentials: Credentials, length: Nanos, max_events: int, *, past: bool) -> Traced:
    """Record the timeline of a server for some time, or read its recent timeline if ``past`` is true.

    Raises:
        ConnectionLostError: the server cannot be reached.
        InvalidRequestError: the server records no actions.
    """
    recording = _Recording(address, length, max_events, past=past)
    lost = ""
    try:
        asyncio.run(recording.run(credentials))
    except (KeyboardInterrupt, ConnectionLostError) as error:
        if recording.builder is None:
            raise
        lost = str(error)
    assert recording.builder is not None
    return Traced(recording.builder, recording.now, f"server {address}", recording.missed, lost)


class _Recording:
    """A recording of a server's timeline. ``builder`` is None until the server has answered."""

    def __init__(self, address: str, length: Nanos, max_events: int, *, past: bool) -> None:
        self._address = address
        self._length, self._max_events, self._past = length, max_events, past
        self.builder: TraceBuilder | None = None
        self.now: Nanos = 0
        self.missed = 0
        self._last = 0

    async def run(self, credentials: Credentials) -> None:
        """Connect to the server, and read its timeline until the end of the trace."""
        async with AsyncClient(self._address, **credentials.arguments()) as client:
            past = as_seconds(self._length) if self._past else 0.0
            found = await client.timeline(past=past, horizon=0, limit=MAX_LIMIT)
            self.now = found.now
            self.builder = builder = TraceBuilder(found.now - (self._length if self._past else 0), self._max_events)
            if not self._past:
                print(
                    f"recording for {as_seconds(self._length):g} s; Ctrl-C ends it early", file=sys.stderr, flush=True
                )
            await self._rest(client, found, past)
            while not self._past and self.now < builder.begin + self._length:
                await asyncio.sleep(min(POLL_SECONDS, as_seconds(builder.begin + self._length - self.now)))
                await self._rest(client, await self._after(client, 0.0), 0.0)
            found = await client.timeline(self._last, past=3600.0, limit=MAX_LIMIT)
            self._add(found)
            for action in found.upcoming:
                builder.add(action)

    async def _after(self, client: AsyncClient, past: float) -> Timeline:
        """Return the actions that have ended since the last read."""
        return await client.timeline(self._last, past=past or 3600.0, horizon=0, limit=MAX_LIMIT)

    async def _rest(self, client: AsyncClient, found: Timeline, past: float) -> None:
        """Add the actions in ``found``, and read the actions that did not fit into it."""
        self._add(found)
        while found.last < found.latest:
            found = await self._after(client, past)
            self._add(found)

    def _add(self, found: Timeline) -> None:
        assert self.builder is not None
        self.now, self._last = found.now, found.last
        self.missed += found.dropped
        for device in found.devices:
            self.builder.add_device(device)
        for action in found.ended:
            self.builder.add(action)
        self.builder.add_counter(found.now, "pending requests", found.pending)


def from_records(path: Path, run: int, start: Nanos, length: Nanos, max_events: int) -> Traced:
    """Read a run of a simulation from the file that ``clockwork sim --records`` has written.

    Raises:
        InvalidRequestError: the file cannot be read, has wrong content, or contains no actions of the run.
    """
    builder: TraceBuilder | None = None
    waiting: list[TimelineAction] = []  #: actions that ended before the first response
    pending: list[tuple[Nanos, int]] = []
    end: Nanos = 0
    for record in _records(path, run):
        if record.record == "request" and record.arrival is not None:
            if builder is None:
                builder = TraceBuilder(record.arrival + start, max_events)
                end = builder.begin + length
                _add_until(builder, waiting, end)
            answered = record.arrival + record.total
            if answered >= builder.begin and record.arrival <= end:
                pending += [(max(record.arrival, builder.begin), 1), (answered, -1)]
        elif record.record == "action":
            if builder is None:
                waiting.append(_action(record))
            elif record.ended > end + SLACK:
                break
            else:
                _add_until(builder, [_action(record)], end)
    if builder is None or not builder.actions:
        raise InvalidRequestError(
            f"{path} has no actions of run {run} in this time; clockwork sim --records writes such a file"
        )
    requests = 0
    for at, change in sorted(pending):
        requests += change
        if at <= end:
            builder.add_counter(at, "pending requests", requests)
    return Traced(builder, end, f"run {run} of {path.name}")


def _add_until(builder: TraceBuilder, actions: list[TimelineAction], end: Nanos) -> None:
    """Add the actions that began before ``end`` and ended after the begin of the trace."""
    for action in actions:
        if (action.arrived or 0) >= builder.begin and (action.begin or action.arrived or 0) <= end:
            builder.add(action)
    actions.clear()


def _records(path: Path, run: int) -> Iterator[_Record]:
    """Yield the records of one run."""
    decode, number = msgspec.json.Decoder(_Record).decode, 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                number += 1
                record = decode(line)
                if record.run > run:
                    return
                if record.record == "action" and (record.type not in KINDS or record.sent is None):
                    raise msgspec.ValidationError("an action has no type or was not sent")
                if record.run == run:
                    yield record
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"{path}, line {number}, is not a record of clockwork sim: {error}; use a file of sim --records"
        raise InvalidRequestError(text) from None


def _action(record: _Record) -> TimelineAction:
    """Return an action of a simulation as an action of a timeline."""
    begin, expected = record.predicted_start, record.expected
    return TimelineAction(
        0,
        record.id,
        f"{record.worker}/gpu{record.gpu}",
        KINDS[record.type],
        record.model,
        rows=record.batch_size,
        count=len(record.requests),
        requests=tuple(map(str, record.requests[:MAX_IDS])),
        sent=record.sent,
        arrived=record.ended,
        earliest=record.earliest or None,
        latest=record.latest,
        planned_begin=begin,
        planned_end=begin + expected if begin and expected else None,
        begin=record.begin,
        end=record.end,
        status=status_name(record.status),
        error=record.message,
    )


def write_trace(path: Path, traced: Traced) -> None:
    """Write a trace to a file, and print its size and what was left out.

    Raises:
        ConnectionLostError: the connection ended during the recording. The trace has been written.
        InvalidRequestError: the file cannot be written.
    """
    builder = traced.builder
    about = {"clockwork": __version__, "source": traced.source, "missed_actions": traced.missed}
    try:
        with path.open("wb") as file:
            file.writelines(builder.document(about))
    except OSError as error:
        raise InvalidRequestError(f"cannot write {path}: {error.strerror}") from None
    length = as_seconds(max(0, traced.end - builder.begin))
    plural = "" if builder.devices == 1 else "s"
    print(
        f"{path}: {builder.actions:,} actions of {builder.devices} device{plural} in {length:.3g} s, "
        f"{path.stat().st_size / 1e6:.1f} MB; open it at https://ui.perfetto.dev"
    )
    if builder.dropped:
        text = f"{builder.dropped:,} actions were left out; raise --max-events or shorten --seconds"
        print(text, file=sys.stderr)
    if traced.missed:
        print(f"the server forgot {traced.missed:,} actions before they were read", file=sys.stderr)
    if traced.lost:
        raise ConnectionLostError(f"the trace is shorter than requested: {traced.lost}")
