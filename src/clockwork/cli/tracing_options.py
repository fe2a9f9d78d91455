"""Options for exporting traces. The commands ``serve`` and ``controller`` share these options."""

import os
from typing import Annotated, Any, TypeAlias

import typer

from clockwork.errors import InvalidRequestError
from clockwork.tracing.config import tracing_config

Otel: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--otel",
        help="Export spans of requests to an OpenTelemetry collector. The OTEL_* variables set its address and the "
        "sampling.",
    ),
]
OtelKeepFailures: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--otel-keep-failures",
        help="With --otel, also export refused requests and broken promises that are not sampled.",
    ),
]


def tracing_options(otel: bool, keep_failures: bool, max_connections: int | None) -> dict[str, Any]:
    """Return the host's settings ``tracing``, which is None if no spans are exported, and ``max_connections``.

    Raises:
        BadParameter: ``keep_failures`` is set without ``otel``, or a variable has a wrong value.
    """
    if not otel:
        if keep_failures:
            raise typer.BadParameter("--otel-keep-failures needs --otel", param_hint="--otel-keep-failures")
        return {"tracing": None, "max_connections": max_connections}
    try:
        config = tracing_config(os.environ, keep_failures=keep_failures)
    except InvalidRequestError as error:
        raise typer.BadParameter(str(error), param_hint="--otel") from None
    return {"tracing": config, "max_connections": max_connections}
