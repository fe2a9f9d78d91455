"""Prints the results of ``clockwork sim`` and ``clockwork load-test`` as tables for people."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from clockwork.cli.output import Listing, limited, prediction_table, show, table

MAX_STREAM_ROWS: Final = 12
"""Largest number of request streams that the table shows for one run. The JSON contains all streams."""

Format = Callable[[Any], str]


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _percent(value: float) -> str:
    """Return a share as a percentage. The text is ``100%`` only if the share is exactly 1."""
    shown = f"{value:.2%}"
    return shown if shown != "100.00%" else "100%" if value == 1 else f"{value:.4%}"


COLUMNS: Final[tuple[tuple[str, str, Format], ...]] = (
    ("stream", "stream", str),
    ("slo_ms", ">SLO ms", "{:g}".format),
    ("load", ">load", "{:g}".format),
    ("devices", ">devices", str),
    ("offered_rps", ">offered/s", _rate),
    ("goodput_rps", ">goodput/s", _rate),
    ("in_time_share", ">in time", _percent),
    ("admitted_missed", ">broken promises", str),
    ("refused", ">refused", str),
    ("late", ">late", str),
    ("failed", ">failed", str),
    ("cold_starts", ">cold starts", str),
    ("batch_size_mean", ">batch", "{:g}".format),
    ("latency_ms_p50", ">p50 ms", "{:.4g}".format),
    ("latency_ms_p99", ">p99 ms", "{:.4g}".format),
    ("verdict_ms_p99", ">refusal p99 ms", "{:.4g}".format),
    ("changes", ">changes", str),
    ("changes_failed", ">changes failed", str),
    ("ready_ms_p99", ">ready p99 ms", "{:.4g}".format),
    ("missed_meanwhile", ">missed meanwhile", str),
    ("devices_mean", ">mean devices", "{:g}".format),
    ("devices_max", ">most devices", str),
    ("devices_wanted_max", ">most wanted", str),
    ("utilisation", ">busy", "{:.0%}".format),
    ("requests_per_wall_s", ">simulated/s", _rate),
)
"""The columns of the table of results.

Each column has a key, which the rows of the JSON use, a header, and a function that formats a value.
"""

OTHER_OUTCOMES: Final = (
    ("admitted_missed", "broken promises"),
    ("refused", "refused"),
    ("late", "late"),
    ("failed", "failed"),
)
"""The outcomes of requests that were not in time. Each outcome has a key, which the rows of the JSON use, and a name
for people.
"""

DROP: Final = (
    "simulated/s",
    "missed meanwhile",
    "refusal p99 ms",
    "failed",
    "late",
    "batch",
    "cold starts",
    "p50 ms",
    "busy",
    "broken promises",
    "refused",
)
"""Columns that are left out on a narrow screen. The least important column is the first."""


def show_results(results: dict[str, Any], details: bool = False) -> None:
    """Print the table of results, the errors of failed requests, and a warning if no request was in time.

    If ``details`` is true, also print the cold starts over time and the prediction errors.
    """
    rows, left_out = _shown_rows(results["rows"])
    cells = [[_shown(row.get(key), form) for key, _, form in COLUMNS] for row in rows]
    show(table(results["name"], [header for _, header, _ in COLUMNS], cells, DROP))
    if left_out:
        show(f" and {left_out:,} more streams; --json FILE has all")
    if details:
        show(*_details(results["details"]))
    footer = f"seed {results['seed']}, scheduler {results['scheduler']}"
    if "memory_mib" in results:
        wall = sum(row.get("wall_s", 0.0) for row in results["rows"])
        footer += f", {wall:.1f} s of wall time, {results['memory_mib']:.0f} MiB of memory at most"
    show(footer)
    show(*_warnings(results))
    for text in sorted({detail["failure"] for detail in results["details"]} - {""}):
        show(f"some requests failed: {text}")
    if not any(row["sent"] for row in results["rows"]):
        show("no request was sent after the warm-up; check when the streams of the workload begin")
    if not details and any(detail.get("prediction", {}).get("all") for detail in results["details"]):
        show("--details shows prediction errors and cold starts")


def _warnings(results: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each run in which no request was in time, with the most frequent reason."""
    rows = [row for row in results["rows"] if row["stream"] == "all"]
    for row, detail in zip(rows, results["details"], strict=False):
        if not row["sent"] or row["in_time"]:
            continue
        counts = (f"{row[key]:,} {name}" for key, name in OTHER_OUTCOMES if row[key])
        text = f"warning: no request was in time ({_run_name(detail)}): {', '.join(counts)}"
        reasons = detail.get("none_in_time")
        if reasons:
            reason = max(reasons, key=lambda reason: reasons[reason])
            text += f"; most frequent reason ({reasons[reason]:,} requests): {reason or 'none given'}"
        yield text


def show_needed_devices(results: dict[str, Any], target: float) -> None:
    """If the runs have different numbers of devices, print the smallest number of devices that suffices.

    A number of devices suffices if at least the share ``target`` of the requests is in time. The same must hold for
    every larger number of devices.
    """
    runs: dict[tuple[float | None, float], list[dict[str, Any]]] = {}
    for row in results["rows"]:
        if row["stream"] == "all":
            runs.setdefault((row["slo_ms"], row["load"]), []).append(row)
    for (slo_ms, load), rows in runs.items():
        if len(rows) == 1:
            continue
        suffices = None
        for row in sorted(rows, key=lambda row: -row["devices"]):
            if row["in_time_share"] is None or row["in_time_share"] < target:
                break
            suffices = row
        best = suffices or max(rows, key=lambda row: row["devices"])
        count, share = best["devices"], _percent(best["in_time_share"] or 0.0)
        one = count == 1
        verb = ("suffices" if one else "suffice") if suffices else ("does not suffice" if one else "do not suffice")
        slo = "" if slo_ms is None else f"SLO {slo_ms:g} ms, "
        end = "" if suffices else f"; the target is {_percent(target)}"
        show(f"{count} device{'' if one else 's'} {verb}: {share} in time ({slo}load {load:g}x){end}")


def _shown_rows(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the rows to show, and the number of rows that are left out.

    If there are several runs with many streams, the table has one row for each run. If there is only one run, the table
    shows the streams with the most requests.
    """
    runs = [number for number, row in enumerate(rows) if row["stream"] == "all"]
    if len({rows[number].get("devices") for number in runs}) > 1:
        return [rows[number] for number in runs], 0
    if len(rows) <= MAX_STREAM_ROWS * max(1, len(runs)) and (len(runs) <= 1 or len(rows) <= 2 * MAX_STREAM_ROWS):
        return rows, 0
    if len(runs) > 1:
        return [rows[number] for number in runs], len(rows) - len(runs)
    streams = limited(sorted(rows[1:], key=lambda row: -row["sent"]), MAX_STREAM_ROWS)
    return [rows[0], *streams], len(rows) - 1 - len(streams)


def _shown(value: Any, form: Format) -> str:
    return "" if value is None else form(value)


def _details(details: list[dict[str, Any]]) -> Iterator[Listing | str]:
    for detail in details:
        if any(detail["series"]["cold_starts"]):
            yield "\n"
            yield _cold_starts(detail)
    errors = prediction_table("run", {_run_name(detail): detail["prediction"]["all"] for detail in details})
    if errors is not None:
        yield "\n"
        yield errors


def _run_name(detail: dict[str, Any]) -> str:
    name = f"SLO {detail['slo_ms']:g} ms, load {detail['load']:g}"
    return name if detail.get("devices") is None else f"{name}, devices {detail['devices']}"


def _cold_starts(detail: dict[str, Any]) -> Listing:
    """Return a table of the cold starts over time. The table has at most ten time steps, and includes the warm-up."""
    series, step = detail["series"], -(-len(detail["series"]["sent"]) // 10)
    rows = []
    for begin in range(0, len(series["sent"]), step):
        part = slice(begin, begin + step)
        sent, cold = sum(series["sent"][part]), sum(series["cold_starts"][part])
        share = f"{cold / sent:.2%}" if sent else ""
        rows.append((f"{begin * detail['bucket_s']:g}", sent, cold, share))
    title = f"Cold starts, {_run_name(detail)}"
    return table(title, (">from s", ">requests", ">cold starts", ">share"), rows)
