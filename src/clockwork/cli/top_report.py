"""Computes and formats the numbers that ``clockwork top`` shows."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from clockwork.cli.output import Listing, limited, printable, table
from clockwork.cli.startup_hints import waits_for
from clockwork.cli.status_report import MANY, MAX_DEVICE_ROWS, MIN_ROWS, headline, model_groups, slo_range
from clockwork.messages.counts import DeviceCounts, RecentCounts
from clockwork.messages.findings import Finding, Level
from clockwork.messages.requests import ModelStatus, ServerStatus, WorkerStatus
from clockwork.messages.timeline import Timeline
from clockwork.units import SECOND, Bytes, Nanos, show_bytes, show_duration

MAX_NAME: Final = 26
"""Longest name of a model in the table. Longer names are cut in the middle."""

DEVICE_COLUMNS: Final = (
    "device",
    ">busy",
    ">loading",
    ">batches/s",
    ">sent",
    ">planned",
    ">cache",
    ">models",
    "state",
)
DEVICE_DROP: Final = ("models", "loading", "batches/s", "cache")
MODEL_COLUMNS: Final = (
    "model",
    ">per s",
    ">in time",
    ">refused",
    ">late",
    ">failed",
    ">broken",
    ">p50",
    ">p99",
    ">SLO",
)
MODEL_DROP: Final = ("failed", "broken", "late", "p50", "SLO", "refused")

MAX_WARNED: Final = 2
"""Largest number of workers whose findings are counted on the screen."""

WINDOWS: Final = ("10s", "5min")
"""The windows of time over which requests are counted."""


class TopDevice(Struct, frozen=True):
    """The recent work of a device.

    - ``busy``, ``loading``: share of the time between two readings in which the device executed batches and loaded
      weights; None if there was no earlier reading
    - ``batches_per_s``: executed batches per second between two readings
    - ``outstanding``: number of actions that were sent and have not ended
    - ``planned``: number of batches that are planned to begin in the next 100 ms; None if it is unknown
    """

    device: str
    kind: str
    busy: float | None
    loading: float | None
    batches_per_s: float | None
    outstanding: int
    planned: int | None
    cache_used: Bytes
    cache_total: Bytes
    models: int
    state: str


class TopModel(Struct, frozen=True):
    """The recent requests of a model, or of all copies of a model."""

    model: str
    last_10_s: RecentCounts
    last_5_min: RecentCounts


class Top(Struct, frozen=True):
    """The numbers of one reading.

    ``at_risk`` is the number of requests that will miss their deadline according to the plan of the next 100 ms. It is
    None if the server records no actions. ``findings`` are what disturbs the workers' machines, by worker.
    """

    version: str
    stage: str
    ready: bool
    outstanding: int
    at_risk: int | None
    last_10_s: RecentCounts
    last_5_min: RecentCounts
    devices: tuple[TopDevice, ...]
    models: tuple[TopModel, ...]
    findings: dict[str, tuple[Finding, ...]] = {}


class Reading(Struct, frozen=True):
    """What a server has answered. ``timeline`` is None if the server records no actions."""

    server: ServerStatus
    timeline: Timeline | None


def top_of(reading: Reading, before: Reading | None, *, folded: bool) -> Top:
    """Return the numbers of a reading. The rates of devices are computed from the reading ``before``.

    If ``folded`` is true, the copies of a model share a row.
    """
    server = reading.server
    groups = model_groups(server, unfolded=not folded)
    return Top(
        server.version,
        server.stage,
        server.ready,
        server.outstanding,
        None if reading.timeline is None else reading.timeline.at_risk,
        merged([model.last_10_s for model in server.models]),
        merged([model.last_5_min for model in server.models]),
        tuple(_devices(reading, before)),
        tuple(TopModel(group.label, *_recent(group.models)) for group in groups),
        {worker.id: worker.findings for worker in server.workers if worker.findings},
    )


def _recent(models: Sequence[ModelStatus]) -> tuple[RecentCounts, RecentCounts]:
    return merged([model.last_10_s for model in models]), merged([model.last_5_min for model in models])


def merged(counts: Sequence[RecentCounts]) -> RecentCounts:
    """Return the sum of the counts. Each percentile is the largest of all counts."""
    slos = [each.min_slo for each in counts if each.min_slo]
    return RecentCounts(
        max([each.window for each in counts], default=0),
        sum([each.per_second for each in counts]),
        sum([each.in_time for each in counts]),
        sum([each.late for each in counts]),
        sum([each.refused for each in counts]),
        sum([each.failed for each in counts]),
        sum([each.cancelled for each in counts]),
        sum([each.broken_promises for each in counts]),
        max([each.p50 for each in counts], default=0),
        max([each.p99 for each in counts], default=0),
        min(slos, default=0),
        max([each.max_slo for each in counts], default=0),
    )


def _devices(reading: Reading, before: Reading | None) -> Iterator[TopDevice]:
    server = reading.server
    earlier: Mapping[str, DeviceCounts] = {}
    elapsed: Nanos = 0
    if before is not None and before.server.serving_ns < server.serving_ns:
        elapsed = server.serving_ns - before.server.serving_ns
        earlier = dict(_counts(before.server))
    planned: dict[str, int] | None = None
    if reading.timeline is not None:
        planned = {}
        for action in reading.timeline.upcoming:
            planned[action.device] = planned.get(action.device, 0) + (not action.id)
    for worker in server.workers:
        for gpu in worker.gpus:
            label = f"{worker.id}/gpu{gpu.gpu.id}"
            old, new = earlier.get(label), gpu.counts
            known = old is not None and old.batches <= new.batches and old.loads <= new.loads
            yield TopDevice(
                label,
                gpu.gpu.kind,
                (new.exec_ns - old.exec_ns) / elapsed if old is not None and known else None,
                (new.load_ns - old.load_ns) / elapsed if old is not None and known else None,
                (new.batches - old.batches) / elapsed * SECOND if old is not None and known else None,
                gpu.outstanding,
                None if planned is None else planned.get(label, 0),
                gpu.used_pages * worker.page_size,
                gpu.gpu.total_pages * worker.page_size,
                len(gpu.gpu.models),
                _state(worker),
            )


def _counts(server: ServerStatus) -> Iterable[tuple[str, DeviceCounts]]:
    return ((f"{worker.id}/gpu{gpu.gpu.id}", gpu.counts) for worker in server.workers for gpu in worker.gpus)


def _state(worker: WorkerStatus) -> str:
    return "ready" if worker.ready else "silent" if worker.silent else "not ready"


# ------------------------------------------------------------------------------------------------- sorting

Key = Callable[[RecentCounts], float]

SORTS: Final[Mapping[str, tuple[str, Key]]] = {
    "rate": ("r", lambda recent: -recent.per_second),
    "missed": ("m", lambda recent: -_missed(recent)),
    "refused": ("x", lambda recent: -recent.refused),
    "late": ("l", lambda recent: -(recent.late + recent.broken_promises)),
    "p99": ("p", lambda recent: -recent.p99),
    "name": ("n", lambda recent: 0),
}
"""The orders of models. The values are the key that selects the order, and the function by which models are sorted."""


def _missed(recent: RecentCounts) -> int:
    return recent.late + recent.refused + recent.failed


def sorted_models(top: Top, sort: str, window: str) -> list[TopModel]:
    """Return the models in an order of `SORTS`. Models with equal numbers are sorted by name."""
    key = SORTS[sort][1]
    return sorted(top.models, key=lambda model: (key(_in_window(model, window)), model.model))


def _in_window(model: TopModel | Top, window: str) -> RecentCounts:
    return model.last_10_s if window == WINDOWS[0] else model.last_5_min


# ------------------------------------------------------------------------------------------------- the screen


def screen(reading: Reading, top: Top, *, sort: str, window: str, height: int | None = None) -> Iterator[Listing | str]:
    """Yield the lines and the tables of a screen. If ``height`` is None, the screen has a line for every model."""
    yield headline(reading.server)
    if hint := waits_for(reading.server.stage, reading.server.progress):
        yield f"The server {hint}."
    for name, recent in (("last 10 s", top.last_10_s), ("last 5 min", top.last_5_min)):
        yield f"{name:11}  {_totals(recent)}"
    if top.at_risk is not None:
        planned = sum([device.planned or 0 for device in top.devices])
        yield f"next 100 ms  {_plural(planned, 'planned batch', 'planned batches')}, " + (
            _plural(top.at_risk, "request at risk", "requests at risk")
        )
    warnings = list(_warnings(top))
    yield from warnings
    devices = top.devices if height is None else limited(top.devices, MAX_DEVICE_ROWS)
    if devices:
        yield table("", DEVICE_COLUMNS, map(_device_cells, devices), DEVICE_DROP)
        yield from _more(len(top.devices) - len(devices), "device")
    else:
        yield "No worker is connected."
    models: Sequence[TopModel] = sorted_models(top, sort, window)
    if not models:
        return
    limit = len(models) if height is None else max(MIN_ROWS, height - len(devices) - len(warnings) - 13)
    shown = limited(models, limit)
    yield table("", MODEL_COLUMNS, [_model_cells(model, window) for model in shown], MODEL_DROP)
    yield from _more(len(models) - len(shown), "model")


def _warnings(top: Top) -> Iterator[str]:
    """Yield a line for each of the first workers with findings that are more serious than a note."""
    counted = [(worker, Counter(found.level for found in findings)) for worker, findings in top.findings.items()]
    serious = [(worker, levels) for worker, levels in counted if levels[Level.WARNING] or levels[Level.BAD]]
    shown = limited(serious, MAX_WARNED)
    for worker, levels in shown:
        warnings, bad = levels[Level.WARNING], levels[Level.BAD]
        counts = [
            text for count, text in ((bad, f"{bad} bad"), (warnings, _plural(warnings, "warning", "warnings"))) if count
        ]
        yield f"disturbed    {worker}: {', '.join(counts)} (clockwork status shows them)"
    yield from _more(len(serious) - len(shown), "disturbed worker")


def _totals(recent: RecentCounts) -> str:
    requests = recent.in_time + _missed(recent)
    text = f"{_rate(recent.per_second)}/s"
    if not requests:
        return text
    parts = [f"{recent.in_time / requests:.2%} in time"]
    for count, name in (
        (recent.refused, "refused"),
        (recent.late, "late"),
        (recent.failed, "failed"),
        (recent.broken_promises, "broken"),
    ):
        if count:
            parts.append(f"{count:,} {name}")
    return ", ".join([text, *parts])


def _plural(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _more(count: int, thing: str) -> Iterator[str]:
    if count:
        yield f" and {_plural(count, f'more {thing}', f'more {thing}s')}"


def _device_cells(device: TopDevice) -> tuple[object, ...]:
    return (
        device.device,
        _percent(device.busy),
        _percent(device.loading),
        "" if device.batches_per_s is None else _rate(device.batches_per_s),
        device.outstanding,
        "" if device.planned is None else device.planned,
        f"{show_bytes(device.cache_used)} of {show_bytes(device.cache_total)}",
        device.models,
        device.state,
    )


def _model_cells(model: TopModel, window: str) -> tuple[object, ...]:
    recent = _in_window(model, window)
    requests = recent.in_time + _missed(recent)
    return (
        short_name(model.model),
        _rate(recent.per_second),
        f"{recent.in_time / requests:.2%}" if requests else "",
        f"{recent.refused:,}",
        f"{recent.late:,}",
        f"{recent.failed:,}",
        f"{recent.broken_promises:,}",
        show_duration(recent.p50) if recent.p50 else "",
        show_duration(recent.p99) if recent.p99 else "",
        slo_range([recent] if recent.max_slo else []),
    )


def short_name(name: str) -> str:
    """Return a name without control characters. If the name is longer than `MAX_NAME`, its middle is cut out."""
    name = printable(name)
    left = (MAX_NAME - 1) // 2
    return name if len(name) <= MAX_NAME else f"{name[:left]}…{name[left + 1 - MAX_NAME :]}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= MANY else f"{value:.1f}"
