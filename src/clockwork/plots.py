"""Draws plots of a simulation or a load test as PNG files.

The plots show goodput, latency, utilisation, cold starts and prediction errors. The only input is the JSON that
`clockwork sim --json` writes. matplotlib is an optional dependency. Legends are below the axes, so that they never
cover data.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

SIZE = (8.0, 4.5)
"""Width and height of a figure, in inches."""

LEGEND_COLUMNS = 3
STYLE: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}


def draw_all(directory: Path, results: dict[str, Any]) -> list[Path]:
    """Draw every plot for which the results contain data, and return the paths of the files."""
    details = results["details"]
    results = results | {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", results["name"]).strip(".-") or "scenario"}
    with mpl.rc_context(STYLE):
        files = [_goodput(directory, results["name"], details), _latency(directory, results["name"], details)]
        if any("utilisation" in detail for detail in details):
            files.append(_utilisation(directory, results["name"], details))
        if any(any(detail["series"]["cold_starts"]) for detail in details):
            files.append(_cold_starts(directory, results["name"], details))
        if any(map(_has_errors, details)):
            files.append(_prediction(directory, results["name"], details))
        if len(details) > 1:
            files.append(_sweep(directory, results))
    return files


def _label(detail: dict[str, Any]) -> str:
    return f"SLO {detail['slo_ms']:g} ms, load {detail['load']:g}"


def _times(detail: dict[str, Any], count: int) -> list[float]:
    """Return the start times, in seconds, of the steps of a time series."""
    return [step * detail["bucket_s"] for step in range(count)]


def _goodput(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = _axes(f"{name}: goodput over time", "time (s)", "goodput (requests/s)")
    for detail in details:
        series = detail["series"]["in_time"]
        rates = [count / detail["bucket_s"] for count in series]
        axes.plot(_times(detail, len(series)), rates, label=_label(detail))
    if len(details) == 1:
        series = details[0]["series"]["sent"]
        rates = [count / details[0]["bucket_s"] for count in series]
        axes.plot(_times(details[0], len(series)), rates, label="offered", linestyle=":", color="grey")
    axes.set_ylim(bottom=0)
    return _save(figure, directory / f"{name}-goodput.png")


def _latency(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = _axes(f"{name}: latency of requests in time", "latency (ms)", "share of requests")
    axes.set_xscale("log")
    for detail in details:
        _distribution(axes, detail["latency_cdf"], label=_label(detail))
    axes.set_ylim(0, 1.02)
    return _save(figure, directory / f"{name}-latency.png")


def _utilisation(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = _axes(f"{name}: utilisation of devices", "elapsed part of the run (%)", "devices executing (%)")
    for detail in details:
        shares = detail.get("utilisation", [])
        axes.plot(range(1, len(shares) + 1), [100 * share for share in shares], label=_label(detail))
    axes.set_ylim(0, 105)
    return _save(figure, directory / f"{name}-utilisation.png")


def _cold_starts(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = _axes(f"{name}: cold starts", "time (s)", "cold starts (requests/s)")
    for detail in details:
        series = detail["series"]["cold_starts"]
        rates = [count / detail["bucket_s"] for count in series]
        axes.plot(_times(detail, len(series)), rates, label=_label(detail))
    axes.set_ylim(bottom=0)
    return _save(figure, directory / f"{name}-cold-starts.png")


def _sweep(directory: Path, results: dict[str, Any]) -> Path:
    """Draw the goodput for each SLO or load of a sweep.

    The plot also shows the ideal goodput, and the goodput of compared systems if it is known.
    """
    rows = [row for row in results["rows"] if row["stream"] == "all"]
    by_slo = len({row["slo_ms"] for row in rows}) > 1
    key, across = ("slo_ms", "SLO (ms)") if by_slo else ("load", "load (multiple of the scenario's)")
    figure, axes = _axes(f"{results['name']}: goodput by {'SLO' if by_slo else 'load'}", across, "goodput (requests/s)")
    if by_slo:
        axes.set_xscale("log")
        _tick_each(axes, sorted({row[key] for row in rows}))
    axes.plot([row[key] for row in rows], [row["goodput_rps"] for row in rows], marker="o", label="Clockwork")
    for other in results.get("compared", ()):
        if other[key]:
            axes.plot(other[key], other["goodput_rps"], marker="s", linestyle="--", label=other["name"])
    if not by_slo:
        axes.plot([row[key] for row in rows], [row["offered_rps"] for row in rows], linestyle=":", label="offered")
    if results.get("ideal_rps"):
        axes.axhline(results["ideal_rps"], color="grey", linestyle=":", label=f"ideal, {results['ideal_rps']:.0f}/s")
    axes.set_ylim(bottom=0)
    return _save(figure, directory / f"{results['name']}-sweep.png")


def _prediction(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    """Draw the distribution of prediction errors, as in figure 10 of the paper."""
    figure, grid = plt.subplots(2, 2, figsize=(SIZE[0] * 1.5, SIZE[1] * 2), squeeze=False, layout="constrained")
    figure.suptitle(f"{name}: errors of predictions")
    for column, kind in enumerate(("infer", "load")):
        for row, quantity in enumerate(("duration", "completion")):
            axes = grid[row][column]
            axes.set_title(f"{kind.upper()} {quantity}", fontsize="medium")
            axes.set_xscale("log")
            axes.set_xlabel("error (ms)")
            axes.set_ylabel("share of actions")
            for detail in details:
                _errors(axes, detail, kind, quantity)
    return _save(figure, directory / f"{name}-prediction.png")


def _has_errors(detail: dict[str, Any]) -> bool:
    kinds = detail.get("prediction", {}).get("cdf", {}).values()
    return any(steps for curves in kinds for sides in curves.values() for steps in sides.values())


def _errors(axes: Any, detail: dict[str, Any], kind: str, quantity: str) -> None:
    """Draw the prediction errors of one run in one colour.

    The line for predictions that were too late or too long is dashed.
    """
    curves = detail.get("prediction", {}).get("cdf", {}).get(kind, {}).get(quantity, {})
    color = None
    for side, style in (("over", "--"), ("under", "-")):
        label = f"{_label(detail)}: {side}"
        color = _distribution(axes, curves.get(side), linestyle=style, color=color, label=label) or color


def _distribution(axes: Any, steps: list[tuple[float, float]] | None, **style: Any) -> Any:
    """Draw a cumulative distribution that begins at 0.

    Return the colour of its line, or None if the distribution has no steps.
    """
    if not steps:
        return None
    values = [steps[0][0], *(value for value, _ in steps)]
    shares = [0.0, *(share for _, share in steps)]
    (line,) = axes.plot(values, shares, drawstyle="steps-post", **style)
    return line.get_color()


def _tick_each(axes: Any, values: list[float]) -> None:
    """Label exactly these values on a logarithmic axis."""
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def _axes(title: str, across: str, up: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    """Add one legend for all axes below the axes, and write the file."""
    labelled = {label: handle for axes in figure.axes for handle, label in zip(*_entries(axes), strict=True)}
    if labelled:
        columns = min(LEGEND_COLUMNS, len(labelled))
        figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=columns, fontsize="small")
    # The file contains no version and no date, so that the same results always produce the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path


def _entries(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, labels
