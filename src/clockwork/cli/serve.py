"""``clockwork serve``: a controller, and a worker on this machine, in one command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.cli.options import (
    CacheSize,
    DefaultSlo,
    Devices,
    Emulate,
    Grpc,
    Http,
    Listen,
    LogLevel,
    MaxBatch,
    ModelCache,
    ModelCacheSize,
    ModelHistograms,
    NoProfileCache,
    PageSize,
    Profile,
    ProfileCache,
    ProfileSeconds,
    SchedulerName,
    ServeMetrics,
    ThreadsPerDevice,
    examples,
)
from clockwork.cli.security import AdminTokenFile, InferenceTokenFile, TlsCert, TlsClientCa, TlsKey
from clockwork.http.config import DEFAULT_HTTP
from clockwork.net.address import DEFAULT_LISTEN, Address
from clockwork.units import GIB, MIB, MILLISECOND, Bytes

if TYPE_CHECKING:
    from clockwork.cli.embedded import EmulatedWorker
    from clockwork.controller.config import LoadSpec

EXAMPLES: Final = examples(
    "clockwork serve models/resnet50.onnx",
    "clockwork serve a.onnx second=b.onnx c.onnx:20     a, second, and twenty copies c-1 to c-20",
    "clockwork serve models/*.onnx --devices 2 --cache-size 1GiB --listen 0.0.0.0:12346",
    "clockwork serve models/*.onnx --grpc 127.0.0.1:8001",
    "clockwork serve models/*.onnx --no-model-histograms   and then: curl localhost:8000/metrics",
    "clockwork serve --emulate 8 --profile resnet50-v100 --copies 15",
)


Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODELS...",
        help="Each PATH, NAME=PATH, PATH:COPIES or NAME=PATH:COPIES; with --emulate, names of profiles for paths.",
        show_default=False,
    ),
]
Copies: TypeAlias = Annotated[int, typer.Option(min=1, help="Copies of each model that does not say how many.")]
ModelRoot: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        show_default="the innermost directory that contains all models",
        help="The worker reads below this directory only.",
    ),
]


def serve(
    models: Models = None,
    listen: Listen = DEFAULT_LISTEN,
    http: Http = DEFAULT_HTTP,
    grpc: Grpc = None,
    metrics: ServeMetrics = True,
    model_histograms: ModelHistograms = True,
    scheduler: SchedulerName = "clockwork",
    slo: DefaultSlo = 100 * MILLISECOND,
    copies: Copies = 1,
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    cache_size: CacheSize = None,
    page_size: PageSize = 16 * MIB,
    model_root: ModelRoot = None,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    profile_cache: ProfileCache = None,
    no_profile_cache: NoProfileCache = False,
    max_batch: MaxBatch = 16,
    profile_seconds: ProfileSeconds = 1.0,
    emulate: Emulate = None,
    profile: Profile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    inference_token_file: InferenceTokenFile = None,
    admin_token_file: AdminTokenFile = None,
    log_level: LogLevel = "info",
) -> None:
    """Serve models from this machine: a controller and a worker in one command.

    The models may lie anywhere. They are loaded, measured unless their times are known, and served until Ctrl-C or
    SIGTERM; when serving begins, "clockwork is serving N models on HOST:PORT" is printed.

    The worker is a process of its own. It is started again if it dies, and ends when this command does.
    """
    from clockwork.cli.embedded import LocalWorker, WorkerOptions, run_embedded
    from clockwork.cli.emulating import check_emulated
    from clockwork.cli.hosting import FrontEnds, profile_directory, profiling
    from clockwork.cli.security import client_ports
    from clockwork.controller.config import ControllerConfig
    from clockwork.host.controller import ControllerHostConfig
    from clockwork.scheduling.registry import make_scheduler

    worker: WorkerOptions
    check_emulated(emulate, profile)
    if emulate:
        specs, worker = _emulated(models or [], copies, emulate, profile or [], cache_size)
    else:
        specs, root = _local(models or [], copies, model_root)
        worker = LocalWorker(root, devices, threads_per_device, cache_size, page_size, model_cache, model_cache_size)
    config = ControllerHostConfig(
        listen,
        Address("127.0.0.1", 0),
        ControllerConfig(models=specs, default_slo=slo, profiling=profiling(max_batch, profile_seconds)),
        profile_directory(profile_cache, no_profile_cache),
        **client_ports(tls_cert, tls_key, tls_client_ca, inference_token_file, admin_token_file),
    )
    run_embedded(config, make_scheduler(scheduler), worker, FrontEnds(http, grpc, metrics, model_histograms), log_level)


def _local(models: list[str], copies: int, model_root: Path | None) -> "tuple[tuple[LoadSpec, ...], Path]":
    from clockwork.cli.given import common_root, load_specs, parse_model

    if not models:
        raise typer.BadParameter("there is nothing to serve: name a model, or --emulate", param_hint="MODELS")
    given = [parse_model(text, copies) for text in models]
    root = common_root(given) if model_root is None else model_root.absolute()
    return load_specs(given, root), root


def _emulated(
    models: list[str], copies: int, devices: int, profiles: list[str], cache_size: Bytes | None
) -> "tuple[tuple[LoadSpec, ...], EmulatedWorker]":
    from clockwork.cli.embedded import EmulatedWorker
    from clockwork.cli.emulating import emulated_models, emulated_specs, pages

    pages(cache_size)  # says what is wrong with it here, not in the child
    specs = emulated_specs(models, copies, list(emulated_models(profiles)))
    return specs, EmulatedWorker(devices, profiles, cache_size)
