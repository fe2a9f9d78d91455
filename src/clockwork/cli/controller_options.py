"""Options of a controller, for the commands ``serve`` and ``controller``: ports, decisions and shutting down."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from clockwork.cli.parsers import client_address, duration, grpc_address, http_address, worker_address
from clockwork.http.config import DEFAULT_HTTP
from clockwork.net.address import DEFAULT_LISTEN, DEFAULT_WORKER_LISTEN, Address
from clockwork.units import Nanos

# ------------------------------------------------------------------------------------------------- ports

Listen: TypeAlias = Annotated[
    Address,
    typer.Option(
        parser=client_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_LISTEN),
        help="Address for clients of the native protocol; port 0 picks a free port.",
    ),
]
WorkerListen: TypeAlias = Annotated[
    Address,
    typer.Option(
        parser=worker_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_WORKER_LISTEN),
        help="Address for workers.",
    ),
]
Grpc: TypeAlias = Annotated[
    Address | None,
    typer.Option(
        "--grpc",
        parser=grpc_address,
        metavar="HOST:PORT",
        show_default="none",
        help="Address of the Open Inference Protocol over gRPC; port 0 picks a free port.",
    ),
]
Http: TypeAlias = Annotated[
    Address | None,
    typer.Option(
        "--http",
        parser=http_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_HTTP),
        help="Address of the Open Inference Protocol (KServe, Triton) over HTTP; port 0 picks a free port; none "
        "disables HTTP.",
    ),
]
ServeMetrics: TypeAlias = Annotated[
    bool, typer.Option("--metrics/--no-metrics", help="Serve Prometheus metrics at /metrics of the --http address.")
]
ServeDashboard: TypeAlias = Annotated[
    bool, typer.Option("--dashboard/--no-dashboard", help="Serve the dashboard at / of the --http address.")
]
ModelHistograms: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--model-histograms/--no-model-histograms",
        help="Add a latency histogram to the metrics for each model that has received a request.",
    ),
]
GrpcKeepAlive: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--grpc-keep-alive",
        parser=duration,
        metavar="DURATION",
        show_default="1min",
        help="Time without traffic after which the server pings a gRPC connection. Without a reply it is closed.",
    ),
]

# --------------------------------------------------------------------------------------------- decisions

IgnoreTimeout: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--ignore-timeout",
        help="Ignore the request parameter timeout (microseconds). Only slo_ms, gRPC deadlines and --slo then apply.",
    ),
]
SchedulerName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--scheduler", metavar="NAME", help="Scheduler: a built-in name, or your own class as package.module:Class."
    ),
]
DefaultSlo: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--slo",
        parser=duration,
        metavar="DURATION",
        show_default="100ms",
        help="Default SLO for requests that set none.",
    ),
]
ModelSlos: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model-slo",
        metavar="NAME=DURATION",
        show_default=False,
        help="Default SLO of one model and its copies, in place of --slo. May be repeated.",
    ),
]
ProfileCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--profile-cache",
        file_okay=False,
        metavar="DIR",
        show_default="~/.cache/clockwork/profiles",
        help="Directory for measured times, so that the next start need not measure again.",
    ),
]
NoProfileCache: TypeAlias = Annotated[
    bool, typer.Option("--no-profile-cache", help="Store no measured times, and measure at every start.")
]
MaxBatch: TypeAlias = Annotated[
    int,
    typer.Option("--max-batch", min=1, max=4096, help="Largest batch size. The powers of two up to it are measured."),
]
ProfileSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--profile-seconds",
        min=0.01,
        max=3600,
        help="Duration of each measurement. A longer duration results in steadier estimates.",
    ),
]
UnmeasuredCap: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--unmeasured-cap",
        parser=duration,
        metavar="DURATION",
        show_default="50ms",
        help="Assumed execution time of the first requests of a model that could not be measured (docs/models.md).",
    ),
]
VerifyBatches: TypeAlias = Annotated[
    float,
    typer.Option(
        "--verify-batches",
        min=0,
        max=1,
        metavar="SHARE",
        help="Share of batches that are checked in idle time: one of their requests is executed again alone, and the "
        "outputs are compared. The first batch of each size is always checked.",
    ),
]
Strict: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="End with an error if any model cannot be loaded or measured. By default the other models are served.",
    ),
]
MaxRestarts: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-restarts",
        min=0,
        show_default="no limit",
        help="Largest number of restarts in a row. If the worker then dies within 10 s, the server ends.",
    ),
]
DrainLimit: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--drain-limit",
        parser=duration,
        metavar="DURATION",
        show_default="10s",
        help="Longest time to finish pending requests before shutting down.",
    ),
]
