"""``clockwork serve``: a controller, and a worker on this machine, in one command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.cli.configuration import ConfigFile, only_checked
from clockwork.cli.devices import (
    DeviceKind,
    DeviceOptions,
    IoSize,
    PinnedSize,
    WorkspaceSize,
    runtime_on_gpus,
)
from clockwork.cli.options import (
    AllowBatching,
    CacheSize,
    DefaultSlo,
    Devices,
    DrainLimit,
    Emulate,
    Grpc,
    Http,
    Listen,
    LogFormat,
    LogLevel,
    MaxBatch,
    MaxJson,
    ModelCache,
    ModelCacheSize,
    ModelHistograms,
    NoBatching,
    NoProfileCache,
    PageSize,
    PayloadMemory,
    Profile,
    ProfileCache,
    ProfileSeconds,
    SchedulerName,
    ServeMetrics,
    ThreadsPerDevice,
    VerifyBatches,
    examples,
)
from clockwork.cli.runtimes import AllowCompiled, RuntimeName
from clockwork.cli.security import AdminTokenFile, InferenceTokenFile, TlsCert, TlsClientCa, TlsKey
from clockwork.cli.slos import ModelSlos, model_slos
from clockwork.controller.config import DEFAULT_VERIFIED_SHARE
from clockwork.http.config import DEFAULT_HTTP
from clockwork.net.address import DEFAULT_LISTEN, Address
from clockwork.units import GIB, MIB, MILLISECOND, SECOND, Bytes

if TYPE_CHECKING:
    from clockwork.cli.embedded import WorkerOptions
    from clockwork.cli.security import ClientPorts
    from clockwork.controller.config import ControllerConfig, LoadSpec
    from clockwork.host.controller import ControllerHostConfig

EXAMPLES: Final = examples(
    "clockwork serve models/resnet50.onnx",
    "clockwork serve a.onnx second=b.onnx c.onnx:20     a, second, and twenty copies c-1 to c-20",
    "clockwork serve resnet.pt2                 a PyTorch program, made by clockwork export",
    "clockwork serve resnet.pt2 --device cuda --devices 2     on two GPUs",
    "clockwork serve models/*.onnx --devices 2 --cache-size 1GiB --listen 0.0.0.0:12346",
    "clockwork serve models/*.onnx --grpc 127.0.0.1:8001 --slo 100ms --model-slo resnet50=250ms",
    "clockwork serve models/*.onnx --no-model-histograms   and then: curl localhost:8000/metrics",
    "clockwork serve --emulate 8 --profile resnet50-v100 --copies 15",
)


Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODELS...",
        help="Each PATH, NAME=PATH, PATH:COPIES or NAME=PATH:COPIES; with --emulate, names of profiles for paths.",
        show_default=False,
        envvar="CLOCKWORK_SERVE_MODELS",
        show_envvar=False,
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
    max_json: MaxJson = 16 * MIB,
    scheduler: SchedulerName = "clockwork",
    slo: DefaultSlo = 100 * MILLISECOND,
    model_slo: ModelSlos = None,
    copies: Copies = 1,
    device: DeviceKind = "cpu",
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    runtime: RuntimeName = "auto",
    allow_compiled: AllowCompiled = False,
    cache_size: CacheSize = None,
    page_size: PageSize = 16 * MIB,
    pinned_size: PinnedSize = None,
    workspace_size: WorkspaceSize = None,
    io_size: IoSize = None,
    model_root: ModelRoot = None,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    payload_memory: PayloadMemory = 64 * MIB,
    profile_cache: ProfileCache = None,
    no_profile_cache: NoProfileCache = False,
    max_batch: MaxBatch = 16,
    no_batching: NoBatching = None,
    allow_batching: AllowBatching = None,
    profile_seconds: ProfileSeconds = 1.0,
    verify_batches: VerifyBatches = DEFAULT_VERIFIED_SHARE,
    emulate: Emulate = None,
    profile: Profile = None,
    drain_limit: DrainLimit = 10 * SECOND,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    inference_token_file: InferenceTokenFile = None,
    admin_token_file: AdminTokenFile = None,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    log_format: LogFormat = "human",
) -> None:
    """Serve models from this machine: a controller and a worker in one command.

    The models may lie anywhere. They are loaded, measured unless their times are known, and served until Ctrl-C or
    SIGTERM; when serving begins, "clockwork is serving N models on HOST:PORT" is printed.

    It ends when all that it has accepted is answered, or at --drain-limit; a second Ctrl-C ends it at once. The worker
    is a process of its own: it is started again if it dies, and ends when this command does.
    """
    from clockwork.cli.embedded import LocalWorker, run_embedded
    from clockwork.cli.emulating import check_emulated
    from clockwork.cli.hosting import FrontEnds, profile_directory, profiling
    from clockwork.cli.security import client_ports
    from clockwork.controller.config import ControllerConfig, VerifyingConfig
    from clockwork.scheduling.registry import make_scheduler

    check_emulated(emulate, profile)
    options = DeviceOptions(device, pinned_size, workspace_size, io_size)
    options.check(threads_per_device, bool(emulate))
    if emulate:
        specs, worker = _emulated(models or [], copies, emulate, profile or [], cache_size)
    else:
        root, specs = _from_files(models or [], copies, model_root)
        if options.on_gpus:
            runtime = runtime_on_gpus(runtime, [root / spec.path for spec in specs])
            options.check_runtime(runtime)
        worker = LocalWorker(
            root,
            devices,
            threads_per_device,
            runtime,
            cache_size,
            page_size,
            model_cache,
            model_cache_size,
            options,
            max_batch,
            allow_compiled,
            known_names(no_batching, specs, "--no-batching"),
            known_names(allow_batching, specs, "--allow-batching"),
        )
    profiles = profile_directory(profile_cache, no_profile_cache)
    measured = profiling(max_batch, profile_seconds)
    slos = model_slos(model_slo, specs)
    verifying = VerifyingConfig(verify_batches)
    controller = ControllerConfig(
        models=specs, default_slo=slo, model_slos=slos, profiling=measured, verifying=verifying
    )
    ports = client_ports(tls_cert, tls_key, tls_client_ca, inference_token_file, admin_token_file)
    config = _config(listen, controller, profiles, ports, payload_memory)
    policy = make_scheduler(scheduler)
    if only_checked():
        return
    ends = FrontEnds(http, grpc, metrics, model_histograms, max_json)
    run_embedded(config, policy, worker, ends, drain_limit, log_level, log_format)


def known_names(given: list[str] | None, specs: "tuple[LoadSpec, ...]", option: str) -> tuple[str, ...]:
    """The names that were given, each of which is that of a model, or of its copies.

    Raises:
        typer.BadParameter: no model has this name.
    """
    known = [spec.name for spec in specs]
    for name in given or ():
        if name not in known:
            served = ", ".join(sorted(known)[:10])
            raise typer.BadParameter(f"no model is called {name}; there are {served}", param_hint=option)
    return tuple(given or ())


def _config(
    listen: Address,
    controller: "ControllerConfig",
    profile_cache: Path | None,
    ports: "ClientPorts",
    payload_bytes: Bytes,
) -> "ControllerHostConfig":
    """Of a controller whose worker is on this host."""
    from clockwork.host.controller import ControllerHostConfig

    workers = Address("127.0.0.1", 0)
    return ControllerHostConfig(listen, workers, controller, profile_cache, payload_bytes=payload_bytes, **ports)


def _emulated(
    models: list[str], copies: int, devices: int, profiles: list[str], cache_size: Bytes | None
) -> "tuple[tuple[LoadSpec, ...], WorkerOptions]":
    """What is loaded of the profiles, and the worker that has them."""
    from clockwork.cli.embedded import EmulatedWorker
    from clockwork.cli.emulating import emulated_models, emulated_specs, pages

    specs = emulated_specs(models, copies, list(emulated_models(profiles)))
    pages(cache_size)  # says what is wrong with it here, not in the child
    return specs, EmulatedWorker(devices, profiles, cache_size)


def _from_files(models: list[str], copies: int, model_root: Path | None) -> "tuple[Path, tuple[LoadSpec, ...]]":
    """Where the worker reads, and what it loads from there."""
    from clockwork.cli.given import common_root, load_specs, parse_model

    if not models:
        raise typer.BadParameter("there is nothing to serve: name a model, or --emulate", param_hint="MODELS")
    given = [parse_model(text, copies) for text in models]
    root = common_root(given) if model_root is None else model_root.absolute()
    return root, load_specs(given, root)
