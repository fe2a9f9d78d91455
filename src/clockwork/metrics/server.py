"""The metrics of the server, of its workers and devices, and of the errors of its predictions."""

from collections.abc import Iterable, Iterator
from typing import Final

from clockwork.clock import thread_time
from clockwork.controller.description import Description
from clockwork.controller.stage import Stage
from clockwork.histogram import Histogram
from clockwork.log_writer import dropped_lines
from clockwork.messages.counts import DeviceCounts
from clockwork.metrics.family import Distribution, Family, Kind, Piece, Values, rendered, rendered_histogram
from clockwork.state import GPUState, Predictions, WorkerState
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, Nanos

BY_DEVICE: Final = ("worker", "gpu")

ERROR_BOUNDS: Final[tuple[Nanos, ...]] = (
    *(step * MICROSECOND for step in (10, 25, 50, 100, 250, 500)),
    *(step * MILLISECOND // 10 for step in (10, 25, 50, 100, 250, 500)),
    *(step * MILLISECOND for step in (100, 250, 500, 1000)),
)
"""Upper bounds of the metrics' buckets of prediction errors. The server itself stores the errors with a precision of 1
%.
"""

PREDICTED: Final = ("action", "of", "error")

PREDICTIONS: Final = Family(
    "clockwork_predictions_total",
    "Predictions of the start, duration and completion of load and infer actions. The error is over (predicted "
    "too late or too long), under, or none.",
    Kind.COUNTER,
    PREDICTED,
)
ERRORS: Final = Family(
    "clockwork_prediction_error_seconds",
    "Sizes of the prediction errors. The errors over and under have separate histograms.",
    Kind.HISTOGRAM,
    PREDICTED,
)


def pieces(server: Description) -> Iterator[Piece]:
    """Yield the metrics of the server, workers and devices in pieces. Each piece takes a fraction of a millisecond."""
    yield from _server_pieces(server)
    yield from _scaling_pieces(server)
    yield from _device_pieces([(worker, gpu) for _, worker in sorted(server.fleet.items()) for gpu in worker.gpus])


def _server_pieces(server: Description) -> Iterator[Piece]:
    ready = sum(worker_id in server.ready for worker_id in server.fleet)
    info = Family("clockwork_info", "Version and scheduler; always 1.", Kind.GAUGE, ("version", "scheduler"))
    yield from rendered(info, [[((server.version, server.scheduler), 1)]])
    stage = Family("clockwork_stage", "1 for the server's current stage, else 0.", Kind.GAUGE, ("stage",))
    yield from rendered(stage, [[((each.value,), each.value == server.stage) for each in Stage]])
    ready_family = Family(
        "clockwork_ready", "Whether the server serves and at least one worker is not silent.", Kind.GAUGE
    )
    yield from rendered(ready_family, [[((), server.is_ready())]])
    serving = Family("clockwork_serving_seconds", "Time since serving began.", Kind.GAUGE)
    yield from rendered(serving, [[((), server.serving_ns / SECOND)]])
    pending = Family(
        "clockwork_pending_requests", "Requests that wait for their response, or for serving to begin.", Kind.GAUGE
    )
    yield from rendered(pending, [[((), server.outstanding)]])
    models = Family("clockwork_models", "Number of models, by whether they are served.", Kind.GAUGE, ("served",))
    yield from rendered(models, [[(("yes",), len(server.state.models)), (("no",), len(server.broken))]])
    workers = Family(
        "clockwork_workers",
        "Number of connected workers, by whether they serve and are not silent.",
        Kind.GAUGE,
        ("ready",),
    )
    yield from rendered(workers, [[(("yes",), ready), (("no",), len(server.fleet) - ready)]])
    dropped = Family(
        "clockwork_log_lines_dropped_total",
        "Log lines that the controller dropped because nothing read the log.",
        Kind.COUNTER,
    )
    yield from rendered(dropped, [[((), dropped_lines())]])
    busy = Family(
        "clockwork_controller_busy_seconds_total",
        "Processor time of the controller's event loop. Its rate is the share of one core that the controller uses.",
        Kind.COUNTER,
    )
    yield from rendered(busy, [[((), thread_time() / SECOND)]])  # the event loop's thread renders the metrics
    without_model = Family(
        "clockwork_requests_without_model_total",
        "Requests answered before their model was known, by status.",
        Kind.COUNTER,
        ("reason",),
    )
    yield from rendered(without_model, [[((name,), count) for name, count in server.tally.without_model().items()]])


def _scaling_pieces(server: Description) -> Iterator[Piece]:
    kinds = server.scaling
    present = Family("clockwork_devices", "Devices in service.", Kind.GAUGE, ("kind",))
    yield from rendered(present, [[((each.kind,), each.devices)] for each in kinds])
    wanted = Family(
        "clockwork_devices_wanted",
        "Devices that the recent requests need. GET /v2/clockwork/scaling explains the number.",
        Kind.GAUGE,
        ("kind",),
    )
    yield from rendered(wanted, [[((each.kind,), each.wanted)] for each in kinds])


def _device_pieces(devices: list[tuple[WorkerState, GPUState]]) -> Iterator[Piece]:
    places = [(worker.id, str(gpu.gpu_id)) for worker, gpu in devices]
    info = Family("clockwork_device_info", "Kind of the device; always 1.", Kind.GAUGE, (*BY_DEVICE, "kind"))
    yield from rendered(info, ([((*at, gpu.kind), 1)] for at, (_, gpu) in zip(places, devices, strict=True)))
    done = [gpu.work.summary() for _, gpu in devices]
    for number, family in enumerate(DEVICE_GAUGES):
        values = (_gauges(worker, gpu)[number] for worker, gpu in devices)
        yield from rendered(family, _at(places, values))
    for number, family in enumerate(DEVICE_COUNTERS):
        yield from rendered(family, _at(places, (_counters(counts)[number] for counts in done)))


DEVICE_GAUGES: Final = (
    Family("clockwork_cache_pages", "Pages of the device's weights cache.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_cache_pages_used", "Pages of the weights cache in use.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_cache_page_bytes", "Size of a page of the weights cache.", Kind.GAUGE, BY_DEVICE),
    Family("clockwork_cache_models", "Models whose weights are on the device or being loaded.", Kind.GAUGE, BY_DEVICE),
    Family(
        "clockwork_device_outstanding_actions",
        "Actions that were sent and have no result yet.",
        Kind.GAUGE,
        BY_DEVICE,
    ),
)


def _gauges(worker: WorkerState, gpu: GPUState) -> tuple[float, ...]:
    return gpu.cache.total, gpu.cache.used, worker.page_size, sum(1 for _ in gpu.cache), len(gpu.outstanding)


DEVICE_COUNTERS: Final = (
    Family("clockwork_device_batches_total", "Batches that the device executed.", Kind.COUNTER, BY_DEVICE),
    Family(
        "clockwork_device_executing_seconds_total",
        "Time for which the device executed batches. Its rate is the device's utilisation.",
        Kind.COUNTER,
        BY_DEVICE,
    ),
    Family("clockwork_device_loads_total", "Loads of weights to the device.", Kind.COUNTER, BY_DEVICE),
    Family(
        "clockwork_device_loading_seconds_total", "Time for which the device loaded weights.", Kind.COUNTER, BY_DEVICE
    ),
    Family("clockwork_device_evictions_total", "Evictions of weights from the device.", Kind.COUNTER, BY_DEVICE),
    Family(
        "clockwork_device_failed_actions_total",
        "Actions that failed or could not start in their window.",
        Kind.COUNTER,
        BY_DEVICE,
    ),
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
    """The prediction errors of all devices together."""

    def __init__(self) -> None:
        """Start without any prediction errors."""
        self._none: dict[tuple[str, str, str], int] = {}
        self._off: dict[tuple[str, str, str], Distribution] = {}

    def add(self, predictions: Predictions) -> None:
        """Add the prediction errors of one device."""
        for action, errors in predictions:
            for quantity in ("start", "duration", "completion"):
                found = getattr(errors, quantity)
                key = (action, quantity, "none")
                self._none[key] = self._none.get(key, 0) + found.right
                self._add((action, quantity, "over"), found.over)
                self._add((action, quantity, "under"), found.under)

    def _add(self, key: tuple[str, str, str], more: Histogram) -> None:
        new = more.up_to(ERROR_BOUNDS)
        old = self._off.get(key) or Distribution([0] * len(new), 0, 0)
        both = [a + b for a, b in zip(old.cumulative, new, strict=True)]
        self._off[key] = Distribution(both, old.count + more.count, old.total + more.total)

    def pieces(self) -> Iterator[Piece]:
        """Yield the metrics of prediction errors in pieces."""
        counted = {**self._none, **{key: distribution.count for key, distribution in self._off.items()}}
        yield from rendered(PREDICTIONS, [sorted(counted.items())])
        yield from rendered_histogram(ERRORS, ERROR_BOUNDS, sorted(self._off.items()))
