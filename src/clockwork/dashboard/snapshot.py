"""Describes the server for the dashboard, in steps.

The description consists of sections, which are encoded separately. So a viewer that comes later gets the last version
of each section without a new description. Times are in milliseconds. A time of an event is on the controller's clock.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from clockwork.controller.description import Description, Served
from clockwork.dashboard.units import ms
from clockwork.messages.counts import RecentCounts
from clockwork.messages.explanation import OUTCOMES
from clockwork.state import GPUState, WorkerState
from clockwork.steps import Steps
from clockwork.units import Nanos

MAX_WEIGHTS: Final = 64
"""Largest number of models whose weights are listed for a device. The models with the most pages are listed."""

MAX_REASONS: Final = 50
"""Largest number of reasons of one kind, such as reasons why a model is not served."""

Json = dict[str, Any]

_encode: Final = msgspec.json.Encoder().encode


def server_section(server: Description) -> msgspec.Raw:
    """Return the state of the whole server."""
    progress = server.progress
    content = {
        "version": server.version,
        "scheduler": server.scheduler,
        "stage": server.stage,
        "ready": server.is_ready(),
        "outstanding": server.outstanding,
        "serving_ms": ms(server.serving_ns),
        "progress": [progress.done, progress.total],
        "broken": dict(list(server.not_served().items())[:MAX_REASONS]),
        "versions": [
            [version.name, version.version, version.state, version.reason]
            for version, _ in zip(server.other_versions(), range(MAX_REASONS), strict=False)
        ],
        "outcomes": OUTCOMES,
    }
    return msgspec.Raw(_encode(content))


def devices_section(server: Description) -> Steps[msgspec.Raw]:
    """Return the devices with their weights, their work and the errors of their predictions."""
    devices = []
    for worker_id, worker in sorted(server.fleet.items()):
        for gpu in worker.gpus:
            devices.append(_device(server, worker_id, worker, gpu))
            yield
    return msgspec.Raw(_encode(devices))


def _device(server: Description, worker_id: str, worker: WorkerState, gpu: GPUState) -> Json:
    cache, models = gpu.cache, server.state.models
    owners = sorted(((cache.pages_of(key), key) for key in cache), reverse=True)
    shown = [
        [models[key].served_as if key in models else key, pages, gpu.residency(key).value]
        for pages, key in owners[:MAX_WEIGHTS]
    ]
    longer, predicted = 0, 0
    longest: tuple[Nanos, Nanos] = (0, 0)
    if (errors := dict(gpu.predictions).get("infer")) is not None:
        durations = errors.duration
        longer = durations.under.count
        predicted = longer + durations.over.count + durations.right
        longest = durations.under.percentile(99) or 0, durations.under.longest
    return {
        "device": gpu.label,
        "worker": worker_id,
        "kind": gpu.kind,
        "state": "ready" if worker_id in server.ready else "silent" if worker.silent else "not ready",
        "page_bytes": worker.page_size,
        "pages": cache.total,
        "used": cache.used,
        "weights": shown,
        "other_models": len(owners) - len(shown),
        "outstanding": len(gpu.outstanding),
        "batches": gpu.work.batches,
        "exec_ms": ms(gpu.work.exec_ns),
        "loads": gpu.work.loads,
        "load_ms": ms(gpu.work.load_ns),
        "evictions": gpu.work.evictions,
        "failed": gpu.work.failed,
        "longer": longer,
        "predicted": predicted,
        "longer_p99": ms(longest[0]),
        "longer_max": ms(longest[1]),
        "lacks": dict(list(worker.lacks.items())[:MAX_REASONS]),
        "findings": worker.findings if gpu is worker.gpus[0] else (),
    }


class ModelRows:
    """Describes some models at a time, in turns, so that a snapshot takes a limited time."""

    def __init__(self, at_a_time: int, limit: int) -> None:
        """Describe ``at_a_time`` models in each snapshot, and at most ``limit`` models in a turn."""
        self._at_a_time, self._limit = at_a_time, limit
        self._turn: Iterator[Served] | None = None
        self._of_turn: dict[str, msgspec.Raw] = {}
        self._rows: dict[str, msgspec.Raw] = {}
        self._skipped = 0
        self.others = 0  #: number of models that have no row because of the limit

    def next(self, server: Description) -> Steps[tuple[list[msgspec.Raw], bool]]:
        """Return the rows of the next models, and whether the turn has ended. The next turn describes all models again.

        ``server`` is the description with which the models' rates are computed.
        """
        made: list[msgspec.Raw] = []
        if self._turn is None:
            self._turn = server.served()
        while len(made) < self._at_a_time:
            served = next(self._turn, None)
            if served is None:
                self._rows, self._of_turn, self._turn = self._of_turn, {}, None
                self.others, self._skipped = self._skipped, 0
                return made, True
            if len(self._of_turn) >= self._limit:
                self._skipped += 1
            else:
                row = _model(server, served)
                self._rows[served.model.name] = self._of_turn[served.model.name] = row
                made.append(row)
            yield
        return made, False

    def all(self) -> list[msgspec.Raw]:
        """Return the last row of every model."""
        return list(self._rows.values())


def _model(server: Description, served: Served) -> msgspec.Raw:
    model, version = served
    counts = server.counts_of(model)
    short = counts.recent.last_10_s(server.now, server.serving_ns)
    long = counts.recent.last_5_min(server.now, server.serving_ns)
    errors = dict(model.predictions).get("infer")
    longer = count = 0
    if errors is not None:
        longer = errors.duration.under.count
        count = longer + errors.duration.right + errors.duration.over.count
    default = server.default_slo(model)
    content = {
        "model": model.served_as,
        "version": model.version,
        "default": version is None or server.catalog.is_default(version),
        "labels": () if version is None else server.catalog.labels_of(version),
        "ready": server.can_serve(model),
        "devices": [device.label for device in server.state.holders.get(model.name, ())],
        "weights_bytes": model.info.weights_bytes,
        "slo": ms(short.max_slo or long.max_slo or default),
        "short": _recent(short),
        "long": _recent(long),
        "estimate": ms(model.infer_estimate(1)) if model.profiles else None,
        "ratio": round(errors.ratios / count, 3) if errors is not None and count else None,
        "longer": longer,
        "predicted": count,
        "kept": counts.kept_promises,
        "broken": counts.broken_promises,
        "cold_starts": counts.cold_starts,
        "unbatched": model.unbatched,
    }
    return msgspec.Raw(_encode(content))


def _recent(counts: RecentCounts) -> list[float]:
    """Return: requests per second, in time, late, refused, failed, broken promises, p50 and p99."""
    return [
        round(counts.per_second, 2),
        counts.in_time,
        counts.late,
        counts.refused,
        counts.failed,
        counts.broken_promises,
        ms(counts.p50),
        ms(counts.p99),
    ]
