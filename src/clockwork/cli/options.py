"""Options that several commands have, and how durations, sizes and addresses are written.

Rules of the file: a parser takes what was typed, or a default that is what it would have made of it, and says in one
line what would have been right.
"""

import re
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli import logs
from clockwork.cli.configuration import only_checked
from clockwork.errors import InvalidRequestError
from clockwork.http.config import DEFAULT_HTTP, HTTP_PORT
from clockwork.net.address import CLIENT_PORT, DEFAULT_LISTEN, GRPC_PORT, WORKER_PORT, Address, parse_address
from clockwork.units import GIB, KIB, MIB, MICROSECOND, MILLISECOND, SECOND, Bytes, Nanos

_DURATION_UNITS: Final = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "": SECOND, "min": 60 * SECOND}
_BINARY_UNITS: Final = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB}
_SIZE_UNITS: Final = _BINARY_UNITS | {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_QUANTITY: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?|\.\d{1,9})\s*([a-z]*)", re.IGNORECASE)


def examples(*lines: str) -> str:
    """An epilog that shows how a command is used, line for line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def duration(value: str | int) -> Nanos:
    """``250ms``, ``0.1s``, ``2min``; a bare number is seconds. Not zero."""
    if isinstance(value, int):
        return value
    found = _QUANTITY.fullmatch(value.strip())
    if found is None or found[2] not in _DURATION_UNITS or not float(found[1]):
        raise typer.BadParameter(f"{value!r} is no duration: write 250ms, 0.1s or 2min, say")
    return round(float(found[1]) * _DURATION_UNITS[found[2]])


def size(value: str | int) -> Bytes:
    """``2GiB``, ``512M`` (powers of 1024), ``2GB`` (powers of 1000); a bare number is bytes. Not zero."""
    if isinstance(value, int):
        return value
    found = _QUANTITY.fullmatch(value.strip())
    if found is None or found[2].lower() not in _SIZE_UNITS or not float(found[1]):
        raise typer.BadParameter(f"{value!r} is no size: write 2GiB or 512MiB, say")
    return round(float(found[1]) * _SIZE_UNITS[found[2].lower()])


def size_or_none(value: str | int) -> Bytes:
    """As `size`; ``none`` is 0."""
    return 0 if value == "none" else size(value)


def client_address(value: str | Address) -> Address:
    """``HOST:PORT``; the port is the clients' if none is given."""
    return _address(value, CLIENT_PORT)


def worker_address(value: str | Address) -> Address:
    """``HOST:PORT``; the port is the workers' if none is given."""
    return _address(value, WORKER_PORT)


def grpc_address(value: str | Address) -> Address | None:
    """``HOST:PORT``, the port Triton's if none is given; ``none`` is no address."""
    return None if value == "none" else _address(value, GRPC_PORT)


def http_address(value: str | Address) -> Address | None:
    """``HOST:PORT``, or None for ``none``; the port is HTTP's if none is given."""
    return None if value == "none" else _address(value, HTTP_PORT)


def _address(value: str | Address, default_port: int) -> Address:
    if isinstance(value, Address):
        return value
    try:
        return parse_address(value, default_port)
    except InvalidRequestError as error:
        raise typer.BadParameter(str(error)) from None


def log_level(value: str) -> str:
    """The name of a level of the logging module."""
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter(f"{value!r} is none of debug, info, warning, error")
    return value.lower()


def log_format(value: str) -> str:
    """How the log is written."""
    if value not in (logs.HUMAN, logs.JSON):
        raise typer.BadParameter(f"{value!r} is none of {logs.HUMAN}, {logs.JSON}")
    return value


def use_log_format(ctx: typer.Context, value: str) -> str:
    """Errors are told in that format from now on, but by ``clockwork config``; a callback."""
    if not only_checked(ctx):
        logs.want(value)
    return value


ServerAddress: TypeAlias = Annotated[
    Address,
    typer.Option(
        "--address",
        "-a",
        parser=client_address,
        metavar="HOST:PORT",
        envvar="CLOCKWORK_ADDRESS",
        show_default=str(DEFAULT_LISTEN),
        help="Where the controller listens for clients.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Listen: TypeAlias = Annotated[
    Address,
    typer.Option(
        parser=client_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_LISTEN),
        help="Listen here for clients; port 0: any free one.",
    ),
]
Grpc: TypeAlias = Annotated[
    Address | None,
    typer.Option(
        "--grpc",
        parser=grpc_address,
        metavar="HOST:PORT",
        show_default="none",
        help="Serve the Open Inference Protocol over gRPC here; port 0: any free one.",
    ),
]
Http: TypeAlias = Annotated[
    Address | None,
    typer.Option(
        "--http",
        parser=http_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_HTTP),
        help="Serve the Open Inference Protocol (KServe, Triton) over HTTP here; none: do not; port 0: any free one.",
    ),
]
ServeMetrics: TypeAlias = Annotated[
    bool, typer.Option("--metrics/--no-metrics", help="Serve Prometheus metrics at /metrics of --http.")
]
ModelHistograms: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--model-histograms/--no-model-histograms",
        help="Have a latency histogram of each model that is asked for among the metrics.",
    ),
]
MaxJson: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-json",
        parser=size,
        metavar="SIZE",
        show_default="16MiB",
        help="JSON of one HTTP request or response; larger tensors are sent with the binary data extension.",
    ),
]
SchedulerName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--scheduler", metavar="NAME", help="The policy: a built-in one, or your own as package.module:Class."
    ),
]
DefaultSlo: TypeAlias = Annotated[
    Nanos,
    typer.Option("--slo", parser=duration, metavar="DURATION", show_default="100ms", help="Of requests with none."),
]
ProfileCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--profile-cache",
        file_okay=False,
        metavar="DIR",
        show_default="~/.cache/clockwork/profiles",
        help="Keep measured times here, so that the next start need not measure again.",
    ),
]
NoProfileCache: TypeAlias = Annotated[
    bool, typer.Option("--no-profile-cache", help="Keep no measured times: measure at every start.")
]
MaxBatch: TypeAlias = Annotated[
    int,
    typer.Option(
        "--max-batch", min=1, max=4096, help="The largest batch size; the powers of two up to it are measured."
    ),
]
ProfileSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--profile-seconds",
        min=0.01,
        max=3600,
        help="Time to measure each thing; more is steadier, less is sooner.",
    ),
]
VerifyBatches: TypeAlias = Annotated[
    float,
    typer.Option(
        "--verify-batches",
        min=0,
        max=1,
        metavar="SHARE",
        help="Share of batches of which a request is executed again alone, in idle time, to compare the answers. The "
        "first batch of each size is always checked.",
    ),
]
Devices: TypeAlias = Annotated[
    int, typer.Option("--devices", min=1, max=64, help="Devices of the worker, each with its own cores.")
]
ThreadsPerDevice: TypeAlias = Annotated[
    int, typer.Option("--threads-per-device", min=1, max=1024, help="Threads that execute one inference together.")
]
CacheSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--cache-size",
        parser=size,
        metavar="SIZE",
        show_default="by the memory that is free",
        help="Weights cache of each device: 2GiB, say.",
    ),
]
PageSize: TypeAlias = Annotated[
    Bytes, typer.Option("--page-size", parser=size, metavar="SIZE", show_default="16MiB", help="Of the weights cache.")
]
NoBatching: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--no-batching",
        metavar="NAME",
        show_default=False,
        help="Never put requests for this model into one batch; may be repeated.",
    ),
]
AllowBatching: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-batching",
        metavar="NAME",
        show_default=False,
        help="Batch this model if a trial passes, though its graph proves nothing; see docs/batching.md.",
    ),
]
ModelCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--model-cache",
        file_okay=False,
        metavar="DIR",
        show_default="none",
        help="Keep optimised models here, each about as big as its file: later starts are quicker.",
    ),
]
ModelCacheSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--model-cache-size",
        parser=size,
        metavar="SIZE",
        show_default="32GiB",
        help="Of --model-cache; the least recently used leave first.",
    ),
]
PayloadMemory: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--payload-memory",
        parser=size_or_none,
        metavar="SIZE",
        show_default="64MiB",
        help="Shared with the worker: long requests lie there, and are not sent to it. none: all are sent.",
    ),
]
DrainLimit: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--drain-limit",
        parser=duration,
        metavar="DURATION",
        show_default="10s",
        help="When asked to end, finish what is pending for at most this long.",
    ),
]
LogLevel: TypeAlias = Annotated[
    str, typer.Option("--log-level", parser=log_level, metavar="LEVEL", help="debug, info, warning or error.")
]
LogFormat: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log-format",
        parser=log_format,
        is_eager=True,
        callback=use_log_format,
        metavar="FORMAT",
        help="human, or json: a JSON document on each line of stderr.",
    ),
]
Emulate: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--emulate",
        min=1,
        max=1024,
        show_default=False,
        help="Emulate so many devices: they take their times from --profile and execute nothing.",
    ),
]
Profile: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="PROFILE",
        show_default=False,
        help="For --emulate: resnet50-v100, resnet50-v100-startup, or a file of clockwork status --json.",
    ),
]
