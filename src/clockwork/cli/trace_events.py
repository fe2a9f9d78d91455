"""Builds a trace in Chrome's trace event format, which Perfetto and ``chrome://tracing`` open.

The processes of the trace are the devices. The threads of a device are its lanes, and a lane ``plan`` with the
predicted executions. Times in the trace are in microseconds after its begin. Arrows connect the plan of an action, the
copy of its inputs, its execution and the copy of its outputs. Other arrows lead from a load to the next batch of the
model.

The format allows no overlapping slices in a thread. So a lane has several threads if its slices overlap. Predictions
overlap often, because each action is predicted at a different time.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from clockwork.messages.timeline import INFER, LOAD, TimelineAction
from clockwork.units import MICROSECOND, Nanos

LANES: Final = ("load", "input", "exec", "output", "plan")
"""The lanes of a device, in the order in which they are shown."""

CONTROLLER: Final = 1
"""Process of the trace that has the controller's counters. The processes of devices follow it."""

MAX_ROWS: Final = 100
"""Number of threads that are reserved for one lane."""

DEFAULT_VERSION: Final = "1"

Event = dict[str, Any]


class _Slice:
    """A span of time in a lane. ``row`` is the number of its thread in the lane."""

    __slots__ = ("arguments", "begin", "category", "device", "end", "lane", "name", "row")

    def __init__(
        self, device: str, lane: str, begin: Nanos, end: Nanos, name: str, category: str, arguments: Event
    ) -> None:
        self.device, self.lane, self.begin, self.end = device, lane, begin, end
        self.name, self.category, self.arguments = name, category, arguments
        self.row = 0


class TraceBuilder:
    """Collects actions and counters, and returns them as a trace of limited size."""

    def __init__(self, begin: Nanos, max_events: int) -> None:
        """``begin`` is the time at which the trace begins. Work that ended before is left out."""
        self.begin = begin
        self.events = 0  #: number of events so far, without the names of processes and threads
        self.dropped = 0  #: number of actions that were left out because of the limit
        self.actions = 0
        self._max_events = max_events
        self._devices: dict[str, None] = {}
        self._slices: list[_Slice] = []
        self._flows: list[tuple[str, list[_Slice]]] = []
        self._instants: list[tuple[Nanos, str, TimelineAction]] = []
        self._counters: list[tuple[Nanos, str, Mapping[str, int]]] = []
        self._changes: dict[str, list[tuple[Nanos, int]]] = {}  #: changes of the number of outstanding actions
        self._loads: dict[tuple[str, str], _Slice] = {}  #: the last load of each device and model without a batch since

    def add_device(self, device: str) -> None:
        """Add a device, which is shown even if it does nothing."""
        self._devices[device] = None

    @property
    def devices(self) -> int:
        """Number of devices in the trace."""
        return len(self._devices)

    def add_counter(self, now: Nanos, name: str, value: int) -> None:
        """Add a value of one of the controller's counters."""
        if self.events < self._max_events:
            self.events += 1
            self._counters.append((now, name, {name: value}))

    def add(self, action: TimelineAction) -> None:
        """Add an action that has ended, that was sent, or that is planned."""
        slices = [each for each in _slices(action) if each.end >= self.begin]
        actual = [each for each in slices if each.lane != "plan"]
        failed = bool(action.status) and action.begin is None
        if not slices and not failed:
            return
        executed = next((each for each in actual if each.lane == "exec"), None)
        load = None if executed is None else self._loads.get((action.device, action.model))
        steps = sorted(slices, key=lambda each: each.begin)  # a flow must not lead back in time
        flows = [(f"action {action.id}", steps)] if len(steps) > 1 else []
        if executed is not None and load is not None:
            flows.append((f"load {load.arguments['action']}", [load, executed]))
        new = len(slices) + failed + sum(len(steps) for _, steps in flows) + 2 * (action.sent is not None)
        if self.events + new > self._max_events:
            self.dropped += 1
            return
        self.events += new
        self.actions += 1
        self.add_device(action.device)
        self._slices += slices
        self._flows += flows
        if failed:
            self._instants.append((action.arrived or self.begin, "load" if action.kind == LOAD else "exec", action))
        if load is not None:
            del self._loads[action.device, action.model]
        elif action.kind == LOAD and actual:
            self._loads[action.device, action.model] = actual[0]
        if action.sent is not None:
            changes = self._changes.setdefault(action.device, [])
            changes.append((max(action.sent, self.begin), 1))
            if action.arrived is not None:
                changes.append((action.arrived, -1))

    def document(self, about: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield the parts of the trace as JSON, with one event per line. ``about`` is added as ``otherData``."""
        threads = self._assign_rows()
        processes = {device: CONTROLLER + 1 + number for number, device in enumerate(self._devices)}
        events = [*self._timed(processes)]
        events.sort(key=lambda event: (event["ts"], _RANK[event["ph"]]))
        encode = msgspec.json.encode
        yield b'{"traceEvents":[\n'
        names = [*_names(processes, threads)]
        for number, event in enumerate(names + events):
            yield (b",\n" if number else b"") + encode(event)
        yield b'\n],"displayTimeUnit":"ms","otherData":' + encode({**about, "dropped_actions": self.dropped}) + b"}\n"

    def _assign_rows(self) -> dict[tuple[str, str], int]:
        """Assign a thread to each slice, so that slices of a thread do not overlap.

        Return the number of threads of each lane.
        """
        ends: dict[tuple[str, str], list[Nanos]] = {}  #: end of the last slice of each thread
        for each in sorted(self._slices, key=lambda each: each.begin):
            rows = ends.setdefault((each.device, each.lane), [])
            free = next((row for row, end in enumerate(rows) if end <= each.begin), None)
            if free is not None:
                each.row = free
            elif len(rows) < MAX_ROWS:
                each.row = len(rows)
                rows.append(0)
            rows[each.row] = max(rows[each.row], each.end)
        return {lane: len(rows) for lane, rows in ends.items()}

    def _timed(self, processes: Mapping[str, int]) -> Iterator[Event]:
        """Yield the events that have a time, in any order."""
        for each in self._slices:
            begin = max(each.begin, self.begin)
            yield {
                "ph": "X",
                "name": each.name,
                "cat": each.category,
                "ts": self._us(begin),
                "dur": (each.end - begin) / MICROSECOND,
                **_place(processes[each.device], each.lane, each.row),
                "args": each.arguments,
            }
        for name, steps in self._flows:
            for number, each in enumerate(steps):
                phase = "s" if number == 0 else "f" if number == len(steps) - 1 else "t"
                event: Event = {"ph": phase, "name": name.partition(" ")[0], "cat": "flow", "id": name}
                event |= {
                    "ts": self._us(max(each.begin, self.begin)),
                    **_place(processes[each.device], each.lane, each.row),
                }
                yield event | {"bp": "e"} if phase != "s" else event
        for at, lane, action in self._instants:
            place = _place(processes[action.device], lane, 0)
            name = f"{_label(action)}: {action.status}"
            yield {
                "ph": "i",
                "s": "t",
                "name": name,
                "cat": "failed",
                "ts": self._us(at),
                **place,
                "args": _arguments(action) | {"error": action.error},
            }
        for at, name, values in self._counters:
            yield {"ph": "C", "name": name, "ts": self._us(at), "pid": CONTROLLER, "tid": 0, "args": values}
        for device, changes in self._changes.items():
            outstanding = 0
            for at, change in sorted(changes):
                outstanding += change
                place = {"pid": processes[device], "tid": 0}
                yield {"ph": "C", "name": "outstanding", "ts": self._us(at), **place, "args": {"actions": outstanding}}

    def _us(self, at: Nanos) -> float:
        return max(0, at - self.begin) / MICROSECOND


_RANK: Final = {"X": 0, "i": 1, "s": 2, "t": 3, "f": 4, "C": 5}
"""Order of events with the same time. A flow event belongs to a slice that stands before it."""


def _place(process: int, lane: str, row: int) -> Event:
    """Return the process and the thread of a slice. The number of a thread is unique in the whole trace."""
    return {"pid": process, "tid": (process * len(LANES) + LANES.index(lane)) * MAX_ROWS + row + 1}


def _names(processes: Mapping[str, int], threads: Mapping[tuple[str, str], int]) -> Iterator[Event]:
    """Yield the events that name the processes and the threads, and define their order."""
    for name, process in ("controller", CONTROLLER), *processes.items():
        yield {"ph": "M", "name": "process_name", "ts": 0, "pid": process, "tid": 0, "args": {"name": name}}
        yield {
            "ph": "M",
            "name": "process_sort_index",
            "ts": 0,
            "pid": process,
            "tid": 0,
            "args": {"sort_index": process},
        }
    for device, process in processes.items():
        for lane in LANES:
            for row in range(max(1, threads.get((device, lane), 0))):
                place = _place(process, lane, row)
                name = lane if row == 0 else f"{lane} {row + 1}"
                yield {"ph": "M", "name": "thread_name", "ts": 0, **place, "args": {"name": name}}
                yield {"ph": "M", "name": "thread_sort_index", "ts": 0, **place, "args": {"sort_index": place["tid"]}}


def _label(action: TimelineAction) -> str:
    return action.model if action.version in ("", DEFAULT_VERSION) else f"{action.model}:{action.version}"


def _slices(action: TimelineAction) -> Iterator[_Slice]:
    """Yield the slices of an action in the order of its steps: plan, input, execution, output."""
    device, name, arguments = action.device, _label(action), _arguments(action)
    if action.planned_begin is not None and action.planned_end is not None:
        about = arguments | {"late": action.late}
        yield _Slice(device, "plan", action.planned_begin, action.planned_end, name, "plan", about)
    if action.input is not None:
        yield _Slice(device, "input", *action.input, name, "input", arguments)
    if action.begin is not None and action.end is not None:
        about = arguments | {"late": action.late, "status": action.status}
        if action.planned_begin is not None:
            about["began_after_plan_us"] = (action.begin - action.planned_begin) / MICROSECOND
        if action.planned_end is not None:
            about["ended_after_plan_us"] = (action.end - action.planned_end) / MICROSECOND
        if action.earliest is not None:
            about["began_after_earliest_us"] = (action.begin - action.earliest) / MICROSECOND
        if action.latest is not None:
            about["began_before_latest_us"] = (action.latest - action.begin) / MICROSECOND
        lane = "exec" if action.kind == INFER else "load"
        title = name if action.kind in (INFER, LOAD) else f"{action.kind} {name}"
        yield _Slice(device, lane, action.begin, action.end, title, action.kind, about)
    if action.output is not None:
        yield _Slice(device, "output", *action.output, name, "output", arguments)


def _arguments(action: TimelineAction) -> Event:
    found: Event = {"action": action.id, "model": action.model, "version": action.version}
    if action.kind == INFER:
        found |= {"rows": action.rows, "requests": action.count, "ids": action.requests}
    return found
