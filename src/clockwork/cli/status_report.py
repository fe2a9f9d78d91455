"""Prints the status of a server for people. By default, it fits on one screen even if there are many models."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from clockwork.cli.batch_limits import batch_limit_lines
from clockwork.cli.output import (
    Listing,
    device_predictions,
    fold_copies,
    limited,
    model_label,
    model_predictions,
    prediction_table,
    table,
)
from clockwork.cli.startup_hints import waits_for
from clockwork.controller.stage import Stage
from clockwork.messages.counts import CHECK_OUTCOMES, RecentCounts
from clockwork.messages.findings import Level
from clockwork.messages.profile import ModelProfile
from clockwork.messages.requests import ModelStatus, ServerStatus, WorkerStatus
from clockwork.messages.shadows import ShadowStatus
from clockwork.units import as_seconds, show_bytes, show_duration

LINES_PER_TABLE: Final = 5
"""Number of lines of a table that are not rows.

The lines are a blank line, the title, the header, the line under the header, and the line about rows that are left out.
"""

MIN_ROWS: Final = 3
"""Number of rows that a table may have even on the smallest screen."""

MAX_DEVICE_ROWS: Final = 8
"""Largest number of rows in the table of devices on one screen."""

MAX_REASONS: Final = 3
"""Largest number of reasons of one kind on one screen, such as reasons why a model is not served."""

SERIOUS: Final = (Level.WARNING, Level.BAD)
"""Levels of the findings of workers that are shown without ``--all``."""

DEVICE_COLUMNS: Final = ("worker", ">device", "kind", ">cache", ">models in cache", ">outstanding", "state")
DEVICE_DROP: Final = ("outstanding", "models in cache", "kind", "cache")
MODEL_COLUMNS: Final = ("model", ">weights", "device kind", ">load", ">execution", ">largest batch", ">its execution")
MODEL_DROP: Final = ("device kind", "its execution", "largest batch", "weights", "load")
RECENT_COLUMNS: Final = (
    "model",
    "last",
    ">per s",
    ">in time",
    ">late",
    ">refused",
    ">failed",
    ">broken promises",
    ">p50",
    ">p99",
    ">SLO",
)
MANY: Final = 100
"""Rates of at least this many requests per second are shown without decimals."""

RECENT_FIELDS: Final = ("late", "refused", "failed", "broken_promises")
RECENT_DROP: Final = ("failed", "broken promises", "late", "p50", "refused")
SHADOW_COLUMNS: Final = (
    "model",
    ">share",
    "state",
    ">copied",
    ">compared",
    ">equal",
    ">largest difference",
    ">same argmax",
    ">failed",
    ">dropped",
)
SHADOW_DROP: Final = ("copied", "dropped", "failed", "share")
FLOATS: Final = frozenset({"FP16", "FP32", "FP64", "BF16"})


class ModelGroup(Struct, frozen=True):
    """Models that share a line of a table. Such models are the copies of one model, or a single model."""

    label: str
    models: list[ModelStatus]

    def requests(self) -> float:
        """Return the requests per second of the last 5 minutes."""
        return sum(model.last_5_min.per_second for model in self.models)


def describe_server(
    server: ServerStatus, *, height: int | None = None, errors: bool = False, by_model: bool = False
) -> Iterable[Listing | str]:
    """Yield a headline, tables of devices, models and requests, prediction errors, and warnings.

    ``height`` is the number of lines of the screen. If ``height`` is None, the output has a line for every model and
    device.
    """
    yield headline(server)
    if hint := waits_for(server.stage, server.progress):
        yield f"The server {hint}."
    limits = list(batch_limit_lines(server.models))
    devices = [row for worker in server.workers for row in _device_rows(worker)]
    device_limit = len(devices) if height is None else MAX_DEVICE_ROWS
    shown_devices = limited(devices, device_limit)
    if devices:
        yield table("Devices", DEVICE_COLUMNS, shown_devices, DEVICE_DROP)
        yield from _more(len(devices) - len(shown_devices), "device")
        yield from _wanted(server, MAX_REASONS)
    else:
        yield "\nNo worker is connected."
    if server.models:
        groups, limit = model_groups(server, unfolded=height is None), None
        if height is not None:
            left = height - 3 * LINES_PER_TABLE - len(shown_devices) - MAX_REASONS - 3
            left -= min(len(limits), MAX_REASONS + 1)
            limit = max(MIN_ROWS, left // 3)  # the table of requests has two lines for each model
        yield from _model_tables(groups, limit)
    yield from _checks(server, height)
    yield from _shadows(server, height)
    yield from _predictions(server, errors, by_model)
    limit = None if height is None else MAX_REASONS
    unbatched = [
        f"{model_label(model)} is not batched: {model.unbatched}" for model in server.models if model.unbatched
    ]
    yield from _reasons(unbatched, limit, "model is not batched", "models are not batched")
    yield from _reasons(limits, limit, "limit of batches", "limits of batches")
    states = [
        f"{version.name}:{version.version} is {version.state}{version.reason and f' ({version.reason})'}"
        for version in server.versions
    ]
    yield from _reasons(states, limit, "version", "versions")
    broken = [f"{name} is not served: {reason}" for name, reason in sorted(server.broken.items())]
    yield from _reasons(broken, limit, "model is not served", "models are not served")
    lacking = [
        f"worker {worker.id} is not used for {name}: {why}"
        for worker in server.workers
        for name, why in sorted(worker.lacks.items())
    ]
    yield from _reasons(lacking, limit, "file is missing on a worker", "files are missing on workers")
    yield from _reasons(list(_disturbances(server, all=height is None)), limit, "disturbance", "disturbances")
    own = f"clockwork {server.version}"
    mixed = [
        f"worker {worker.id} runs {worker.software}; the controller runs {own}"
        for worker in server.workers
        if worker.software not in ("", own)
    ]
    yield from _reasons(mixed, limit, "worker runs another version", "workers run another version")


def _disturbances(server: ServerStatus, *, all: bool) -> Iterator[str]:
    """Yield a line for each cause of varying times that a worker found. Notes are left out unless ``all`` is true."""
    for worker in server.workers:
        for finding in worker.findings:
            if all or finding.level in SERIOUS:
                yield f"worker {worker.id} may be disturbed by {finding.name} ({finding.level}): {finding.found}"


def headline(server: ServerStatus) -> str:
    """Return the stage of the server and the number of its outstanding requests in one line."""
    progress = server.progress
    text = f"clockwork {server.version}: {server.stage}"
    if server.stage == Stage.SERVING.value and not server.ready:
        text += ", not ready (no worker responds)"
    if progress.total:
        text += f" ({progress.done} of {progress.total} models"
        text += ")" if progress.remaining is None else f", about {as_seconds(progress.remaining):.0f} s left)"
    plural = "" if server.outstanding == 1 else "s"
    return f"{text}, scheduler {server.scheduler}, {server.outstanding} request{plural} outstanding"


def _more(count: int, thing: str) -> Iterator[str]:
    if count:
        yield f" and {count:,} more {thing}{'' if count == 1 else 's'}; --all shows all"


def _wanted(server: ServerStatus, limit: int) -> Iterator[str]:
    """Yield the number of wanted devices, for each kind of which the fleet has another number."""
    different = [kind for kind in server.scaling if kind.wanted != kind.devices]
    for kind in different[:limit]:
        yield f"{kind.wanted:,} wanted of {kind.kind}, {kind.devices:,} in service: {kind.why}."


def _reasons(lines: Sequence[str], limit: int | None, one: str, several: str) -> Iterator[str]:
    shown = lines if limit is None else limited(lines, limit)
    yield from shown
    left = len(lines) - len(shown)
    if left:
        yield f"{left:,} more {one if left == 1 else several}; --all shows all"


def _device_rows(worker: WorkerStatus) -> Iterable[tuple[object, ...]]:
    for device in worker.gpus:
        used, total = device.used_pages * worker.page_size, device.gpu.total_pages * worker.page_size
        yield (
            worker.id,
            device.gpu.id,
            device.gpu.kind,
            f"{show_bytes(used)} of {show_bytes(total)}",
            len(device.gpu.models),
            device.outstanding,
            "ready" if worker.ready else "silent" if worker.silent else "not ready",
        )


def model_groups(server: ServerStatus, *, unfolded: bool) -> list[ModelGroup]:
    """Return the models of a server. Copies of a model are one group, unless ``unfolded`` is true."""
    by_name = {model_label(model): model for model in server.models}
    if unfolded:
        return [ModelGroup(name, [model]) for name, model in by_name.items()]
    keys = ((name, (model.info.digest, tuple(sorted(model.profiles)))) for name, model in by_name.items())
    return [ModelGroup(label, [by_name[name] for name in names]) for label, names in fold_copies(keys)]


def _model_tables(groups: list[ModelGroup], limit: int | None) -> Iterator[Listing | str]:
    shown: Sequence[ModelGroup] = groups
    if limit is not None and len(groups) > limit:
        shown = limited(sorted(groups, key=ModelGroup.requests, reverse=True), limit)
    times = [row for group in shown for row in _time_rows(group)]
    if limit is not None:
        times = list(limited(times, max(limit, 1)))
    yield table("Models", MODEL_COLUMNS, times, MODEL_DROP)
    rows: list[tuple[object, ...]] = []
    for group in shown:
        rows.append((group.label, "10 s", *_recent_cells([model.last_10_s for model in group.models])))
        rows.append(("", "5 min", *_recent_cells([model.last_5_min for model in group.models])))
    yield table("Requests", RECENT_COLUMNS, rows, RECENT_DROP)
    left = sum(len(group.models) for group in groups) - sum(len(group.models) for group in shown)
    yield from _more(left, "model")


def _recent_cells(found: Sequence[RecentCounts]) -> tuple[object, ...]:
    """Return the requests of some models as cells of a row. Each percentile is the largest among these models."""
    requests = sum(recent.in_time + recent.late + recent.refused + recent.failed for recent in found)
    in_time = sum(recent.in_time for recent in found)
    return (
        f"{rate:,.0f}" if (rate := sum(recent.per_second for recent in found)) >= MANY else f"{rate:.1f}",
        f"{in_time / requests:.2%}" if requests else "",
        *(f"{sum(getattr(recent, field) for recent in found):,}" for field in RECENT_FIELDS),
        *(show_duration(time) if (time := max(getattr(one, name) for one in found)) else "" for name in ("p50", "p99")),
        slo_range([recent for recent in found if recent.max_slo]),
    )


def slo_range(found: Sequence[RecentCounts]) -> str:
    """Return the SLO of the requests, or the shortest and the longest SLO."""
    if not found:
        return ""
    shortest = show_duration(min(recent.min_slo for recent in found))
    longest = show_duration(max(recent.max_slo for recent in found))
    if shortest == longest:
        return longest
    unit = longest.partition(" ")[1:]
    return f"{shortest.removesuffix(''.join(unit))}-{longest}"


def _time_rows(group: ModelGroup) -> Iterable[tuple[object, ...]]:
    model = group.models[0]
    weights = show_bytes(model.info.weights_bytes)
    if not model.profiles:
        yield group.label, weights, "not measured yet", "", "", "", ""
    for kind, profile in sorted(model.profiles.items()):
        yield group.label, weights, kind, *_times(profile)


def _times(profile: ModelProfile) -> tuple[object, ...]:
    largest = profile.batch_sizes[-1]
    return (
        show_duration(profile.load_weights.p99),
        show_duration(profile.infer_estimate(1)),
        largest,
        show_duration(profile.infer_estimate(largest)),
    )


def _checks(server: ServerStatus, height: int | None) -> Iterator[Listing | str]:
    checked = [model for model in server.models if model.counts.checks]
    if not checked:
        return
    # Models whose outputs differed come first, because they are important.
    checked.sort(key=lambda model: -model.counts.checks.get("differed", 0))
    shown = checked if height is None else limited(checked, MIN_ROWS)
    rows = [
        (model_label(model), *(model.counts.checks.get(outcome, 0) for outcome in CHECK_OUTCOMES)) for model in shown
    ]
    yield table("Checks of batches", ("model", *(f">{outcome}" for outcome in CHECK_OUTCOMES)), rows)
    yield from _more(len(checked) - len(shown), "checked model")


def _shadows(server: ServerStatus, height: int | None) -> Iterator[Listing | str]:
    shown = server.shadows if height is None else limited(server.shadows, MIN_ROWS)
    if not shown:
        return
    yield table("Shadows", SHADOW_COLUMNS, [_shadow_row(shadow) for shadow in shown], SHADOW_DROP)
    yield from _more(len(server.shadows) - len(shown), "shadow")
    limit = None if height is None else MAX_REASONS
    reasons = [f"shadow {each.name}:{each.version} is {each.state}: {each.reason}" for each in shown if each.reason]
    yield from _reasons(reasons, limit, "reason", "reasons")
    mismatches = [
        f"shadow {each.name}:{each.version} has mismatches: "
        + ", ".join(f"{count:,} {kind}" for kind, count in each.mismatches.items())
        for each in shown
        if each.mismatches
    ]
    yield from _reasons(mismatches, limit, "shadow has mismatches", "shadows have mismatches")
    failures = [f"shadow {each.name}:{each.version} failed: {each.last_failure}" for each in shown if each.failed]
    yield from _reasons(failures, limit, "shadow failed", "shadows failed")


def _shadow_row(shadow: ShadowStatus) -> tuple[object, ...]:
    floats = [output for output in shadow.outputs if output.datatype in FLOATS]
    rows = sum(output.rows for output in floats)
    agreed = sum(output.rows_agreed for output in floats)
    return (
        f"{shadow.name}:{shadow.version}",
        f"{shadow.share:g}",
        shadow.state,
        f"{shadow.copied:,}",
        f"{shadow.compared:,}",
        f"{shadow.equal:,}",
        f"{max(output.max_difference for output in floats):.3g}" if floats else "",
        f"{agreed / rows:.2%}" if rows else "",
        f"{shadow.failed:,}",
        f"{shadow.dropped:,}",
    )


def _predictions(server: ServerStatus, errors: bool, by_model: bool) -> Iterator[Listing | str]:
    by_device = prediction_table("device", device_predictions(server)) if errors or by_model else None
    if by_device is not None:
        yield by_device
    each_model = prediction_table("model", model_predictions(server)) if by_model else None
    if each_model is not None:
        yield each_model
    if by_device is None and (infer := server.predictions.get("infer")) is not None and infer.duration.count:
        share = infer.within / infer.duration.count
        yield f"\n{share:.1%} of executions took at most the estimated time; --errors shows more"
