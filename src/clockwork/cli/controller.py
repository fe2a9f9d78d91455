"""``clockwork controller``: a controller alone."""

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.cli.configuration import ConfigFile, only_checked
from clockwork.cli.options import (
    DefaultSlo,
    DrainLimit,
    Grpc,
    Http,
    Listen,
    LogFormat,
    LogLevel,
    MaxBatch,
    MaxJson,
    ModelHistograms,
    NoProfileCache,
    ProfileCache,
    ProfileSeconds,
    SchedulerName,
    ServeMetrics,
    VerifyBatches,
    duration,
    examples,
    worker_address,
)
from clockwork.cli.security import (
    AdminTokenFile,
    InferenceTokenFile,
    TlsCert,
    TlsClientCa,
    TlsKey,
    WorkerTlsCa,
    WorkerTlsCert,
    WorkerTlsKey,
    WorkerTokenFile,
)
from clockwork.cli.slos import ModelSlos, model_slos
from clockwork.controller.config import DEFAULT_VERIFIED_SHARE
from clockwork.http.config import DEFAULT_HTTP
from clockwork.net.address import DEFAULT_LISTEN, DEFAULT_WORKER_LISTEN, Address
from clockwork.units import MIB, MILLISECOND, SECOND, Nanos

if TYPE_CHECKING:
    pass

EXAMPLES: Final = examples(
    "clockwork controller --workers 2 --listen 0.0.0.0:12346 --worker-listen 0.0.0.0:12345",
    "clockwork controller --scheduler my_package.my_module:MyScheduler --slo 25ms",
)


WorkerListen: TypeAlias = Annotated[
    Address,
    typer.Option(
        parser=worker_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_WORKER_LISTEN),
        help="Listen here for workers.",
    ),
]
Workers: TypeAlias = Annotated[int, typer.Option(min=1, max=10_000, help="Begin with this many; more may come later.")]
LoadTimeout: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        parser=duration,
        metavar="DURATION",
        show_default="10s",
        help="Loading ends this long after the last activity.",
    ),
]


def controller(
    listen: Listen = DEFAULT_LISTEN,
    http: Http = DEFAULT_HTTP,
    grpc: Grpc = None,
    metrics: ServeMetrics = True,
    model_histograms: ModelHistograms = True,
    max_json: MaxJson = 16 * MIB,
    worker_listen: WorkerListen = DEFAULT_WORKER_LISTEN,
    workers: Workers = 1,
    load_timeout: LoadTimeout = 10 * SECOND,
    scheduler: SchedulerName = "clockwork",
    slo: DefaultSlo = 100 * MILLISECOND,
    model_slo: ModelSlos = None,
    profile_cache: ProfileCache = None,
    no_profile_cache: NoProfileCache = False,
    max_batch: MaxBatch = 16,
    profile_seconds: ProfileSeconds = 1.0,
    verify_batches: VerifyBatches = DEFAULT_VERIFIED_SHARE,
    drain_limit: DrainLimit = 10 * SECOND,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    inference_token_file: InferenceTokenFile = None,
    admin_token_file: AdminTokenFile = None,
    worker_tls_cert: WorkerTlsCert = None,
    worker_tls_key: WorkerTlsKey = None,
    worker_tls_ca: WorkerTlsCa = None,
    worker_token_file: WorkerTokenFile = None,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    log_format: LogFormat = "human",
) -> None:
    """Run a controller: it waits for workers, lets clients load models, measures them, and serves them.

    Loading ends 10 s (--load-timeout) after the last activity, once a client has asked for the first model. Without
    TLS and tokens all ports are for whoever can reach them: listen on loopback, or in networks that you trust only.
    """
    from clockwork.cli.hosting import FrontEnds, profile_directory, profiling, run_controller
    from clockwork.cli.lifecycle import start_log
    from clockwork.cli.security import client_ports, tokens_of, worker_port
    from clockwork.cli.startup import show_startup
    from clockwork.controller.config import ControllerConfig, VerifyingConfig
    from clockwork.host.controller import ControllerHostConfig
    from clockwork.scheduling.registry import make_scheduler

    config = ControllerHostConfig(
        listen,
        worker_listen,
        ControllerConfig(
            workers=workers,
            load_timeout=load_timeout,
            default_slo=slo,
            model_slos=model_slos(model_slo),
            profiling=profiling(max_batch, profile_seconds),
            verifying=VerifyingConfig(verify_batches),
        ),
        profile_directory(profile_cache, no_profile_cache),
        **client_ports(tls_cert, tls_key, tls_client_ca, inference_token_file, admin_token_file),
        worker_tls=worker_port(worker_tls_cert, worker_tls_key, worker_tls_ca),
        worker_tokens=tokens_of(worker_token_file),
    )
    ends = FrontEnds(http, grpc, metrics, model_histograms, max_json)
    policy = make_scheduler(scheduler)
    if only_checked():
        return
    console = start_log(log_level, log_format)

    run_controller(config, policy, ends, drain_limit, lambda host: show_startup(host, console))
