"""Measure the cost of the features that show what the server does.

    python benchmarks/bench_observability.py --json observability.json

explain_cost    Cost of recording requests so that they can be explained (limit: 0.02). One server has the default
                options, and the other has --explain-requests 0.
viewer_cost     Cost of one page that shows the dashboard (limit: 0.01). One server is measured with and without it. A
                turn has five times the usual length, because the page gets at most 5 snapshots per second.
otel_cost       Cost of exporting traces of 1 % of the requests (limit: 0.02). One server has --otel, and the other has
                not. The collector is a process on another core.
otel_cost_of_all    The same, if all requests are traced. The server drops the spans that it cannot export in time.

A cost is the additional processor time of the controller's process for a request, as a share. `feature_cost` describes
how it is measured. Beside each cost, the result contains its noise: what the same measurement returns for two servers
with the same options (`explain_noise` and so on).
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvloop
from feature_cost import CORES, ON_ITS_CORE, OPTIONS, feature_cost, servers
from serving import Served, machine, options, serving, tell

from clockwork.zoo import build

COLLECTOR: Final = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass

os.sched_setaffinity(0, {int(sys.argv[1])})
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""Program of a collector that accepts all spans and keeps none."""


def told(name: str, made: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a part, with its cost and its noise."""
    stem, _, rest = name.partition("_")
    return {name: made} | {"_".join(filter(None, (stem, what, rest))): made[what] for what in ("cost", "noise")}


async def bench_explain(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the cost of recording requests."""
    both = servers(model, lacking=["--explain-requests=0"])
    return told("explain", await feature_cost(both, model.stem, duration, rounds))


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

    @contextmanager
    def one() -> Iterator[Sequence[Served]]:
        with serving(model, *OPTIONS, **ON_ITS_CORE) as served:
            yield [served] * 3

    return told("viewer", await feature_cost(one, model.stem, 5 * duration, rounds // 5, during=viewing))


@contextmanager
def tracing(share: float) -> Iterator[None]:
    """Let new servers trace a share of the requests. A collector runs until the context ends."""
    core = str(CORES[-1])
    with subprocess.Popen([sys.executable, "-c", COLLECTOR, core], stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout is not None
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.stdout.readline().strip()}",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(share),
        }
        os.environ |= variables
        try:
            yield
        finally:
            for name in variables:
                del os.environ[name]
            collector.kill()


async def bench_otel(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the cost of tracing 1 % of the requests, and of tracing all."""
    results: dict[str, Any] = {}
    for name, share in (("otel", 0.01), ("otel_of_all", 1.0)):
        with tracing(share):
            made = await feature_cost(servers(model, having=["--otel"]), model.stem, duration, rounds)
        results |= told(name, made)
    return results


PARTS: Final = {"explain": bench_explain, "viewer": bench_viewer, "otel": bench_otel}
"""The parts of the benchmark by name."""


async def main() -> None:
    """Run the benchmark, and print and write the results."""
    parser = options(__doc__, seconds=0.2, rounds=144)
    parser.add_argument("--only", choices=sorted(PARTS), nargs="+", default=list(PARTS), help="run only these parts")
    chosen = parser.parse_args()
    results = machine()
    with tempfile.TemporaryDirectory() as directory:
        model = build("mlp", Path(directory))
        for part in chosen.only:
            results |= await PARTS[part](model, chosen.seconds, chosen.rounds)
    tell(results, chosen.json)


if __name__ == "__main__":
    uvloop.run(main())
