"""Simulates an autoscaler: adds and removes workers so that the fleet has the devices that the controller wants.

A worker that is being removed finishes its running actions and refuses its waiting actions, like a live worker after
SIGTERM. The scheduler plans the requests of the refused actions again.
"""

from collections.abc import Callable
from typing import Any, Final

from clockwork.sim.autoscaler_spec import AutoscalerSpec
from clockwork.sim.cluster import Cluster
from clockwork.units import MILLISECOND, SECOND, Nanos, seconds
from clockwork.worker.events import Leave

LEAVE_POLL: Final[Nanos] = 5 * MILLISECOND
"""Time between two checks for running actions on a worker that leaves."""

AFTERMATH: Final[Nanos] = 2 * SECOND
"""The removal of a worker explains broken promises of requests that arrive up to this time before or after the removal.
"""

Record = Callable[[dict[str, Any]], None]


class Autoscaler:
    """An autoscaler of a simulated cluster. `begin` starts it."""

    def __init__(self, cluster: Cluster, spec: AutoscalerSpec, record: Record | None = None) -> None:
        """``record`` gets a record each time the autoscaler reads the wanted number of devices."""
        self._cluster = cluster
        self._spec = spec
        self._record = record
        self._until: Nanos = 0
        self._begin: Nanos = 0
        self._starting: list[object] = []  #: tokens of the workers that start
        self._leaving: set[int] = set()
        self._removed_at: list[Nanos] = []
        self.series: list[tuple[float, int, int]] = []  #: (seconds since the start, devices, wanted devices)

    def begin(self, duration: Nanos) -> None:
        """Begin to read the wanted number of devices, and continue for ``duration``."""
        self._begin = self._cluster.loop.now
        self._until = self._begin + duration
        if self._spec.max_workers:
            self._read(None)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of devices and of wanted devices over the whole run."""
        devices = [count for _, count, _ in self.series]
        return {
            "devices_max": max(devices),
            "devices_mean": round(sum(devices) / len(devices), 2),
            "devices_wanted_max": max(wanted for _, _, wanted in self.series),
        }

    def explains(self, arrival: Nanos) -> bool:
        """Return whether a worker was removed at about the time when a request arrived."""
        return any(at - AFTERMATH <= arrival <= at + AFTERMATH for at in self._removed_at)

    def _read(self, _: Any) -> None:
        cluster, spec = self._cluster, self._spec
        now, each = cluster.loop.now, cluster.elastic.per_worker
        connected = [number for number in cluster.connected() if number not in self._leaving]
        wanted = sum(kind.wanted for kind in cluster.controller.scaling(now) if kind.kind == cluster.elastic.kind)
        self.series.append(((now - self._begin) / SECOND, len(connected) * each, wanted))
        if self._record is not None:
            row = {"record": "scaling", "at": now, "devices": len(connected) * each, "wanted": wanted}
            self._record(row | {"starting": len(self._starting) * each})
        if spec.follow:
            workers = min(max(-(-wanted // each), spec.min_workers), spec.max_workers)
            while len(connected) + len(self._starting) < workers:
                token = object()
                self._starting.append(token)
                cluster.loop.at(now + seconds(spec.startup_s), self._start, token)
            while self._starting and len(connected) + len(self._starting) > workers:
                self._starting.pop()
            for number in reversed(connected[workers:]):
                self._leave(number)
        if now + seconds(spec.every_s) <= self._until:
            cluster.loop.at(now + seconds(spec.every_s), self._read)

    def _start(self, token: Any) -> None:
        if token in self._starting:
            self._starting.remove(token)
            self._cluster.add_worker()

    def _leave(self, number: int) -> None:
        self._leaving.add(number)
        self._removed_at.append(self._cluster.loop.now)
        process = self._cluster.workers[number].process
        assert process is not None
        process.feed(Leave())
        self._end(number)

    def _end(self, number: Any) -> None:
        process = self._cluster.workers[number].process
        if process is not None and process.worker.idle:
            self._leaving.discard(number)
            self._cluster.disconnect(number, "the autoscaler has removed the worker")
        else:
            self._cluster.loop.at(self._cluster.loop.now + LEAVE_POLL, self._end, number)
