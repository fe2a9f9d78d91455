"""The command ``clockwork controller``, which runs a controller without a worker."""

from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli.address_report import AddressReport, ReportDescriptor
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
    WorkerListen,
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
from clockwork.cli.parsers import duration
from clockwork.cli.process import end_with_parent
from clockwork.cli.repository_options import (
    LoadModels,
    ModelControlMode,
    ModelLabels,
    ModelRepository,
    ModelShadows,
    PushModels,
    PushRate,
    RepositoryPollSecs,
    VersionPolicies,
    push_options,
    repository_options,
    start_models,
)
from clockwork.cli.security import (
    AdminTokenFile,
    InferenceTokenFile,
    TlsCert,
    TlsClientCa,
    TlsKey,
    WorkerPortTlsCa,
    WorkerPortTlsCert,
    WorkerPortTlsKey,
    WorkerPortTokenFile,
)
from clockwork.cli.state_options import StateDir, StateWait, state_options
from clockwork.cli.tracing_options import Otel, OtelKeepFailures, tracing_options
from clockwork.cli.worker_options import AllowLinksTo
from clockwork.controller.config import DEFAULT, DEFAULT_VERIFIED_SHARE
from clockwork.http.config import DEFAULT as DEFAULT_LIMITS
from clockwork.http.config import DEFAULT_HTTP
from clockwork.net.address import DEFAULT_LISTEN, DEFAULT_WORKER_LISTEN
from clockwork.units import MIB, MILLISECOND, SECOND, Nanos, as_seconds

EXAMPLES: Final = examples(
    "clockwork controller --workers 2 --listen 0.0.0.0:12346 --worker-listen 0.0.0.0:12345",
    "clockwork controller resnet50.onnx bert=nets/bert:20     # paths below the workers' model roots",
    "clockwork controller resnet50.onnx --push-models /models   # workers without the file receive it",
    "clockwork controller --scheduler my_package.my_module:MyScheduler --slo 25ms",
)

Workers: TypeAlias = Annotated[
    int, typer.Option(min=1, max=10_000, help="Number of workers to wait for at the start. More may connect later.")
]
Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODELS...",
        help="Models to load at the start, each as PATH, NAME=PATH, PATH:COPIES or NAME=PATH:COPIES. PATH is relative "
        "to the workers' model roots. Without models, clients load them.",
        show_default=False,
        envvar="CLOCKWORK_CONTROLLER_MODELS",
        show_envvar=False,
    ),
]
LoadTimeout: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        parser=duration,
        metavar="DURATION",
        show_default="10s",
        help="Time without a load after which loading ends and serving begins.",
    ),
]


def controller(
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
    worker_listen: WorkerListen = DEFAULT_WORKER_LISTEN,
    workers: Workers = 1,
    load_timeout: LoadTimeout = 10 * SECOND,
    model_repository: ModelRepository = None,
    model_control_mode: ModelControlMode = "none",
    load_model: LoadModels = None,
    allow_links_to: AllowLinksTo = None,
    repository_poll_secs: RepositoryPollSecs = 15.0,
    push_models: PushModels = None,
    push_rate: PushRate = 64 * MIB,
    version_policy: VersionPolicies = None,
    label: ModelLabels = None,
    shadow: ModelShadows = None,
    state_dir: StateDir = None,
    state_wait: StateWait = 30 * SECOND,
    strict: Strict = False,
    scheduler: SchedulerName = "clockwork",
    slo: DefaultSlo = 100 * MILLISECOND,
    model_slo: ModelSlos = None,
    profile_cache: ProfileCache = None,
    no_profile_cache: NoProfileCache = False,
    max_batch: MaxBatch = 16,
    profile_seconds: ProfileSeconds = 1.0,
    unmeasured_cap: UnmeasuredCap = 50 * MILLISECOND,
    verify_batches: VerifyBatches = DEFAULT_VERIFIED_SHARE,
    drain_limit: DrainLimit = 10 * SECOND,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    inference_token_file: InferenceTokenFile = None,
    admin_token_file: AdminTokenFile = None,
    worker_tls_cert: WorkerPortTlsCert = None,
    worker_tls_key: WorkerPortTlsKey = None,
    worker_tls_ca: WorkerPortTlsCa = None,
    worker_token_file: WorkerPortTokenFile = None,
    otel: Otel = False,
    otel_keep_failures: OtelKeepFailures = False,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    log_format: LogFormat = "human",
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
    report_descriptor: ReportDescriptor = None,
) -> None:
    """Run a controller: wait for workers, let clients load models, measure the models, and serve them.

    Clients may load models until no load has arrived for 10 s (--load-timeout).

    Without TLS and tokens, every machine that can reach the ports may use them. Without both, listen only on loopback
    or in trusted networks.
    """
    from clockwork.cli.controller_process import (
        FrontEnds,
        controller_config,
        profile_directory,
        run_controller,
        show_startup,
    )
    from clockwork.cli.logs import start_log
    from clockwork.cli.models import parse_remote_model
    from clockwork.cli.security import client_ports, read_tokens, worker_port
    from clockwork.host.controller import ControllerHostConfig
    from clockwork.scheduling.registry import make_scheduler

    end_with_parent(exit_with_parent, "controller", as_seconds(drain_limit))
    policy = make_scheduler(scheduler)
    repository = repository_options(
        model_control_mode, repository_poll_secs, model_repository, load_model, version_policy, label, shadow
    )
    repository.check(policy)
    root = repository.model_root([], None) if model_repository else Path()
    start = start_models(repository, root, allow_links_to or [], fresh=False)
    named, state = map(parse_remote_model, models or ()), state_options(state_dir, state_wait)
    plan = state.plan(named, start, repository, model_slo, root, workers=workers, local=False)
    config = ControllerHostConfig(
        listen=listen,
        worker_listen=worker_listen,
        controller=controller_config(
            **plan.settings,
            strict=strict,
            load_timeout=load_timeout,
            slo=slo,
            max_batch=max_batch,
            profile_seconds=profile_seconds,
            unmeasured_cap=unmeasured_cap,
            verify_batches=verify_batches,
            explained=(explain_requests, explain_failures),
            **client_limits(max_pending, max_pending_size, max_client_pending, max_client_size, max_loads, max_slo),
        ),
        profile_cache=profile_directory(profile_cache, no_profile_cache),
        push=push_options(push_models, push_rate, repository, root, allow_links_to or []),
        **tracing_options(otel, otel_keep_failures, max_connections),
        **plan.host,
        **client_ports(tls_cert, tls_key, tls_client_ca, inference_token_file, admin_token_file),
        worker_tls=worker_port(worker_tls_cert, worker_tls_key, worker_tls_ca),
        worker_tokens=read_tokens(worker_token_file),
    )
    pages = dashboard, metrics, model_histograms
    limits = http_config(pages, ignore_timeout, http_keep_alive, max_json, max_body, max_head)
    ends = FrontEnds(http, grpc, limits, grpc_keep_alive, max_connections)
    if not is_dry_run():
        console, report = start_log(log_level, log_format), AddressReport(report_descriptor)
        show = partial(show_startup, console=console, on_serving=report.serving)
        run_controller(config, policy, ends, drain_limit, show, report.keep_scaling, on_listening=report.listening)
