"""Output on stdout: tables for people, JSON for programs, and the prediction errors of a server in either form."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.profile import Measurement
from clockwork.messages.requests import ServerStatus
from clockwork.state import Predictions
from clockwork.units import show_duration

Summaries = dict[str, PredictionSummary]
"""Prediction errors by kind of action."""

PREDICTION_COLUMNS: Final = (
    "action",
    ">actions",
    ">failed",
    ">within estimate",
    ">began earlier",
    ">began later",
    ">took less",
    ">took longer",
    ">ended earlier",
    ">ended later",
)

PREDICTION_TITLE: Final = "Prediction errors: share of the actions, and the error at p99"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table; columns whose header begins with ``>`` are aligned to the right."""
    result = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        right = column.startswith(">")
        result.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        result.add_row(*map(str, row))
    return result


def show(*items: Table | str) -> None:
    """Print tables and lines. Nothing is cut to a width unless stdout is a terminal."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    for number, item in enumerate(items):
        if isinstance(item, Table) and number:
            console.print()
        console.print(item, soft_wrap=isinstance(item, str))


def show_json(value: Any) -> None:
    """Print one JSON document. Structs become objects with their fields' names."""
    print(msgspec.json.encode(plain(value)).decode())


def plain(value: Any) -> Any:
    """Return ``value`` with dicts in place of structs; a `Measurement` becomes its percentiles and samples.

    The wire format of structs is arrays, which msgspec would write as well.
    """
    match value:
        case Measurement():
            return {"p50": value.median, "p99": value.p99, "samples": value.samples}
        case Struct():
            return {field: plain(getattr(value, field)) for field in value.__struct_fields__}
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


# ------------------------------------------------------------------------------------------- prediction errors


def device_predictions(server: ServerStatus) -> dict[str, Summaries]:
    """Return the prediction errors by device.

    The first entry, ``all``, is the whole server. It is left out if it equals the only device's.
    """
    by_device = {
        f"{worker.id}/gpu{device.gpu.id}": device.predictions
        for worker in server.workers
        for device in worker.gpus
        if device.predictions
    }
    if not server.predictions or list(by_device.values()) == [server.predictions]:
        return by_device
    return {"all": server.predictions} | by_device


def model_predictions(server: ServerStatus) -> dict[str, Summaries]:
    """Return the prediction errors by model, for models that have executed."""
    return {model.info.name: model.predictions for model in server.models if model.predictions}


def prediction_section(server: ServerStatus) -> dict[str, Any]:
    """Return the section ``prediction`` of JSON results."""
    return {
        "all": server.predictions,
        "devices": device_predictions(server),
        "models": model_predictions(server),
    }


def prediction_curves(predictions: Predictions) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
    """Return the distributions of prediction errors as points (milliseconds, share).

    The keys are the kind of action, the predicted quantity, and ``over`` or ``under``.
    """
    return {
        kind: {
            quantity: {"over": _rounded(errors.over.steps()), "under": _rounded(errors.under.steps())}
            for quantity, errors in (
                ("start", prediction.start),
                ("duration", prediction.duration),
                ("completion", prediction.completion),
            )
        }
        for kind, prediction in predictions
    }


def _rounded(steps: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(at, 4), round(share, 6)) for at, share in steps]


def prediction_table(first_column: str, summaries: dict[str, Summaries]) -> Table | None:
    """Return a table with a row for each entry and kind of action; None if it would have no rows."""
    rows = [
        (name, kind, *_prediction_cells(summary))
        for name, by_kind in summaries.items()
        for kind, summary in by_kind.items()
    ]
    return table(PREDICTION_TITLE, (first_column, *PREDICTION_COLUMNS), rows) if rows else None


def _prediction_cells(summary: PredictionSummary) -> Iterator[object]:
    yield max(summary.start.count, summary.duration.count)
    yield summary.failed
    yield f"{summary.within / summary.duration.count:.2%}" if summary.duration.count else ""
    for errors in (summary.start, summary.duration, summary.completion):
        yield _error_cell(errors, errors.over, errors.over_p99)
        yield _error_cell(errors, errors.under, errors.under_p99)


def _error_cell(errors: ErrorSummary, count: int, p99: int) -> str:
    return f"{count / errors.count:.1%}, {show_duration(p99)}" if count else ""
