"""Write results of `bench_ray_serve.py` as Markdown tables for docs/compared.md.

python benchmarks/peers/peer_table.py build/bench/ray_serve.json
"""

import json
import sys
from pathlib import Path
from typing import Any

LOAD = (
    ("weights that fit", lambda row: row["fits"]),
    ("load", lambda row: f"{row['load']:g} x"),
    ("server", lambda row: row["server"]),
    ("offered/s", lambda row: row["offered_per_s"]),
    ("goodput/s", lambda row: f"{row['goodput_per_s']} ({100 * row['in_time_of_offered']:.0f} %)"),
    ("late", lambda row: row["late"]),
    ("refused", lambda row: row["refused"]),
    ("timed out", lambda row: row["timed_out"] + row["broken"] + row["expired_in_client"]),
    ("failed", lambda row: row["errors"] + row["lost"] + row["wrong"]),
    ("p50, p99 in ms", lambda row: pair(row["success_ms_p50"], row["success_ms_p99"])),
    ("cold p50, p99 in ms", lambda row: pair(row["cold_ms_p50"], row["cold_ms_p99"])),
    ("cold in time", lambda row: f"{100 * row['least_recent_in_time']:.0f} %" if row["fits"] == "half" else "-"),
)
"""The columns of the table of loads, and how a cell is made from a row."""


def pair(first: float | None, second: float | None) -> str:
    """Return two latencies, or a dash if there are none."""
    return "-" if first is None or second is None else f"{first:.0f}, {second:.0f}"


def markdown(titles: list[str], cells: list[list[Any]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *cells]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def loads(rows: list[dict[str, Any]]) -> str:
    """Return the table of all loads. The servers of one load are in successive lines."""
    ordered = sorted(rows, key=lambda row: (row["round"], row["fits"], row["load"]))
    return markdown([title for title, _ in LOAD], [[cell(row) for _, cell in LOAD] for row in ordered])


def idle(found: list[dict[str, Any]]) -> str:
    """Return the table of cold starts without other requests."""
    networks = [key for key, value in found[0].items() if isinstance(value, dict)]
    titles = ["server", "cold starts", "all: p50, p99 in ms", *(f"{name}: p50, p99" for name in networks)]
    cells = [
        [row["server"], row["cold"], *(pair(it["ms_p50"], it["ms_p99"]) for it in (row, *(row[n] for n in networks)))]
        for row in found
    ]
    return markdown(titles, cells)


def main(file: str) -> None:
    """Print the tables."""
    found = json.loads(Path(file).read_text())
    print(loads(found["rows"]))
    if found["idle_cold_starts"]:
        print("\n" + idle(found["idle_cold_starts"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
