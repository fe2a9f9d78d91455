"""Options that several commands share, and the parsers of durations, sizes and addresses.

Rules of the file: each shared option is declared once, here; those for TLS and tokens are in `clockwork.cli.security`.
A parser accepts the typed text, or a default that is already parsed. Its error gives examples of correct values.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli import logs
from clockwork.cli.configuration import is_dry_run
from clockwork.errors import InvalidRequestError
from clockwork.http.config import DEFAULT_HTTP, HTTP_PORT
from clockwork.net.address import (
    CLIENT_PORT,
    DEFAULT_LISTEN,
    DEFAULT_WORKER_LISTEN,
    GRPC_PORT,
    WORKER_PORT,
    Address,
    parse_address,
)
from clockwork.units import GIB, KIB, MIB, MICROSECOND, MILLISECOND, SECOND, Bytes, Nanos

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = (logs.HUMAN, logs.JSON)
DEVICE_KINDS: Final = ("cpu", "cuda")
RUNTIMES: Final = ("auto", "onnx", "torch")

_DURATION_UNITS: Final = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "": SECOND, "min": 60 * SECOND}
_BINARY_UNITS: Final = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB}
_SIZE_UNITS: Final = _BINARY_UNITS | {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_QUANTITY: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?|\.\d{1,9})\s*([a-z]*)", re.IGNORECASE)


def examples(*lines: str) -> str:
    """Return the epilog of a command's help: examples of its use, one per line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


# ---------------------------------------------------------------------------------------------------- parsers


def duration(value: str | int) -> Nanos:
    """Parse ``250ms``, ``0.1s`` or ``2min``. A number without a unit is in seconds. Zero is refused."""
    if isinstance(value, int):
        return value
    found = _QUANTITY.fullmatch(value.strip())
    if found is None or found[2] not in _DURATION_UNITS or not float(found[1]):
        raise typer.BadParameter(f"invalid duration {value!r}; examples: 250ms, 1.5s, 2min")
    return round(float(found[1]) * _DURATION_UNITS[found[2]])


def size(value: str | int) -> Bytes:
    """Parse ``2GiB``, ``512M`` (powers of 1024) or ``2GB`` (powers of 1000). Without a unit: bytes. Zero is refused."""
    if isinstance(value, int):
        return value
    found = _QUANTITY.fullmatch(value.strip())
    if found is None or found[2].lower() not in _SIZE_UNITS or not float(found[1]):
        raise typer.BadParameter(f"invalid size {value!r}; examples: 512MiB, 2GiB")
    return round(float(found[1]) * _SIZE_UNITS[found[2].lower()])


def size_or_none(value: str | int) -> Bytes:
    """Parse a size, or ``none``, which is 0."""
    return 0 if value == "none" else size(value)


def size_or_zero(value: str | int) -> Bytes:
    """Parse a size, which may be 0."""
    return 0 if str(value).strip() == "0" else size(value)


def factor(text: str) -> float:
    """Parse ``2x``, ``0.5x`` or ``2``."""
    try:
        value = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise typer.BadParameter(f"invalid factor {text!r}; examples: 2x, 0.5x")
    return value


def client_address(value: str | Address) -> Address:
    """Parse ``HOST:PORT``; the default port is the one for clients of the native protocol."""
    return _address(value, CLIENT_PORT)


def worker_address(value: str | Address) -> Address:
    """Parse ``HOST:PORT``; the default port is the one for workers."""
    return _address(value, WORKER_PORT)


def grpc_address(value: str | Address) -> Address | None:
    """Parse ``HOST:PORT`` or ``none``; the default port is the one for gRPC, as in Triton."""
    return None if value == "none" else _address(value, GRPC_PORT)


def http_address(value: str | Address) -> Address | None:
    """Parse ``HOST:PORT`` or ``none``; the default port is the one for HTTP."""
    return None if value == "none" else _address(value, HTTP_PORT)


def _address(value: str | Address, default_port: int) -> Address:
    if isinstance(value, Address):
        return value
    try:
        return parse_address(value, default_port)
    except InvalidRequestError as error:
        raise typer.BadParameter(str(error)) from None


def one_of(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """Return a parser that accepts only the ``choices``, in upper or lower case."""

    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise typer.BadParameter(f"invalid {what} {value!r}; expected one of: {', '.join(choices)}")
        return value.lower()

    return parse


def use_log_format(ctx: typer.Context, value: str) -> str:
    """Report errors in that format from now on, except under ``clockwork config``. A callback of the option."""
    if not is_dry_run(ctx):
        logs.set_format(value)
    return value


# ------------------------------------------------------------------------------------- clients of a server

ServerAddress: TypeAlias = Annotated[
    Address,
    typer.Option(
        "--address",
        "-a",
        parser=client_address,
        metavar="HOST:PORT",
        envvar="CLOCKWORK_ADDRESS",
        show_default=str(DEFAULT_LISTEN),
        help="Address where the controller listens for clients.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

# ---------------------------------------------------------------------------------- ports of a controller

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
ModelHistograms: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--model-histograms/--no-model-histograms",
        help="Add a latency histogram to the metrics for each model that has received a request.",
    ),
]
MaxJson: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-json",
        parser=size,
        metavar="SIZE",
        show_default="16MiB",
        help="Largest JSON of one HTTP request or response; larger tensors need the binary data extension.",
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

# ------------------------------------------------------------------------------- decisions of a controller

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
        help="Default SLO of one model, or of all its copies, in place of --slo; may be repeated.",
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
    bool, typer.Option("--no-profile-cache", help="Store no measured times; measure at every start.")
]
MaxBatch: TypeAlias = Annotated[
    int,
    typer.Option("--max-batch", min=1, max=4096, help="Largest batch size; the powers of two up to it are measured."),
]
ProfileSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--profile-seconds",
        min=0.01,
        max=3600,
        help="Duration of each measurement; a longer one gives steadier estimates.",
    ),
]
VerifyBatches: TypeAlias = Annotated[
    float,
    typer.Option(
        "--verify-batches",
        min=0,
        max=1,
        metavar="SHARE",
        help="Share of batches of which one request is executed again alone, in idle time, to compare the outputs. "
        "The first batch of each size is always checked.",
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
        help="Number of restarts in a row after which the server ends, if the worker dies within 10 s of each restart.",
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

# -------------------------------------------------------------------------------------- devices of a worker

DeviceKind: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device",
        parser=one_of("kind of device", DEVICE_KINDS),
        metavar="KIND",
        help="Kind of devices: cpu (cores) or cuda (NVIDIA GPUs).",
    ),
]
Devices: TypeAlias = Annotated[
    int, typer.Option("--devices", min=1, max=64, help="Number of devices of the worker, each with its own cores.")
]
ThreadsPerDevice: TypeAlias = Annotated[
    int, typer.Option("--threads-per-device", min=1, max=1024, help="Number of threads that execute one inference.")
]
CacheSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--cache-size",
        parser=size,
        metavar="SIZE",
        show_default="from the free memory",
        help="Weights cache of each device, for example 2GiB.",
    ),
]
PageSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--page-size", parser=size, metavar="SIZE", show_default="16MiB", help="Size of a page of the weights cache."
    ),
]
PinnedSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--pinned-size",
        parser=size_or_zero,
        metavar="SIZE",
        show_default="half of the free memory",
        help="Limit on host memory for pinned weights, which are copied faster; 0 pins none (--device cuda, PyTorch).",
    ),
]
WorkspaceSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--workspace-size",
        parser=size,
        metavar="SIZE",
        show_default="2GiB",
        help="Memory of each GPU for the intermediate results of inferences (--device cuda).",
    ),
]
IoSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--io-size",
        parser=size,
        metavar="SIZE",
        show_default="512MiB",
        help="Memory of each GPU, and of the host, for inputs and outputs (--device cuda, PyTorch).",
    ),
]
PayloadMemory: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--payload-memory",
        parser=size_or_none,
        metavar="SIZE",
        show_default="64MiB",
        help="Memory shared with the worker for large requests; none sends every request through a socket.",
    ),
]
Emulate: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--emulate",
        min=1,
        max=1024,
        show_default=False,
        help="Number of devices to emulate; they take their times from --profile and execute nothing.",
    ),
]
Profile: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="PROFILE",
        show_default=False,
        help="Profile for --emulate: resnet50-v100, resnet50-v100-startup, or a file from clockwork status --json; may "
        "be repeated.",
    ),
]

# --------------------------------------------------------------------------------------- models of a worker

RuntimeName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--runtime",
        parser=one_of("runtime", RUNTIMES),
        metavar="RUNTIME",
        help="Runtime that executes models: onnx, torch, or auto (PyTorch for .pt2 files, ONNX Runtime for others).",
    ),
]
AllowCompiled: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-compiled",
        help="Accept .pt2 files that contain compiled code (clockwork export --compile), and run that code.",
    ),
]
NoBatching: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--no-batching",
        metavar="NAME",
        show_default=False,
        help="Name of a model whose requests are never batched; may be repeated.",
    ),
]
AllowLinksTo: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--allow-links-to",
        metavar="DIR",
        show_default=False,
        help="Directory that links in a model's directory may lead to; may be repeated. Links in directories that the "
        "command line names may lead anywhere.",
    ),
]
AllowBatching: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-batching",
        metavar="NAME",
        show_default=False,
        help="Name of a model to batch if a trial passes, even without a proof from its graph (docs/batching.md); may "
        "be repeated.",
    ),
]
ModelCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--model-cache",
        file_okay=False,
        metavar="DIR",
        show_default="none",
        help="Directory for optimised models, each about as large as its file; later starts are faster.",
    ),
]
ModelCacheSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--model-cache-size",
        parser=size,
        metavar="SIZE",
        show_default="32GiB",
        help="Limit of --model-cache; the least recently used models are deleted first.",
    ),
]

# ------------------------------------------------------------------------------------------------- the log

LogLevel: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log-level",
        parser=one_of("log level", LOG_LEVELS),
        metavar="LEVEL",
        help="Lowest level that is logged: debug, info, warning or error.",
    ),
]
LogFormat: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log-format",
        parser=one_of("log format", LOG_FORMATS),
        is_eager=True,
        callback=use_log_format,
        metavar="FORMAT",
        help="Format of the log: human, or json (each line of stderr is a JSON document).",
    ),
]
