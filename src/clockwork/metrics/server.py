"""Metrics of the server, its workers and its devices, and of how good its predictions are."""

from collections.abc import Iterable, Iterator
from typing import Final

from clockwork.controller.description import Description
from clockwork.controller.stage import Stage
from clockwork.histogram import Histogram
from clockwork.log_writer import dropped_lines
from clockwork.messages.counts import DeviceCounts
from clockwork.metrics.family import Distribution, Family, Kind, Values, rendered, rendered_histogram
from clockwork.state import GPUState, Predictions, WorkerState
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Nanos

BY_DEVICE: Final = ("worker", "gpu")

ERROR_BOUNDS: Final[tuple[Nanos, ...]] = (
    *(step * MICROSECOND for step in (10, 25, 50, 100, 250, 500)),
    *(step * MILLISECOND // 10 for step in (10, 25, 50, 100, 250, 500)),
    *(step * MILLISECOND for step in (100, 250, 500, 1000)),
)
"""Upper ends of the buckets of prediction errors, exact to the one per cent that they are kept to."""

PREDICTED: Final = ("action", "of", "error")

PREDICTIONS: Final = Family(
    "clockwork_predictions_total",
    "Predictions of when load and infer actions start, how long they take and when they complete, by their error: over "
    "(later or longer than it was), under, or none.",
    Kind.COUNTER,
    PREDICTED,
)
ERRORS: Final = Family(
    "clockwork_prediction_error_seconds",
    "How far those predictions were off, over and under apart.",
    Kind.HISTOGRAM,
    PREDICTED,
)


def pieces(said: Description) -> Iterator[bytes]:
    """The text, in pieces of a fraction of a millisecond's work."""
    yield from _of_server(said)
    yield from _of_devices([(worker, gpu) for _, worker in sorted(said.fleet.items()) for gpu in worker.gpus])


def _of_server(said: Description) -> Iterator[bytes]:
    ready = sum(worker_id in said.ready for worker_id in said.fleet)
    info = Family("clockwork_info", "The server: always 1.", Kind.GAUGE, ("version", "scheduler"))
    yield from rendered(info, [[((said.version, said.scheduler), 1)]])
    stage = Family("clockwork_stage", "The stage of start-up: 1 for the one it is in.", Kind.GAUGE, ("stage",))
    yield from rendered(stage, [[((it.value,), it.value == said.stage) for it in Stage]])
    answers = Family("clockwork_ready", "Whether it serves and a worker is there that is not silent.", Kind.GAUGE)
    yield from rendered(answers, [[((), said.is_ready())]])
    serving = Family("clockwork_serving_seconds", "For how long it has been serving.", Kind.GAUGE)
    yield from rendered(serving, [[((), said.serving_ns / SECOND)]])
    pending = Family(
        "clockwork_pending_requests", "Requests that wait for their answer, or for serving to begin.", Kind.GAUGE
    )
    yield from rendered(pending, [[((), said.outstanding)]])
    models = Family("clockwork_models", "Models, and whether they are served.", Kind.GAUGE, ("served",))
    yield from rendered(models, [[(("yes",), len(said.state.models)), (("no",), len(said.broken))]])
    workers = Family(
        "clockwork_workers",
        "Workers that are connected, and whether they serve and are not silent.",
        Kind.GAUGE,
        ("ready",),
    )
    yield from rendered(workers, [[(("yes",), ready), (("no",), len(said.fleet) - ready)]])
    dropped = Family(
        "clockwork_log_lines_dropped_total",
        "Lines of the controller's log that were dropped because nobody read it.",
        Kind.COUNTER,
    )
    yield from rendered(dropped, [[((), dropped_lines())]])
    strangers = Family(
        "clockwork_requests_without_model_total",
        "Requests that were answered before it was known whether there is such a model, by status.",
        Kind.COUNTER,
        ("reason",),
    )
    yield from rendered(strangers, [[((name,), count) for name, count in said.tally.without_model().items()]])


def _of_devices(devices: list[tuple[WorkerState, GPUState]]) -> Iterator[bytes]:
    places = [(worker.id, str(gpu.gpu_id)) for worker, gpu in devices]
    info = Family("clockwork_device_info", "A device: always 1.", Kind.GAUGE, (*BY_DEVICE, "kind"))
    yield from rendered(info, ([((*at, gpu.kind), 1)] for at, (_, gpu) in zip(places, devices, strict=True)))
    done = [gpu.work.summary() for _, gpu in devices]
    for number, family in enumerate(DEVICE_GAUGES):
        values = (_gauges(worker, gpu)[number] for worker, gpu in devices)
        yield from rendered(family, _at(places, values))
    for number, family in enumerate(DEVICE_COUNTERS):
        yield from rendered(family, _at(places, (_counters(it)[number] for it in done)))


DEVICE_GAUGES: Final = (
    Family("clockwork_cache_pages", "Pages of the device's weights cache.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_cache_pages_used", "Those that weights occupy.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_cache_page_bytes", "The size of a page.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_cache_models", "Models whose weights are there or on their way.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_device_outstanding_actions", "Actions without a result yet.", Kind.GAUGE, BY_DEVICE),
)


def _gauges(worker: WorkerState, gpu: GPUState) -> tuple[float, ...]:
    return gpu.cache.total, gpu.cache.used, worker.page_size, sum(1 for _ in gpu.cache), len(gpu.outstanding)


DEVICE_COUNTERS: Final = (
    Family("clockwork_device_batches_total", "Batches that it executed.", Kind.COUNTER, BY_DEVICE),
    Family(
        "clockwork_device_executing_seconds_total",
        "For how long it executed; its rate is the device's utilisation.",
        Kind.COUNTER,
        BY_DEVICE,
    ),
    Family("clockwork_device_loads_total", "Weights that it loaded.", Kind.COUNTER, BY_DEVICE),
    Family("clockwork_device_loading_seconds_total", "For how long it loaded.", Kind.COUNTER, BY_DEVICE),
    Family("clockwork_device_evictions_total", "Weights that it evicted.", Kind.COUNTER, BY_DEVICE),
    Family("clockwork_device_failed_actions_total", "Actions that failed, or were too late.", Kind.COUNTER, BY_DEVICE),
)


def _counters(done: DeviceCounts) -> tuple[float, ...]:
    return (
        done.batches,
        done.exec_ns / SECOND,
        done.loads,
        done.load_ns / SECOND,
        done.evictions,
        done.failed,
    )


def _at(places: Iterable[tuple[str, ...]], values: Iterable[float]) -> Iterator[Values]:
    return ([(place, value)] for place, value in zip(places, values, strict=True))


class PredictionErrors:
    """Prediction errors of all devices together, added up one device at a time."""

    def __init__(self) -> None:
        """None."""
        self._none: dict[tuple[str, str, str], int] = {}
        self._off: dict[tuple[str, str, str], Distribution] = {}

    def add(self, predictions: Predictions) -> None:
        """Those of one device."""
        for action, errors in predictions:
            for of in ("start", "duration", "completion"):
                found = getattr(errors, of)
                at = (action, of, "none")
                self._none[at] = self._none.get(at, 0) + found.right
                self._add((action, of, "over"), found.over)
                self._add((action, of, "under"), found.under)

    def _add(self, at: tuple[str, str, str], more: Histogram) -> None:
        new = more.up_to(ERROR_BOUNDS)
        old = self._off.get(at) or Distribution([0] * len(new), 0, 0)
        both = [a + b for a, b in zip(old.cumulative, new, strict=True)]
        self._off[at] = Distribution(both, old.count + more.count, old.total + more.total)

    def pieces(self) -> Iterator[bytes]:
        """The text, in pieces."""
        counted = {**self._none, **{at: it.count for at, it in self._off.items()}}
        yield from rendered(PREDICTIONS, [sorted(counted.items())])
        yield from rendered_histogram(ERRORS, ERROR_BOUNDS, sorted(self._off.items()))
