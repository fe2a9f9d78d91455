"""Measure the cost of the features that show what the server does.

    python benchmarks/bench_observability.py --json observability.json

explain_cost    Cost of recording requests so that they can be explained (limit: 0.02). One server has the default
                options, and the other has --explain-requests 0.
viewer_cost     Cost of one page that shows the dashboard (limit: 0.01). One server is measured with and without it. A
                turn has four times the usual length, because the page gets at most 5 snapshots per second.

A cost is the additional processor time of the controller's thread for a request, as a share. `feature_cost` describes
how it is measured.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop
from feature_cost import ON_ITS_CORE, OPTIONS, feature_cost, mlp_request
from serving import Served, machine, options, serving, tell

from clockwork.zoo import build


async def bench_explain(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the cost of recording requests."""
    off_option = "--explain-requests=0"
    with serving(model, *OPTIONS, **ON_ITS_CORE) as on, serving(model, *OPTIONS, off_option, **ON_ITS_CORE) as off:
        made = await feature_cost(on, off, mlp_request(on, model.stem), duration, rounds)
    return {"explain": made, "explain_cost": made["cost"]}


@asynccontextmanager
async def viewing(served: Served) -> AsyncIterator[None]:
    """Read the snapshots of the dashboard while the context is open, as a page does."""
    host, _, port = served.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v2/clockwork/events HTTP/1.1\r\nHost: {served.http}\r\n\r\n".encode())
    await reader.readuntil(b"data: ")

    async def read() -> None:
        with suppress(OSError):  # this process ends the connection
            while await reader.read(65536):
                pass

    reading = asyncio.ensure_future(read())
    try:
        yield
    finally:
        writer.close()
        await reading


async def bench_viewer(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the cost of one viewer of the dashboard."""
    with serving(model, *OPTIONS, **ON_ITS_CORE) as served:
        request = mlp_request(served, model.stem)
        made = await feature_cost(served, served, request, 4 * duration, max(2, rounds // 2), during=viewing)
    return {"viewer": made, "viewer_cost": made["cost"]}


async def main() -> None:
    """Run the benchmark, and print and write the results."""
    chosen = options(__doc__, seconds=0.4, rounds=60).parse_args()
    results = machine()
    with tempfile.TemporaryDirectory() as directory:
        model = build("mlp", Path(directory))
        results |= await bench_explain(model, chosen.seconds, chosen.rounds)
        results |= await bench_viewer(model, chosen.seconds, chosen.rounds)
    tell(results, chosen.json)


if __name__ == "__main__":
    uvloop.run(main())
