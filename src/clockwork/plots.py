"""Plots of what a simulation or a load test gave: goodput over time, latency, utilisation, cold starts; as PNGs.

Rules of the file: it reads results as `clockwork sim --json` writes them and nothing else. matplotlib is an extra.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

SIZE = (8.0, 4.5)


def draw_all(directory: Path, results: dict[str, Any]) -> list[Path]:
    """Draw what there is to draw; returns the files."""
    details = results["details"]
    results = results | {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", results["name"]).strip(".-") or "scenario"}
    made = [_goodput(directory, results["name"], details), _latency(directory, results["name"], details)]
    if any("utilisation" in detail for detail in details):
        made.append(_utilisation(directory, results["name"], details))
    if any(any(detail["series"]["cold_starts"]) for detail in details):
        made.append(_cold_starts(directory, results["name"], details))
    if any(map(_has_errors, details)):
        made.append(_prediction(directory, results["name"], details))
    if len(details) > 1:
        made.append(_sweep(directory, results["name"], results["rows"]))
    return made


def _label(detail: dict[str, Any]) -> str:
    return f"SLO {detail['slo_ms']:g} ms, load {detail['load']:g}"


def _moments(detail: dict[str, Any], count: int) -> list[float]:
    return [step * detail["bucket_s"] for step in range(count)]


def _goodput(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE)
    for detail in details:
        series = detail["series"]["in_time"]
        rates = [count / detail["bucket_s"] for count in series]
        axes.plot(_moments(detail, len(series)), rates, label=_label(detail))
    if len(details) == 1:
        series = details[0]["series"]["sent"]
        rates = [count / details[0]["bucket_s"] for count in series]
        axes.plot(_moments(details[0], len(series)), rates, label="offered", linestyle=":", color="grey")
    return _finish(figure, axes, directory / f"{name}-goodput.png", "time (s)", "goodput (requests/s)")


def _latency(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE)
    for detail in details:
        steps = detail["latency_cdf"]
        if steps:
            axes.plot(
                [at for at, _ in steps], [share for _, share in steps], label=_label(detail), drawstyle="steps-post"
            )
    axes.set_xscale("log")
    return _finish(figure, axes, directory / f"{name}-latency.png", "latency of those in time (ms)", "share")


def _utilisation(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE)
    for detail in details:
        axes.plot(range(1, 101), [100 * share for share in detail.get("utilisation", [])], label=_label(detail))
    return _finish(
        figure,
        axes,
        directory / f"{name}-utilisation.png",
        "share of the time that is over (%)",
        "devices executing (%)",
    )


def _cold_starts(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    figure, axes = plt.subplots(figsize=SIZE)
    for detail in details:
        series = detail["series"]["cold_starts"]
        rates = [count / detail["bucket_s"] for count in series]
        axes.plot(_moments(detail, len(series)), rates, label=_label(detail))
    return _finish(figure, axes, directory / f"{name}-cold-starts.png", "time (s)", "cold starts per second")


def _sweep(directory: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    rows = [row for row in rows if row["stream"] == "all"]
    by = "slo_ms" if len({row["slo_ms"] for row in rows}) > 1 else "load"
    figure, axes = plt.subplots(figsize=SIZE)
    axes.plot([row[by] for row in rows], [row["goodput_rps"] for row in rows], marker="o", label="goodput")
    if by == "load":
        axes.plot([row[by] for row in rows], [row["offered_rps"] for row in rows], linestyle=":", label="offered")
    axes.set_ylim(bottom=0)
    return _finish(figure, axes, directory / f"{name}-sweep.png", by.replace("_", " "), "requests/s")


def _prediction(directory: Path, name: str, details: list[dict[str, Any]]) -> Path:
    """How far durations and ends were from what was predicted, as in figure 10 of the paper."""
    figure, grid = plt.subplots(2, 2, figsize=(SIZE[0] * 1.5, SIZE[1] * 2), squeeze=False)
    for column, kind in enumerate(("infer", "load")):
        for row, what in enumerate(("duration", "completion")):
            axes = grid[row][column]
            axes.set_title(f"{kind.upper()} {what}", fontsize="medium")
            axes.set_xscale("log")
            for detail in details:
                _errors(axes, detail, kind, what)
            if axes is not grid[1][1]:
                _label_axes(axes, "error (ms)", "share of these")
    return _finish(figure, grid[1][1], directory / f"{name}-prediction.png", "error (ms)", "share of these")


def _has_errors(detail: dict[str, Any]) -> bool:
    kinds = detail.get("prediction", {}).get("cdf", {}).values()
    return any(steps for curves in kinds for sides in curves.values() for steps in sides.values())


def _errors(axes: Any, detail: dict[str, Any], kind: str, what: str) -> None:
    """One run's lines: over-predictions dashed, under-predictions solid, in one colour."""
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
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _finish(figure: Any, axes: Any, path: Path, across: str, up: str) -> Path:
    _label_axes(axes, across, up)
    figure.tight_layout()
    # No software version or date: the same results give the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path
