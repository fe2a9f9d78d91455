"""Plots of the results of a simulation or a load test, as PNG files: goodput, latency, utilisation, cold starts.

Rules of the file: the only input is results in the form that `clockwork sim --json` writes. matplotlib is an extra.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

SIZE = (8.0, 4.5)


def draw_all(directory: Path, results: dict[str, Any]) -> list[Path]:
    """Draw all plots for which the results have data; return the files."""
    details = results["details"]
    results = results | {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", results["name"]).strip(".-") or "scenario"}
    files = [_goodput(directory, results["name"], details), _latency(directory, results["name"], details)]
    if any("utilisation" in detail for detail in details):
        files.append(_utilisation(directory, results["name"], details))
    if any(any(detail["series"]["cold_starts"]) for detail in details):
        files.append(_cold_starts(directory, results["name"], details))
    if any(map(_has_errors, details)):
        files.append(_prediction(directory, results["name"], details))
    if len(details) > 1:
        files.append(_sweep(directory, results["name"], results["rows"]))
    return files


def _label(detail: dict[str, Any]) -> str:
    return f"SLO {detail['slo_ms']:g} ms, load {detail['load']:g}"


def _times(detail: dict[str, Any], count: int) -> list[float]:
    return [step * detail["bucket_s"] for step in range(count)]


def _goodput(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for detail in details:
        series = detail["series"]["in_time"]
        rates = [count / detail["bucket_s"] for count in series]
        axes.plot(_times(detail, len(series)), rates, label=_label(detail))
    if len(details) == 1:
        series = details[0]["series"]["sent"]
        rates = [count / details[0]["bucket_s"] for count in series]
        axes.plot(_times(details[0], len(series)), rates, label="offered", linestyle=":", color="grey")
    return _finish(figure, axes, directory / f"{name}-goodput.png", "time (s)", "goodput (requests/s)")


def _latency(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for detail in details:
        steps = detail["latency_cdf"]
        if steps:
            axes.plot(
                [value for value, _ in steps],
                [share for _, share in steps],
                label=_label(detail),
                drawstyle="steps-post",
            )
    axes.set_xscale("log")
    return _finish(
        figure, axes, directory / f"{name}-latency.png", "latency of requests in time (ms)", "share of requests"
    )


def _utilisation(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for detail in details:
        axes.plot(range(1, 101), [100 * share for share in detail.get("utilisation", [])], label=_label(detail))
    return _finish(
        figure,
        axes,
        directory / f"{name}-utilisation.png",
        "elapsed share of the run (%)",
        "devices executing (%)",
    )


def _cold_starts(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for detail in details:
        series = detail["series"]["cold_starts"]
        rates = [count / detail["bucket_s"] for count in series]
        axes.plot(_times(detail, len(series)), rates, label=_label(detail))
    return _finish(figure, axes, directory / f"{name}-cold-starts.png", "time (s)", "cold starts per second")


def _sweep(directory: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    rows = [row for row in rows if row["stream"] == "all"]
    by = "slo_ms" if len({row["slo_ms"] for row in rows}) > 1 else "load"
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    axes.plot([row[by] for row in rows], [row["goodput_rps"] for row in rows], marker="o", label="goodput")
    axes.plot([row[by] for row in rows], [row["offered_rps"] for row in rows], linestyle=":", label="offered")
    axes.set_ylim(bottom=0, top=1.05 * max(row["offered_rps"] for row in rows) or 1)
    if by == "slo_ms":
        axes.set_xscale("log")
        axes.set_xticks([row[by] for row in rows], [f"{row[by]:g}" for row in rows], minor=False)
        axes.minorticks_off()
    across = "SLO (ms)" if by == "slo_ms" else "load (multiple of the scenario's rates)"
    return _finish(figure, axes, directory / f"{name}-sweep.png", across, "requests/s")


def _prediction(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    """Draw the distributions of the prediction errors of durations and ends, as in figure 10 of the paper."""
    figure, grid = plt.subplots(2, 2, figsize=(SIZE[0] * 1.5, SIZE[1] * 2), squeeze=False, layout="constrained")
    for column, kind in enumerate(("infer", "load")):
        for row, what in enumerate(("duration", "completion")):
            axes = grid[row][column]
            axes.set_title(f"{kind.upper()} {what}", fontsize="medium")
            axes.set_xscale("log")
            for detail in details:
                _errors(axes, detail, kind, what)
            _label_axes(axes, "error (ms)", "share of actions")
    _add_legend(figure, grid[0][0])
    return _save(figure, directory / f"{name}-prediction.png")


def _has_errors(detail: dict[str, Any]) -> bool:
    kinds = detail.get("prediction", {}).get("cdf", {}).values()
    return any(steps for curves in kinds for sides in curves.values() for steps in sides.values())


def _errors(axes: Any, detail: dict[str, Any], kind: str, what: str) -> None:
    """Draw the lines of one run in one colour: over-predictions dashed, under-predictions solid."""
    curves = detail.get("prediction", {}).get("cdf", {}).get(kind, {}).get(what, {})
    color = None
    for side, style in (("over", "--"), ("under", "-")):
        steps = curves.get(side)
        if steps:
            at, shares = zip(*steps, strict=True)
            label = f"{_label(detail)}: {side}"
            (line,) = axes.plot(at, shares, linestyle=style, color=color, label=label, drawstyle="steps-post")
            color = line.get_color()


def _label_axes(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)


def _add_legend(figure: Any, axes: Any) -> None:
    """Add the legend of ``axes`` below all axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, fontsize="small", loc="outside lower center", ncols=3, frameon=False)


def _finish(figure: Any, axes: Any, path: Path, across: str, up: str) -> Path:
    _label_axes(axes, across, up)
    _add_legend(figure, axes)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    # Without software version and date, the same results give the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path
