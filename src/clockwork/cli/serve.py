"""The command ``clockwork serve``, which runs a controller and a worker on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.cli.configuration import ConfigFile, is_dry_run
from clockwork.cli.controller_options import (
    DefaultSlo,
    DrainLimit,
    Grpc,
    GrpcKeepAlive,
    Http,
    IgnoreTimeout,
    Listen,
    MaxBatch,
    MaxRestarts,
    ModelHistograms,
    ModelSlos,
    NoProfileCache,
    ProfileCache,
    ProfileSeconds,
    SchedulerName,
    ServeDashboard,
    ServeMetrics,
    Strict,
    UnmeasuredCap,
    VerifyBatches,
)
from clockwork.cli.limit_options import (
    ExplainFailures,
    ExplainRequests,
    HttpKeepAlive,
    MaxBody,
    MaxClientPending,
    MaxClientSize,
    MaxConnections,
    MaxHead,
    MaxJson,
    MaxLoads,
    MaxPending,
    MaxPendingSize,
    MaxSlo,
    client_limits,
    http_config,
)
from clockwork.cli.options import LogFormat, LogLevel, examples
from clockwork.cli.repository_options import (
    LoadModels,
    ModelControlMode,
    ModelLabels,
    ModelRepository,
    ModelShadows,
    RepositoryOptions,
    RepositoryPollSecs,
    StartModels,
    VersionPolicies,
    repository_options,
    start_models,
)
from clockwork.cli.runtimes import DeviceOptions, runtime_on_gpus
from clockwork.cli.security import AdminTokenFile, InferenceTokenFile, TlsCert, TlsClientCa, TlsKey
from clockwork.cli.state_options import StateDir, StateOptions, StateWait, state_options
from clockwork.cli.tracing_options import Otel, OtelKeepFailures, tracing_options
from clockwork.cli.worker_options import (
    AllowBatching,
    AllowCompiled,
    AllowLinksTo,
    CacheSize,
    DeviceKind,
    Devices,
    Emulate,
    IoSize,
    ModelCache,
    ModelCacheSize,
    ModelShapes,
    NoBatching,
    PageSize,
    PayloadMemory,
    PinnedSize,
    Profile,
    RuntimeName,
    ThreadsPerDevice,
    WorkspaceSize,
)
from clockwork.controller.config import DEFAULT, DEFAULT_VERIFIED_SHARE
from clockwork.http.config import DEFAULT as DEFAULT_LIMITS
from clockwork.http.config import DEFAULT_HTTP
from clockwork.net.address import DEFAULT_LISTEN, Address
from clockwork.units import GIB, MIB, MILLISECOND, SECOND, Bytes

if TYPE_CHECKING:
    from clockwork.cli.worker_process import WorkerOptions
    from clockwork.controller.config import LoadSpec

EXAMPLES: Final = examples(
    "clockwork serve models/resnet50.onnx",
    "clockwork serve a.onnx second=b.onnx c.onnx:20     # a, second, and twenty copies c-1 to c-20",
    "clockwork serve resnet.pt2                 # a PyTorch program from clockwork export",
    "clockwork serve resnet.pt2 --device cuda --devices 2     # on two GPUs",
    "clockwork serve models/*.onnx --devices 2 --cache-size 1GiB --listen 0.0.0.0:12346",
    "clockwork serve models/*.onnx --grpc 127.0.0.1:8001 --slo 100ms --model-slo resnet50=250ms",
    "clockwork serve models/*.onnx --no-model-histograms     # then: curl localhost:8000/metrics",
    "clockwork serve --model-repository models --model-control-mode explicit --load-model resnet50",
    "clockwork serve --emulate 8 --profile resnet50-v100 --copies 15",
)


Names: TypeAlias = list[str] | None
"""Values of an option that names models."""

Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODELS...",
        help="Models, each as PATH, NAME=PATH, PATH:COPIES or NAME=PATH:COPIES. With --emulate, PATH is a profile.",
        show_default=False,
        envvar="CLOCKWORK_SERVE_MODELS",
        show_envvar=False,
    ),
]
Copies: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Number of copies of each model that is given without a number.")
]
ModelRoot: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        show_default="the innermost directory that contains all models",
        help="Directory of the models. The worker reads only files inside it.",
    ),
]


def serve(
    models: Models = None,
    listen: Listen = DEFAULT_LISTEN,
    http: Http = DEFAULT_HTTP,
    grpc: Grpc = None,
    dashboard: ServeDashboard = True,
    metrics: ServeMetrics = True,
    model_histograms: ModelHistograms = True,
    max_json: MaxJson = DEFAULT_LIMITS.max_json,
    max_body: MaxBody = DEFAULT_LIMITS.max_body,
    max_head: MaxHead = DEFAULT_LIMITS.max_head,
    max_connections: MaxConnections = None,
    explain_requests: ExplainRequests = DEFAULT.explain_requests,
    explain_failures: ExplainFailures = DEFAULT.explain_failures,
    max_pending: MaxPending = DEFAULT.max_pending,
    max_pending_size: MaxPendingSize = DEFAULT.max_pending_bytes,
    max_client_pending: MaxClientPending = DEFAULT.max_client_pending,
    max_client_size: MaxClientSize = DEFAULT.max_client_bytes,
    max_loads: MaxLoads = DEFAULT.max_loads,
    max_slo: MaxSlo = DEFAULT.max_slo,
    ignore_timeout: IgnoreTimeout = False,
    http_keep_alive: HttpKeepAlive = DEFAULT_LIMITS.keep_alive * SECOND,
    grpc_keep_alive: GrpcKeepAlive = 60 * SECOND,
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
    model_repository: ModelRepository = None,
    model_control_mode: ModelControlMode = "none",
    load_model: LoadModels = None,
    repository_poll_secs: RepositoryPollSecs = 15.0,
    version_policy: VersionPolicies = None,
    label: ModelLabels = None,
    shadow: ModelShadows = None,
    state_dir: StateDir = None,
    state_wait: StateWait = 30 * SECOND,
    allow_links_to: AllowLinksTo = None,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    payload_memory: PayloadMemory = 64 * MIB,
    profile_cache: ProfileCache = None,
    no_profile_cache: NoProfileCache = False,
    max_batch: MaxBatch = 16,
    no_batching: NoBatching = None,
    allow_batching: AllowBatching = None,
    model_shape: ModelShapes = None,
    profile_seconds: ProfileSeconds = 1.0,
    unmeasured_cap: UnmeasuredCap = 50 * MILLISECOND,
    verify_batches: VerifyBatches = DEFAULT_VERIFIED_SHARE,
    emulate: Emulate = None,
    profile: Profile = None,
    strict: Strict = False,
    max_restarts: MaxRestarts = None,
    drain_limit: DrainLimit = 10 * SECOND,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    inference_token_file: InferenceTokenFile = None,
    admin_token_file: AdminTokenFile = None,
    otel: Otel = False,
    otel_keep_failures: OtelKeepFailures = False,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    log_format: LogFormat = "human",
) -> None:
    """Serve models from this machine: a controller and a worker in one command.

    The models may be in any directory. The command loads the models, measures them unless their times are cached, and
    serves them. When serving begins, the command prints "clockwork is serving N models on HOST:PORT". On Ctrl-C or
    SIGTERM, it answers all accepted requests within --drain-limit, and ends. A second Ctrl-C ends the command at once.
    """
    from clockwork.cli.controller_process import FrontEnds, controller_config, profile_directory
    from clockwork.cli.models import check_emulated
    from clockwork.cli.security import client_ports
    from clockwork.cli.worker_process import run_with_worker
    from clockwork.host.controller import ControllerHostConfig
    from clockwork.scheduling.registry import make_scheduler

    check_emulated(emulate, profile)
    policy = make_scheduler(scheduler)
    repository = repository_options(
        model_control_mode, repository_poll_secs, model_repository, load_model, version_policy, label, shadow
    )
    repository.check(policy, emulated=bool(emulate))
    options = DeviceOptions(device, pinned_size, workspace_size, io_size)
    options.check(threads_per_device, bool(emulate))
    state = state_options(state_dir, state_wait)
    if emulate:
        start, named, worker = _emulated(models or [], copies, emulate, profile or [], cache_size)
        plan = state.plan(named, start, repository, model_slo, Path())
    else:
        root, named, start = _from_files(models or [], copies, model_root, repository, allow_links_to or [], state)
        plan = state.plan(named, start, repository, model_slo, root)
        worker = _local_worker(
            files=(root, plan.models, allow_links_to or [], no_batching, allow_batching, model_shape, repository.fixed),
            execution=(runtime, options, devices, threads_per_device, max_batch, allow_compiled),
            memory=(cache_size, page_size, model_cache, model_cache_size),
        )
    config = ControllerHostConfig(
        listen=listen,
        worker_listen=Address("127.0.0.1", 0),
        controller=controller_config(
            **plan.settings,
            strict=strict,
            slo=slo,
            max_batch=max_batch,
            profile_seconds=profile_seconds,
            unmeasured_cap=unmeasured_cap,
            verify_batches=verify_batches,
            explained=(explain_requests, explain_failures),
            **client_limits(max_pending, max_pending_size, max_client_pending, max_client_size, max_loads, max_slo),
        ),
        profile_cache=profile_directory(profile_cache, no_profile_cache),
        **tracing_options(otel, otel_keep_failures, max_connections),
        payload_bytes=payload_memory,
        **plan.host,
        **client_ports(tls_cert, tls_key, tls_client_ca, inference_token_file, admin_token_file),
    )
    if not is_dry_run():
        pages = dashboard, metrics, model_histograms
        limits = http_config(pages, ignore_timeout, http_keep_alive, max_json, max_body, max_head)
        ends = FrontEnds(http, grpc, limits, grpc_keep_alive, max_connections)
        run_with_worker(
            config, policy, worker, ends, drain_limit, log_options=(log_level, log_format), max_restarts=max_restarts
        )


def _emulated(
    models: list[str], copies: int, devices: int, profiles: list[str], cache_size: Bytes | None
) -> "tuple[StartModels, tuple[LoadSpec, ...], WorkerOptions]":
    """Return an empty `StartModels`, the profiles to load as models, and the options of the worker."""
    from clockwork.cli.models import emulated_models, emulated_pages, emulated_specs
    from clockwork.cli.worker_process import EmulatedWorker

    specs = emulated_specs(models, copies, list(emulated_models(profiles)))
    emulated_pages(cache_size)  # reports a wrong size before the worker process starts
    return StartModels(), specs, EmulatedWorker(devices, profiles, cache_size)


def _local_worker(
    files: "tuple[Path, tuple[LoadSpec, ...], list[Path], Names, Names, Names, bool]",
    execution: tuple[str, DeviceOptions, int, int, int, bool],
    memory: tuple[Bytes | None, Bytes, Path | None, Bytes],
) -> "WorkerOptions":
    """Return the worker that executes models of files.

    ``files`` contains the values of the options that name models, and whether the models are fixed. If the models are
    fixed, the options may name no other models.
    """
    from clockwork.cli.models import batching_names, link_policy, model_shapes
    from clockwork.cli.worker_process import LocalWorker

    root, specs, links, no_batching, allow_batching, shapes, fixed = files
    known = specs if fixed else None
    runtime, options, devices, threads_per_device, max_batch, allow_compiled = execution
    cache_size, page_size, model_cache, model_cache_size = memory
    return LocalWorker(
        model_root=root,
        links=link_policy(root, specs, links),
        devices=devices,
        threads_per_device=threads_per_device,
        runtime=_runtime_name(runtime, options, root, specs),
        cache_size=cache_size,
        page_size=page_size,
        model_cache=model_cache,
        model_cache_size=model_cache_size,
        device=options,
        max_batch=max_batch,
        allow_compiled=allow_compiled,
        no_batching=batching_names(no_batching, known, "--no-batching"),
        allow_batching=batching_names(allow_batching, known, "--allow-batching"),
        model_shapes=model_shapes(shapes, known),
    )


def _runtime_name(name: str, options: DeviceOptions, root: Path, specs: "tuple[LoadSpec, ...]") -> str:
    """Return the name of the worker's runtime. On GPUs, ``auto`` becomes the runtime that can execute all models."""
    if options.on_gpus:
        name = runtime_on_gpus(name, [root / spec.path for spec in specs])
        options.check_runtime(name)
    return name


def _from_files(
    models: list[str],
    copies: int,
    model_root: Path | None,
    repository: RepositoryOptions,
    links: list[Path],
    state: StateOptions,
) -> "tuple[Path, tuple[LoadSpec, ...], StartModels]":
    """Return the worker's model root, the named models, and the models of the repositories."""
    from clockwork.cli.models import load_specs, parse_model

    stored = state.files()
    fixed = model_root is None or repository.fixed
    if not models and not repository.directories and not stored and fixed:
        raise typer.BadParameter(
            "no model is given; name a model file, or use --model-repository or --emulate", param_hint="MODELS"
        )
    named = [parse_model(text, copies) for text in models]
    root = repository.model_root([*named, *stored], model_root)
    start = start_models(repository, root, links, fresh=True)
    specs = load_specs(named, root)
    both = {spec.name for spec in specs} & {spec.name for spec in start.specs}
    if both:
        raise typer.BadParameter(
            f"model {sorted(both)[0]} is also in a model repository; rename it with NAME=PATH", param_hint="MODELS"
        )
    return root, specs, start
