"""How well actions were predicted, for people and programs: the same of a server that runs and of one simulated."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.requests import ServerStatus
from clockwork.state import Predictions
from clockwork.units import show_duration

if TYPE_CHECKING:
    from rich.table import Table

Summaries = dict[str, PredictionSummary]

COLUMNS: Final = (
    "action",
    ">actions",
    ">failed",
    ">within estimate",
    ">begun sooner",
    ">begun later",
    ">took less",
    ">took longer",
    ">ended sooner",
    ">ended later",
)

TITLE: Final = "Predictions: how many actions did other than predicted, and by how much at p99"


def devices(server: ServerStatus) -> dict[str, Summaries]:
    """Those of each device; those of all together come first, if there are several or some are gone."""
    each = {
        f"{worker.id}/gpu{device.gpu.id}": device.predictions
        for worker in server.workers
        for device in worker.gpus
        if device.predictions
    }
    if not server.predictions or list(each.values()) == [server.predictions]:
        return each
    return {"all": server.predictions} | each


def models(server: ServerStatus) -> dict[str, Summaries]:
    """Those of each model that was used."""
    return {model.info.name: model.predictions for model in server.models if model.predictions}


def section(server: ServerStatus) -> dict[str, Any]:
    """All of them, as they go into a JSON."""
    return {"all": server.predictions, "devices": devices(server), "models": models(server)}


def curves(predictions: Predictions) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
    """The distributions of errors: kind of action, what was predicted, ``over`` or ``under``: (milliseconds, share)."""
    return {
        kind: {
            what: {"over": _rounded(errors.over.steps()), "under": _rounded(errors.under.steps())}
            for what, errors in (("start", it.start), ("duration", it.duration), ("completion", it.completion))
        }
        for kind, it in predictions
    }


def _rounded(steps: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(at, 4), round(share, 6)) for at, share in steps]


def prediction_table(what: str, of: dict[str, Summaries]) -> "Table | None":
    """A table with a line for each thing, which is a ``what``, and each kind of action; None if there is no line."""
    from clockwork.cli.output import table

    rows = [(name, kind, *_cells(it)) for name, summaries in of.items() for kind, it in summaries.items()]
    return table(TITLE, (what, *COLUMNS), rows) if rows else None


def _cells(it: PredictionSummary) -> Iterator[object]:
    yield max(it.start.count, it.duration.count)
    yield it.failed
    yield f"{it.within / it.duration.count:.2%}" if it.duration.count else ""
    for errors in (it.start, it.duration, it.completion):
        yield _cell(errors, errors.over, errors.over_p99)
        yield _cell(errors, errors.under, errors.under_p99)


def _cell(errors: ErrorSummary, count: int, p99: int) -> str:
    return f"{count / errors.count:.1%}, {show_duration(p99)}" if count else ""
