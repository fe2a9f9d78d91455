"""Prints results on stdout, as tables for people or as JSON for programs."""

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.profile import Measurement
from clockwork.messages.requests import ModelStatus, ServerStatus
from clockwork.state import Predictions
from clockwork.units import show_duration

Summaries = dict[str, PredictionSummary]
"""Maps a kind of action to a summary of its prediction errors."""

PIPED_WIDTH: Final = 120
"""Width in characters of tables with many columns, if stdout is not a terminal."""

MAX_WIDTH: Final = 10_000
"""Width in characters that stands for no limit."""

PIPED_HEIGHT: Final = 50
"""Number of lines of a screen if stdout is not a terminal."""

Row = TypeVar("Row")

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

PREDICTION_DROP: Final = (
    "actions",
    "ended earlier",
    "ended later",
    "took less",
    "began earlier",
    "failed",
    "began later",
)
"""Columns that are left out on a narrow screen. The least important column is the first."""

PREDICTION_TITLE: Final = "Prediction errors: share of the actions, and the error at p99"


class Listing(Struct, frozen=True):
    """A table that adapts to the width of the screen. `table` creates it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    drop: tuple[str, ...] = ()

    def fitted(self, console: Console) -> Table:
        """Return a table that is as wide as the console allows.

        The table's caption names the columns that are left out.
        """
        kept = [
            (number, header)
            for number, header in enumerate(self.columns)
            if number == 0 or not self.rows or any(row[number] for row in self.rows)
        ]
        dropped = []
        unlimited = console.options.update(width=MAX_WIDTH)
        zeros = {_header(header) for number, header in kept if all(row[number] in ("", "0") for row in self.rows)}
        for name in sorted(self.drop, key=lambda name: name not in zeros):
            if console.measure(self._table(kept), options=unlimited).maximum <= console.width:
                break
            left = [column for column in kept if _header(column[1]) != name]
            if len(left) < len(kept):
                dropped.append(name)
                kept = left
        result = self._table(kept)
        if dropped:
            result.caption = f"not shown for lack of width: {', '.join(dropped)}"
        return result

    def _table(self, kept: Sequence[tuple[int, str]]) -> Table:
        result = Table(
            title=self.title or None,
            title_justify="left",
            title_style="bold",
            caption_justify="left",
            caption_style="dim",
            box=box.SIMPLE_HEAD,
            show_edge=False,
        )
        for number, header in kept:
            fixed = header.startswith(">") or (number > 0 and bool(self.drop))
            result.add_column(
                _header(header),
                justify="right" if header.startswith(">") else "left",
                no_wrap=fixed,
                overflow="ellipsis" if fixed else "fold",
            )
        for row in self.rows:
            result.add_row(*(row[number] for number, _ in kept))
        return result


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], drop: Sequence[str] = ()) -> Listing:
    """Return a table that adapts to the screen. A column whose header begins with ``>`` is aligned to the right.

    If the table is wider than the screen, columns are left out until the table fits. Only the columns in ``drop`` may
    be left out. Columns that contain only zeros are left out first, and then the columns are left out in the order of
    ``drop``. The first column is never cut. Empty columns are not shown.
    """
    return Listing(title, tuple(columns), tuple(tuple(map(str, row)) for row in rows), tuple(drop))


def _header(column: str) -> str:
    return column.removeprefix(">")


def printable(text: str) -> str:
    """Return a text with ``?`` in place of control characters, because clients choose ids and names."""
    return "".join(character if character.isprintable() else "?" for character in text)


def show(*items: Listing | str) -> None:
    """Print tables and lines of text.

    On a terminal, tables are at most as wide as the terminal. If stdout is not a terminal, tables that can leave out
    columns are at most `PIPED_WIDTH` wide. The environment variable COLUMNS can set a different width. Tables that
    cannot leave out columns have no limit.
    """
    console = Console(highlight=False, markup=False)
    for number, item in enumerate(items):
        if isinstance(item, str):
            console.print(item, soft_wrap=True)
            continue
        if not console.is_terminal:
            console.width = _piped_width() if item.drop else MAX_WIDTH
        if number:
            console.print()
        console.print(item.fitted(console))


def _piped_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and 0 < int(columns) < MAX_WIDTH else PIPED_WIDTH


def screen_height() -> int:
    """Return the number of lines of the terminal, or `PIPED_HEIGHT` if stdout is not a terminal."""
    console = Console()
    return console.height if console.is_terminal else PIPED_HEIGHT


def limited(rows: Sequence[Row], limit: int) -> Sequence[Row]:
    """Return all rows if there are at most ``limit`` rows. Otherwise return the first ``limit - 1`` rows.

    In the second case, one line of the screen remains free, for the number of rows that are not shown.
    """
    return rows if len(rows) <= limit else rows[: max(1, limit - 1)]


def fold_copies(names: Iterable[tuple[str, Hashable]]) -> list[tuple[str, list[str]]]:
    """Combine the copies of a model, ``NAME-1`` to ``NAME-N``, into one entry.

    ``names`` are pairs of a name and a key. Only names with equal keys are combined. Each entry of the result has a
    label, such as ``NAME-1..15``, and the names that it stands for. The entries are sorted by the position of their
    first name.
    """
    groups: dict[Hashable, list[str]] = {}
    for name, key in names:
        stem, dash, number = name.rpartition("-")
        is_copy = bool(dash and stem) and number.isdecimal() and number.isascii() and not number.startswith("0")
        groups.setdefault((stem, key) if is_copy else (name, None, key), []).append(name)
    return [(_folded_label(members), members) for members in groups.values()]


def _folded_label(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    numbers = sorted(int(name.rpartition("-")[2]) for name in names)
    label = f"{names[0].rpartition('-')[0]}-{numbers[0]}..{numbers[-1]}"
    gaps = numbers[-1] - numbers[0] + 1 != len(numbers)
    return f"{label} ({len(names)} copies)" if gaps else label


def show_json(value: Any) -> None:
    """Print a value as a JSON document. A struct becomes an object whose keys are the names of its fields."""
    print(msgspec.json.encode(plain(value)).decode())


def plain(value: Any) -> Any:
    """Return ``value`` with dicts in place of structs. A `Measurement` becomes its percentiles and samples.

    Without this conversion, msgspec would write these structs as arrays, because the native protocol encodes them as
    arrays.
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
    """Return the prediction errors of each device.

    The first entry, ``all``, contains the errors of the whole server. If there is only one device, and its errors equal
    those of the server, the entry ``all`` is missing.
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
    """Return the prediction errors of each model that devices have executed."""
    return {model_label(model): model.predictions for model in server.models if model.predictions}


def model_label(model: ModelStatus) -> str:
    """Return the name of a model. The name includes the version unless this version is the default."""
    return model.info.name if model.default else f"{model.info.name}:{model.info.version}"


def prediction_section(server: ServerStatus) -> dict[str, Any]:
    """Return the section ``prediction`` of the JSON document that contains the results of a run."""
    return {
        "all": server.predictions,
        "devices": device_predictions(server),
        "models": model_predictions(server),
    }


def prediction_curves(predictions: Predictions) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
    """Return the cumulative distributions of the prediction errors.

    In a point (x, y), y is the share of errors up to x ms.

    The keys of the three levels are the kind of action, the predicted quantity, and ``over`` or ``under``.
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


def prediction_table(first_column: str, summaries: dict[str, Summaries]) -> Listing | None:
    """Return a table with a row for each entry of ``summaries`` and kind of action, or None if there are no rows."""
    rows = [
        (name, kind, *_prediction_cells(summary))
        for name, by_kind in summaries.items()
        for kind, summary in by_kind.items()
    ]
    return table(PREDICTION_TITLE, (first_column, *PREDICTION_COLUMNS), rows, PREDICTION_DROP) if rows else None


def _prediction_cells(summary: PredictionSummary) -> Iterator[object]:
    yield max(summary.start.count, summary.duration.count)
    yield summary.failed
    yield f"{summary.within / summary.duration.count:.2%}" if summary.duration.count else ""
    for errors in (summary.start, summary.duration, summary.completion):
        yield _error_cell(errors, errors.over, errors.over_p99)
        yield _error_cell(errors, errors.under, errors.under_p99)


def _error_cell(errors: ErrorSummary, count: int, p99: int) -> str:
    return f"{count / errors.count:.1%}, {show_duration(p99)}" if count else ""
