"""Options that limit the size of clients' requests. The commands ``serve`` and ``controller`` share these options."""

from typing import Annotated, Any, TypeAlias

import typer

from clockwork.cli.parsers import duration, size
from clockwork.http.config import HttpConfig
from clockwork.units import SECOND, Bytes, Nanos

MaxJson: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-json",
        parser=size,
        metavar="SIZE",
        show_default="16MiB",
        help="Largest JSON of one HTTP request or response. Larger tensors need the binary data extension.",
    ),
]
MaxBody: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-body",
        parser=size,
        metavar="SIZE",
        show_default="256MiB",
        help="Largest body of one HTTP request. The inputs in it may take at most 64 MiB.",
    ),
]
MaxHead: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-head",
        parser=size,
        metavar="SIZE",
        show_default="64KiB",
        help="Largest head of one HTTP request: its first line and its headers.",
    ),
]
ExplainRequests: TypeAlias = Annotated[
    int,
    typer.Option(
        "--explain-requests",
        min=0,
        max=1_000_000,
        help="Number of the last sampled requests in time that clockwork explain knows; 0 switches recording off.",
    ),
]
ExplainFailures: TypeAlias = Annotated[
    int,
    typer.Option(
        "--explain-failures",
        min=1,
        max=1_000_000,
        help="Number of the last requests that clockwork explain knows of each outcome other than in time, and of each "
        "reason of a refusal.",
    ),
]
MaxConnections: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-connections",
        min=1,
        max=1_000_000,
        show_default="12000 for HTTP, 10000 for the native protocol, 4096 for gRPC",
        help="Limit on open connections of each port for clients.",
    ),
]
HttpKeepAlive: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--http-keep-alive",
        parser=duration,
        metavar="DURATION",
        show_default="75s",
        help="Time without a request after which the server closes an HTTP connection, in whole seconds. Should be "
        "longer than the idle timeout of a load balancer in front of the server.",
    ),
]
MaxPending: TypeAlias = Annotated[
    int,
    typer.Option("--max-pending", min=1, max=1_000_000, help="Limit on pending requests of all clients together."),
]
MaxPendingSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-pending-size",
        parser=size,
        metavar="SIZE",
        show_default="2GiB",
        help="Limit on the inputs of all pending requests together.",
    ),
]
MaxClientPending: TypeAlias = Annotated[
    int,
    typer.Option(
        "--max-client-pending",
        min=1,
        max=1_000_000,
        help="Limit on pending requests of one connection (gRPC and the native protocol).",
    ),
]
MaxClientSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-client-size",
        parser=size,
        metavar="SIZE",
        show_default="1GiB",
        help="Limit on the inputs of all pending requests of one connection (gRPC and the native protocol).",
    ),
]
MaxLoads: TypeAlias = Annotated[
    int, typer.Option("--max-loads", min=1, max=1_000_000, help="Limit on pending loads of models.")
]
MaxSlo: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--max-slo",
        parser=duration,
        metavar="DURATION",
        show_default="1440min",
        help="Longest SLO that a request may set.",
    ),
]


def http_config(
    pages: tuple[bool, bool, bool],
    ignore_timeout: bool,
    keep_alive: Nanos,
    max_json: Bytes,
    max_body: Bytes,
    max_head: Bytes,
) -> HttpConfig:
    """Return the settings of the HTTP front end. The keep-alive time is rounded to seconds, and is at least 1 s.

    ``pages`` contains whether there is a dashboard, whether there are metrics, and whether the metrics have histograms.
    """
    return HttpConfig(
        dashboard=pages[0],
        metrics=pages[1],
        model_histograms=pages[2],
        ignore_timeout=ignore_timeout,
        keep_alive=max(1, round(keep_alive / SECOND)),
        max_json=max_json,
        max_body=max_body,
        max_head=max_head,
    )


def client_limits(
    max_pending: int,
    max_pending_bytes: Bytes,
    max_client_pending: int,
    max_client_bytes: Bytes,
    max_loads: int,
    max_slo: Nanos,
) -> dict[str, Any]:
    """Return the limits by the names of their fields in `ControllerConfig`."""
    return {
        "max_pending": max_pending,
        "max_pending_bytes": max_pending_bytes,
        "max_client_pending": max_client_pending,
        "max_client_bytes": max_client_bytes,
        "max_loads": max_loads,
        "max_slo": max_slo,
    }
