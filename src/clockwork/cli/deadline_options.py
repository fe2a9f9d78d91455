"""Options about the deadlines of requests and the silence of connections, which two commands share."""

from typing import Annotated, TypeAlias

import typer

from clockwork.cli.options import duration
from clockwork.units import Nanos

IgnoreTimeout: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--ignore-timeout",
        help="Ignore the request parameter timeout (microseconds); deadlines come from slo_ms, gRPC and --slo only.",
    ),
]
GrpcKeepAlive: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--grpc-keep-alive",
        parser=duration,
        metavar="DURATION",
        show_default="1min",
        help="Time of silence after which the server pings a gRPC connection, and closes it if there is no reply.",
    ),
]
